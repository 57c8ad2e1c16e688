"""Forward smoothers over the messages of the backward filter (Tan et al. 2020, algorithm 2)."""

import math
from typing import NamedTuple

import jax
from jax import numpy as jnp

from jdmm.inference import gaussian
from jdmm.inference.filtering import (
    Transition,
    column,
    draw_points,
    fold,
    fold_offsets,
    match_points,
    plausible,
    spread,
    unfold,
)
from jdmm.inference.gaussian import Gaussian, Moments


class SmoothedPosterior(NamedTuple):
    """Fields ``(*batch, time, latent)`` of one chain.

    prior: p(z_t | z_{t-1}) = p(z) * q~(z_t | z_{t-1}), with p(z_1) at the first step.
    posterior: q(z_t | z_{t-1}, x_{t:T}), proportional to b_t * e_t * q~(z_t | z_{t-1}).
    states: z_t, drawn from the posterior, or its mean where the noise is 0.
    """

    prior: Moments
    posterior: Moments
    states: jax.Array


def conditional_smoother(
    transition: Transition, prior: Moments, filtered: Moments, noise: jax.Array
) -> SmoothedPosterior:
    """One chain through the conditional smoothing posteriors, t = 1..T (K_f = 1).

    The transition network is the quotient p(z_t | z_{t-1}) / p(z_t) itself, so no precision is
    ever subtracted.

    Args:
        transition: the forward transition quotient for one state.
        prior: p(z), ``(latent,)``.
        filtered: f_t = b_t * e_t of the backward filter, ``(*batch, time, latent)``.
        noise: standard normal ``(time, latent, series)``, shared by further batch axes; zeros
            give the recursion of means, the MAP sequence.
    """
    *batch, _, latent = filtered.mean.shape
    stationary = gaussian.natural(column(prior))

    def _step(carry, inputs):
        """z_{t-1} -> z_t."""
        state, first = carry
        step, step_noise = inputs
        reached = transition(plausible(state, prior))
        expert = gaussian.mask(gaussian.natural(reached), ~first)
        conditional = gaussian.moments(gaussian.product(stationary, expert))
        posterior = gaussian.moments(gaussian.product(step, expert))
        state = gaussian.sample(posterior, step_noise)
        return (state, jnp.zeros_like(first)), (conditional, posterior, state)

    start = (jnp.zeros((latent, math.prod(batch))), jnp.array(True))
    past = Gaussian(*(fold(leaf) for leaf in gaussian.natural(filtered)))
    _, (conditional, posterior, states) = jax.lax.scan(
        jax.checkpoint(_step), start, (past, fold_offsets(noise, batch))
    )
    return SmoothedPosterior(
        Moments(*(unfold(leaf, batch) for leaf in conditional)),
        Moments(*(unfold(leaf, batch) for leaf in posterior)),
        unfold(states, batch),
    )


def marginal_smoother(
    transition: Transition, prior: Moments, filtered: Moments, offsets: jax.Array
) -> Moments:
    """Moment-matched marginals q(z_t | x_{1:T}), ``(*batch, time, latent)`` (K_f > 1).

    Matches the conditional posteriors f_t * q~(z_t | z^k) over points z^k of the marginal before,
    which with one point is `conditional_smoother`. Matching a_t = E p(z_t | z^k) first and then
    forming f_t * a_t / p(z) would need a quotient that can be improper, and would count the future
    twice, which the points know already.

    Arguments as in `conditional_smoother`, with `offsets` as in the filter.
    """
    *batch, _, latent = filtered.mean.shape
    fixed, count = offsets.shape[0] == 1, offsets.shape[2]
    offsets = fold_offsets(offsets, batch)

    def _step(carry, inputs):
        """q(z_{t-1} | x_{1:T}) -> q(z_t | x_{1:T})."""
        previous, first = carry
        step, step_offsets = inputs
        points = draw_points(previous, offsets[0] if fixed else step_offsets)
        reached = transition(plausible(points, prior))
        expert = gaussian.mask(gaussian.natural(reached), ~first)
        step = Gaussian(*(spread(leaf, count) for leaf in step))
        posterior = match_points(gaussian.moments(gaussian.product(step, expert)), count)
        return (posterior, jnp.zeros_like(first)), posterior

    past = Gaussian(*(fold(leaf) for leaf in gaussian.natural(filtered)))
    shape = (latent, math.prod(batch))
    start = (Moments(jnp.zeros(shape), jnp.ones(shape)), jnp.array(True))
    inputs = (past, None if fixed else offsets)
    _, posterior = jax.lax.scan(jax.checkpoint(_step), start, inputs)
    return Moments(*(unfold(leaf, batch) for leaf in posterior))
