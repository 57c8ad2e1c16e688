"""Forward smoothers over the messages of the backward filter (Tan et al. 2020, algorithm 2)."""

from typing import NamedTuple

import jax
from jax import numpy as jnp

from jdmm import gaussian
from jdmm.filtering import (
    Transition,
    _align,
    map_states,
    plausible,
    predict,
    time_major,
    time_minor,
)
from jdmm.gaussian import Gaussian, Moments


class SmoothedPosterior(NamedTuple):
    """Fields ``(*batch, time, latent)`` of one chain.

    prior: p(z_t | z_{t-1}) = p(z) * q~(z_t | z_{t-1}), with p(z_1) at the first step.
    posterior: q(z_t | z_{t-1}, x_{t:T}), proportional to b_t * e_t * q~(z_t | z_{t-1}).
    states: z_t, drawn from the posterior, or its mean where the noise is 0.
    """

    prior: Moments
    posterior: Moments
    states: jax.Array


class MarginalPosterior(NamedTuple):
    """Fields ``(*batch, time, latent)``.

    posterior: q(z_t | x_{1:T}).
    improper: where the past's message was wider than p(z), so that its quotient by p(z) is no
        density and this dimension of the past was taken as uninformative.
    """

    posterior: Moments
    improper: jax.Array


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
    past = gaussian.natural(filtered)
    rank = filtered.mean.ndim - 1
    stationary = Gaussian(*(_align(leaf, rank, last=False) for leaf in gaussian.natural(prior)))

    def _step(carry, inputs):
        """z_{t-1} -> z_t."""
        state, first = carry
        step, step_noise = inputs
        reached = map_states(transition, plausible(state, prior))
        expert = gaussian.mask(gaussian.natural(reached), ~first)
        conditional = gaussian.moments(gaussian.product(stationary, expert))
        posterior = gaussian.moments(gaussian.product(step, expert))
        state = gaussian.sample(posterior, _align(step_noise, rank))
        return (state, jnp.zeros_like(first)), (conditional, posterior, state)

    shape = filtered.mean.shape
    start = (jnp.zeros((shape[-1], *shape[:-2])), jnp.ones((1,) * rank, bool))
    inputs = (Gaussian(*(time_major(leaf) for leaf in past)), noise)
    _, (conditional, posterior, states) = jax.lax.scan(jax.checkpoint(_step), start, inputs)
    return SmoothedPosterior(
        Moments(*(time_minor(leaf) for leaf in conditional)),
        Moments(*(time_minor(leaf) for leaf in posterior)),
        time_minor(states),
    )


def marginal_smoother(
    transition: Transition, prior: Moments, filtered: Moments, offsets: jax.Array
) -> MarginalPosterior:
    """Moment-matched marginals q(z_t | x_{1:T}) for t = 1..T (K_f > 1).

    Arguments as in `conditional_smoother`, with `offsets` as in the filter. The message from the
    past a_t is matched over points of the marginal before it; the marginal is
    f_t * a_t / p(z). Where a_t is wider than p(z), in a dimension, a_t / p(z) is left out.
    """
    rank = filtered.mean.ndim - 1
    stationary = Gaussian(*(_align(leaf, rank, last=False) for leaf in gaussian.natural(prior)))
    fixed = offsets.shape[0] == 1

    def _step(carry, inputs):
        """a_t / p(z) -> the same for the next step."""
        past, improper = carry
        step, step_offsets = inputs
        posterior = gaussian.moments(gaussian.product(step, past))
        message = predict(transition, prior, posterior, offsets[0] if fixed else step_offsets)
        ratio = gaussian.quotient(gaussian.natural(message), stationary)
        proper = ratio.precision > 0
        return (gaussian.mask(ratio, proper), ~proper), (posterior, improper)

    shape = filtered.mean.shape
    zeros = jnp.zeros((shape[-1], *shape[:-2]))
    inputs = (
        Gaussian(*(time_major(leaf) for leaf in gaussian.natural(filtered))),
        None if fixed else offsets,
    )
    start = (Gaussian(zeros, zeros), jnp.zeros(zeros.shape, bool))
    _, (posterior, improper) = jax.lax.scan(jax.checkpoint(_step), start, inputs)
    return MarginalPosterior(
        Moments(*(time_minor(leaf) for leaf in posterior)), time_minor(improper)
    )
