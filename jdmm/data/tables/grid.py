"""Puts the rows of a table on a regular grid of time."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from jdmm.data.tables.reading import need_columns, need_values, numbers
from jdmm.data.tables.schema import INPUTS, Column, Schema
from jdmm.data.tables.stamps import Stamps, read_stamps
from jdmm.data.tables.steps import Step, Times
from jdmm.data.tables.transforms import TRANSFORMS
from jdmm.errors import InputError

MAX_CELLS_PER_ROW = 100
"""A grid that is emptier is taken for a mistake, if it is large."""

LARGE = 100_000


@dataclass(frozen=True)
class Account:
    """What became of the rows of a table.

    Attributes:
        rows: read.
        unsorted: rows that came before an earlier one of the same series.
        cells: points of the grid, over all series.
        averaged: rows that share a point with others. Their numbers are averaged, and the mean of
            counts is rounded; of categories the last counts.
        missing: column -> points at which it is missing.
        notes: further lines.
    """

    rows: int
    unsorted: int
    cells: int
    averaged: int
    missing: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The account in words."""
        lines = [f"{self.rows} rows on a grid of {self.cells} steps", *self.notes]
        if self.unsorted:
            lines.append(f"{self.unsorted} rows were not in the order of time: sorted")
        if self.averaged:
            lines.append(f"{self.averaged} rows share a step with others: averaged")
        shares = (f"{name} {count / self.cells:.1%}" for name, count in self.missing.items())
        return [*lines, f"missing: {', '.join(shares)}"]


@dataclass(frozen=True, eq=False)
class Grid:
    """The values of a table at regular steps, of all series one after the other.

    Attributes:
        frame: the rows of the table as they were read, sorted by series and time.
        names: of the series, in the type of their column; [None] for one series without a name.
        starts: ``(series + 1,)`` where each series begins in `values`, and the end.
        first: ``(series,)`` number of the first cell of each series on the grid.
        cell: ``(row,)`` place in `values` of each row of the frame.
        values: modality -> ``(cell, feature)`` float32 after the transform, less `offset`; NaN
            where missing. Categories are numbered.
        offset: scaled column -> its mean over all rows, without which float32 keeps all digits.
        step: between two cells.
        phase: the time of cell 0.
        stamps: how the times are written; None without a column of times.
        account: what became of the rows.
    """

    frame: pl.DataFrame
    names: list
    starts: np.ndarray
    first: np.ndarray
    cell: np.ndarray
    values: dict[str, np.ndarray]
    offset: dict[str, float]
    step: Step
    phase: float
    stamps: Stamps | None
    account: Account

    @property
    def counts(self) -> np.ndarray:
        """``(series,)`` steps of each series."""
        return np.diff(self.starts)

    def times(self, source: np.ndarray, steps: np.ndarray) -> Times:
        """The times of steps of series `source`, counted from the first step of each."""
        return self.step.times(self.first[source] + steps, self.phase)


def make_grid(frame: pl.DataFrame, schema: Schema, where: str, notes: tuple[str, ...] = ()) -> Grid:
    """The grid of a wide frame.

    Raises:
        InputError: for a column that is missing or does not fit the schema, for two rows of one
            series and time, or if nothing is observed. The message begins with `where`.
    """
    keys = [name for name in (schema.series, schema.time) if name]
    need_columns(frame, [*keys, *schema.columns], where)
    if schema.series:
        need_values(frame, schema.series, where)
    columns = {name: read_column(frame, name, schema, where) for name in schema.columns}
    if all(np.isnan(columns[name]).all() for name in schema.targets):
        raise InputError(f"{where}: expected an observed value, got none: everything is missing")

    if schema.series:
        names, codes = _codes(frame[schema.series])
    else:
        names, codes = [None], np.zeros(frame.height, np.int64)
    step = Step.parse(schema.step)
    stamps, times = None, _row_numbers(codes)
    if schema.time:
        stamps, times = read_stamps(frame[schema.time], where)
    if bool(step.unit) != (times.dtype.kind == "i"):
        raise InputError(
            f"{where}: expected a step such as '1h' for time stamps and a number for numbers, got "
            f"{schema.step!r} for column {schema.time!r}"
        )
    order = np.lexsort((times, codes))
    _refuse_duplicates(frame, schema, where, order, codes, times)
    unsorted = int(((np.diff(times) < 0) & (np.diff(codes) == 0)).sum())
    if (order[1:] < order[:-1]).any():
        frame, codes, times = frame[order], codes[order], times[order]
        columns = {name: values[order] for name, values in columns.items()}

    phase = step.phase(times)
    absolute = step.cells(times, phase)
    begin = np.flatnonzero(np.diff(codes, prepend=-1))
    end = np.append(begin[1:], len(codes)) - 1
    first, counts = absolute[begin], absolute[end] - absolute[begin] + 1
    starts = np.concatenate([[0], np.cumsum(counts)])
    if starts[-1] > max(LARGE, MAX_CELLS_PER_ROW * frame.height):
        raise InputError(
            f"{where}: expected stamps without large gaps, got {frame.height} rows on a grid of "
            f"{starts[-1]} steps of {schema.step}: correct the stamps, or choose a longer step"
        )
    cell = absolute - first[codes] + starts[codes]
    values, offset, missing = {}, {}, {}
    for modality, own in schema.groups.items():
        values[modality] = np.full((starts[-1], len(own)), np.nan, np.float32)
        for place, name in enumerate(own):
            column = schema.columns[name]
            cells = _on_cells(columns.pop(name), cell, int(starts[-1]), column)
            missing[name] = int(np.isnan(cells).sum())
            if name in schema.scaled:
                offset[name] = float(np.nanmean(cells)) if missing[name] < len(cells) else 0.0
                cells -= offset[name]
            values[modality][:, place] = cells
    shared = int((np.bincount(cell, minlength=1)[cell] > 1).sum())
    account = Account(frame.height, unsorted, int(starts[-1]), shared, missing, notes)
    grid = Grid(frame, names, starts, first, cell, values, offset, step, phase, stamps, account)
    for name in schema.groups.get(INPUTS, ()):
        _need_all(grid, schema, name, where)
    return grid


def _need_all(grid: Grid, schema: Schema, name: str, where: str) -> None:
    """Raises an error if a column of inputs is missing at a step, naming column and time."""
    unknown = np.isnan(grid.values[INPUTS][:, schema.groups[INPUTS].index(name)])
    if not unknown.any():
        return
    place = int(np.argmax(unknown))
    source = int(np.searchsorted(grid.starts, place, side="right")) - 1
    time = grid.times(np.array(source), np.array(place - grid.starts[source]))
    at = np.datetime64(int(time), "us") if grid.stamps and time.dtype.kind == "i" else f"{time:g}"
    whose = f" of series {grid.names[source]!r}" if schema.series else ""
    raise InputError(
        f"{where}: expected inputs that are known at all steps, got none in column {name!r} at "
        f"{at}{whose} ({int(unknown.sum())} of {len(unknown)} steps): fill them, or give the "
        f"column another modality than {INPUTS!r}"
    )


def read_column(frame: pl.DataFrame, name: str, schema: Schema, where: str) -> np.ndarray:
    """A column ``(row,)`` as float64 numbers or numbers of categories, NaN where missing.

    Raises:
        InputError: naming the row of a value that does not fit the schema.
    """
    column = schema.columns[name]
    if column.categorical:
        return _categories(frame, name, column, schema, where)
    values = numbers(frame, name, schema, where)
    known, kind = values[~np.isnan(values)], column.distribution()
    fits = kind.in_support(known)
    if not kind.scalable:  # models see the values themselves, in float32
        with np.errstate(over="ignore"):
            fits &= kind.in_support(known.astype(np.float32))
    wrong = None
    transform = TRANSFORMS[column.transform]
    if not (valid := transform.valid(known)).all():
        wrong, expected = np.isin(values, known[~valid]), transform.support
    elif not fits.all():
        wrong, expected = np.isin(values, known[~fits]), kind.support
    if wrong is not None:
        row = int(np.argmax(wrong))
        raise InputError(
            f"{where}: expected {expected} in row {row + 1}, column {name!r}, got {values[row]:g}"
        )
    return values


def _categories(
    frame: pl.DataFrame, name: str, column: Column, schema: Schema, where: str
) -> np.ndarray:
    texts = frame[name].cast(pl.String)
    numeric = [word for word in schema.missing if not isinstance(word, str)]
    if frame[name].dtype.is_numeric():
        values = frame[name].cast(pl.Float64)
        texts = texts.set(values.is_in([*numeric, np.nan]), None)
    codes = texts.replace_strict(
        list(column.categories),
        [float(number) for number in range(len(column.categories))],
        default=None,
        return_dtype=pl.Float64,
    )
    unknown = codes.is_null() & texts.is_not_null()
    if unknown.any():
        row = unknown.arg_max() or 0
        known = ", ".join(column.categories[:8]) + ", ..." * (len(column.categories) > 8)
        raise InputError(
            f"{where}: expected a category among {known} in row {row + 1}, column {name!r}, got "
            f"{texts[row]!r}: correct it, or empty the cell"
        )
    return codes.to_numpy()


def _on_cells(values: np.ndarray, cell: np.ndarray, cells: int, column: Column) -> np.ndarray:
    """A column on the grid, after the transform: means of numbers, the last of categories.

    Means of counts are rounded, since models take whole numbers.
    """
    seen = ~np.isnan(values)
    values, cell = values[seen], cell[seen]
    if column.categorical or (np.diff(cell) > 0).all():
        found = np.full(cells, np.nan)
        found[cell] = values  # of equal places the last counts
    else:
        with np.errstate(invalid="ignore"):
            found = np.bincount(cell, values, cells) / np.bincount(cell, minlength=cells)
        found = np.rint(found) if column.distribution().counts else found
    return column.forward(found)


def _codes(column: pl.Series) -> tuple[list, np.ndarray]:
    """The different names in order of appearance, and the number of each row's name."""
    names = column.unique(maintain_order=True)
    codes = column.to_frame().join(
        names.to_frame().with_row_index("code"), on=column.name, how="left", maintain_order="left"
    )["code"]
    return names.to_list(), codes.cast(pl.Int64).to_numpy()


def _row_numbers(codes: np.ndarray) -> np.ndarray:
    """The number of each row within its series, as float64."""
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    numbers = np.empty(len(codes))
    numbers[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return numbers


def _refuse_duplicates(
    frame: pl.DataFrame,
    schema: Schema,
    where: str,
    order: np.ndarray,
    codes: np.ndarray,
    times: Times,
) -> None:
    """Raises an error for two rows of one series and time."""
    same = (np.diff(times[order]) == 0) & (np.diff(codes[order]) == 0)
    if not same.any():
        return
    place = int(np.argmax(same))
    first, second = sorted((int(order[place]), int(order[place + 1])))
    whose = f" of series {frame[schema.series][first]!r}" if schema.series else ""
    hint = "remove one, or name the column of the series in the schema"
    if _autumn(times[order[:-1][same]], times):
        hint = (
            "local time repeats an hour in autumn: write stamps with their offset from UTC, as "
            "2024-10-27T02:00:00+01:00"
        )
    raise InputError(
        f"{where}: expected different times in the rows{whose}, got "
        f"{frame[schema.time][first]} in rows {first + 1} and {second + 1}, column "
        f"{schema.time!r}: {hint}"
    )


def _autumn(repeated: Times, times: Times) -> bool:
    """Whether the times that are repeated are those of nights in October or November."""
    if times.dtype.kind != "i":
        return False
    stamps = repeated.astype("datetime64[us]")
    months = stamps.astype("datetime64[M]").astype(np.int64) % 12 + 1
    hours = (stamps - stamps.astype("datetime64[D]")).astype("timedelta64[h]").astype(np.int64)
    return bool(np.isin(months, (10, 11)).all() and (hours <= 3).all())
