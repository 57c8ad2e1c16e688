"""Predictions of scaled series as columns in the units of the table."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jdmm.data.tables.schema import Column, Schema
from jdmm.errors import InputError

LEVELS = (0.95,)
"""Levels of the central intervals, unless the caller asks for others."""


def suffixes(column: Column, levels: Sequence[float]) -> list[str]:
    """What the names of the columns of predictions add to the name of a column.

    Raises:
        InputError: for a level that is not between 0 and 1, or given twice.
    """
    for level in levels:
        if not 0 < level < 1:
            raise InputError(f"expected levels between 0 and 1, such as 0.95, got {level}")
        if list(levels).count(level) > 1:
            raise InputError(f"expected different levels, got {level} twice")
    if column.categorical:
        return ["_mode", "_probability"]
    if column.binary:
        return ["_mean"]
    bounds = (f"_{end}_{100 * level:g}" for level in levels for end in ("lower", "upper"))
    return ["_mean", "_median", *bounds]


def fill_suffix(column: Column) -> str:
    """Which of the columns of predictions fills what is missing.

    Numbers that cannot be negative are skewed: large values pull up their mean more than their
    median, which of counts is a count too.
    """
    if column.categorical:
        return "_mode"
    if column.binary:
        return "_mean"
    negative = column.distribution().in_support(np.array([-1.0]))[0]
    return "_median" if column.transformed or not negative else "_mean"


def summarise(
    schema: Schema, prediction: Any, levels: Sequence[float] = LEVELS
) -> dict[str, np.ndarray]:
    """The columns of predictions, each ``(series, step)`` float64; numbers of categories as modes.

    Quantiles are those of the samples, the i-th of n being that of level i / (n + 1), and pass
    through the transform; those of counts are the smallest samples that reach the level. The mean
    of a column with a transform is that of its own samples.

    Args:
        schema: with mean and sd.
        prediction: has `expected`, `probabilities` and `samples`, as `jdmm.Prediction`.
        levels: of the central intervals.

    Raises:
        InputError: for a prediction without samples, or an impossible level.
    """
    found: dict[str, np.ndarray] = {}
    for modality in schema.predicted:
        if modality not in {**prediction.expected, **prediction.probabilities}:
            raise InputError(
                f"expected a prediction of modality {modality!r} with samples, got none: fit a "
                "model of table.schema.modalities, and predict with return_samples=True"
            )
    for modality, columns in schema.predicted.items():
        for place, name in enumerate(columns):
            column = schema.columns[name]
            names = [name + suffix for suffix in suffixes(column, levels)]
            if column.categorical:
                probabilities = np.asarray(prediction.probabilities[modality], np.float64)[
                    ..., 0, :
                ]
                arrays = [probabilities.argmax(-1).astype(np.float64), probabilities.max(-1)]
            elif column.binary:
                arrays = [np.asarray(prediction.expected[modality], np.float64)[..., place]]
            else:
                arrays = _numbers(column, prediction, modality, place, levels)
            found |= dict(zip(names, arrays, strict=True))
    return found


def _numbers(
    column: Column, prediction: Any, modality: str, place: int, levels: Sequence[float]
) -> list[np.ndarray]:
    """Mean, median and bounds."""
    if modality not in prediction.samples:
        raise InputError(
            "expected a prediction with samples, got one without: predict with return_samples=True"
        )
    samples = np.asarray(prediction.samples[modality])[..., place]
    tails = [0.5, *(tail for level in levels for tail in ((1 - level) / 2, (1 + level) / 2))]
    ranked = np.sort(samples, 0)
    quantile = _count_quantile if column.distribution().counts else _quantile
    quantiles = [_own(column, quantile(ranked, tail)) for tail in tails]
    if column.transformed:
        mean = _own(column, samples).mean(0)
    else:
        mean = _own(column, np.asarray(prediction.expected[modality])[..., place])
    return [mean, *quantiles]


def _quantile(ranked: np.ndarray, level: float) -> np.ndarray:
    """A quantile of sorted samples ``(sample, ...)``; see `jdmm.evaluation.sample_statistics`."""
    count = len(ranked)
    place = min(max(level * (count + 1) - 1, 0.0), count - 1.0)
    below = int(place)
    first, second = ranked[below], ranked[min(below + 1, count - 1)]
    return first + np.float32(place - below) * (second - first)


def _count_quantile(ranked: np.ndarray, level: float) -> np.ndarray:
    """The first of sorted samples ``(sample, ...)`` whose level reaches `level`."""
    count = len(ranked)
    place = math.ceil(round(level * (count + 1), 9)) - 1  # 1 - 0.95 is a little above 0.05
    return ranked[min(max(place, 0), count - 1)]


def _own(column: Column, values: np.ndarray) -> np.ndarray:
    """Scaled values in the units of the table, float64."""
    mean, sd = column.scale
    return column.backward(mean + sd * values.astype(np.float64))
