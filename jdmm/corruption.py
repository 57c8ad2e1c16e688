"""Random deletions: key -> mask of what stays, ``(batch, time, 1)``.

Each draw depends on the key and the series' place in the batch alone. Combine with
`Series.hide`, which never makes anything observed that was not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax import numpy as jnp

from jdmm.errors import InputError
from jdmm.series import Series


def burst(key: jax.Array, lengths: jax.Array, time: int, fraction: jax.Array | float) -> jax.Array:
    """Hides one contiguous stretch of each series, uniformly placed within it.

    `fraction` of its length, one for all or one per series ``(batch,)``.
    """
    width = jnp.round(fraction * lengths).astype(jnp.int32)
    start = jnp.floor(uniform(key, lengths.shape[0], 1)[:, 0] * (lengths - width + 1))
    return _outside(start, width, time)


def stretch(
    key: jax.Array, lengths: jax.Array, time: int, fraction: jax.Array | float
) -> jax.Array:
    """As `burst`, but placed as if it could stick out at either end, and then pushed back in.

    So it often lies at an end, the longer the more often, where the model has to extrapolate.
    """
    width = jnp.round(fraction * lengths).astype(jnp.int32)
    start = jnp.floor(uniform(key, lengths.shape[0], 1)[:, 0] * (lengths + width + 1)) - width
    return _outside(jnp.clip(start, 0, lengths - width), width, time)


def _outside(start: jax.Array, width: jax.Array, time: int) -> jax.Array:
    step = jnp.arange(time)[None, :]
    start = start.astype(jnp.int32)[:, None]
    return ((step < start) | (step >= start + width[:, None]))[..., None]


def scattered(
    key: jax.Array, lengths: jax.Array, time: int, fraction: jax.Array | float
) -> jax.Array:
    """Hides exactly round(`fraction` * length) of each series' steps, chosen at random."""
    valid = jnp.arange(time)[None, :] < lengths[:, None]
    draws = jnp.where(valid, uniform(key, lengths.shape[0], time), jnp.inf)
    rank = jnp.argsort(jnp.argsort(draws, axis=1), axis=1)
    return (rank >= jnp.round(fraction * lengths)[:, None])[..., None]


def segment(lengths: jax.Array, time: int, start: float, stop: float) -> jax.Array:
    """Keeps the steps between the fractions `start` and `stop` of each series' length."""
    step = jnp.arange(time)[None, :]
    first, last = (jnp.round(edge * lengths)[:, None] for edge in (start, stop))
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
        scattered: share of the series that lose single steps of each modality as well.
        scattered_range: of their number.
    """

    burst: float = 0.1
    one: float = 0.0
    one_range: tuple[float, float] = (0.2, 0.8)
    all: float = 0.0
    all_range: tuple[float, float] = (0.1, 0.4)
    scattered: float = 0.0
    scattered_range: tuple[float, float] = (0.2, 0.8)

    def __post_init__(self) -> None:
        """Refuses impossible fractions."""
        for name in ("burst", "one", "all", "scattered"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"expected {name} within 0..1, got {getattr(self, name)}")
        for name in ("one_range", "all_range", "scattered_range"):
            if not is_range(getattr(self, name)):
                raise InputError(
                    f"expected {name} to be two rising fractions, got {getattr(self, name)}"
                )
        if self.one + self.all > 1:
            raise InputError(f"expected one + all of at most 1, got {self.one + self.all}")


def delete(key: jax.Array, series: Series, deletions: Deletions) -> dict[str, jax.Array]:
    """Draws what `deletions` leave of a batch: a mask ``(batch, time, 1)`` per modality."""
    names = sorted(series.values)
    lengths, time = series.lengths, series.time
    shares, extents, shared, *own = jax.random.split(key, 3 + 2 * len(names))
    draw = uniform(shares, series.batch, 3)
    extent = uniform(extents, series.batch, 3)

    def between(column: int, bounds: tuple[float, float]) -> jax.Array:
        return bounds[0] + (bounds[1] - bounds[0]) * extent[:, column]

    loses_one = draw[:, 0] < deletions.one
    loses_all = ~loses_one & (draw[:, 0] < deletions.one + deletions.all)
    loses_steps = draw[:, 1] < deletions.scattered
    chosen = jnp.floor(draw[:, 2] * len(names))
    common = stretch(shared, lengths, time, between(1, deletions.all_range))
    kept = {}
    for index, name in enumerate(names):
        long = loses_one & (chosen == index)
        brief = burst(own[2 * index], lengths, time, deletions.burst)
        lengthy = stretch(own[2 * index], lengths, time, between(0, deletions.one_range))
        single = jnp.where(long[:, None, None], lengthy, brief)
        steps = scattered(
            own[2 * index + 1],
            lengths,
            time,
            jnp.where(loses_steps, between(2, deletions.scattered_range), 0.0),
        )
        kept[name] = jnp.where(loses_all[:, None, None], common, single) & steps
    return kept


def is_range(pair: Sequence[float]) -> bool:
    """Whether `pair` is two rising fractions."""
    return len(pair) == 2 and 0 <= pair[0] <= pair[1] <= 1


def uniform(key: jax.Array, batch: int, count: int) -> jax.Array:
    """``(batch, count)`` uniform numbers; a row depends on the key and its index alone."""
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(batch))
    return jax.vmap(lambda row: jax.random.uniform(row, (count,)))(keys)
