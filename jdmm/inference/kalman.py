"""Exact filter, smoother and sampler of a linear Gaussian state space model.

    z_1 ~ N(m, V)    z_t = A z_{t-1} + b + N(0, Q)    x_t = C z_t + d + N(0, R), R diagonal

Any value may be missing: an update adds the precisions of what is observed at a step.
"""

from typing import Any, NamedTuple

import jax
from jax import numpy as jnp


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
        updated = symmetric(jnp.linalg.solve(inner, covariance))
        quadratic = jnp.sum(weight * surprise**2) - gathered @ updated @ gathered
        constants = jnp.sum(jnp.where(mask, jnp.log(2 * jnp.pi * p.variance), 0.0))
        log_prob = -0.5 * (quadratic + constants + jnp.linalg.slogdet(inner)[1])
        filtered = mean + updated @ gathered
        ahead = p.transition @ filtered + p.drift
        spread = symmetric(p.transition @ updated @ p.transition.T + p.noise)
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
        covariance = symmetric(own + gain @ (covariance - ahead) @ gain.T)
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
        conditional = root(symmetric(covariance - gain @ ahead @ gain.T))
        state = mean + gain @ (state - ahead_mean) + conditional @ own
        return state, state

    last = filtered.mean[-1] + root(filtered.covariance[-1]) @ noise[-1]
    inputs = (*smoothing_inputs(parameters, filtered), noise[:-1])
    _, states = jax.lax.scan(_step, last, inputs, reverse=True)
    return jnp.concatenate([states, last[None]])


def symmetric(matrix: jax.Array) -> jax.Array:
    """The symmetric part of ``(..., D, D)``."""
    return (matrix + jnp.swapaxes(matrix, -1, -2)) / 2
