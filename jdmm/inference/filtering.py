"""Backward and forward filters by moment matching (Tan et al. 2020, algorithm 1).

The evidence is ``(*batch, time, latent)``, exactly (0, 0) at steps without observations; `*batch`
may hold further axes (views, samples) in front of the series.

Inside the scans all of `*batch` is one axis behind the latent one: states are ``(latent, n)`` and
their quadrature points ``(latent, point * n)``. Only this file and `smoothing` know this layout. On
the CPU, XLA's loops are several times slower over arrays that must be folded on their way in and
out of the transition's matrix products.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Float, Int

from jdmm.inference import gaussian
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.series import Array

MAX_DEVIATION = 8.0
"""Predictions stay within this many sd of the prior p(z), the marginal of every state.

Far from the data a young transition can be steep and certain at once. A chain of states that
strays there would grow at every step until it overflows.
"""

MAX_UNROLLED_POINTS = 32
"""Up to this many points are laid out by concatenation, more by a broadcast.

On the CPU, XLA computes the position of every number of a flattened broadcast, which takes a third
of a filter's time. Concatenating many points would slow the compiler instead.
"""

Transition = Callable[[Any], Moments]
"""States ``(latent, n)`` -> moments ``(latent, n)`` of the quotient p(z' | z) / p(z')."""

Offsets = Float[Array, "time latent point series"]
"""Quadrature points in units of sd; `time` is 1 where all steps share them, `series` likewise."""


class FilteredPosterior(NamedTuple):
    """Fields ``(*batch, time, latent)``, written for the backward filter.

    The forward filter has the same fields with past and future exchanged.

    predicted: b_t = q(z_t | x_{t+1:T}), the prior where nothing is observed later.
    filtered: f_t = q(z_t | x_{t:T}), the product of the prediction and the evidence.
    """

    predicted: Moments
    filtered: Moments


def particles(
    key: jax.Array, count: int, index: Int[Array, " series"], num_steps: int, latent: int
) -> Offsets:
    """Standard normal offsets ``(time, latent, count, series)``.

    Each number depends on the key, the series' index and the time step only: not on the padding,
    the neighbours in the batch, or the views that share it.
    """

    def draw(series: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, series), (num_steps, latent, count))

    drawn = jax.vmap(draw, out_axes=-1)(index)
    # XLA would keep the series in front, and every step of a scan would gather across memory
    return with_layout_constraint(drawn, Layout((0, 1, 2, 3)))


def sigma_points(latent: int) -> Offsets:
    """Deterministic offsets ``(1, latent, 2 * latent, 1)`` at +-sqrt(latent) sd."""
    return gaussian.sigma_points(latent)[None, :, :, None]


def repeat_points(values: Float[Array, "latent n"], count: int) -> Float[Array, "latent points"]:
    """``(latent, n)`` repeated for every point, ``(latent, count * n)``."""
    if count > MAX_UNROLLED_POINTS:
        return jnp.tile(values, count)
    return jnp.concatenate([values] * count, axis=1)


def sum_points(values: Float[Array, "latent points"], count: int) -> Float[Array, "latent n"]:
    """The sum over the points of ``(latent, count * n)``, the transpose of `repeat_points`."""
    latent, size = values.shape
    if count > MAX_UNROLLED_POINTS:
        return jnp.sum(values.reshape(latent, count, size // count), 1)
    sizes = (size // count,) * count
    return functools.reduce(operator.add, jax.lax.split(values, sizes, axis=1))


def match_points(components: Moments, count: int) -> Moments:
    """`gaussian.moment_match` over the points of ``(latent, count * n)``, ``(latent, n)``."""
    mean = sum_points(components.mean, count) / count
    squares = components.variance + (components.mean - repeat_points(mean, count)) ** 2
    return Moments(mean, sum_points(squares, count) / count)


def place_points(
    posterior: Moments, offsets: Float[Array, "latent point n"]
) -> Float[Array, "latent points"]:
    """Points ``(latent, point * n)`` of ``(latent, n)`` at offsets ``(latent, point, n or 1)``."""
    count, n = offsets.shape[1], posterior.mean.shape[1]
    flat = jnp.broadcast_to(offsets, (offsets.shape[0], count, n)).reshape(offsets.shape[0], -1)
    return gaussian.sample(Moments(*(repeat_points(leaf, count) for leaf in posterior)), flat)


def predict(
    transition: Transition,
    prior: Moments,
    filtered: Moments,
    offsets: Float[Array, "latent point n"],
) -> Moments:
    """The prediction of the next state: p(z') q~(z' | z^k), moment-matched over points z^k.

    Args:
        transition: the quotient.
        prior: p(z), ``(latent,)``.
        filtered: f_t, ``(latent, n)``.
        offsets: points in units of sd, ``(latent, point, n)``; n may be 1, shared by all.

    Returns:
        Moments ``(latent, n)``.
    """
    stationary = column(prior)
    points = place_points(filtered, offsets)
    components = gaussian.condition(stationary, transition(points))
    matched = match_points(components, offsets.shape[1])
    widest = MAX_DEVIATION**2 * jax.lax.stop_gradient(stationary.variance)
    return Moments(clip_to_prior(matched.mean, prior), jnp.minimum(matched.variance, widest))


def clip_to_prior(states: Float[Array, "latent n"], prior: Moments) -> Float[Array, "latent n"]:
    """States ``(latent, n)`` clipped to `MAX_DEVIATION` sd around the prior mean."""
    mean, variance = jax.lax.stop_gradient(column(prior))
    width = MAX_DEVIATION * jnp.sqrt(variance)
    return jnp.clip(states, mean - width, mean + width)


def filter_step(
    transition: Transition,
    prior: Moments,
    predicted: Moments,
    evidence: Gaussian,
    offsets: Float[Array, "latent point n"],
) -> tuple[Moments, Moments]:
    """One step of either filter, for streaming: update, then predict.

    Start from ``predicted = p(z)``, and keep that until the first step with evidence.

    Args:
        transition: the quotient.
        prior: p(z), ``(latent,)``.
        predicted: the prediction of this step's state, ``(latent, n)``.
        evidence: of this step, ``(latent, n)``.
        offsets: points in units of sd, ``(latent, point, n)``; n may be 1, shared by all.

    Returns:
        The filtered posterior of this step and the prediction of the next, ``(latent, n)``.
    """
    filtered = gaussian.moments(gaussian.product(gaussian.natural(predicted), evidence))
    return filtered, predict(transition, prior, filtered, offsets)


def backward_filter(
    transition: Transition, prior: Moments, evidence: Gaussian, offsets: Offsets
) -> FilteredPosterior:
    """The filter from the future: predictions b_t and posteriors f_t for t = T..1.

    A series starts at its own last step with evidence. At and after that step b_t is exactly p(z),
    whatever the padding, because no later observation informs z_t.

    Args:
        transition: the backward transition as a quotient.
        prior: p(z), ``(latent,)``.
        evidence: product over modalities, ``(*batch, time, latent)``, (0, 0) where there is none.
        offsets: from `particles` or `sigma_points`.
    """
    return _filter(transition, prior, evidence, offsets, reverse=True)


def forward_filter(
    transition: Transition, prior: Moments, evidence: Gaussian, offsets: Offsets
) -> FilteredPosterior:
    """The filter from the past; arguments as in `backward_filter`, with the forward transition."""
    return _filter(transition, prior, evidence, offsets, reverse=False)


def _filter(
    transition: Transition, prior: Moments, evidence: Gaussian, offsets: Offsets, reverse: bool
) -> FilteredPosterior:
    *batch, _, latent = evidence.precision.shape
    n = math.prod(batch)
    start = Moments(*(jnp.broadcast_to(leaf, (latent, n)) for leaf in column(prior)))
    fixed = offsets.shape[0] == 1
    flat_offsets = flatten_offsets(offsets, batch)

    def _step(carry, inputs):
        """Prediction and whether anything was observed so far -> the same for the next step."""
        predicted, observed = carry
        step_evidence, step_offsets = inputs
        points = flat_offsets[0] if fixed else step_offsets
        filtered, following = filter_step(transition, prior, predicted, step_evidence, points)
        observed = observed | jnp.any(step_evidence.precision != 0, 0)
        following = jax.tree.map(lambda new, old: jnp.where(observed, new, old), following, start)
        return (following, observed), (predicted, filtered)

    inputs = (
        Gaussian(*(flatten_batch(leaf) for leaf in evidence)),
        None if fixed else flat_offsets,
    )
    # rematerialised: saving the points of every step takes 20 times the memory and no less time
    _, (predicted, filtered) = jax.lax.scan(
        jax.checkpoint(_step), (start, jnp.zeros(n, bool)), inputs, reverse=reverse
    )
    return FilteredPosterior(
        Moments(*(unflatten_batch(leaf, batch) for leaf in predicted)),
        Moments(*(unflatten_batch(leaf, batch) for leaf in filtered)),
    )


def column(prior: Moments) -> Moments:
    """``(latent,)`` -> ``(latent, 1)``."""
    return Moments(*(leaf[:, None] for leaf in prior))


def flatten_batch(array: Float[Array, "*batch time latent"]) -> Float[Array, "time latent n"]:
    """``(*batch, time, latent)`` -> the scans' ``(time, latent, n)``."""
    moved = jnp.moveaxis(array, (-2, -1), (0, 1))
    return moved.reshape(*moved.shape[:2], -1)


def unflatten_batch(
    array: Float[Array, "time latent n"], batch: Sequence[int]
) -> Float[Array, "*batch time latent"]:
    """``(time, latent, n)`` -> the public ``(*batch, time, latent)``."""
    return jnp.moveaxis(array.reshape(*array.shape[:2], *batch), (0, 1), (-2, -1))


def flatten_offsets(
    offsets: Float[Array, "*lead series"], batch: Sequence[int]
) -> Float[Array, "*lead n"]:
    """``(*lead, series or 1)`` -> ``(*lead, n)``: further axes of `*batch` share the numbers."""
    lead = offsets.shape[:-1]
    shared = offsets.reshape(*lead, *(1,) * (len(batch) - 1), offsets.shape[-1])
    return jnp.broadcast_to(shared, (*lead, *batch)).reshape(*lead, -1)
