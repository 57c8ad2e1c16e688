"""Exact answers from brute force: one dense joint Gaussian per latent dimension, numpy float64.

The model is a stationary AR(1) in each latent dimension. Evidence at step t is a factor
exp(weighted_mean z - precision z^2 / 2), given as arrays ``(time, latent)``; (0, 0) where missing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.networks import GatedTransition

TIME = 6

PRESENT = {
    "nothing missing": [1, 1, 1, 1, 1, 1],
    "one step missing": [1, 1, 0, 1, 1, 1],
    "stretch missing": [1, 0, 0, 0, 1, 1],
    "tail missing": [1, 1, 1, 0, 0, 0],
    "head missing": [0, 0, 0, 1, 1, 1],
    "everything missing": [0, 0, 0, 0, 0, 0],
    "one step seen": [0, 0, 1, 0, 0, 0],
    "T = 1": [1],
    "T = 1, missing": [0],
}
"""Which steps have evidence: the cases that every recursion has to get right."""


@dataclass(frozen=True)
class Chain:
    """z' | z ~ N(mean + decay (z - mean), (1 - decay^2) sd^2), per latent dimension.

    N(mean, sd^2) is stationary and the chain reversible: its backward kernel is the same.
    """

    decay: tuple[float, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @property
    def prior(self) -> Moments:
        """The stationary distribution."""
        return Moments(np.array(self.mean), np.array(self.sd) ** 2)

    def kernel(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of z' | z for states ``(..., latent)``."""
        decay, mean, sd = np.array(self.decay), np.array(self.mean), np.array(self.sd)
        return mean + decay * (z - mean), np.broadcast_to((1 - decay**2) * sd**2, z.shape)

    def transition(self, z: jax.Array) -> Moments:
        """Moments of the quotient p(z' | z) / p(z') for states ``(latent, ...)``."""
        column = (-1, *(1,) * (z.ndim - 1))
        decay, mean, sd = (np.reshape(leaf, column) for leaf in (self.decay, self.mean, self.sd))
        variance = (1 - decay**2) * sd**2
        precision = 1 / variance - 1 / sd**2
        weighted_mean = (mean + decay * (z - mean)) / variance - mean / sd**2
        return Moments(weighted_mean / precision, 1 / precision + 0 * z)


CHAINS = {
    1: Chain(decay=(0.9,), mean=(0.4,), sd=(1.3,)),
    3: Chain(decay=(0.95, 0.5, -0.7), mean=(0.5, -1.0, 0.0), sd=(1.5, 0.8, 1.0)),
}
"""By the number of latent dimensions."""

WINDOWS: dict[str, Callable[[int, np.ndarray], np.ndarray]] = {
    "future": lambda t, s: s > t,
    "present and future": lambda t, s: s >= t,
    "past": lambda t, s: s < t,
    "present and past": lambda t, s: s <= t,
    "all": lambda t, s: s >= 0,
}
"""Which evidence s a posterior of z_t is given."""


def draw_evidence(seed: int, present: np.ndarray | list[int], latent: int) -> Gaussian:
    """Random evidence ``(time, latent)`` at the steps `present`, (0, 0) at the others."""
    rng = np.random.default_rng(seed)
    keep = np.array(present, bool)[:, None]
    precision = rng.uniform(0.3, 4.0, (len(present), latent))
    weighted_mean = precision * rng.normal(0, 1.5, precision.shape)
    return Gaussian(np.where(keep, precision, 0), np.where(keep, weighted_mean, 0))


def _prior_covariance(chain: Chain, latent: int, time: int) -> np.ndarray:
    lag = np.abs(np.arange(time)[:, None] - np.arange(time)[None, :])
    return chain.sd[latent] ** 2 * np.array(chain.decay[latent]) ** lag


def joint(chain: Chain, evidence: Gaussian) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``(latent, time)`` and covariance ``(latent, time, time)`` of p(z_{1:T} | evidence)."""
    time, latent = evidence.precision.shape
    means, covariances = [], []
    for d in range(latent):
        prior = np.linalg.inv(_prior_covariance(chain, d, time))
        covariance = np.linalg.inv(prior + np.diag(evidence.precision[:, d]))
        weighted_mean = prior @ np.full(time, chain.mean[d]) + evidence.weighted_mean[:, d]
        means.append(covariance @ weighted_mean)
        covariances.append(covariance)
    return np.array(means), np.array(covariances)


def _restrict(evidence: Gaussian, t: int, window: str) -> Gaussian:
    keep = WINDOWS[window](t, np.arange(len(evidence.precision)))[:, None]
    return Gaussian(
        np.where(keep, evidence.precision, 0), np.where(keep, evidence.weighted_mean, 0)
    )


def marginals(chain: Chain, evidence: Gaussian, window: str) -> Moments:
    """Moments ``(time, latent)`` of z_t given the evidence in a window of `WINDOWS`."""
    mean, variance = [], []
    for t in range(len(evidence.precision)):
        m, covariance = joint(chain, _restrict(evidence, t, window))
        mean.append(m[:, t])
        variance.append(covariance[:, t, t])
    return Moments(np.array(mean), np.array(variance))


def conditionals(chain: Chain, evidence: Gaussian, states: np.ndarray) -> Moments:
    """Moments ``(time, latent)`` of q(z_t | z_{t-1}, x_{t:T}) at states ``(time, latent)``."""
    mean, variance = [], []
    for t in range(len(states)):
        m, c = joint(chain, _restrict(evidence, t, "present and future"))
        if t == 0:
            mean.append(m[:, 0])
            variance.append(c[:, 0, 0])
            continue
        gain = c[:, t, t - 1] / c[:, t - 1, t - 1]
        mean.append(m[:, t] + gain * (states[t - 1] - m[:, t - 1]))
        variance.append(c[:, t, t] - gain * c[:, t, t - 1])
    return Moments(np.array(mean), np.array(variance))


def log_evidence(chain: Chain, evidence: Gaussian) -> float:
    """Log of the integral of p(z_{1:T}) times all factors of the evidence."""
    mean, covariance = joint(chain, evidence)
    time, total = mean.shape[1], 0.0
    for d in range(len(mean)):
        prior = _prior_covariance(chain, d, time)
        start = np.full(time, chain.mean[d])
        total += np.linalg.slogdet(covariance[d])[1] - np.linalg.slogdet(prior)[1]
        total += mean[d] @ np.linalg.solve(covariance[d], mean[d])
        total -= start @ np.linalg.solve(prior, start)
    return 0.5 * total


@dataclass(frozen=True)
class CoupledChain:
    """z' | z ~ N(mean + A (z - mean), (1 - decay^2) diag sd^2), a chain of coupled dimensions.

    A = decay diag(sd) R diag(sd)^-1, where R reflects along an axis. The reflection mixes all
    dimensions, and its square does not. So N(mean, diag sd^2) is stationary, the chain is
    reversible (A diag sd^2 is symmetric), and p(z' | z) / p(z') is diagonal though A is not.
    """

    decay: float
    axis: tuple[float, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @property
    def prior(self) -> Moments:
        """The stationary distribution."""
        return Moments(np.array(self.mean), np.array(self.sd) ** 2)

    @property
    def matrix(self) -> np.ndarray:
        """A."""
        axis, sd = np.array(self.axis), np.array(self.sd)
        reflection = np.eye(len(axis)) - 2 * np.outer(axis, axis) / (axis @ axis)
        return self.decay * sd[:, None] * reflection / sd

    def kernel(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of z' | z for a state ``(latent,)``."""
        mean, sd = np.array(self.mean), np.array(self.sd)
        return mean + self.matrix @ (z - mean), (1 - self.decay**2) * sd**2

    def transition(self, z: jax.Array) -> Moments:
        """Moments of the quotient p(z' | z) / p(z') for states ``(latent, n)``."""
        mean, sd = np.array(self.mean)[:, None], np.array(self.sd)[:, None]
        variance = (1 - self.decay**2) * sd**2
        precision = 1 / variance - 1 / sd**2
        reached = mean + self.matrix.astype(z.dtype) @ (z - mean)
        return Moments((reached / variance - mean / sd**2) / precision, 1 / precision + 0 * z)

    def joint(
        self, evidence: Gaussian, window: slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray]:
        """All states given the evidence ``(time, latent)`` at the steps of a window.

        Mean ``(time, latent)`` and covariance ``(time, latent, time, latent)``.
        """
        time, latent = evidence.precision.shape
        lags = np.abs(np.arange(time)[:, None] - np.arange(time))
        powers = np.stack([np.linalg.matrix_power(self.matrix, lag) for lag in range(time)])
        prior = powers[lags] @ np.diag(np.square(self.sd))
        inverse = np.linalg.inv(prior.transpose(0, 2, 1, 3).reshape(time * latent, -1))
        given = np.zeros((2, time, latent))
        given[:, window] = np.stack(evidence)[:, window]
        precision, weighted_mean = given.reshape(2, -1)
        covariance = np.linalg.inv(inverse + np.diag(precision))
        mean = covariance @ (inverse @ np.tile(self.mean, time) + weighted_mean)
        return mean.reshape(time, latent), covariance.reshape(time, latent, time, latent)

    def log_evidence(self, evidence: Gaussian) -> float:
        """Log of the integral of p(z_{1:T}) times all factors of the evidence."""
        total = 0.0
        for sign, window in ((1, slice(None)), (-1, slice(0))):
            mean, covariance = self.joint(evidence, window)
            mean, covariance = mean.ravel(), covariance.reshape(mean.size, -1)
            total += sign * np.linalg.slogdet(covariance)[1]
            total += sign * mean @ np.linalg.solve(covariance, mean)
        return 0.5 * total


COUPLED = CoupledChain(decay=0.95, axis=(2.0, -1.0, 2.0), mean=(0.5, -1.0, 0.2), sd=(1.5, 0.8, 1.1))


def log_normal(z: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Elementwise log N(z; mean, variance)."""
    return -0.5 * ((z - mean) ** 2 / variance + np.log(2 * np.pi * variance))


GATED = GatedTransition(latent=2, hidden=3)
"""The library's own transition, for what has no closed form."""


def gated_parameters(seed: int):
    """Random double precision parameters of `GATED`."""
    shapes = jax.eval_shape(GATED.init, jax.random.key(0), np.zeros(2))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.7, leaf.shape), shapes)


def apply_gated(parameters, z: jax.Array) -> Moments:
    """`GATED` for states ``(latent, ...)``."""
    return GATED.apply(parameters, z)


def check_gradient(value_and_gradient: Callable, inputs: Any, step: float = 1e-6) -> Any:
    """The gradient at `inputs`: finite, and equal to central differences in random directions.

    One compiled function gives both, where `jax.test_util.check_grads` compiles three.
    """
    gradient = value_and_gradient(inputs)[1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    rng = np.random.default_rng(0)
    for _ in range(3):
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), inputs)
        high, low = (
            value_and_gradient(jax.tree.map(lambda x, d, h=h: x + h * d, inputs, direction))[0]
            for h in (step, -step)
        )
        products = jax.tree.map(lambda g, d: np.sum(np.array(g) * d), gradient, direction)
        slope = sum(jax.tree.leaves(products))
        np.testing.assert_allclose(slope, (high - low) / (2 * step), rtol=1e-6, atol=1e-6)
    return gradient


@dataclass(frozen=True)
class LinearModel:
    """z_1 ~ N(m, V), z' = A z + b + N(0, Q), x = C z + d + N(0, R), as one joint Gaussian.

    V, Q and R are diagonal and given by their diagonals. Works with numpy and with jax arrays, so
    that its log-likelihood has a gradient.
    """

    mean: Any
    variance: Any
    dynamics: Any
    bias: Any
    noise: Any
    emission: Any
    emission_bias: Any
    emission_noise: Any

    def states(self, time: int) -> tuple[Any, Any]:
        """Mean ``(time * latent,)`` and covariance of all states."""
        means, latent = [self.mean], len(self.mean)
        blocks = {(0, 0): jnp.diag(jnp.asarray(self.variance))}
        for t in range(1, time):
            means.append(self.dynamics @ means[-1] + self.bias)
            for s in range(t):
                blocks[t, s] = self.dynamics @ blocks[t - 1, s]
                blocks[s, t] = blocks[t, s].T
            own = self.dynamics @ blocks[t - 1, t - 1] @ self.dynamics.T
            blocks[t, t] = own + jnp.diag(jnp.asarray(self.noise))
        rows = [jnp.concatenate([blocks[t, s] for s in range(time)], 1) for t in range(time)]
        return jnp.concatenate(means), jnp.concatenate(rows).reshape(time * latent, -1)

    def posterior(self, values: np.ndarray, observed: np.ndarray) -> tuple[Any, Any, Any]:
        """Mean and covariance of all states given ``(time, feature)``, and log p(x)."""
        time = len(values)
        mean, covariance = self.states(time)
        keep = np.flatnonzero(observed.ravel())
        emit = jnp.kron(jnp.eye(time), self.emission)[keep]
        noise = jnp.tile(self.emission_noise, time)[keep]
        error = values.ravel()[keep] - emit @ mean - jnp.tile(self.emission_bias, time)[keep]
        total = emit @ covariance @ emit.T + jnp.diag(noise)
        gain = jnp.linalg.solve(total, emit @ covariance).T if len(keep) else emit.T
        likelihood = -0.5 * (
            error @ (jnp.linalg.solve(total, error) if len(keep) else error)
            + (jnp.linalg.slogdet(total)[1] if len(keep) else 0.0)
            + len(keep) * np.log(2 * np.pi)
        )
        return mean + gain @ error, covariance - gain @ emit @ covariance, likelihood


def linear_model(latent: int, features: int, seed: int = 0) -> LinearModel:
    """A random one, whose dimensions are coupled."""
    rng = np.random.default_rng(seed)
    return LinearModel(
        mean=rng.normal(size=latent),
        variance=rng.uniform(0.5, 2, latent),
        dynamics=rng.normal(size=(latent, latent)) / np.sqrt(latent),
        bias=rng.normal(size=latent),
        noise=rng.uniform(0.1, 1, latent),
        emission=rng.normal(size=(features, latent)),
        emission_bias=rng.normal(size=features),
        emission_noise=rng.uniform(0.1, 0.5, features),
    )
