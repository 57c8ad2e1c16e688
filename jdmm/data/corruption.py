"""Random deletions, as masks of the values that are kept.

A mask is ``(batch, time, 1)`` for whole steps of a modality, or ``(batch, time, feature)``. Apply
it with `Series.hide`, which only ever hides: a missing value stays missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax import numpy as jnp

from jdmm.errors import InputError
from jdmm.series import Series

_VALUES_STREAM = 2**32 - 1
_DROPOUT_STREAM = 2**32 - 2
"""Folded into a key for further numbers; no series has such an index."""


def uniform(key: jax.Array, series: Series, count: int) -> jax.Array:
    """Uniform numbers ``(batch, count)``.

    Each depends only on the key, its column and the index of its series. Batches, padding and
    devices do not change it.
    """
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(series.index)
    return jax.vmap(lambda own: jax.random.uniform(own, (count,)))(keys)


def burst(position: jax.Array, series: Series, fraction: jax.Array | float) -> jax.Array:
    """Hides consecutive steps of each series, with every position equally likely.

    Args:
        position: uniform numbers ``(batch,)``.
        series: the batch.
        fraction: hidden fraction of each length, one number or ``(batch,)``.

    Returns:
        A mask ``(batch, time, 1)`` without ``round(fraction * length)`` steps.
    """
    width = jnp.round(fraction * series.lengths).astype(jnp.int32)
    return _outside(jnp.floor(position * (series.lengths - width + 1)), width, series.num_steps)


def gap(position: jax.Array, series: Series, fraction: jax.Array | float) -> jax.Array:
    """Hides consecutive steps as `burst` does, but more often at the ends of the series.

    The gap is placed as if it could reach beyond either end, and is then moved back inside. Long
    gaps therefore often lie at an end, where the model has to extrapolate.
    """
    width = jnp.round(fraction * series.lengths).astype(jnp.int32)
    start = jnp.floor(position * (series.lengths + width + 1)) - width
    return _outside(jnp.clip(start, 0, series.lengths - width), width, series.num_steps)


def _outside(start: jax.Array, width: jax.Array, num_steps: int) -> jax.Array:
    """Mask of the steps before `start` and from ``start + width`` on."""
    step = jnp.arange(num_steps)[None, :]
    start = start.astype(jnp.int32)[:, None]
    return ((step < start) | (step >= start + width[:, None]))[..., None]


def scattered(order: jax.Array, series: Series, fraction: jax.Array | float) -> jax.Array:
    """Hides single steps of each series, chosen at random.

    Args:
        order: uniform numbers ``(batch, time)``; the steps with the lowest are hidden.
        series: the batch.
        fraction: hidden fraction of each length, one number or ``(batch,)``.

    Returns:
        A mask ``(batch, time, 1)`` without ``round(fraction * length)`` steps.
    """
    rank = _rank(jnp.where(series.valid, order, jnp.inf))
    return (rank >= jnp.round(fraction * series.lengths)[:, None])[..., None]


def scattered_values(
    order: jax.Array, observed: jax.Array, fraction: jax.Array | float
) -> jax.Array:
    """Hides single observed values of each series, chosen at random.

    Args:
        order: uniform numbers ``(batch, time, feature)``; the values with the lowest are hidden.
        observed: mask of the same shape.
        fraction: hidden fraction of the observed values, one number or ``(batch,)``.

    Returns:
        A mask ``(batch, time, feature)`` without ``round(fraction * observed values)`` values.
    """
    flat = jnp.where(observed, order, jnp.inf).reshape(len(observed), -1)
    hidden = jnp.round(fraction * jnp.sum(observed, (1, 2)))
    return (_rank(flat) >= hidden[:, None]).reshape(observed.shape)


def _rank(numbers: jax.Array) -> jax.Array:
    """Place of each number in its sorted row, without ties."""
    return jnp.argsort(jnp.argsort(numbers, axis=1), axis=1)


def segment(series: Series, start: float, stop: float) -> jax.Array:
    """Keeps the steps between the fractions `start` and `stop` of each series' length."""
    step = jnp.arange(series.num_steps)[None, :]
    first, last = (jnp.round(edge * series.lengths)[:, None] for edge in (start, stop))
    return ((step >= first) & (step < last))[..., None]


@dataclass(frozen=True)
class Deletions:
    """What is hidden from each training series, so that the model learns to fill gaps.

    Hidden values are still scored. The series that lose something, and how much, are drawn anew
    in every step of the training. Shares are shares of the series, from 0 to 1. Ranges are
    fractions of a series' length, from which the extent of a deletion is drawn uniformly.

    Attributes:
        burst: fraction of the length that every modality loses in consecutive steps of its own,
            where it has no longer gap.
        gap_one_modality: share of the series in which one modality, chosen at random, has a long
            gap. The model learns to fill it from the other modalities.
        gap_one_modality_range: length of that gap.
        gap_all_modalities: share of the series in which all modalities have the same long gap. The
            transitions learn to bridge it. Both shares add up to at most 1: no series has both.
        gap_all_modalities_range: length of that gap.
        gap_all_modalities_from: fraction of the training before which no series has such a gap. A
            model that has not learned the dynamics yet may learn from them only to guess.
        scattered_steps: share of the series in which every modality also loses single steps.
        scattered_steps_range: their number.
        scattered_features: share of the series in which every modality also loses single features
            at single steps, for tables in which any cell can be empty.
        scattered_features_range: their number, as fractions of the observed values of the modality.
        modality_dropout: modality -> share of the series from which it is hidden entirely. Use it
            for a modality that is to be predicted but is not observed in use, such as a label: a
            share near 1, often with a larger `LossWeights.multipliers` for that modality.

    Raises:
        InputError: for a share or a range that is not within 0..1.
    """

    burst: float = 0.1
    gap_one_modality: float = 0.35
    gap_one_modality_range: tuple[float, float] = (0.2, 0.8)
    gap_all_modalities: float = 0.3
    gap_all_modalities_range: tuple[float, float] = (0.1, 0.4)
    gap_all_modalities_from: float = 0.0
    scattered_steps: float = 0.3
    scattered_steps_range: tuple[float, float] = (0.2, 0.8)
    scattered_features: float = 0.0
    scattered_features_range: tuple[float, float] = (0.2, 0.8)
    modality_dropout: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, value in vars(self).items():
            if name == "modality_dropout":
                for modality, share in value.items():
                    _check_fraction(f"{name} of {modality!r}", share)
            elif not name.endswith("_range"):
                _check_fraction(name, value)
            elif not is_range(value):
                raise InputError(f"expected {name} to be two rising fractions, got {value}")
        shares = self.gap_one_modality + self.gap_all_modalities
        if shares > 1:
            raise InputError(
                f"expected gap_one_modality + gap_all_modalities of at most 1, got {shares}"
            )

    @classmethod
    def none(cls) -> "Deletions":
        """Nothing is hidden."""
        return cls(burst=0.0, gap_one_modality=0.0, gap_all_modalities=0.0, scattered_steps=0.0)

    def check(self, series: Series) -> None:
        """Checks that the series have the modalities that are dropped.

        Raises:
            InputError: naming the modality that they lack.
        """
        for name in self.modality_dropout:
            if name not in series.values:
                raise InputError(
                    f"expected modality_dropout of {', '.join(series.values)}, got {name!r}"
                )


def delete(
    key: jax.Array, series: Series, deletions: Deletions, fraction_done: Any
) -> dict[str, jax.Array]:
    """Samples what `deletions` keep of a batch.

    Args:
        key: of all random numbers.
        series: the batch.
        deletions: what to hide.
        fraction_done: fraction of the training that is done, 0 to 1.

    Returns:
        Modality -> mask ``(batch, time, 1)``, or ``(batch, time, feature)`` with
        `scattered_features`.

    Raises:
        InputError: if a modality to drop is not in the series.
    """
    deletions.check(series)
    names = sorted(series.values)
    # sampled at once, with the numbers of the steps last, so that padding changes nothing
    numbers = uniform(key, series, 7 + len(names) * (1 + series.num_steps))
    kind, steps, chosen, one_width, all_width, steps_share, place, *places = numbers.T[
        : 7 + len(names)
    ]
    orders = numbers[:, 7 + len(names) :].reshape(series.batch, series.num_steps, len(names))

    in_one = kind < deletions.gap_one_modality
    late = deletions.gap_one_modality + deletions.gap_all_modalities
    limit = jnp.where(
        fraction_done < deletions.gap_all_modalities_from, deletions.gap_one_modality, late
    )
    in_all = ~in_one & (kind < limit)
    share = jnp.where(
        steps < deletions.scattered_steps,
        _within(deletions.scattered_steps_range, steps_share),
        0.0,
    )
    common = gap(place, series, _within(deletions.gap_all_modalities_range, all_width))
    one_fraction = _within(deletions.gap_one_modality_range, one_width)

    @jax.vmap  # compiled once, however many modalities there are
    def keep(number: jax.Array, place: jax.Array, order: jax.Array) -> jax.Array:
        """The mask of one modality."""
        has_gap = in_one & (jnp.floor(chosen * len(names)) == number)
        short = burst(place, series, deletions.burst)
        long = gap(place, series, one_fraction)
        own = jnp.where(has_gap[:, None, None], long, short)
        contiguous = jnp.where(in_all[:, None, None], common, own)
        return contiguous & scattered(order, series, share)

    masks = keep(jnp.arange(len(names)), jnp.stack(places), jnp.moveaxis(orders, -1, 0))
    kept = dict(zip(names, masks, strict=True))
    if deletions.scattered_features:
        values = _delete_values(jax.random.fold_in(key, _VALUES_STREAM), series, deletions)
        kept = {name: mask & values[name] for name, mask in kept.items()}
    if any(deletions.modality_dropout.values()):
        numbers = uniform(jax.random.fold_in(key, _DROPOUT_STREAM), series, len(names))
        for number, name in enumerate(names):
            share = deletions.modality_dropout.get(name, 0.0)
            kept[name] &= (numbers[:, number] >= share)[:, None, None]
    return kept


def _delete_values(key: jax.Array, series: Series, deletions: Deletions) -> dict[str, jax.Array]:
    """Masks ``(batch, time, feature)`` without the scattered features."""
    names = sorted(series.values)
    sizes = [series.values[name].shape[-1] for name in names]
    numbers = uniform(key, series, 2 + series.num_steps * sum(sizes))
    loses = numbers[:, 0] < deletions.scattered_features
    fraction = jnp.where(loses, _within(deletions.scattered_features_range, numbers[:, 1]), 0.0)
    orders = numbers[:, 2:].reshape(series.batch, series.num_steps, -1)
    kept, first = {}, 0
    for name, size in zip(names, sizes, strict=True):
        order = orders[..., first : first + size]
        kept[name] = scattered_values(order, series.observed[name], fraction)
        first += size
    return kept


def _within(bounds: tuple[float, float], number: jax.Array) -> jax.Array:
    """Numbers of 0..1 moved into a range."""
    return bounds[0] + (bounds[1] - bounds[0]) * number


@dataclass(frozen=True)
class Withheld:
    """What is missing from the training and validation series for good: weak supervision.

    Unlike `Deletions`, it stays the same throughout the training and is not scored.

    Attributes:
        uniform: fraction of the steps of each modality that are missing, one by one.
        burst: fraction of the length that each modality misses in consecutive steps.
        modality: share of the series that miss one modality entirely, each modality equally often.

    Raises:
        InputError: for a fraction that is not within 0..1.
    """

    uniform: float = 0.0
    burst: float = 0.0
    modality: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("uniform", "burst", "modality"):
            _check_fraction(f"data.withheld.{name}", getattr(self, name))


def withhold(key: jax.Array, series: Series, withheld: Withheld) -> dict[str, jax.Array]:
    """Samples what `withheld` leaves of `series`: modality -> mask ``(batch, time, 1)``."""
    names = sorted(series.values)
    numbers = uniform(key, series, 1 + len(names) * (1 + series.num_steps))
    orders = numbers[:, 1 + len(names) :].reshape(series.batch, series.num_steps, len(names))
    # exactly that share of the series: those with the lowest numbers
    rank = jnp.argsort(jnp.argsort(numbers[:, 0]))
    loses = rank < jnp.round(withheld.modality * series.batch)
    chosen = rank % len(names)
    kept = {}
    for number, name in enumerate(names):
        whole = ~(loses & (chosen == number))
        kept[name] = (
            whole[:, None, None]
            & burst(numbers[:, 1 + number], series, withheld.burst)
            & scattered(orders[..., number], series, withheld.uniform)
        )
    return kept


def is_range(pair: Sequence[float]) -> bool:
    """Whether `pair` is two rising fractions."""
    return len(pair) == 2 and 0 <= pair[0] <= pair[1] <= 1


def _check_fraction(name: str, value: float) -> None:
    """Refuses a number that is not a fraction.

    Raises:
        InputError: naming the field.
    """
    if not 0 <= value <= 1:
        raise InputError(f"expected {name} within 0..1, got {value}")
