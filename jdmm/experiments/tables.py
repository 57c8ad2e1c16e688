"""Figures of a table and of what fills it."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from jdmm.data.tables.table import Table
from jdmm.data.tables.units import fill_suffix, suffixes
from jdmm.plotting.tables import Curve, filled

MAX_FIGURES = 12
"""Series that are drawn."""

WHOLE, STRETCH, STRETCHES = 400, 200, 3
"""Longest series that a figure shows all of; of others it shows so many stretches of so many
steps."""


def stretches_of(table: Table, row: int) -> list[slice]:
    """The steps of a series that its figure shows: all, or of a long one its longest gaps."""
    length = int(table.lengths[row])
    if length <= WHOLE:
        return [slice(0, length)]
    own = slice(*table.grid.starts[row : row + 2])
    values = [table.grid.values[modality][own] for modality in table.schema.predicted]
    missing = np.isnan(np.concatenate(values, 1))
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
    for modality, columns in schema.predicted.items():
        for place, name in enumerate(columns):
            column = schema.columns[name]
            own = slice(*table.grid.starts[row : row + 2])
            seen = np.full(length, np.nan)
            values = table.grid.values[modality][own, place].astype(float)
            values = values + table.grid.offset.get(name, 0.0)
            values = column.backward(values)
            seen[table.before : length - table.after] = values
            bounds = suffixes(column, [max(levels)])[2:]  # those of numbers, after mean and median
            shown = [fill_suffix(column), *bounds]
            lines = [found[name + suffix][first : first + length] for suffix in shown]
            curves[name] = Curve(seen, *lines, names=column.categories)
    titles = [f"{times[part.start]} to {times[part.stop - 1]}" for part in stretches]
    name = "" if table.names == [None] else str(table.names[row])
    return filled(curves, stretches, titles, name, max(levels))
