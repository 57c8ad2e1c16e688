"""The frame of a table with what was missing."""

from collections.abc import MutableMapping, Sequence

import numpy as np
import polars as pl

from jdmm.data.tables.grid import Grid
from jdmm.data.tables.reading import numbers
from jdmm.data.tables.schema import Column, Schema
from jdmm.data.tables.units import fill_suffix, suffixes
from jdmm.errors import InputError


def check_names(schema: Schema, frame: pl.DataFrame, levels: Sequence[float], where: str) -> None:
    """Checks that no column of predictions has the name of one of the table.

    Raises:
        InputError: naming the column.
    """
    for name, column in schema.targets.items():
        for suffix in suffixes(column, levels):
            if name + suffix in frame.columns:
                raise InputError(
                    f"{where}: expected no column {name + suffix!r}, the name of predictions of "
                    f"{name!r}: rename it"
                )


def filled_frame(
    schema: Schema,
    grid: Grid,
    before: int,
    after: int,
    found: MutableMapping[str, np.ndarray],
    levels: Sequence[float],
    where: str,
) -> pl.DataFrame:
    """The rows that were read and those of the other steps, with missing values filled.

    Args:
        schema: of the table.
        grid: of the table.
        before: steps that were extrapolated before the first one of each series.
        after: the same after the last.
        found: names of columns of predictions -> ``(step,)``, over all series. They are taken out
            one by one, so that they are not in memory twice.
        levels: of their intervals.
        where: the table's name, for messages.
    """
    ends = np.arange(len(grid.counts))
    starts = grid.starts[:-1] + before + ends * (before + after)  # of each series in `found`
    source = np.repeat(ends, grid.counts)
    place = grid.cell + (starts - grid.starts[:-1])[source[grid.cell]]
    total = int(grid.starts[-1] + len(ends) * (before + after))
    empty = np.ones(total, bool)
    empty[place] = False
    new = np.flatnonzero(empty)
    frame = grid.frame
    if len(new):
        frame = pl.concat(
            [frame, _new_rows(schema, grid, starts - before, before, place, new)], how="diagonal"
        )
        place = np.concatenate([place, new])
        order = np.argsort(place, kind="stable")
        frame, place = frame[order], place[order]

    filled, further = [], []
    for name, column in schema.targets.items():
        own = {suffix: found.pop(name + suffix)[place] for suffix in suffixes(column, levels)}
        filled.append(_filled(frame, name, schema, own[fill_suffix(column)], where))
        for suffix, values in own.items():
            named = suffix == "_mode"
            texts = _named(column, values, frame[name].dtype) if named else pl.Series(values)
            further.append(texts.alias(name + suffix))
    return frame.with_columns(filled).with_columns(further)


def _new_rows(
    schema: Schema, grid: Grid, starts: np.ndarray, before: int, place: np.ndarray, new: np.ndarray
) -> pl.DataFrame:
    """Rows of the steps `new` that the table has no row for, with series and time only."""
    source = np.searchsorted(starts, new, side="right") - 1
    columns = []
    if schema.series:
        own = grid.frame[schema.series]
        columns.append(pl.Series(schema.series, grid.names, own.dtype)[source])
    if grid.stamps is not None:
        first = np.searchsorted(place, starts)  # the first row of each series
        earlier = np.searchsorted(place, new, side="right") - 1
        like = grid.frame[schema.time][np.maximum(earlier, first[source])]
        times = grid.times(source, new - starts[source] - before)
        columns.append(grid.stamps.write(times, like))
    return pl.DataFrame(columns) if columns else grid.frame.clear(len(new))


def _filled(
    frame: pl.DataFrame, name: str, schema: Schema, values: np.ndarray, where: str
) -> pl.Series:
    """The column with predictions where it is missing, in its own type if that holds them."""
    column, own = schema.columns[name], frame[name]
    if column.categorical:
        return own.zip_with(known(own, schema), _named(column, values, own.dtype))
    if own.dtype == pl.String:
        own = pl.Series(name, numbers(frame, name, schema, where))
    if column.binary:
        values = (values > 0.5).astype(np.float64)
        return own.zip_with(known(own, schema), pl.Series(name, values).cast(own.dtype))
    fill = pl.Series(name, values)
    kind = own.dtype if own.dtype.is_float() else pl.Float64
    if column.distribution().counts and own.dtype.is_integer():
        fits = fill.cast(own.dtype, strict=False).is_not_null().all()
        kind = own.dtype if fits else pl.Int64
    return own.cast(kind).zip_with(known(own, schema), fill.cast(kind))


def known(column: pl.Series, schema: Schema) -> pl.Series:
    """Which values are not missing."""
    found = column.is_not_null()
    if column.dtype.is_numeric():
        sentinels = [word for word in schema.missing if not isinstance(word, str)]
        found &= ~column.cast(pl.Float64).is_in(sentinels)
    if column.dtype.is_float():
        found &= column.is_not_nan()
    return found.fill_null(False)


def _named(column: Column, codes: np.ndarray, dtype: pl.DataType) -> pl.Series:
    """Numbers of categories as values of their column."""
    texts = pl.Series(column.categories)[codes.astype(np.int64)]
    if dtype == pl.Boolean:
        return texts == "true"
    return texts.cast(dtype)
