"""Backward and forward filters by moment matching (Tan et al. 2020, algorithm 1).

The evidence is ``(*batch, time, latent)``, exactly (0, 0) at steps without any; *batch may hold
further axes (views, samples) in front of the series. Inside the scans all of *batch is one axis,
behind the latent one: states are ``(latent, n)``, and their points ``(latent, point * n)``, which
only this file and `smoothing` know. XLA's loops on the CPU are several times slower over arrays
that must be folded on their way in and out of the transition's matrix products.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from jdmm.inference import gaussian
from jdmm.inference.gaussian import Gaussian, Moments

REACH = 8.0
"""What one step hands to the next lies within this many sd of the prior p(z), its own marginal.

Far outside the data a young transition can be steep and sure of itself at once; a chain that
strays there would grow by a factor at every step until it overflows.
"""

UNROLLED = 32
"""Up to this many points are laid side by side one by one, and not by a broadcast: on the CPU XLA
works out the place of every number of a broadcast that is flattened, which takes a third of the
time of a filter. With many points it is the compiler that this would keep busy."""

Transition = Callable[[jax.Array], Moments]
"""States ``(latent, n)`` -> moments ``(latent, n)`` of the quotient p(z' | z) / p(z')."""


class FilteredPosterior(NamedTuple):
    """Fields ``(*batch, time, latent)``, told for the backward filter; swap past and future else.

    message: b_t = q(z_t | x_{t+1:T}), the prior where nothing is observed later.
    filtered: f_t = q(z_t | x_{t:T}), the product of message and evidence.
    """

    message: Moments
    filtered: Moments


def particles(key: jax.Array, count: int, index: jax.Array, time: int, latent: int) -> jax.Array:
    """Standard normal offsets ``(time, latent, count, batch)`` for series of the given `index`.

    Each number depends on the key, the series' index and the time step alone: not on the padding,
    the neighbours in the batch, or the views that share it.
    """

    def draw(series: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, series), (time, latent, count))

    drawn = jax.vmap(draw, out_axes=-1)(index)
    # else XLA keeps the series in front, and every step of a scan gathers its numbers from afar
    return with_layout_constraint(drawn, Layout((0, 1, 2, 3)))


def sigma_points(latent: int) -> jax.Array:
    """The deterministic offsets ``(1, latent, 2 * latent, 1)`` at +-sqrt(latent) sd."""
    return gaussian.sigma_points(latent)[None, :, :, None]


def spread(values: jax.Array, count: int) -> jax.Array:
    """``(latent, n)`` repeated for every point, ``(latent, count * n)``."""
    if count > UNROLLED:
        return jnp.tile(values, count)
    return jnp.concatenate([values] * count, axis=1)


def add_points(values: jax.Array, count: int) -> jax.Array:
    """The sum over points of ``(latent, count * n)``, ``(latent, n)``; its gradient is `spread`."""
    latent, size = values.shape
    if count > UNROLLED:
        return jnp.sum(values.reshape(latent, count, size // count), 1)
    sizes = (size // count,) * count
    return functools.reduce(operator.add, jax.lax.split(values, sizes, axis=1))


def match_points(components: Moments, count: int) -> Moments:
    """`gaussian.moment_match` of ``(latent, count * n)`` over the points, ``(latent, n)``."""
    mean = add_points(components.mean, count) / count
    squares = components.variance + (components.mean - spread(mean, count)) ** 2
    return Moments(mean, add_points(squares, count) / count)


def draw_points(posterior: Moments, offsets: jax.Array) -> jax.Array:
    """Points ``(latent, point * n)`` of ``(latent, n)`` at offsets ``(latent, point, n or 1)``."""
    count, n = offsets.shape[1], posterior.mean.shape[1]
    flat = jnp.broadcast_to(offsets, (offsets.shape[0], count, n)).reshape(offsets.shape[0], -1)
    return gaussian.sample(Moments(*(spread(leaf, count) for leaf in posterior)), flat)


def predict(
    transition: Transition, prior: Moments, filtered: Moments, offsets: jax.Array
) -> Moments:
    """The message to the next step: match over points z^k of p(z') * q~(z' | z^k).

    Args:
        transition: the quotient.
        prior: p(z), ``(latent,)``.
        filtered: f_t, ``(latent, n)``.
        offsets: points in units of sd, ``(latent, point, n)``, or 1 for n to share them.
    """
    stationary = column(prior)
    points = draw_points(filtered, offsets)
    components = gaussian.condition(stationary, transition(points))
    matched = match_points(components, offsets.shape[1])
    widest = REACH**2 * jax.lax.stop_gradient(stationary.variance)
    return Moments(plausible(matched.mean, prior), jnp.minimum(matched.variance, widest))


def plausible(states: jax.Array, prior: Moments) -> jax.Array:
    """States ``(latent, n)`` held within `REACH` sd of the prior."""
    mean, variance = jax.lax.stop_gradient(column(prior))
    reach = REACH * jnp.sqrt(variance)
    return jnp.clip(states, mean - reach, mean + reach)


def filter_step(
    transition: Transition,
    prior: Moments,
    message: Moments,
    evidence: Gaussian,
    offsets: jax.Array,
) -> tuple[Moments, Moments]:
    """One step of either filter, for streaming: the filtered posterior and the next message.

    Arrays are ``(latent, n)``, offsets ``(latent, point, n)``, or 1 for n. Start from
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
    *batch, _, latent = evidence.precision.shape
    n = math.prod(batch)
    start = Moments(*(jnp.broadcast_to(leaf, (latent, n)) for leaf in column(prior)))
    fixed = offsets.shape[0] == 1
    offsets = fold_offsets(offsets, batch)

    def _step(carry, inputs):
        """Message and whether anything was seen so far -> the same for the next step."""
        message, seen = carry
        step_evidence, step_offsets = inputs
        points = offsets[0] if fixed else step_offsets
        filtered, following = filter_step(transition, prior, message, step_evidence, points)
        seen = seen | jnp.any(step_evidence.precision != 0, 0)
        following = jax.tree.map(lambda new, old: jnp.where(seen, new, old), following, start)
        return (following, seen), (message, filtered)

    inputs = (Gaussian(*(fold(leaf) for leaf in evidence)), None if fixed else offsets)
    # rematerialised: saving the points of every step costs 20 times the memory and no less time
    _, (message, filtered) = jax.lax.scan(
        jax.checkpoint(_step), (start, jnp.zeros(n, bool)), inputs, reverse=reverse
    )
    return FilteredPosterior(
        Moments(*(unfold(leaf, batch) for leaf in message)),
        Moments(*(unfold(leaf, batch) for leaf in filtered)),
    )


def column(prior: Moments) -> Moments:
    """``(latent,)`` -> ``(latent, 1)``."""
    return Moments(*(leaf[:, None] for leaf in prior))


def fold(array: jax.Array) -> jax.Array:
    """``(*batch, time, latent)`` -> the scan's ``(time, latent, n)``."""
    folded = jnp.moveaxis(array, (-2, -1), (0, 1))
    return folded.reshape(*folded.shape[:2], -1)


def unfold(array: jax.Array, batch: Sequence[int]) -> jax.Array:
    """``(time, latent, n)`` -> the public ``(*batch, time, latent)``."""
    return jnp.moveaxis(array.reshape(*array.shape[:2], *batch), (0, 1), (-2, -1))


def fold_offsets(offsets: jax.Array, batch: Sequence[int]) -> jax.Array:
    """``(*, series or 1)`` -> ``(*, n)``: further axes of *batch share the numbers."""
    lead = offsets.shape[:-1]
    shared = offsets.reshape(*lead, *(1,) * (len(batch) - 1), offsets.shape[-1])
    return jnp.broadcast_to(shared, (*lead, *batch)).reshape(*lead, -1)
