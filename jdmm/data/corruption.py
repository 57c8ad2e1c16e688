"""Random deletions: uniform numbers -> mask of what stays, ``(batch, time, 1)``.

Combine with `Series.hide`, which never makes anything observed that was not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import numpy as jnp

from jdmm.errors import InputError
from jdmm.series import Series


def uniform(key: jax.Array, series: Series, count: int) -> jax.Array:
    """``(batch, count)`` uniform numbers; each depends on key, series' index and column alone."""
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(series.index)
    return jax.vmap(lambda own: jax.random.uniform(own, (count,)))(keys)


def burst(draw: jax.Array, series: Series, fraction: jax.Array | float) -> jax.Array:
    """Hides one contiguous stretch of each series, uniformly placed within it.

    `draw` ``(batch,)`` places it; it is `fraction` of the length, one for all or ``(batch,)``.
    """
    width = jnp.round(fraction * series.lengths).astype(jnp.int32)
    return _outside(jnp.floor(draw * (series.lengths - width + 1)), width, series.num_steps)


def stretch(draw: jax.Array, series: Series, fraction: jax.Array | float) -> jax.Array:
    """As `burst`, but placed as if it could stick out at either end, and then pushed back in.

    So it often lies at an end, the longer the more often, where the model has to extrapolate.
    """
    width = jnp.round(fraction * series.lengths).astype(jnp.int32)
    start = jnp.floor(draw * (series.lengths + width + 1)) - width
    return _outside(jnp.clip(start, 0, series.lengths - width), width, series.num_steps)


def _outside(start: jax.Array, width: jax.Array, time: int) -> jax.Array:
    step = jnp.arange(time)[None, :]
    start = start.astype(jnp.int32)[:, None]
    return ((step < start) | (step >= start + width[:, None]))[..., None]


def scattered(draws: jax.Array, series: Series, fraction: jax.Array | float) -> jax.Array:
    """Hides exactly round(`fraction` * length) steps of each series: those of lowest `draws`.

    `draws` are ``(batch, time)``, `fraction` one for all or one per series ``(batch,)``.
    """
    draws = jnp.where(series.valid, draws, jnp.inf)
    rank = jnp.argsort(jnp.argsort(draws, axis=1), axis=1)
    return (rank >= jnp.round(fraction * series.lengths)[:, None])[..., None]


def segment(series: Series, start: float, stop: float) -> jax.Array:
    """Keeps the steps between the fractions `start` and `stop` of each series' length."""
    step = jnp.arange(series.num_steps)[None, :]
    first, last = (jnp.round(edge * series.lengths)[:, None] for edge in (start, stop))
    return ((step >= first) & (step < last))[..., None]


@dataclass(frozen=True)
class Deletions:
    """What is hidden of each training series, so that the model learns to bridge gaps.

    Ranges are fractions of a series' length, between which a share's extent is drawn uniformly.

    Attributes:
        burst: fraction of the length that every modality loses in one stretch of its own.
        one: share of the series of which one modality, chosen at random, loses a long stretch
            instead: the others must tell of it.
        one_range: of that stretch.
        all: share of the series of which all modalities lose the same long stretch instead: the
            transitions must bridge it.
        all_range: of that stretch.
        all_from: fraction of the training before which no series loses such a stretch: a model
            that does not know the dynamics yet learns from it but to guess.
        scattered: share of the series that lose single steps of each modality as well.
        scattered_range: of their number.
    """

    burst: float = 0.1
    one: float = 0.0
    one_range: tuple[float, float] = (0.2, 0.8)
    all: float = 0.0
    all_range: tuple[float, float] = (0.1, 0.4)
    all_from: float = 0.0
    scattered: float = 0.0
    scattered_range: tuple[float, float] = (0.2, 0.8)

    def __post_init__(self) -> None:
        """Refuses impossible fractions."""
        for name in ("burst", "one", "all", "all_from", "scattered"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"expected {name} within 0..1, got {getattr(self, name)}")
        for name in ("one_range", "all_range", "scattered_range"):
            if not is_range(getattr(self, name)):
                raise InputError(
                    f"expected {name} to be two rising fractions, got {getattr(self, name)}"
                )
        if self.one + self.all > 1:
            raise InputError(f"expected one + all of at most 1, got {self.one + self.all}")


def delete(
    key: jax.Array, series: Series, deletions: Deletions, progress: Any
) -> dict[str, jax.Array]:
    """Draws what `deletions` leave of a batch: a mask ``(batch, time, 1)`` per modality.

    `progress` is the fraction of the training that is done.
    """
    names = sorted(series.values)
    # all numbers at once, those of the steps last: padding changes nothing
    draws = uniform(key, series, 7 + len(names) * (1 + series.num_steps))
    kind, single_steps, chosen, long, common, steps, place, *places = draws.T[: 7 + len(names)]
    orders = draws[:, 7 + len(names) :].reshape(series.batch, series.num_steps, len(names))

    def between(bounds: tuple[float, float], draw: jax.Array) -> jax.Array:
        return bounds[0] + (bounds[1] - bounds[0]) * draw

    loses_one = kind < deletions.one
    early, late = deletions.one, deletions.one + deletions.all
    loses_all = ~loses_one & (kind < jnp.where(progress < deletions.all_from, early, late))
    loses_steps = single_steps < deletions.scattered
    share = jnp.where(loses_steps, between(deletions.scattered_range, steps), 0.0)
    shared = stretch(place, series, between(deletions.all_range, common))
    kept = {}
    for number, name in enumerate(names):
        loses = loses_one & (jnp.floor(chosen * len(names)) == number)
        brief = burst(places[number], series, deletions.burst)
        lengthy = stretch(places[number], series, between(deletions.one_range, long))
        own = jnp.where(loses[:, None, None], lengthy, brief)
        contiguous = jnp.where(loses_all[:, None, None], shared, own)
        kept[name] = contiguous & scattered(orders[..., number], series, share)
    return kept


@dataclass(frozen=True)
class Withheld:
    """What is missing from the training and validation series for good: weak supervision.

    Attributes:
        uniform: fraction of the steps of each modality, one by one.
        burst: fraction of the length, one stretch of each modality.
        modality: share of the series of which one modality, each as often, is missing wholly.
    """

    uniform: float = 0.0
    burst: float = 0.0
    modality: float = 0.0

    def __post_init__(self) -> None:
        """Refuses impossible fractions."""
        for name in ("uniform", "burst", "modality"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"expected data.withheld.{name} within 0..1, got {getattr(self, name)}"
                )


def withhold(key: jax.Array, series: Series, withheld: Withheld) -> dict[str, jax.Array]:
    """Draws what `withheld` leaves of `series`: a mask ``(batch, time, 1)`` per modality."""
    names = sorted(series.values)
    draws = uniform(key, series, 1 + len(names) * (1 + series.num_steps))
    orders = draws[:, 1 + len(names) :].reshape(series.batch, series.num_steps, len(names))
    # exactly that share of the series, those of the lowest draws
    rank = jnp.argsort(jnp.argsort(draws[:, 0]))
    loses = rank < jnp.round(withheld.modality * series.batch)
    chosen = rank % len(names)
    kept = {}
    for number, name in enumerate(names):
        whole = ~(loses & (chosen == number))
        kept[name] = (
            whole[:, None, None]
            & burst(draws[:, 1 + number], series, withheld.burst)
            & scattered(orders[..., number], series, withheld.uniform)
        )
    return kept


def is_range(pair: Sequence[float]) -> bool:
    """Whether `pair` is two rising fractions."""
    return len(pair) == 2 and 0 <= pair[0] <= pair[1] <= 1
