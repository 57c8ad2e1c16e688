"""A residual of each feature, beside the state: a stationary autoregression of first order.

    x_t = g(z_t) + r_t + noise    r_1 ~ N(0, v)    r_{t+1} ~ N(a r_t, (1 - a^2) v)

The state tells what the features share; the residual, what each remembers by itself. After each
observation the filter keeps the marginals of the state and of every residual, and drops their
covariances (assumed density filtering): the cost is linear in the number of features. Given a path
of states, the residuals are independent and their smoother is exact.
"""

from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Bool, Float

from jdmm.inference.gaussian import Moments
from jdmm.inference.square_root import LOG_2PI
from jdmm.series import Array


class Autoregression(NamedTuple):
    """Parameters of the residuals.

    decay: a, within 0..1, ``(feature, 1)``.
    variance: v, of the stationary distribution, ``(feature, 1)``; 0 for a feature without residual.
    """

    decay: Float[Array, "feature 1"]
    variance: Float[Array, "feature 1"]

    def initial(self, n: int) -> Moments:
        """p(r_1) of n series, ``(feature, n)``."""
        variance = jnp.broadcast_to(self.variance, (len(self.variance), n))
        return Moments(jnp.zeros_like(variance), variance)

    def predict(self, filtered: Moments) -> Moments:
        """p(r_t | x_{1:t}) -> p(r_{t+1} | x_{1:t})."""
        noise = (1 - self.decay**2) * self.variance
        return Moments(self.decay * filtered.mean, self.decay**2 * filtered.variance + noise)


def no_residuals(features: int) -> Autoregression:
    """Residuals that are always 0."""
    return Autoregression(jnp.zeros((features, 1)), jnp.zeros((features, 1)))


def kl(filtered: Moments, predicted: Moments) -> Float[Array, " n"]:
    """KL(filtered || predicted) of all features together, in nats; 0 for those without residual."""
    there = predicted.variance > 0
    variance, before = (jnp.where(there, own.variance, 1.0) for own in (filtered, predicted))
    moved = jnp.where(there, filtered.mean - predicted.mean, 0.0)
    each = (variance + moved**2) / before - 1 - jnp.log(variance / before)
    return 0.5 * jnp.sum(each, 0)


def update(
    predicted: Moments,
    told: Moments,
    noise: Float[Array, "feature n"],
    value: Float[Array, "feature n"],
    observed: Bool[Array, "feature n"],
) -> Moments:
    """The marginals of the residuals after a step, the state being updated already.

    With K = P / (P + R): E[r | x] = m + K (x - E[g | x] - m), and
    Var[r | x] = (1 - K) P + K^2 Var[g | x].

    Args:
        predicted: m and P, ``(feature, n)``.
        told: mean and variance of g(z_t) given x_{1:t}.
        noise: R, the variance of the emission.
        value: x, anything finite where not observed.
        observed: mask.
    """
    gain = jnp.where(observed, predicted.variance / (predicted.variance + noise), 0.0)
    innovation = value - told.mean - predicted.mean
    return Moments(
        predicted.mean + gain * innovation,
        (1 - gain) * predicted.variance + gain**2 * told.variance,
    )


def smooth(
    residual: Autoregression,
    value: Float[Array, "time feature n"],
    noise: Float[Array, "time feature n"],
    observed: Bool[Array, "time feature n"],
) -> tuple[Moments, Float[Array, "time feature n"]]:
    """The residuals given x_{1:T} and the path of the states, exactly: a scalar Kalman smoother.

    Args:
        residual: the parameters.
        value: x_t - g(z_t), ``(time, feature, n)``, anything finite where not observed.
        noise: the variance of the emission, of the same shape.
        observed: mask.

    Returns:
        Mean and variance ``(time, feature, n)``, and log p(x_t | x_{1:t-1}, z) of what is observed
        in nats, of the same shape, 0 where nothing is.
    """

    def forward(predicted: Moments, inputs: tuple[jax.Array, ...]):
        own, variance, seen = inputs
        exact = Moments(jnp.zeros_like(own), jnp.zeros_like(own))
        filtered = update(predicted, exact, variance, own, seen)
        total = predicted.variance + variance
        log_prob = -0.5 * ((own - predicted.mean) ** 2 / total + jnp.log(total) + LOG_2PI)
        following = residual.predict(filtered)
        return following, (filtered, following, jnp.where(seen, log_prob, 0.0))

    def backward(smoothed: Moments, inputs: tuple[Moments, Moments]):
        filtered, following = inputs
        safe = jnp.where(following.variance > 0, following.variance, 1.0)
        gain = residual.decay * filtered.variance / safe
        mean = filtered.mean + gain * (smoothed.mean - following.mean)
        variance = filtered.variance + gain**2 * (smoothed.variance - following.variance)
        return Moments(mean, variance), Moments(mean, variance)

    start = residual.initial(value.shape[-1])
    _, (filtered, following, log_prob) = jax.lax.scan(forward, start, (value, noise, observed))
    last = jax.tree.map(lambda leaf: leaf[-1], filtered)
    before = jax.tree.map(lambda leaf: leaf[:-1], (filtered, following))
    _, smoothed = jax.lax.scan(backward, last, before, reverse=True)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), smoothed, last)
    return joined, log_prob
