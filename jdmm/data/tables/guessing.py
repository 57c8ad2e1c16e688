"""Guesses the schema of a table from its columns."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from jdmm.data.tables.reading import mixed, numbers
from jdmm.data.tables.schema import (
    INPUTS,
    MAX_CATEGORIES,
    MISSING_WORDS,
    Column,
    Schema,
)
from jdmm.data.tables.stamps import form_of, read_stamps
from jdmm.data.tables.steps import MICROSECONDS, Step
from jdmm.errors import InputError

TIME_NAMES = ("time", "date", "datetime", "timestamp")
OTHER_TIME_NAMES = ("t", "step", "index", "hour", "day", "week", "month", "year")
"""Such a column of numbers is a time only if it repeats none; else it may be a covariate."""

SERIES_NAMES = ("series", "id", "unit", "station", "patient", "subject", "sensor", "name", "item")
LONG = ("variable", "value")
"""Columns of a long table."""

SENTINELS = (-999.0, -9999.0)


def guess_long(frame: pl.DataFrame, where: str) -> Schema | None:
    """The keys of a long table, with a column "variable" and a column "value"; None for a wide one.

    Raises:
        InputError: for such a table without one column of times and at most one of series.
    """
    named = {name.lower(): name for name in frame.columns}
    if not set(LONG) <= set(named):
        return None
    variable, value = (named[name] for name in LONG)
    rest = frame.select(pl.exclude(variable, value))
    time = _time(rest, where, repeats=True)
    others = [name for name in rest.columns if name != time]
    if not time or len(others) > 1:
        raise InputError(
            f"{where}: expected a long table with columns of series, time, variable and value, got "
            f"{', '.join(frame.columns)}: describe it by a schema"
        )
    return Schema(
        {"value": Column()} if value != "value" else {"values": Column()},
        time,
        others[0] if others else "",
        variable,
        value,
    )


def guess(frame: pl.DataFrame, where: str, long: Schema | None = None) -> tuple[Schema, list[str]]:
    """A schema, and what was left out or taken for missing, in words.

    Args:
        frame: a wide frame.
        where: its name, for messages.
        long: the keys of the long table that it was made of, from `guess_long`.

    Raises:
        InputError: if no column can be used.
    """
    time = long.time if long else _time(frame, where)
    series = long.series if long else _series(frame, time)
    notes = [] if time else ["no column of times: each row is a step"]
    step = _step(frame, time, series, where)
    stamps = bool(Step.parse(step).unit)
    columns: dict[str, Column] = {}
    sentinels: list[float] = []
    plain = Schema({"x": Column()}, missing=MISSING_WORDS)
    for name in frame.columns:
        if name in (time, series):
            continue
        column, found = frame[name], []
        if column.dtype == pl.String and mixed(column):
            column = pl.Series(name, numbers(frame, name, plain, where))  # raises for mistakes
        if column.dtype.is_numeric():
            column = column.cast(pl.Float64).fill_nan(None)
            found = _sentinels(column)
            column = column.set(column.is_in(found), None) if found else column
        reason = _useless(column)
        if reason:
            notes.append(f"column {name!r} is left out: {reason}")
            continue
        if found:
            sentinels += [each for each in found if each not in sentinels]
            notes.append(f"column {name!r}: {', '.join(f'{x:g}' for x in found)} means missing")
        columns[name] = _column(name, column)
    if not columns:
        raise InputError(
            f"{where}: expected a column of numbers or categories that vary, got none: "
            + "; ".join(notes)
        )
    schema = Schema(
        columns,
        time,
        series,
        long.variable if long else "",
        long.value if long else "",
        step,
        (*MISSING_WORDS, *sentinels),
        _calendar(frame, time, step) if stamps else (),
    )
    return schema, notes


def _time(frame: pl.DataFrame, where: str, repeats: bool = False) -> str:
    """The first column of stamps, or of numbers with the name of a time.

    With `repeats` times may be repeated, as in long tables.
    """
    for column in frame.iter_columns():
        if column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime):
            return column.name
        if form_of(column, where):
            return column.name
    numbered = [column for column in frame.iter_columns() if column.dtype.is_numeric()]
    for column in numbered:
        if column.name.lower() in TIME_NAMES:
            return column.name
    for column in numbered:
        once = repeats or not column.is_duplicated().any() or _series(frame, column.name)
        if column.name.lower() in OTHER_TIME_NAMES and once:
            return column.name
    return ""


def _series(frame: pl.DataFrame, time: str) -> str:
    """A column that names the series, with which no time is repeated.

    It holds texts or whole numbers and has the name of one, or texts while most times are repeated.
    """
    if not time:
        return ""
    mostly = frame[time].is_duplicated().sum() > frame.height / 2
    names = []
    for column in frame.iter_columns():
        named = column.name.lower() in SERIES_NAMES
        kind = column.dtype == pl.String and (mostly or named)
        kind = kind or (named and column.dtype.is_integer())
        some = not column.null_count() and 1 < column.n_unique() <= column.len() / 2
        if column.name != time and kind and some:
            names.append(column.name)
    names.sort(key=lambda name: name.lower() not in SERIES_NAMES)
    return next((name for name in names if not _repeated(frame, [time, name])), "")


def _repeated(frame: pl.DataFrame, names: Sequence[str]) -> bool:
    return bool(frame.select(names).is_duplicated().any())


def _step(frame: pl.DataFrame, time: str, series: str, where: str) -> str | float:
    """The commonest difference between successive stamps of a series."""
    if not time:
        return 1
    _, times = read_stamps(frame[time], where)
    own = pl.DataFrame({"series": frame[series] if series else np.zeros(len(times)), "t": times})
    steps = own.sort("series", "t").select(pl.col("t").diff().over("series")).to_series()
    positive = steps.drop_nulls().to_numpy()
    positive = positive[positive > 0]
    if not positive.size:
        raise InputError(
            f"{where}: expected at least two different times in column {time!r} of one series"
        )
    return Step.of_times(positive).text


def _calendar(frame: pl.DataFrame, time: str, step: str | float) -> tuple[str, ...]:
    """The covariates that change from step to step within the time that the table covers."""
    _, times = read_stamps(frame[time], "")
    parsed = Step.parse(step)
    day = MICROSECONDS["d"]
    length = 30 * day if parsed.unit == "mo" else parsed.length
    span = times.max() - times.min()
    periods = {"hour": day, "weekday": 7 * day, "month": 365 * day}
    return tuple(
        name for name, period in periods.items() if 2 * length < period and span >= 2 * period
    )


def _sentinels(column: pl.Series) -> list[float]:
    """Numbers such as -999 that stand farther from all others than these from each other."""
    found = [each for each in SENTINELS if (column == each).any()]
    rest = column.filter(~column.is_in(found) & column.is_not_null())
    if not found or not len(rest):
        return []
    low, high = float(rest.min()), float(rest.max())  # type: ignore[arg-type]
    return [each for each in found if low - each > high - low]


def _useless(column: pl.Series) -> str:
    """Why a column cannot be used; "" if it can."""
    values = column.drop_nulls()
    if not len(values):
        return "all of it is missing"
    if values.n_unique() == 1:
        return f"it is always {values[0]!r}"
    if values.dtype.is_numeric() or values.dtype == pl.Boolean:
        return ""
    if values.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return f"it holds {values.dtype}"
    if (count := values.n_unique()) > MAX_CATEGORIES:
        return f"it has {count} different texts, more than {MAX_CATEGORIES} categories"
    return ""


def _column(name: str, column: pl.Series) -> Column:
    if column.dtype.is_numeric():
        return Column()
    modality = name if name not in (INPUTS, Column.modality) else f"{name}_"
    texts = column.cast(pl.String).drop_nulls().unique().sort().to_list()
    return Column(modality, "categorical", categories=tuple(texts))
