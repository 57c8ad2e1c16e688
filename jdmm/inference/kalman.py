"""Exact filter, smoother and sampler of a linear Gaussian state space model.

    z_1 ~ N(m, V)    z_t = A z_{t-1} + b + N(0, Q)    x_t = C z_t + d + N(0, R), R diagonal

With inputs u_t, the mean of z_1 is m + E u_1, and B u_t is added to the mean of z_t. Any value may
be missing: an update adds the precisions of what is observed at a step. All functions take one
series; `jax.vmap` gives batches.
"""

from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Bool, Float

from jdmm.series import Array


class Parameters(NamedTuple):
    """Of the model above, with D latent dimensions and F features.

    initial_mean, initial_covariance: m ``(D,)`` and V ``(D, D)``.
    dynamics, dynamics_bias, dynamics_covariance: A ``(D, D)``, b ``(D,)`` and Q ``(D, D)``.
    emission, emission_bias, emission_variance: C ``(F, D)``, d ``(F,)`` and the diagonal of R.
    initial_inputs, dynamics_inputs: E and B, ``(D, U)``; None without inputs.
    """

    initial_mean: Any
    initial_covariance: Any
    dynamics: Any
    dynamics_bias: Any
    dynamics_covariance: Any
    emission: Any
    emission_bias: Any
    emission_variance: Any
    initial_inputs: Any = None
    dynamics_inputs: Any = None


class KalmanFilter(NamedTuple):
    """Moments of the states of one series given x_{1:t-1} and x_{1:t}, and log p(x) in nats."""

    predicted_mean: Float[Array, "time latent"]
    predicted_covariance: Float[Array, "time latent latent"]
    filtered_mean: Float[Array, "time latent"]
    filtered_covariance: Float[Array, "time latent latent"]
    log_likelihood: Float[Array, ""]


class KalmanSmoother(NamedTuple):
    """Moments of the states of one series given x_{1:T}, and log p(x) in nats.

    cross_covariance: Cov(z_{t+1}, z_t | x) for t = 1..T-1.
    """

    mean: Float[Array, "time latent"]
    covariance: Float[Array, "time latent latent"]
    cross_covariance: Float[Array, "transition latent latent"]
    log_likelihood: Float[Array, ""]


def kalman_filter(
    parameters: Parameters,
    values: Float[Array, "time feature"],
    observed: Bool[Array, "time feature"],
    inputs: Float[Array, "time input"] | None = None,
) -> KalmanFilter:
    """The filter in information form, so that a missing value is a precision of 0."""
    p = parameters
    first, biases = p.initial_mean, None
    if inputs is not None:
        first = first + p.initial_inputs @ inputs[0]
        biases = jnp.roll(inputs, -1, 0) @ p.dynamics_inputs.T  # of the next step

    def _step(carry, given):
        """p(z_t | x_{1:t-1}) -> p(z_{t+1} | x_{1:t})."""
        mean, covariance = carry
        value, mask, bias = given
        precision = jnp.where(mask, 1 / p.emission_variance, 0.0)
        innovation = jnp.where(mask, value - p.emission @ mean - p.emission_bias, 0.0)
        information = p.emission.T @ (precision * innovation)
        # (V^-1 + C' W C)^-1 = (1 + V C' W C)^-1 V, which also holds for a singular V
        inner = jnp.eye(len(mean)) + covariance @ (p.emission.T * precision[None]) @ p.emission
        factors = jax.scipy.linalg.lu_factor(inner)
        updated = symmetric(jax.scipy.linalg.lu_solve(factors, covariance))
        log_determinant = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(factors[0]))))
        quadratic = jnp.sum(precision * innovation**2) - information @ updated @ information
        constants = jnp.sum(jnp.where(mask, jnp.log(2 * jnp.pi * p.emission_variance), 0.0))
        log_prob = -0.5 * (quadratic + constants + log_determinant)
        filtered = mean + updated @ information
        next_mean = p.dynamics @ filtered + p.dynamics_bias
        next_mean = next_mean if bias is None else next_mean + bias
        next_covariance = symmetric(p.dynamics @ updated @ p.dynamics.T + p.dynamics_covariance)
        return (next_mean, next_covariance), (mean, covariance, filtered, updated, log_prob)

    start = (first, p.initial_covariance)
    _, (*moments, log_prob) = jax.lax.scan(_step, start, (values, observed, biases))
    return KalmanFilter(*moments, log_likelihood=jnp.sum(log_prob))


def smoother_gains(
    parameters: Parameters, filtered: KalmanFilter
) -> Float[Array, "transition latent latent"]:
    """J_t = V_{t|t} A' V_{t+1|t}^-1 for t = 1..T-1 (Rauch, Tung & Striebel 1965)."""

    def gain(covariance: jax.Array, predicted: jax.Array) -> jax.Array:
        return jnp.linalg.solve(predicted, parameters.dynamics @ covariance).T

    return jax.vmap(gain)(filtered.filtered_covariance[:-1], filtered.predicted_covariance[1:])


def kalman_smoother(
    parameters: Parameters,
    values: Float[Array, "time feature"],
    observed: Bool[Array, "time feature"],
    inputs: Float[Array, "time input"] | None = None,
) -> KalmanSmoother:
    """The Rauch-Tung-Striebel smoother."""
    filtered = kalman_filter(parameters, values, observed, inputs)

    def _step(carry, own):
        """p(z_{t+1} | x_{1:T}) -> p(z_t | x_{1:T})."""
        mean, covariance = carry
        gain, filtered_mean, filtered_covariance, predicted_mean, predicted_covariance = own
        cross = covariance @ gain.T
        mean = filtered_mean + gain @ (mean - predicted_mean)
        change = gain @ (covariance - predicted_covariance) @ gain.T
        covariance = symmetric(filtered_covariance + change)
        return (mean, covariance), (mean, covariance, cross)

    last = (filtered.filtered_mean[-1], filtered.filtered_covariance[-1])
    backward = _backward(parameters, filtered)
    _, (means, covariances, crosses) = jax.lax.scan(_step, last, backward, reverse=True)
    means, covariances = (
        jnp.concatenate([leaf, end[None]])
        for leaf, end in zip((means, covariances), last, strict=True)
    )
    return KalmanSmoother(means, covariances, crosses, filtered.log_likelihood)


def sample_posterior(
    parameters: Parameters,
    values: Float[Array, "time feature"],
    observed: Bool[Array, "time feature"],
    noise: Float[Array, "time latent"],
    inputs: Float[Array, "time input"] | None = None,
) -> Float[Array, "time latent"]:
    """An exact joint sample of the states given x_{1:T}, by backward sampling.

    Each state is sampled from p(z_t | z_{t+1}, x_{1:t}), with standard normal `noise`.
    """
    filtered = kalman_filter(parameters, values, observed, inputs)

    def square_root(covariance: jax.Array) -> jax.Array:
        # of a singular matrix too, where a Cholesky factor would be NaN
        eigenvalues, directions = jnp.linalg.eigh(covariance)
        return directions * jnp.sqrt(jnp.maximum(eigenvalues, 0.0))[None]

    def _step(state, given):
        """z_{t+1} -> z_t."""
        (gain, mean, covariance, predicted_mean, predicted_covariance), own = given
        conditional = symmetric(covariance - gain @ predicted_covariance @ gain.T)
        state = mean + gain @ (state - predicted_mean) + square_root(conditional) @ own
        return state, state

    root = square_root(filtered.filtered_covariance[-1])
    last = filtered.filtered_mean[-1] + root @ noise[-1]
    backward = (_backward(parameters, filtered), noise[:-1])
    _, states = jax.lax.scan(_step, last, backward, reverse=True)
    return jnp.concatenate([states, last[None]])


def symmetric(matrix: Float[Array, "*batch D D"]) -> Float[Array, "*batch D D"]:
    """The symmetric part of a square matrix."""
    return (matrix + jnp.swapaxes(matrix, -1, -2)) / 2


def _backward(parameters: Parameters, filtered: KalmanFilter) -> tuple[jax.Array, ...]:
    """Gains, filtered moments of step t and predicted moments of step t + 1, t = 1..T-1."""
    return (
        smoother_gains(parameters, filtered),
        filtered.filtered_mean[:-1],
        filtered.filtered_covariance[:-1],
        filtered.predicted_mean[1:],
        filtered.predicted_covariance[1:],
    )
