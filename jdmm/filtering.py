"""Backward and forward filters by moment matching (Tan et al. 2020, algorithm 1).

The evidence is ``(*batch, time, latent)``, exactly (0, 0) at steps without any; *batch may hold
further axes (views, samples) in front of the series. Inside the scan the layout is
(latent, point, *batch), the long axis last, which only this file and `smoothing` know.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import numpy as jnp

from jdmm import gaussian
from jdmm.gaussian import Gaussian, Moments

REACH = 8.0
"""What one step hands to the next lies within this many sd of the prior p(z), its own marginal.

Far outside the data a young transition can be steep and sure of itself at once; a chain that
strays there would grow by a factor at every step until it overflows.
"""

Transition = Callable[[jax.Array], Moments]
"""States ``(latent, n)`` -> moments ``(latent, n)`` of the quotient p(z' | z) / p(z')."""


class FilteredPosterior(NamedTuple):
    """Fields ``(*batch, time, latent)``, told for the backward filter; swap past and future else.

    message: b_t = q(z_t | x_{t+1:T}), the prior where nothing is observed later.
    filtered: f_t = q(z_t | x_{t:T}), the product of message and evidence.
    """

    message: Moments
    filtered: Moments


def particles(key: jax.Array, count: int, batch: int, time: int, latent: int) -> jax.Array:
    """Standard normal offsets ``(time, latent, count, batch)``.

    Each number depends on the key, its series and its time step alone: not on the padding, the
    neighbours in the batch, or the views that share it.
    """

    def draw(series: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, series), (time, latent, count))

    return jax.vmap(draw, out_axes=-1)(jnp.arange(batch))


def sigma_points(latent: int) -> jax.Array:
    """The deterministic offsets ``(1, latent, 2 * latent, 1)`` at +-sqrt(latent) sd."""
    return gaussian.sigma_points(latent)[None, :, :, None]


def map_states(transition: Transition, z: jax.Array) -> Moments:
    """`transition` over all axes of ``(latent, ...)`` but the first."""
    flat = transition(z.reshape(z.shape[0], -1))
    return Moments(flat.mean.reshape(z.shape), flat.variance.reshape(z.shape))


def predict(
    transition: Transition, prior: Moments, filtered: Moments, offsets: jax.Array
) -> Moments:
    """The message to the next step: match over points z^k of p(z') * q~(z' | z^k).

    Args:
        transition: the quotient.
        prior: p(z), ``(latent,)``.
        filtered: f_t, ``(latent, *batch)``.
        offsets: points in units of sd, ``(latent, point, batch)``, broadcast over further axes.
    """
    rank = filtered.mean.ndim
    offsets = align(offsets, rank + 1)
    points = gaussian.sample(Moments(*(leaf[:, None] for leaf in filtered)), offsets)
    stationary = Moments(*(align(leaf, rank + 1, last=False) for leaf in prior))
    components = gaussian.condition(stationary, map_states(transition, points))
    matched = gaussian.moment_match(components, 1)
    widest = (REACH * align(jax.lax.stop_gradient(prior.sd), rank, last=False)) ** 2
    return Moments(plausible(matched.mean, prior), jnp.minimum(matched.variance, widest))


def plausible(states: jax.Array, prior: Moments) -> jax.Array:
    """States ``(latent, *batch)`` held within `REACH` sd of the prior."""
    mean, reach = (
        align(jax.lax.stop_gradient(leaf), states.ndim, last=False)
        for leaf in (prior.mean, REACH * prior.sd)
    )
    return jnp.clip(states, mean - reach, mean + reach)


def filter_step(
    transition: Transition,
    prior: Moments,
    message: Moments,
    evidence: Gaussian,
    offsets: jax.Array,
) -> tuple[Moments, Moments]:
    """One step of either filter, for streaming: the filtered posterior and the next message.

    Arrays are ``(latent, *batch)``, offsets ``(latent, point, batch)``. Start from
    ``message = p(z)``, and keep it until the first step with evidence.
    """
    filtered = gaussian.moments(gaussian.product(gaussian.natural(message), evidence))
    return filtered, predict(transition, prior, filtered, offsets)


def backward_filter(
    transition: Transition, prior: Moments, evidence: Gaussian, offsets: jax.Array
) -> FilteredPosterior:
    """The filter from the future: messages b_t and posteriors f_t for t = T..1.

    A series starts at its own last step with evidence: b_t is exactly p(z) at and after it,
    whatever the padding, since nothing observed later can tell of z_t.

    Args:
        transition: the backward transition as a quotient.
        prior: p(z), ``(latent,)``.
        evidence: product over modalities, ``(*batch, time, latent)``, (0, 0) where there is none.
        offsets: from `particles` or `sigma_points`.
    """
    return _filter(transition, prior, evidence, offsets, reverse=True)


def forward_filter(
    transition: Transition, prior: Moments, evidence: Gaussian, offsets: jax.Array
) -> FilteredPosterior:
    """The filter from the past; arguments as in `backward_filter`, with the forward transition."""
    return _filter(transition, prior, evidence, offsets, reverse=False)


def _filter(
    transition: Transition,
    prior: Moments,
    evidence: Gaussian,
    offsets: jax.Array,
    reverse: bool,
) -> FilteredPosterior:
    shape = evidence.precision.shape
    start = Moments(
        *(
            jnp.broadcast_to(align(p, len(shape) - 1, last=False), (shape[-1], *shape[:-2]))
            for p in prior
        )
    )
    fixed = offsets.shape[0] == 1

    def _step(carry, inputs):
        """Message and whether anything was seen so far -> the same for the next step."""
        message, seen = carry
        step_evidence, step_offsets = inputs
        points = offsets[0] if fixed else step_offsets
        filtered, following = filter_step(transition, prior, message, step_evidence, points)
        seen = seen | jnp.any(step_evidence.precision != 0, 0)
        following = jax.tree.map(lambda new, old: jnp.where(seen[None], new, old), following, start)
        return (following, seen), (message, filtered)

    inputs = (
        Gaussian(*(time_major(leaf) for leaf in evidence)),
        None if fixed else offsets,
    )
    unseen = jnp.zeros(shape[:-2], bool)
    # rematerialised: saving the points of every step costs 20 times the memory and no less time
    _, (message, filtered) = jax.lax.scan(
        jax.checkpoint(_step), (start, unseen), inputs, reverse=reverse
    )
    return FilteredPosterior(
        Moments(*(time_minor(leaf) for leaf in message)),
        Moments(*(time_minor(leaf) for leaf in filtered)),
    )


def time_major(array: jax.Array) -> jax.Array:
    """``(*batch, time, latent)`` -> the scan's ``(time, latent, *batch)``."""
    return jnp.moveaxis(array, (-2, -1), (0, 1))


def time_minor(array: jax.Array) -> jax.Array:
    """``(time, latent, *batch)`` -> the public ``(*batch, time, latent)``."""
    return jnp.moveaxis(array, (0, 1), (-2, -1))


def align(array: jax.Array, rank: int, last: bool = True) -> jax.Array:
    """`array` with axes of size 1 put before its last axis, or behind it, up to `rank`."""
    missing = (1,) * (rank - array.ndim)
    return array.reshape(
        (*array.shape[:-1], *missing, array.shape[-1]) if last else (*array.shape, *missing)
    )
