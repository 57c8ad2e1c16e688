"""The linear Gaussian state space model: exact filter and smoother, fitted by EM.

    z_1 ~ N(m, V)    z_t = A z_{t-1} + b + N(0, Q)    x_t = C z_t + d + N(0, R), R diagonal

Shumway & Stoffer, *An Approach to Time Series Smoothing and Forecasting Using the EM Algorithm*,
1982. Any value may be missing: an update adds precisions of what is observed of a step. EM runs in
double precision. The classical baseline, and an oracle for the tests. pykalman leaves a whole step
out where one value of it is missing, and dynamax knows no missing values, so it is written here.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.errors import InputError
from jdmm.inference.gaussian import Moments
from jdmm.inference.kalman import Parameters, draw_states, kalman_filter, kalman_smoother, symmetric
from jdmm.inference.smoothing import SmoothedPosterior
from jdmm.likelihoods import Raw
from jdmm.models.base import Config, Modality, Multimodal, at_least, nothing
from jdmm.models.numbers import apart, check_numbers, side_by_side
from jdmm.series import Series

WINDOW = 10
"""Steps that the first guess at a state looks at."""

FLOOR = 1e-6
"""The smallest variance of the emissions, in units of the values' own."""


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
    noise = symmetric(now - dynamics @ across.T) / jnp.maximum(jnp.sum(moved), 1)

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
        covariance=symmetric(covariance),
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
