"""Predictions of long series in overlapping windows, with bounded memory."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from jdmm.evaluation.batching import batches
from jdmm.evaluation.prediction import LEVEL, UNCALIBRATED, Calibration, Sampled, sample_values
from jdmm.models.base import Model, Variables
from jdmm.series import Series

Cut = Callable[[np.ndarray, np.ndarray, np.ndarray], Series]
"""Number of the series, first step and number of steps of windows, each ``(window,)``, -> the
windows as series."""


class Windows(NamedTuple):
    """Windows of long series, each array ``(window,)``.

    source: number of the series.
    start: the first step that is shown to the model.
    length: steps that are shown.
    begin: the first step that is predicted.
    end: the step after the last one.
    """

    source: np.ndarray
    start: np.ndarray
    length: np.ndarray
    begin: np.ndarray
    end: np.ndarray

    def take(self, rows: np.ndarray) -> "Windows":
        """Some of the windows."""
        return Windows(*(each[rows] for each in self))


def overlapping_windows(
    lengths: np.ndarray, window: int, context: int, ends: tuple[int, int] = (0, 0)
) -> Windows:
    """Windows that predict every step once, and are shown `context` more steps on each side.

    Args:
        lengths: ``(series,)`` steps of each.
        window: steps that a window predicts; those at the ends may predict more.
        context: further steps that it is shown on each side, as far as there are any.
        ends: first and last steps of each series at which nothing is observed. They belong to the
            first and the last window, which reach to the observed ones.
    """
    pieces = []
    for source, length in enumerate(lengths.tolist()):
        inner = length - sum(ends)
        begin = ends[0] + np.arange(max(-(-inner // window), 1)) * window
        end = np.append(begin[1:], length)
        begin[0] = 0
        start, stop = np.maximum(begin - context, 0), np.minimum(end + context, length)
        pieces.append((np.full(len(begin), source), start, stop - start, begin, end))
    return Windows(*map(np.concatenate, zip(*pieces, strict=True)))


def predict_long(
    model: Model,
    variables: Variables,
    cut: Cut,
    windows: Windows,
    key: jax.Array,
    num_samples: int = 100,
    batch_size: int = 100,
    calibration: Calibration = UNCALIBRATED,
    level: float = LEVEL,
) -> Iterator[tuple[Windows, Sampled]]:
    """Predicts windows in batches: some of them, and samples of their values.

    A step at which a window begins is ``begin - start`` of its prediction. What lies farther away
    than the windows reach has no influence.

    Args:
        model: any model.
        variables: its variables.
        cut: makes series of windows, so that all of them need not be in memory.
        windows: of `overlapping_windows`.
        key: of all random numbers.
        num_samples: posterior samples.
        batch_size: windows at a time.
        calibration: scales of the uncertainty.
        level: of the widest interval that is wanted of the samples.
    """
    usual = int(np.median(windows.length))
    number = 0
    # those at the ends may be longer: of two lengths, for two programs
    for long in (windows.length <= 2 * usual, windows.length > 2 * usual):
        group = windows.take(np.flatnonzero(long))
        if not len(group.length):
            continue
        width = int(group.length.max())
        for places in batches(len(group.length), batch_size):
            rows = group.take(places)
            series = cut(rows.source, rows.start, rows.length)
            missing = width - series.num_steps
            sampled = sample_values(
                model,
                variables,
                _widened(series, missing),
                jax.random.fold_in(key, number),
                num_samples,
                calibration,
                level=level,
            )
            number += 1
            yield rows, jax.device_get(sampled)


def _widened(series: Series, steps: int) -> Series:
    """The series with further padding, which belongs to none of them."""
    width = ((0, 0), (0, steps), (0, 0))
    return series.replace(
        values={name: np.pad(value, width) for name, value in series.values.items()},
        observed={name: np.pad(mask, width) for name, mask in series.observed.items()},
        inputs=None if series.inputs is None else np.pad(series.inputs, width),
    )
