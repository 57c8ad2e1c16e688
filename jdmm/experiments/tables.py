"""Fills a table with the model of a work directory."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from matplotlib.figure import Figure

from jdmm.data.tables.table import Table
from jdmm.data.tables.units import fill_suffix, suffixes, summarise
from jdmm.evaluation.long import overlapping_windows, predict_long
from jdmm.evaluation.prediction import Calibration
from jdmm.models.base import Model, Variables
from jdmm.plotting.tables import Curve, filled

SPAN = 4
"""Windows of the training that are predicted at once. With more of them, fewer steps are computed
twice as context."""

MAX_FIGURES = 12
"""Series that are drawn."""

WHOLE, STRETCH, STRETCHES = 400, 200, 3
"""Longest series that a figure shows all of; of others it shows so many stretches of so many
steps."""


def predicted_columns(
    model: Model,
    variables: Variables,
    table: Table,
    window: int,
    key: jax.Array,
    draws: int,
    batch_size: int,
    calibration: Calibration,
    levels: Sequence[float],
) -> dict[str, np.ndarray]:
    """Names of columns of predictions -> ``(step,)`` over the series one after the other.

    Args:
        model: trained on windows of the table's schema.
        variables: its variables.
        table: with the steps to extrapolate.
        window: steps of a window in training: `SPAN` times as many are predicted at once, from
            themselves and one window on each side.
        key: of all random numbers.
        draws: posterior samples.
        batch_size: windows at a time.
        calibration: scales of the uncertainty.
        levels: of the intervals.
    """
    starts = np.concatenate([[0], np.cumsum(table.lengths)])
    ends = (table.before, table.after)
    windows = overlapping_windows(table.lengths, SPAN * window, window, ends)
    found: dict[str, np.ndarray] = {}
    batches = predict_long(
        model, variables, table.cut, windows, key, draws, batch_size, calibration, max(levels)
    )
    for rows, prediction in batches:
        columns = summarise(table.schema, prediction, levels)
        for name, values in columns.items():
            whole = found.setdefault(name, np.empty(starts[-1]))
            for row in range(len(rows.source)):
                first = starts[rows.source[row]]
                begin, end, shown = rows.begin[row], rows.end[row], rows.start[row]
                whole[first + begin : first + end] = values[row, begin - shown : end - shown]
    return found


def stretches_of(table: Table, row: int) -> list[slice]:
    """The steps of a series that its figure shows: all, or of a long one its longest gaps."""
    length = int(table.lengths[row])
    if length <= WHOLE:
        return [slice(0, length)]
    own = slice(*table.grid.starts[row : row + 2])
    missing = np.concatenate([np.isnan(each[own]) for each in table.grid.values.values()], 1)
    some = np.concatenate([np.ones(table.before), missing.any(1), np.ones(table.after)])
    edges = np.flatnonzero(np.diff(some, prepend=0, append=0))
    begin, end = edges[::2], edges[1::2]
    chosen: list[slice] = []
    for gap in np.argsort(begin - end, kind="stable"):
        middle = int(begin[gap] + end[gap]) // 2
        start = min(max(middle - STRETCH // 2, 0), length - STRETCH)
        if all(abs(start - other.start) >= STRETCH for other in chosen):
            chosen.append(slice(start, start + STRETCH))
        if len(chosen) == STRETCHES:
            break
    return sorted(chosen or [slice(0, STRETCH)], key=lambda own: own.start)


def figure_of(
    table: Table, row: int, found: Mapping[str, np.ndarray], levels: Sequence[float]
) -> Figure:
    """What was observed of a series, and what fills it, in the units of the table.

    Args:
        table: with the steps that were extrapolated.
        row: number of the series.
        found: of `predicted_columns`.
        levels: of the intervals; the widest one is drawn.
    """
    schema, length = table.schema, int(table.lengths[row])
    first = int(table.lengths[:row].sum())
    times = table.times(row)
    stretches = stretches_of(table, row)
    curves = {}
    for modality, columns in schema.groups.items():
        for place, name in enumerate(columns):
            column = schema.columns[name]
            own = slice(*table.grid.starts[row : row + 2])
            seen = np.full(length, np.nan)
            values = table.grid.values[modality][own, place].astype(float)
            values = values + table.grid.offset.get(name, 0.0)
            values = np.exp(values) if column.transform == "log" else values
            seen[table.before : length - table.after] = values
            bounds = suffixes(column, [max(levels)])[2:]  # those of numbers, after mean and median
            shown = [fill_suffix(column), *bounds]
            lines = [found[name + suffix][first : first + length] for suffix in shown]
            curves[name] = Curve(seen, *lines, names=column.categories)
    titles = [f"{times[part.start]} to {times[part.stop - 1]}" for part in stretches]
    name = "" if table.names == [None] else str(table.names[row])
    return filled(curves, stretches, titles, name, max(levels))
