"""Common preparation of series: windows, splits, held-out values, static covariates.

Everything here runs in numpy on the host, before training.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jdmm.errors import InputError
from jdmm.series import Series


class Windows(NamedTuple):
    """Windows of a batch of series, and where each was cut.

    Attributes:
        series: the windows as series of their own.
        source: ``(window,)`` int32, position in the batch of the series that it was cut from.
        start: ``(window,)`` int32, step of that series at which it begins.
    """

    series: Series
    source: np.ndarray
    start: np.ndarray


def windows(
    series: Series, length: int, step: int | None = None, drop_empty: bool = False
) -> Windows:
    """Cuts every series into windows of `length` steps, in the order of series and time.

    Every step lies in a window: the last window of a series ends with it, and is shorter if need
    be. It is then padded with unobserved steps and keeps its own length. The windows are numbered
    anew from 0 in `Series.index`.

    Args:
        series: series of any lengths.
        length: steps of a window.
        step: steps from one window to the next, between 1 and `length`; without it, `length`.
            Windows overlap if it is smaller.
        drop_empty: leave out the windows in which nothing is observed.

    Raises:
        InputError: if `length` or `step` is out of range, or all windows are dropped.
    """
    series = _on_host(series)
    length = _whole("length", length, 1)
    step = length if step is None else _whole("step", step, 1)
    if step > length:
        raise InputError(
            f"expected step <= length ({length}), or steps between windows are lost, got {step}"
        )
    # a window after the first begins only where the one before does not reach the end
    counts = 1 + -(-np.maximum(series.lengths - length, 0) // step)
    source = np.repeat(np.arange(len(counts)), counts)
    start = step * (np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts))
    remaining = series.lengths[source] - start

    steps = start[:, None] + np.arange(length)
    inside = (steps < series.lengths[source, None])[..., None]
    values, observed = {}, {}
    for name, value in series.values.items():
        places = source[:, None], np.minimum(steps, value.shape[1] - 1)
        observed[name] = inside & series.observed[name][places]
        values[name] = np.where(observed[name], value[places], 0)

    inputs = None
    if series.inputs is not None:
        places = source[:, None], np.minimum(steps, series.inputs.shape[1] - 1)
        inputs = np.where(inside, series.inputs[places], np.float32(0))

    keep = np.ones(len(source), bool)
    if drop_empty:
        keep = np.any([mask.any(axis=(1, 2)) for mask in observed.values()], axis=0)
        if not keep.any():
            raise InputError("expected a window with an observed value, got none: check the masks")
    cut = Series(
        {name: value[keep] for name, value in values.items()},
        {name: mask[keep] for name, mask in observed.items()},
        np.minimum(remaining, length)[keep].astype(np.int32),
        np.arange(keep.sum(), dtype=np.int32),
        None if inputs is None else inputs[keep],
    )
    return Windows(cut, source[keep].astype(np.int32), start[keep].astype(np.int32))


def split(
    series: Series, fractions: Sequence[float], seed: int | None = None
) -> tuple[Series, ...]:
    """Splits a batch into disjoint parts, such as training, validation and test series.

    No series is lost, and each keeps its number in `Series.index`. A part has its fraction of the
    series, give or take less than one.

    Args:
        series: the batch.
        fractions: one per part, positive, with sum 1.
        seed: assigns the series at random; without it, they stay in order. The windows of one
            series are then split by time. Windows that overlap share values across the border.

    Raises:
        InputError: if the fractions are not positive with sum 1, or a part is left without series.
    """
    series = _on_host(series)
    try:
        shares = np.asarray(fractions, np.float64)
    except (TypeError, ValueError):
        shares = np.zeros(())
    if shares.ndim != 1 or not (shares > 0).all() or not np.isclose(shares.sum(), 1, atol=1e-6):
        raise InputError(f"expected positive fractions with sum 1, got {fractions}")
    count = len(series.lengths)
    edges = np.rint(np.cumsum(shares) * count).astype(int)
    sizes = np.diff(edges, prepend=0).tolist()
    if 0 in sizes:
        raise InputError(
            f"expected at least one series in every part, got parts of {sizes} of {count} series: "
            "use larger fractions or more series"
        )
    order = np.arange(count) if seed is None else _generator(seed).permutation(count)
    return tuple(series.take(part) for part in np.split(order, edges[:-1]))


def check_shares(name: str, shares: Sequence[float]) -> None:
    """Checks the shares of the parts of a data set.

    Raises:
        InputError: if they are not positive, or their sum is not 1.
    """
    if min(shares) <= 0 or not np.isclose(sum(shares), 1, atol=1e-6):
        raise InputError(f"expected positive {name} with sum 1, got {', '.join(map(str, shares))}")


def hold_out(
    series: Series, fraction: float, seed: int, blocks: int | None = None
) -> tuple[Series, Series]:
    """Hides a fraction of the observed values of each modality, to be predicted from the rest.

    A modality's values are chosen by `seed` and its name alone, whatever other modalities exist.

    Args:
        series: the batch.
        fraction: of the observed values of each modality that is held out; between 0 and 1.
        seed: whole number from 0.
        blocks: hides blocks of so many consecutive steps of one feature; without it, single values.
            Blocks are disjoint and lie within their series. Missing values in them do not count.

    Returns:
        ``(shown, held_out)``, the batch with the remaining and with the hidden values. Single
        values are exactly ``round(fraction * observed values)``. Blocks are added in random order
        until their values are nearest to this number.

    Raises:
        InputError: if an argument is out of range, or nothing would be held out.
    """
    series = _on_host(series)
    if not 0 < fraction < 1:
        raise InputError(f"expected 0 < fraction < 1, got {fraction}")
    size = 1 if blocks is None else _whole("blocks", blocks, 1)
    hidden = {
        name: _hidden(observed, series.lengths, fraction, size, _generator(seed, name))
        for name, observed in series.observed.items()
    }
    if not any(mask.any() for mask in hidden.values()):
        raise InputError(
            f"expected values to hold out, got none for fraction={fraction} and blocks of {size} "
            "steps: use a larger fraction or shorter blocks"
        )
    shown = {name: observed & ~hidden[name] for name, observed in series.observed.items()}
    return _masked(series, shown), _masked(series, hidden)


def _hidden(
    observed: np.ndarray, lengths: np.ndarray, fraction: float, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Mask of the observed values in randomly chosen blocks of `size` steps of one feature."""
    batch, time, features = observed.shape
    # whole blocks only, side by side; what does not fill one is left over at the two ends
    offset = rng.integers(0, lengths[:, None] % size + 1, (batch, features))
    step = np.arange(time)[:, None] - offset[:, None, :]
    within = observed & (step >= 0) & (step // size < (lengths // size)[:, None, None])
    row = np.arange(batch * features).reshape(batch, 1, features)
    block = np.where(within, row * (time // size + 1) + step // size, 0)

    counts = np.bincount(block[within])
    order = rng.permutation(np.flatnonzero(counts))
    totals = np.concatenate([[0], np.cumsum(counts[order])])
    wanted = round(fraction * int(observed.sum()))
    chosen = np.zeros(max(len(counts), 1), bool)
    chosen[order[: np.argmin(np.abs(totals - wanted))]] = True
    return within & chosen[block]


def drop_modalities(series: Series, names: Sequence[str]) -> Series:
    """The same batch with every value of the named modalities missing.

    Raises:
        InputError: if a name is not a modality of the series.
    """
    series = _on_host(series)
    if isinstance(names, str):
        raise InputError(f"expected a sequence of modalities, got the string {names!r}")
    if unknown := [name for name in names if name not in series.values]:
        raise InputError(f"expected modalities among {list(series.values)}, got {unknown[0]!r}")
    return _masked(
        series,
        {name: mask & (name not in names) for name, mask in series.observed.items()},
    )


def static_covariates(
    values: Any, num_steps: int | Sequence[int] | np.ndarray
) -> np.ndarray | list[np.ndarray]:
    """Repeats the covariates of each series at all of its steps, for `series_from_arrays`.

    The likelihood counts a covariate at every step, so its modality weighs as much as one that is
    measured at every step.

    Args:
        values: ``(batch, feature)`` numbers; NaN means missing.
        num_steps: steps of all series, or ``(batch,)`` steps of each.

    Returns:
        ``(batch, num_steps, feature)`` float64, or for a sequence a list of
        ``(num_steps[i], feature)`` arrays.

    Raises:
        InputError: if the values are not of this shape, or a number of steps is not positive.
    """
    try:
        rows = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected numbers as covariates, got something else ({error})") from None
    if rows.ndim != 2 or 0 in rows.shape:
        raise InputError(f"expected covariates as (batch, feature), got shape {rows.shape}")
    if np.ndim(num_steps) == 0:
        return np.repeat(rows[:, None], _whole("num_steps", num_steps, 1), axis=1)
    steps = [_whole("num_steps", number, 1) for number in np.asarray(num_steps).tolist()]
    if len(steps) != len(rows):
        raise InputError(f"expected num_steps of {len(rows)} series, got {len(steps)}")
    return [np.repeat(row[None], number, axis=0) for row, number in zip(rows, steps, strict=True)]


def _on_host(series: Any) -> Series:
    """The series in numpy arrays."""
    if not isinstance(series, Series):
        raise InputError(
            f"expected a Series, got {type(series).__name__}: build one with series_from_arrays"
        )
    return Series(
        {name: np.asarray(value) for name, value in series.values.items()},
        {name: np.asarray(mask) for name, mask in series.observed.items()},
        np.asarray(series.lengths),
        np.asarray(series.index),
        None if series.inputs is None else np.asarray(series.inputs),
    )


def _masked(series: Series, observed: Mapping[str, np.ndarray]) -> Series:
    values = {name: np.where(observed[name], value, 0) for name, value in series.values.items()}
    return series.replace(values=values, observed=dict(observed))


def _whole(what: str, number: Any, least: int) -> int:
    try:
        whole = operator.index(number)
    except TypeError:
        whole = least - 1
    if whole < least:
        raise InputError(f"expected {what} as a whole number >= {least}, got {number}")
    return whole


def _generator(seed: int, name: str = "") -> np.random.Generator:
    return np.random.default_rng([_whole("seed", seed, 0), *name.encode()])
