"""A table of a user: read, as series for models, and written back with predictions."""

import functools
import os
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from jdmm.data.scaling import typical_size
from jdmm.data.tables.calendar import calendar
from jdmm.data.tables.filling import check_names, filled_frame
from jdmm.data.tables.grid import Account, Grid, make_grid
from jdmm.data.tables.guessing import guess, guess_long
from jdmm.data.tables.reading import is_table, name_of, read_frame
from jdmm.data.tables.schema import INPUTS, Schema
from jdmm.data.tables.units import LEVELS, summarise
from jdmm.errors import InputError
from jdmm.files import replace_file
from jdmm.series import Series


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a table on a regular grid of time.

    Attributes:
        schema: what the columns are, with the mean and sd by which they are scaled.
        grid: the values before they are scaled.
        where: the name of the source, for messages.
        before: steps to extrapolate before the first one of each series.
        after: steps to extrapolate after the last one.
    """

    schema: Schema
    grid: Grid
    where: str
    before: int = 0
    after: int = 0

    @property
    def names(self) -> list:
        """Names of the series; [None] where the table has no column of them."""
        return self.grid.names

    @property
    def account(self) -> Account:
        """What became of the rows."""
        return self.grid.account

    @property
    def lengths(self) -> np.ndarray:
        """``(series,)`` steps of each series, with those to extrapolate."""
        return self.grid.counts + self.before + self.after

    @functools.cached_property
    def series(self) -> Series:
        """The transformed and scaled series, with the steps to extrapolate."""
        every = np.arange(len(self.names))
        return self.cut(every, np.zeros(len(every), np.int64), self.lengths)

    def times(self, row: int) -> pl.Series | np.ndarray:
        """The time of each step of a series, as its column has them; numbers without a column."""
        steps = np.arange(self.lengths[row]) - self.before
        times = self.grid.times(np.array(row), steps)
        if self.grid.stamps is None:
            return times
        place = np.searchsorted(self.grid.cell, self.grid.starts[row])
        like = self.grid.frame[self.schema.time][int(place)]
        column = pl.Series(self.schema.time, [like] * len(times), self.grid.stamps.dtype)
        return self.grid.stamps.write(times, column)

    def extend(self, before: int = 0, after: int = 0) -> "Table":
        """The table with further steps before and after each series, to extrapolate to.

        Raises:
            InputError: for a negative number, or columns of inputs, which are not known there.
        """
        if before < 0 or after < 0:
            raise InputError(f"expected steps of at least 0, got before={before}, after={after}")
        if (before or after) and INPUTS in self.schema.groups:
            raise InputError(
                f"{self.where}: expected no steps before or after a table whose inputs "
                f"{', '.join(self.schema.groups[INPUTS])} are not known there, got before="
                f"{before}, after={after}: append rows to the table that have only times and inputs"
            )
        return replace(self, before=before, after=after)

    def cut(self, source: np.ndarray, start: np.ndarray, lengths: np.ndarray) -> Series:
        """Windows of the series, as series of their own.

        Args:
            source: ``(window,)`` number of the series of each window.
            start: ``(window,)`` its first step, counted from the first step of the series, with
                those to extrapolate.
            lengths: ``(window,)`` its steps.
        """
        steps = np.arange(int(lengths.max()))
        valid = steps < lengths[:, None]
        steps = steps + start[:, None] - self.before
        inside = valid & (steps >= 0) & (steps < self.grid.counts[source][:, None])
        places = np.where(inside, self.grid.starts[source][:, None] + steps, 0)
        values, observed, inputs = {}, {}, []
        for modality, columns in self.schema.groups.items():
            shift, scale = self._scales(columns)
            value = (self.grid.values[modality][places] - shift) / scale
            if modality == INPUTS:
                inputs.append(value)
                continue
            observed[modality] = inside[..., None] & ~np.isnan(value)
            values[modality] = np.where(observed[modality], value, np.float32(0))
        if self.schema.calendar:
            times = self.grid.times(source[:, None], steps)
            inputs.append(calendar(times, self.schema.calendar))
        known = None
        if inputs:
            known = np.where(valid[..., None], np.concatenate(inputs, -1), np.float32(0))
        index = np.arange(len(source), dtype=np.int32)
        return Series(values, observed, lengths.astype(np.int32), index, known)

    def _scales(self, columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """What is subtracted from the values of the grid, and what they are divided by."""
        shift, scale = [], []
        for name in columns:
            mean, sd = self.schema.columns[name].scale
            shift.append(mean - self.grid.offset.get(name, 0.0))
            scale.append(sd)
        return np.array(shift, np.float32), np.array(scale, np.float32)

    def to_frame(self, prediction: Any, levels: Sequence[float] = LEVELS) -> pl.DataFrame:
        """The table with predictions, sorted by series and time.

        It has the columns and the rows that were read, a row for each step without one, and those
        to extrapolate. Observed values stay as they were read. Missing ones are filled: numbers by
        their predictive mean, those with a transform or a likelihood without negative values
        by their median, which large values pull up less; 0 and 1, and categories, by the more
        probable ones. Whole numbers become decimal ones, but those of a likelihood of counts stay
        whole. There are further columns at all rows, in the units of the table: of numbers
        "<column>_mean", "<column>_median" and the bounds of central intervals such as
        "<column>_lower_95" and "<column>_upper_95"; of 0 and 1 "<column>_mean", the probability of
        1; of categories "<column>_mode", the most probable one, and "<column>_probability".

        Args:
            prediction: of `self.series` by `jdmm.predict` or `FittedModel.predict`, with
                ``return_samples=True``.
            levels: of the intervals.

        Raises:
            InputError: for a prediction without samples or of other series, an impossible level, or
                a table that has a column of such a name already.
        """
        found = summarise(self.schema, prediction, levels)
        own = np.arange(self.series.num_steps) < self.lengths[:, None]
        for name, values in found.items():
            if values.shape != own.shape:
                raise InputError(
                    f"expected a prediction of (series, step) {own.shape}, got {values.shape} in "
                    f"{name!r}: predict table.series"
                )
        return self.fill({name: values[own] for name, values in found.items()}, levels)

    def check_output(self, levels: Sequence[float] = LEVELS) -> None:
        """Checks that the columns of predictions have names of their own.

        Raises:
            InputError: naming the column, or for an impossible level.
        """
        check_names(self.schema, self.grid.frame, levels, self.where)

    def fill(
        self, found: MutableMapping[str, np.ndarray], levels: Sequence[float] = LEVELS
    ) -> pl.DataFrame:
        """`to_frame` from columns of predictions, ``(step,)`` over the series one after the other.

        The columns are taken out of `found`.

        Raises:
            InputError: as `to_frame`.
        """
        return filled_frame(
            self.schema, self.grid, self.before, self.after, found, levels, self.where
        )


def read_table(source: Any, schema: Schema | str | os.PathLike[str] | None = None) -> Table:
    """Reads a table with missing values, of one time series or of several.

    Args:
        source: the path of a CSV, Parquet or NPZ file, or a frame of polars or pandas.
        schema: what its columns are, or the path of a JSON file that says so; guessed without it.
            A schema without mean and sd gets those of the table.

    Returns:
        The table; `table.schema` and `table.account` say what was guessed and done.

    Raises:
        InputError: for a source that cannot be read, or that does not fit the schema.
    """
    schema, grid = read_grid(source, schema)
    if not schema.fitted:
        schema = fitted_to(schema, grid)
    return Table(schema, grid, name_of(source))


def read_grid(
    source: Any, schema: Schema | str | os.PathLike[str] | None = None
) -> tuple[Schema, Grid]:
    """The schema, as given or guessed, and the values of a table before they are scaled.

    Raises:
        InputError: as `read_table`.
    """
    where = name_of(source)
    if isinstance(schema, str | os.PathLike):
        schema = Schema.load(schema)
    frame, notes = read_frame(source, where, schema), []
    long = guess_long(frame, where) if schema is None else None
    if long is not None:
        frame = read_frame(frame, where, long)
    if long is not None or (schema is not None and schema.variable):
        where += " (made wide)"  # whose rows messages count
    if schema is None:
        schema, notes = guess(frame, where, long)
    return schema, make_grid(frame, schema, where, tuple(notes))


def fitted_to(schema: Schema, grid: Grid, cells: np.ndarray | None = None) -> Schema:
    """The schema with mean and sd of each scaled column after the transform, and sizes of others.

    A scaled column without an observed value gets its mean over all cells, one without variation
    sd 1. Sizes are geometric means of positive values, and means of counts.

    Args:
        schema: of the grid.
        grid: the values.
        cells: mask ``(cell,)`` of the cells that count; by default all.
    """
    scaling, sizes = {}, {}
    for modality, columns in schema.groups.items():
        for place, name in enumerate(columns):
            column = schema.columns[name]
            values = grid.values[modality][:, place]
            values = values if cells is None else values[cells]
            values = values[~np.isnan(values)].astype(np.float64)
            if name in schema.scaled:
                mean = float(values.mean()) if values.size else 0.0
                sd = float(values.std()) if values.size else 0.0
                scaling[name] = (grid.offset[name] + mean, sd if sd > 0 else 1.0)
            elif column.sized:
                sizes[name] = typical_size(column.distribution(), values)
    return schema.with_scaling(scaling, sizes)


def write_table(path: str | os.PathLike[str], frame: pl.DataFrame) -> None:
    """Writes a frame as CSV or Parquet, by the ending of the path, through `replace_file`.

    Raises:
        InputError: for another ending, or if the file cannot be written.
    """
    check_output(path)
    write = frame.write_csv if Path(path).suffix.lower() == ".csv" else frame.write_parquet
    try:
        with replace_file(path) as part, part.open("xb") as file:
            write(file)
    except OSError as error:
        raise InputError(
            f"{os.fspath(path)}: expected a file that can be written, got: "
            f"{error.strerror or error}"
        ) from error


def check_output(path: str | os.PathLike[str]) -> None:
    """Checks that a table can be written to a path.

    Raises:
        InputError: for an ending other than .csv and .parquet, or a folder that does not exist.
    """
    if not is_table(path):
        raise InputError(f"{os.fspath(path)}: expected an output that ends with .csv or .parquet")
    if not Path(path).resolve().parent.is_dir():
        raise InputError(f"{os.fspath(path)}: expected a folder that exists for the output")
