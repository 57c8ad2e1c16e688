"""The linear Gaussian state space model, fitted by expectation maximisation (EM).

    z_1 ~ N(m, V)    z_t = A z_{t-1} + b + N(0, Q)    x_t = C z_t + d + N(0, R), R diagonal

With inputs u_t, E u_1 is added to the mean of z_1 and B u_t to that of z_t.
Shumway & Stoffer, *An Approach to Time Series Smoothing and Forecasting Using the EM Algorithm*,
1982. Any value may be missing. EM runs in double precision.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.errors import DivergenceError, UnsuitableDataError
from jdmm.inference.gaussian import Moments
from jdmm.inference.kalman import (
    Parameters,
    kalman_filter,
    kalman_smoother,
    sample_posterior,
    symmetric,
)
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Raw
from jdmm.models.base import ExactLikelihood, SelfFittingModel, check_at_least, check_whole
from jdmm.models.features import check_normal, concatenate_features, split_features
from jdmm.series import Series

WINDOW = 10
"""Steps whose principal components are the first guess of a state."""

RIDGE = 1e-9
"""Added to the squares of inputs, in units of the mean square of all regressors."""

FLOOR = 1e-6
"""Smallest variance of the emissions, in units of the variance of the values."""

CHUNK = 50
"""Series whose smoothed moments are in memory at once."""


class Statistics(NamedTuple):
    """Expected sufficient statistics, summed over series and steps.

    Regressors are r_t = (z_t, 1) of the values, w_t = (z_t, 1, u_{t+1}) of the next states, and
    v = (1, u_1) of the first one; u without inputs is empty.

    series: number of series.
    start, initial, initial_square: v v', E z_1 v' and E z_1 z_1'.
    transitions: number of pairs (t, t + 1) within the lengths.
    previous, cross, following: E w_t w_t', E z_{t+1} w_t' and E z_{t+1} z_{t+1}' over them.
    observed: number of observed values of each feature, ``(F,)``.
    states: E r_t r_t' at the steps where the feature is observed, ``(F, D + 1, D + 1)``.
    product, square: x_t E r_t ``(F, D + 1)`` and x_t^2 ``(F,)`` of the observed values.
    log_likelihood: log p(x) in nats.
    """

    series: jax.Array
    start: jax.Array
    initial: jax.Array
    initial_square: jax.Array
    transitions: jax.Array
    previous: jax.Array
    cross: jax.Array
    following: jax.Array
    observed: jax.Array
    states: jax.Array
    product: jax.Array
    square: jax.Array
    log_likelihood: jax.Array


def expect(
    parameters: Parameters,
    values: jax.Array,
    observed: jax.Array,
    valid: jax.Array,
    inputs: jax.Array,
) -> Statistics:
    """The E-step of one series, ``(time, feature)``; without valid steps all counts are 0.

    Inputs are ``(time, input)``, of which there may be none.
    """
    smoothed = kalman_smoother(parameters, values, observed, inputs)
    mean, covariance = smoothed.mean, smoothed.covariance
    square = covariance + mean[:, :, None] * mean[:, None, :]
    known = jnp.concatenate([jnp.ones_like(mean[:, :1]), inputs], -1)
    augmented_mean, augmented = _augment(mean, covariance, known[:, :1])
    driven_mean, driven = _augment(mean[:-1], covariance[:-1], known[1:])
    pairs = valid[1:].astype(mean.dtype)
    cross = mean[1:, :, None] * driven_mean[:, None, :]
    cross = cross.at[..., : mean.shape[-1]].add(smoothed.cross_covariance)
    counted = observed.astype(mean.dtype)
    seen = jnp.where(observed, values, 0.0)
    here = valid[0].astype(mean.dtype)
    return Statistics(
        series=here,
        start=here * jnp.outer(known[0], known[0]),
        initial=here * jnp.outer(mean[0], known[0]),
        initial_square=here * square[0],
        transitions=jnp.sum(pairs),
        previous=jnp.einsum("t,tij->ij", pairs, driven),
        cross=jnp.einsum("t,tij->ij", pairs, cross),
        following=jnp.einsum("t,tij->ij", pairs, square[1:]),
        observed=jnp.sum(counted, 0),
        states=jnp.einsum("tf,tij->fij", counted, augmented),
        product=jnp.einsum("tf,ti->fi", seen, augmented_mean),
        square=jnp.sum(seen**2, 0),
        log_likelihood=smoothed.log_likelihood,
    )


def _augment(
    mean: jax.Array, covariance: jax.Array, known: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """E w and E w w' of w = (z, known) at all steps."""
    both = jnp.concatenate([mean, known], -1)
    latent = mean.shape[-1]
    square = both[:, :, None] * both[:, None, :]
    return both, square.at[:, :latent, :latent].add(covariance)


def _regress(square: jax.Array, cross: jax.Array, inputs: int) -> jax.Array:
    """The slopes of y on regressors w from E w w' and E y w'.

    The last `inputs` regressors have a tiny ridge: those of all series may be alike.
    """
    ridge = RIDGE * jnp.trace(square) / len(square)
    is_input = jnp.arange(len(square)) >= len(square) - inputs
    return jnp.linalg.solve(square + jnp.diag(jnp.where(is_input, ridge, 0.0)), cross.T).T


def maximise(statistics: Statistics) -> Parameters:
    """The M-step: regressions of the next states and of the values on the states."""
    s = statistics
    latent, inputs = len(s.initial_square), len(s.start) - 1
    dynamics = _regress(s.previous, s.cross, inputs)
    first = _regress(s.start, s.initial, inputs)
    spread = first @ s.start @ first.T - first @ s.initial.T - s.initial @ first.T
    residual = symmetric(s.following - dynamics @ s.cross.T) / jnp.maximum(s.transitions, 1)
    emission = jax.vmap(jnp.linalg.solve)(s.states, s.product)
    variance = (s.square - jnp.sum(s.product * emission, -1)) / jnp.maximum(s.observed, 1)
    floor = FLOOR * jnp.eye(latent)
    return Parameters(
        initial_mean=first[:, 0],
        initial_covariance=symmetric(s.initial_square + spread) / s.series,
        dynamics=dynamics[:, :latent],
        dynamics_bias=dynamics[:, latent],
        dynamics_covariance=residual + floor,
        emission=emission[:, :-1],
        emission_bias=emission[:, -1],
        emission_variance=jnp.maximum(variance, FLOOR),
        initial_inputs=first[:, 1:],
        dynamics_inputs=dynamics[:, latent + 1 :],
    )


@jax.jit
def em_step(
    parameters: Parameters,
    values: jax.Array,
    observed: jax.Array,
    valid: jax.Array,
    inputs: jax.Array,
) -> tuple[Parameters, jax.Array]:
    """New parameters, and the log-likelihood of the old ones in nats.

    Statistics are summed over chunks of series, so that memory does not grow with their number.

    Args:
        parameters: the old ones.
        values: ``(chunk, series, time, feature)``.
        observed: masks of the same shape.
        valid: ``(chunk, series, time)``, the steps within the lengths.
        inputs: ``(chunk, series, time, input)``, of which there may be none.
    """

    def _step(total, chunk):
        """Adds the statistics of one chunk."""
        each = jax.vmap(partial(expect, parameters))(*chunk)
        return jax.tree.map(lambda sums, leaf: sums + jnp.sum(leaf, 0), total, each), None

    data = (values, observed, valid, inputs)
    one_series = (leaf[0, 0] for leaf in data)
    shapes = jax.eval_shape(partial(expect, parameters), *one_series)
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(_step, start, data)
    return maximise(total), total.log_likelihood


def in_chunks(array: np.ndarray, size: int) -> np.ndarray:
    """``(series, ...)`` -> ``(chunk, size, ...)``, filled up with zeros."""
    missing = -len(array) % size
    filled = np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
    return filled.reshape(len(filled) // size, size, *array.shape[1:])


def _inputs(series: Series) -> np.ndarray:
    """Inputs ``(batch, time, input)``, of which there may be none."""
    if series.inputs is None:
        return np.zeros((series.batch, series.num_steps, 0))
    return np.asarray(series.inputs)


@dataclass(frozen=True)
class LinearGaussianSSM(SelfFittingModel, ExactLikelihood):
    """A linear Gaussian state space model of the features of all modalities, and of their inputs.

    Attributes:
        latent: D, dimensions of the state.
        iterations: of EM, at most. With inputs it may need some hundreds.
        tolerance: EM stops when an iteration gains less, in nats per observed value.
    """

    latent: int = 5
    iterations: int = 150
    tolerance: float = 1e-6
    takes_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_whole("model.latent", self.latent, 1)
        check_whole("model.iterations", self.iterations, 1)
        check_at_least("model.tolerance", self.tolerance, 0)
        check_normal(self.modalities, "a linear Gaussian model")

    def fit(
        self, series: Series, on_iteration: Callable[[dict[str, float]], Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Parameters by name, fitted by EM.

        `on_iteration` gets "iteration" and "log_likelihood", in nats per observed value.

        Raises:
            UnsuitableDataError: if there are fewer values in a window than states.
            DivergenceError: if the likelihood is not finite, naming the iteration.
        """
        self.check(series)
        with jax.enable_x64(True):
            values, observed = (np.asarray(leaf) for leaf in concatenate_features(series))
            values = values.astype(np.float64)
            parameters = self.initial_parameters(values, observed)
            size = min(CHUNK, len(values))
            inputs = _inputs(series).astype(np.float64)
            given = (values, observed, np.asarray(series.valid), inputs)
            data = [in_chunks(leaf, size) for leaf in given]
            count, before = max(observed.sum(), 1), -np.inf
            for iteration in range(self.iterations):
                following, total = em_step(parameters, *data)
                log_likelihood = float(total) / count
                if not np.isfinite(log_likelihood):
                    raise DivergenceError(
                        f"log-likelihood is {log_likelihood} at iteration {iteration} of EM: try "
                        "fewer latent dimensions"
                    )
                if on_iteration is not None:
                    on_iteration({"iteration": iteration, "log_likelihood": log_likelihood})
                if log_likelihood - before < self.tolerance:
                    break
                parameters, before = following, log_likelihood
        found = {name: np.asarray(leaf) for name, leaf in parameters._asdict().items()}
        return {name: leaf for name, leaf in found.items() if self.inputs or leaf.size}

    def initial_parameters(self, values: np.ndarray, observed: np.ndarray) -> Parameters:
        """The start of EM: states are the principal components of `WINDOW` successive steps.

        From random dynamics, EM takes hundreds of iterations to explain more than one modality.

        Raises:
            UnsuitableDataError: if there are fewer values in a window than states.
        """
        size, (_, num_steps, features) = self.latent, values.shape
        steps = min(WINDOW, num_steps)
        if size > steps * features:
            raise UnsuitableDataError(
                f"expected model.latent of at most {steps * features} for {features} features and "
                f"{num_steps} steps, got {size}"
            )
        count = np.maximum(observed.sum((0, 1)), 1)
        bias = values.sum((0, 1), where=observed) / count
        variance = ((values - bias) ** 2).sum((0, 1), where=observed) / count + FLOOR
        centred = np.where(observed, values - bias, 0.0)
        windows = np.lib.stride_tricks.sliding_window_view(centred / np.sqrt(variance), steps, 1)
        windows = windows.reshape(*windows.shape[:2], -1)  # (batch, start, feature * step)
        flat = windows.reshape(-1, windows.shape[-1])
        directions = np.linalg.eigh(flat.T @ flat)[1][:, : -size - 1 : -1]
        states = windows @ directions
        states /= np.sqrt((states**2).mean((0, 1))) + FLOOR
        before, after = states[:, :-1].reshape(-1, size), states[:, 1:].reshape(-1, size)
        dynamics, covariance = 0.9 * np.eye(size), 0.1 * np.eye(size)
        if len(before) > size:
            dynamics = np.linalg.lstsq(before, after, rcond=None)[0].T
            covariance = np.cov((after - before @ dynamics.T).T).reshape(size, size)
        middle = centred[:, steps // 2 :][:, : states.shape[1]].reshape(-1, features)
        flat = states.reshape(-1, size)
        emission = np.linalg.lstsq(flat, middle, rcond=None)[0].T
        residual = ((middle - flat @ emission.T) ** 2).mean(0)
        first = states[:, 0]
        spread = np.cov(first.T).reshape(size, size) if len(first) > 1 else np.eye(size)
        return Parameters(
            initial_mean=first.mean(0),
            initial_covariance=spread + 0.01 * np.eye(size),
            dynamics=dynamics,
            dynamics_bias=np.zeros(size),
            dynamics_covariance=covariance + 1e-3 * np.eye(size),
            emission=emission,
            emission_bias=bias,
            emission_variance=np.maximum(residual, 0.01 * variance),
            initial_inputs=np.zeros((size, self.inputs)),
            dynamics_inputs=np.zeros((size, self.inputs)),
        )

    def posterior_mean(self, variables: Any, series: Series, key: jax.Array) -> PosteriorPath:
        """The smoothed means, the posterior being the marginals, ``(batch, time, latent)``."""
        del key
        self.check(series)
        values, observed = concatenate_features(series)
        smooth = jax.vmap(partial(kalman_smoother, Parameters(**variables)))
        smoothed = smooth(values, observed, series.inputs)
        variance = jnp.diagonal(smoothed.covariance, axis1=-2, axis2=-1)
        marginals = Moments(smoothed.mean, variance)
        return PosteriorPath(marginals, marginals, smoothed.mean)

    def posterior_samples(
        self, variables: Any, series: Series, key: jax.Array, count: int, scale: Any = 1.0
    ) -> PosteriorPath:
        """Exact samples ``(count, batch, time, latent)``, their deviations times `scale`."""
        values, observed = concatenate_features(series)
        marginals = self.posterior_mean(variables, series, key).posterior
        each = jax.vmap(partial(sample_posterior, Parameters(**variables)))

        def sample(own: jax.Array) -> PosteriorPath:
            noise = jax.random.normal(own, marginals.mean.shape)
            states = each(values, observed, noise, series.inputs)
            states = marginals.mean + scale * (states - marginals.mean)
            return PosteriorPath(marginals, marginals, states)

        return jax.vmap(sample)(jax.random.split(key, count))

    def emissions(self, variables: Any, states: jax.Array) -> dict[str, Raw]:
        """Means C z + d and the sd of the emissions."""
        p = Parameters(**variables)
        mean = jnp.einsum("...d,fd->...f", states, jnp.asarray(p.emission, states.dtype))
        bias = jnp.broadcast_to(p.emission_bias, mean.shape).astype(states.dtype)
        sd = jnp.sqrt(p.emission_variance).astype(states.dtype)
        return split_features(self.modalities, mean + bias, sd)

    def log_likelihood(self, variables: Any, series: Series) -> jax.Array:
        """Exact log p(x) of what is observed of each series in nats, ``(batch,)``."""
        self.check(series)
        values, observed = concatenate_features(series)
        run = jax.vmap(partial(kalman_filter, Parameters(**variables)))
        return run(values, observed, series.inputs).log_likelihood
