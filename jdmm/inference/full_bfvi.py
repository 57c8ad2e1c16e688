"""Filters and conditional smoother of BFVI with messages of full covariance.

As `filtering` and `smoothing`, but the messages are N(m, L L') and keep what the dimensions of the
state have in common. Prior, evidence and transitions stay diagonal.

Public arrays are ``(*batch, time, latent)``, roots ``(*batch, time, latent, latent)``. Inside the
scans all of `*batch` is one axis at the end, as the steps of `square_root` have it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Float

from jdmm.inference import gaussian, linalg, square_root
from jdmm.inference.filtering import (
    MAX_DEVIATION,
    FilteredPosterior,
    Transition,
    clip_to_prior,
    column,
    flatten_batch,
    flatten_offsets,
    unflatten_batch,
)
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.quadrature import Points
from jdmm.inference.smoothing import PosteriorPath
from jdmm.inference.square_root import LOG_2PI, FullMoments, StepPoints
from jdmm.series import Array


class FullFilteredPosterior(NamedTuple):
    """Means ``(*batch, time, latent)`` and roots ``(*batch, time, latent, latent)``.

    Written for the backward filter; the forward filter has past and future exchanged.

    predicted: b_t = q(z_t | x_{t+1:T}), the prior where nothing is observed later.
    filtered: f_t = q(z_t | x_{t:T}), the product of the prediction and the evidence.
    """

    predicted: FullMoments
    filtered: FullMoments

    @property
    def marginals(self) -> FilteredPosterior:
        """Mean and variance of each dimension, ``(*batch, time, latent)``."""
        return FilteredPosterior(
            *(
                Moments(own.mean, jnp.sum(own.root**2, -1))
                for own in (self.predicted, self.filtered)
            )
        )


def predict(
    transition: Transition, prior: Moments, filtered: FullMoments, points: StepPoints
) -> FullMoments:
    """The prediction of the next state: p(z') q~(z' | z^k), moment-matched over points z^k.

    The guards are those of `filtering.predict`.

    Args:
        transition: the quotient.
        prior: p(z), ``(latent,)``.
        filtered: f_t.
        points: of the quadrature.
    """
    stationary = column(prior)
    matched = square_root.predict(
        lambda states: gaussian.condition(stationary, transition(states)), filtered, points
    )
    widest = MAX_DEVIATION * jax.lax.stop_gradient(stationary.sd)
    shrink = jnp.minimum(widest / jnp.sqrt(matched.variance), 1.0)
    return FullMoments(clip_to_prior(matched.mean, prior), matched.root * shrink[:, None])


def filter_step(
    transition: Transition,
    prior: Moments,
    predicted: FullMoments,
    evidence: Gaussian,
    points: StepPoints,
) -> tuple[FullMoments, FullMoments]:
    """One step of either filter, for streaming: update, then predict.

    Start from `prior_states`, and keep them until the first step with evidence.

    Args:
        transition: the quotient.
        prior: p(z), ``(latent,)``.
        predicted: the prediction of this step's state.
        evidence: of this step, ``(latent, n)``.
        points: of the quadrature.

    Returns:
        The filtered posterior of this step and the prediction of the next.
    """
    filtered = square_root.updated(predicted, square_root.update_factor(predicted, evidence))
    return filtered, predict(transition, prior, filtered, points)


def backward_filter(
    transition: Transition, prior: Moments, evidence: Gaussian, points: Points
) -> FullFilteredPosterior:
    """The filter from the future: predictions b_t and posteriors f_t for t = T..1.

    A series starts at its own last step with evidence; see `filtering.backward_filter`.

    Args:
        transition: the backward transition as a quotient.
        prior: p(z), ``(latent,)``.
        evidence: product over modalities, ``(*batch, time, latent)``, (0, 0) where there is none.
        points: of the quadrature.
    """
    return _filter(transition, prior, evidence, points, reverse=True)


def forward_filter(
    transition: Transition, prior: Moments, evidence: Gaussian, points: Points
) -> FullFilteredPosterior:
    """The filter from the past; arguments as in `backward_filter`, with the forward transition."""
    return _filter(transition, prior, evidence, points, reverse=False)


def conditional_smoother(
    transition: Transition,
    prior: Moments,
    filtered: FullMoments,
    noise: Float[Array, "time latent series"],
) -> PosteriorPath:
    """One path through the conditional smoothing posteriors, t = 1..T.

    The posterior at each step is proportional to f_t q~(z_t | z_{t-1}), the product of a Gaussian
    of full covariance and a diagonal expert. Arguments as in `smoothing.conditional_smoother`.

    Returns:
        The path with `log_determinant` and `log_posterior`. The variance of its posterior is the
        diagonal of the covariance.
    """
    *batch, _, latent = filtered.mean.shape
    stationary = column(prior)
    states = _flatten(filtered)
    # of a triangular root the determinant is the product of the diagonal
    states = FullMoments(states.mean, jax.vmap(linalg.triangularise)(states.root))

    def _step(carry, inputs):
        """z_{t-1} -> z_t."""
        state, first = carry
        own, step_noise = inputs
        expert = gaussian.natural(transition(clip_to_prior(state, prior)))
        expert = gaussian.mask(expert, ~first)
        conditional = gaussian.moments(gaussian.product(gaussian.natural(stationary), expert))
        change = square_root.update_factor(own, expert)
        posterior = square_root.updated(own, change)
        state = posterior.mean + linalg.matvec(posterior.root, step_noise)
        logs = jnp.sum(jnp.log(linalg.diagonal(own.root)), 0) + change.log_determinant
        density = -0.5 * jnp.sum(step_noise**2 + LOG_2PI, 0) - logs
        moments = Moments(posterior.mean, posterior.variance)
        return (state, jnp.zeros_like(first)), (conditional, moments, state, logs, density)

    start = (jnp.zeros((latent, math.prod(batch))), jnp.array(True))
    _, (conditional, posterior, path, logs, density) = jax.lax.scan(
        jax.checkpoint(_step), start, (states, flatten_offsets(noise, batch))
    )
    return PosteriorPath(
        Moments(*(unflatten_batch(leaf, batch) for leaf in conditional)),
        Moments(*(unflatten_batch(leaf, batch) for leaf in posterior)),
        unflatten_batch(path, batch),
        log_determinant=unflatten_batch(logs[:, None], batch)[..., 0],
        log_posterior=unflatten_batch(density[:, None], batch)[..., 0],
    )


def prior_states(prior: Moments, n: int) -> FullMoments:
    """p(z) for each of n series."""
    latent = prior.mean.shape[0]
    root = linalg.diagonal_matrix(column(prior).sd)
    return FullMoments(
        jnp.broadcast_to(prior.mean[:, None], (latent, n)),
        jnp.broadcast_to(root, (latent, latent, n)),
    )


def _filter(
    transition: Transition, prior: Moments, evidence: Gaussian, points: Points, reverse: bool
) -> FullFilteredPosterior:
    *batch, _, _ = evidence.precision.shape
    n = math.prod(batch)
    start = prior_states(prior, n)
    offsets, fixed = points.offsets, points.offsets.shape[0] == 1
    if offsets.shape[-1] > 1:
        offsets = flatten_offsets(offsets, batch)

    def _step(carry, inputs):
        """Prediction and whether anything was observed so far -> the same for the next step."""
        predicted, observed = carry
        own, step_offsets = inputs
        step_points = StepPoints(offsets[0] if fixed else step_offsets, points.weights)
        filtered, following = filter_step(transition, prior, predicted, own, step_points)
        observed = observed | jnp.any(own.precision != 0, 0)
        following = jax.tree.map(lambda new, old: jnp.where(observed, new, old), following, start)
        return (following, observed), FullFilteredPosterior(predicted, filtered)

    inputs = (Gaussian(*(flatten_batch(leaf) for leaf in evidence)), None if fixed else offsets)
    # rematerialised: saving the points of every step takes many times the memory
    _, found = jax.lax.scan(
        jax.checkpoint(_step), (start, jnp.zeros(n, bool)), inputs, reverse=reverse
    )
    return FullFilteredPosterior(*(_unflatten(states, batch) for states in found))


def _flatten(states: FullMoments) -> FullMoments:
    """``(*batch, time, latent, ...)`` -> the scans' ``(time, latent, ..., n)``."""
    root = jnp.moveaxis(states.root, (-3, -2, -1), (0, 1, 2))
    return FullMoments(flatten_batch(states.mean), root.reshape(*root.shape[:3], -1))


def _unflatten(states: FullMoments, batch: Sequence[int]) -> FullMoments:
    """The inverse of `_flatten`."""
    root = states.root.reshape(*states.root.shape[:3], *batch)
    return FullMoments(
        unflatten_batch(states.mean, batch), jnp.moveaxis(root, (0, 1, 2), (-3, -2, -1))
    )
