"""The linear Gaussian state space model: exact filter and smoother, fitted by EM.

    z_1 ~ N(m, V)    z_t = A z_{t-1} + b + N(0, Q)    x_t = C z_t + d + N(0, R), R diagonal

Shumway & Stoffer, *An Approach to Time Series Smoothing and Forecasting Using the EM Algorithm*,
1982. Any value may be missing: an update adds precisions of what is observed of a step. EM runs in
double precision. The classical baseline, and an oracle for the tests. pykalman leaves a whole step
out where one value of it is missing, and dynamax knows no missing values, so it is written here.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.errors import InputError
from jdmm.gaussian import Moments
from jdmm.likelihoods import Raw
from jdmm.models.base import Config, Modality, Multimodal, at_least, nothing
from jdmm.models.numbers import apart, check_numbers, side_by_side
from jdmm.series import Series
from jdmm.smoothing import SmoothedPosterior

WINDOW = 10
"""Steps that the first guess at a state looks at."""

FLOOR = 1e-6
"""The smallest variance of the emissions, in units of the values' own."""


class Parameters(NamedTuple):
    """Of the model above, with D states and F features.

    mean, covariance: m ``(D,)`` and V ``(D, D)`` of the first state.
    transition, drift, noise: A ``(D, D)``, b ``(D,)`` and Q ``(D, D)``.
    emission, offset, variance: C ``(F, D)``, d ``(F,)`` and the diagonal of R ``(F,)``.
    """

    mean: Any
    covariance: Any
    transition: Any
    drift: Any
    noise: Any
    emission: Any
    offset: Any
    variance: Any


class Filtered(NamedTuple):
    """Of one series: predicted and filtered moments ``(time, ...)``, and log p(x) in nats."""

    predicted_mean: jax.Array
    predicted_covariance: jax.Array
    mean: jax.Array
    covariance: jax.Array
    log_likelihood: jax.Array


def kalman_filter(parameters: Parameters, values: jax.Array, seen: jax.Array) -> Filtered:
    """The filter of one series, ``(time, feature)`` values and masks."""
    p = parameters

    def _step(carry, inputs):
        """p(z_t | x_{1:t-1}) -> p(z_{t+1} | x_{1:t})."""
        mean, covariance = carry
        value, mask = inputs
        weight = jnp.where(mask, 1 / p.variance, 0.0)
        surprise = jnp.where(mask, value - p.emission @ mean - p.offset, 0.0)
        gathered = p.emission.T @ (weight * surprise)
        # (V^-1 + C' W C)^-1 = (1 + V C' W C)^-1 V, which V may be singular for
        inner = jnp.eye(len(mean)) + covariance @ (p.emission.T * weight[None]) @ p.emission
        updated = _symmetric(jnp.linalg.solve(inner, covariance))
        quadratic = jnp.sum(weight * surprise**2) - gathered @ updated @ gathered
        constants = jnp.sum(jnp.where(mask, jnp.log(2 * jnp.pi * p.variance), 0.0))
        log_prob = -0.5 * (quadratic + constants + jnp.linalg.slogdet(inner)[1])
        filtered = mean + updated @ gathered
        ahead = p.transition @ filtered + p.drift
        spread = _symmetric(p.transition @ updated @ p.transition.T + p.noise)
        return (ahead, spread), Filtered(mean, covariance, filtered, updated, log_prob)

    _, steps = jax.lax.scan(_step, (p.mean, p.covariance), (values, seen))
    return steps._replace(log_likelihood=jnp.sum(steps.log_likelihood))


def smoothing_inputs(parameters: Parameters, filtered: Filtered) -> tuple[jax.Array, ...]:
    """What the smoother needs at t = 1..T-1, ``(time - 1, ...)``.

    J_t of Rauch, Tung & Striebel, filtered mean and covariance, and those predicted of t + 1.
    """

    def gain(covariance: jax.Array, ahead: jax.Array) -> jax.Array:
        return jnp.linalg.solve(ahead, parameters.transition @ covariance).T

    own, ahead = filtered.covariance[:-1], filtered.predicted_covariance[1:]
    gains = jax.vmap(gain)(own, ahead)
    return gains, filtered.mean[:-1], own, filtered.predicted_mean[1:], ahead


def kalman_smoother(
    parameters: Parameters, values: jax.Array, seen: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Means, covariances and Cov(z_{t+1}, z_t | x) of one series, and its log-likelihood."""
    filtered = kalman_filter(parameters, values, seen)

    def _step(carry, inputs):
        """p(z_{t+1} | x) -> p(z_t | x)."""
        mean, covariance = carry
        gain, own_mean, own, ahead_mean, ahead = inputs
        cross = covariance @ gain.T
        mean = own_mean + gain @ (mean - ahead_mean)
        covariance = _symmetric(own + gain @ (covariance - ahead) @ gain.T)
        return (mean, covariance), (mean, covariance, cross)

    last = (filtered.mean[-1], filtered.covariance[-1])
    inputs = smoothing_inputs(parameters, filtered)
    _, (means, covariances, crosses) = jax.lax.scan(_step, last, inputs, reverse=True)
    means, covariances = (
        jnp.concatenate([leaf, end[None]])
        for leaf, end in zip((means, covariances), last, strict=True)
    )
    return means, covariances, crosses, filtered.log_likelihood


def draw_states(
    parameters: Parameters, values: jax.Array, seen: jax.Array, noise: jax.Array
) -> jax.Array:
    """An exact posterior draw of one series' states, ``(time, latent)``, from normal `noise`."""
    filtered = kalman_filter(parameters, values, seen)

    def root(covariance: jax.Array) -> jax.Array:
        spread, directions = jnp.linalg.eigh(covariance)
        return directions * jnp.sqrt(jnp.maximum(spread, 0.0))[None]

    def _step(state, inputs):
        """z_{t+1} -> z_t."""
        gain, mean, covariance, ahead_mean, ahead, own = inputs
        conditional = root(_symmetric(covariance - gain @ ahead @ gain.T))
        state = mean + gain @ (state - ahead_mean) + conditional @ own
        return state, state

    last = filtered.mean[-1] + root(filtered.covariance[-1]) @ noise[-1]
    inputs = (*smoothing_inputs(parameters, filtered), noise[:-1])
    _, states = jax.lax.scan(_step, last, inputs, reverse=True)
    return jnp.concatenate([states, last[None]])


def em_step(
    parameters: Parameters, values: jax.Array, seen: jax.Array, valid: jax.Array
) -> tuple[Parameters, jax.Array]:
    """New parameters, and the log-likelihood of the old, from ``(batch, time, feature)``."""
    p = parameters
    means, covariances, crosses, log_likelihood = jax.vmap(partial(kalman_smoother, p))(
        values, seen
    )
    second = covariances + means[..., :, None] * means[..., None, :]

    # the state with a 1 behind it, so that drift and offset are columns
    def augmented(mean: jax.Array, moment: jax.Array) -> jax.Array:
        column = jnp.concatenate([moment, mean[..., None]], -1)
        row = jnp.concatenate([mean, jnp.ones_like(mean[..., :1])], -1)
        return jnp.concatenate([column, row[..., None, :]], -2)

    moved = valid[:, 1:]
    before = jnp.sum(
        jnp.where(moved[..., None, None], augmented(means, second)[:, :-1], 0.0), (0, 1)
    )
    lagged = crosses + means[:, 1:, :, None] * means[:, :-1, None, :]
    across = jnp.concatenate([lagged, means[:, 1:, :, None]], -1)
    across = jnp.sum(jnp.where(moved[..., None, None], across, 0.0), (0, 1))
    now = jnp.sum(jnp.where(moved[..., None, None], second[:, 1:], 0.0), (0, 1))
    dynamics = jnp.linalg.solve(before, across.T).T
    noise = _symmetric(now - dynamics @ across.T) / jnp.maximum(jnp.sum(moved), 1)

    def feature(value: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Regression of one feature, where it is observed, on the states."""
        inputs = jnp.concatenate([means, jnp.ones_like(means[..., :1])], -1)
        moments = jnp.sum(jnp.where(mask[..., None, None], augmented(means, second), 0.0), (0, 1))
        product = jnp.sum(jnp.where(mask[..., None], value[..., None] * inputs, 0.0), (0, 1))
        weights = jnp.linalg.solve(moments, product)
        square = jnp.sum(jnp.where(mask, value**2, 0.0)) - product @ weights
        return weights, square / jnp.maximum(jnp.sum(mask), 1)

    weights, variance = jax.vmap(feature, -1)(values, seen)
    first = means[:, 0] - means[:, 0].mean(0, keepdims=True)
    covariance = covariances[:, 0].mean(0) + first.T @ first / len(first)
    floor = FLOOR * jnp.eye(len(p.mean))
    return Parameters(
        mean=means[:, 0].mean(0),
        covariance=_symmetric(covariance),
        transition=dynamics[:, :-1],
        drift=dynamics[:, -1],
        noise=noise + floor,
        emission=weights[:, :-1],
        offset=weights[:, -1],
        variance=jnp.maximum(variance, FLOOR),
    ), jnp.sum(log_likelihood)


@dataclass(frozen=True)
class Linear(Multimodal):
    """A linear Gaussian state space model of all modalities side by side.

    Attributes:
        latent: D, dimensions of the state.
        iterations: of EM.
    """

    latent: int = 5
    iterations: int = 100

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        at_least("model.latent", self.latent, 1)
        at_least("model.iterations", self.iterations, 1)
        check_numbers(self.modalities, "a linear model")

    @classmethod
    def from_config(cls, modalities: tuple[Modality, ...], config: Config) -> Self:
        """The model of the field `model` of a configuration."""
        return cls(modalities, config.model.latent, config.model.iterations)

    def fit(self, series: Series) -> dict[str, np.ndarray]:
        """EM from `start`; the parameters by name."""
        with jax.enable_x64(True):
            values, seen = (np.asarray(leaf) for leaf in side_by_side(series))
            values = values.astype(np.float64)
            valid = np.asarray(series.valid)
            parameters = self.start(values, seen)
            step = jax.jit(em_step)
            for _ in range(self.iterations):
                parameters, _ = step(parameters, values, seen, valid)
        return {k: np.asarray(v) for k, v in parameters._asdict().items()}

    def start(self, values: np.ndarray, seen: np.ndarray) -> Parameters:
        """Where EM starts: states are the principal components of `WINDOW` successive steps.

        Random dynamics leave it for hundreds of iterations where it explains one modality alone.

        Raises:
            InputError: if there are fewer values in a window than states.
        """
        size, (_, time, features) = self.latent, values.shape
        steps = min(WINDOW, time)
        if size > steps * features:
            raise InputError(
                f"expected model.latent of at most {steps * features} for {features} features and "
                f"{time} steps, got {size}"
            )
        count = np.maximum(seen.sum((0, 1)), 1)
        offset = values.sum((0, 1), where=seen) / count
        variance = ((values - offset) ** 2).sum((0, 1), where=seen) / count + FLOOR
        centred = np.where(seen, values - offset, 0.0)
        windows = np.lib.stride_tricks.sliding_window_view(centred / np.sqrt(variance), steps, 1)
        windows = windows.reshape(*windows.shape[:2], -1)  # (batch, start, feature * step)
        flat = windows.reshape(-1, windows.shape[-1])
        directions = np.linalg.eigh(flat.T @ flat)[1][:, : -size - 1 : -1]
        states = windows @ directions
        states /= np.sqrt((states**2).mean((0, 1))) + FLOOR
        before, after = states[:, :-1].reshape(-1, size), states[:, 1:].reshape(-1, size)
        transition, noise = 0.9 * np.eye(size), 0.1 * np.eye(size)
        if len(before) > size:
            transition = np.linalg.lstsq(before, after, rcond=None)[0].T
            noise = np.cov((after - before @ transition.T).T).reshape(size, size)
        middle = centred[:, steps // 2 :][:, : states.shape[1]].reshape(-1, features)
        flat = states.reshape(-1, size)
        emission = np.linalg.lstsq(flat, middle, rcond=None)[0].T
        residual = ((middle - flat @ emission.T) ** 2).mean(0)
        return Parameters(
            mean=states[:, 0].mean(0),
            covariance=np.cov(states[:, 0].T).reshape(size, size) + 0.01 * np.eye(size),
            transition=transition,
            drift=np.zeros(size),
            noise=noise + 1e-3 * np.eye(size),
            emission=emission,
            offset=offset,
            variance=np.maximum(residual, 0.01 * variance),
        )

    def infer(self, variables: Any, series: Series, key: jax.Array) -> SmoothedPosterior:
        """The smoothed means and marginal variances, ``(batch, time, latent)``."""
        del key
        values, seen = side_by_side(series)
        smooth = jax.vmap(partial(kalman_smoother, Parameters(**variables)))
        means, covariances, _, _ = smooth(values, seen)
        moments = Moments(means, jnp.diagonal(covariances, axis1=-2, axis2=-1))
        return SmoothedPosterior(moments, moments, means)

    def draw(
        self, variables: Any, series: Series, key: jax.Array, count: int, scale: Any = 1.0
    ) -> SmoothedPosterior:
        """Exact draws, ``(count, batch, time, latent)``, about the smoothed means."""
        values, seen = side_by_side(series)
        moments = self.infer(variables, series, key).posterior
        one = jax.vmap(partial(draw_states, Parameters(**variables)))

        def draw(key: jax.Array) -> SmoothedPosterior:
            states = one(values, seen, jax.random.normal(key, moments.mean.shape))
            spread = moments.mean + scale * (states - moments.mean)
            return SmoothedPosterior(moments, moments, spread)

        return jax.vmap(draw)(jax.random.split(key, count))

    def decode(self, variables: Any, states: jax.Array) -> dict[str, Raw]:
        """C z + d and the sd of the emissions."""
        p = Parameters(**variables)
        mean = jnp.einsum("...d,fd->...f", states, jnp.asarray(p.emission, states.dtype))
        offset = jnp.broadcast_to(p.offset, mean.shape).astype(states.dtype)
        return apart(self.modalities, mean + offset, jnp.sqrt(p.variance).astype(states.dtype))

    def sample(
        self, variables: Any, key: jax.Array, count: int, time: int, reverse: bool = False
    ) -> jax.Array:
        """States ``(count, time, latent)`` from the prior: draws given nothing.

        Raises:
            InputError: for `reverse`.
        """
        if reverse:
            raise InputError("expected to sample forwards from a linear model, got reverse")
        return self.draw(variables, nothing(self.modalities, count, time), key, 1).states[0]

    def log_likelihood(self, variables: Any, series: Series) -> jax.Array:
        """Exact log p(x) of every series in nats, ``(batch,)``."""
        values, seen = side_by_side(series)
        run = jax.vmap(partial(kalman_filter, Parameters(**variables)))
        return run(values, seen).log_likelihood


def _symmetric(matrix: jax.Array) -> jax.Array:
    return (matrix + jnp.swapaxes(matrix, -1, -2)) / 2
