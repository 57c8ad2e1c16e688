"""Columns of time stamps: read as numbers, and new stamps written as the others are."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from jdmm.data.tables.steps import Times
from jdmm.errors import InputError

DATES = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y%m%d")
CLOCKS = ("", " %H:%M:%S%.f", "T%H:%M:%S%.f", " %H:%M", "T%H:%M", "T%H%M%S")
FORMATS = tuple(date + clock for clock in CLOCKS for date in DATES)

OFFSET = r":\d{2}(?:\.\d+)?( ?(?:Z|[+-]\d{2}:?\d{2}))$"
"""The offset from UTC at the end of a stamp."""

TEXT, DATETIME, DATE, NUMBER = "text", "datetime", "date", "number"


@dataclass(frozen=True)
class Stamps:
    """How the stamps of a column are written.

    Attributes:
        kind: "text", "datetime", "date" or "number".
        dtype: of the column.
        format: of texts, without the offset from UTC.
        offsets: whether texts end with their offset from UTC.
    """

    kind: str
    dtype: pl.DataType
    format: str = ""
    offsets: bool = False

    def write(self, times: Times, like: pl.Series) -> pl.Series:
        """New stamps in the form of the column.

        Args:
            times: of the new stamps.
            like: for each of them a stamp of the column, whose offset from UTC it gets.

        Raises:
            InputError: for dates or whole numbers whose step is not whole.
        """
        if self.kind == NUMBER:
            if self.dtype.is_integer() and (times != np.rint(times)).any():
                raise InputError(
                    f"expected whole numbers as times, got a step to {times[times % 1 != 0][0]}: "
                    "make the step whole, or the times decimal"
                )
            return pl.Series(like.name, times).cast(self.dtype)
        stamps = pl.Series(like.name, times).cast(pl.Datetime("us"))
        if self.kind == DATETIME:
            assert isinstance(self.dtype, pl.Datetime)
            if self.dtype.time_zone:
                stamps = stamps.dt.replace_time_zone("UTC")
                stamps = stamps.dt.convert_time_zone(self.dtype.time_zone)
            return stamps.cast(self.dtype)
        if self.kind == DATE:
            dates = stamps.cast(pl.Date)
            if (dates.cast(pl.Datetime("us")) != stamps).any():
                raise InputError("expected a step of whole days between dates, got a shorter one")
            return dates
        if not self.offsets:
            return stamps.dt.strftime(self.format)
        suffix = like.str.extract(OFFSET)
        local = stamps + _offset(suffix)
        return local.dt.strftime(self.format) + suffix


def read_stamps(column: pl.Series, where: str) -> tuple[Stamps, Times]:
    """The stamps of a column as numbers, and how they are written.

    Args:
        column: dates, datetimes, numbers, or texts in one of `FORMATS`.
        where: the table's name, for messages.

    Raises:
        InputError: naming the row of a missing stamp or of one that cannot be read.
    """
    if missing := column.null_count():
        row = column.is_null().arg_max() or 0
        raise InputError(
            f"{where}: expected a time stamp in every row, got none in row {row + 1}, column "
            f"{column.name!r} ({missing} in all): fill them in, or remove the rows"
        )
    dtype = column.dtype
    if dtype.is_numeric():
        times = column.cast(pl.Float64).to_numpy()
        if not np.isfinite(times).all():
            row = int(np.argmin(np.isfinite(times)))
            raise InputError(
                f"{where}: expected a number in row {row + 1}, column {column.name!r}, got NaN"
            )
        return Stamps(NUMBER, dtype), times
    if dtype == pl.Date:
        return Stamps(DATE, dtype), column.cast(pl.Datetime("us")).to_physical().to_numpy()
    if isinstance(dtype, pl.Datetime):
        return Stamps(DATETIME, dtype), column.cast(
            pl.Datetime("us", dtype.time_zone)
        ).to_physical().to_numpy()
    stamps = form_of(column, where)
    if stamps is None:
        got = repr(column[0]) if dtype == pl.String else str(dtype)
        raise InputError(
            f"{where}: expected stamps such as 2024-12-31 23:00 in column {column.name!r}, got "
            f"{got}"
        )
    parsed = _parse(column, stamps)
    if parsed.null_count():
        row = parsed.is_null().arg_max() or 0
        raise InputError(
            f"{where}: expected a time stamp such as {column[0 if row else -1]} in row {row + 1}, "
            f"column {column.name!r}, got {column[row]!r}: write all stamps in one form"
        )
    return stamps, parsed.to_physical().to_numpy()


def form_of(column: pl.Series, where: str) -> Stamps | None:
    """How the texts of a column are written; None unless most of them are stamps of one form.

    Raises:
        InputError: for dates whose day and month cannot be told apart.
    """
    if column.dtype != pl.String:
        return None
    head = column.drop_nulls().head(100)
    if not len(head):
        return None
    offsets = bool(head.str.contains(OFFSET).sum() > len(head) / 2)
    fitting = _most_parsed(head, [Stamps(TEXT, column.dtype, each, offsets) for each in FORMATS])
    if len(fitting) > 1:
        fitting = _most_parsed(column, fitting)
    if len(fitting) > 1 and {form.format[:5] for form in fitting} == {"%d/%m", "%m/%d"}:
        raise InputError(
            f"{where}: expected dates whose day and month can be told apart in column "
            f"{column.name!r}, got {head[0]!r}: write them as 2024-12-31"
        )
    return fitting[0] if fitting else None


def _most_parsed(column: pl.Series, forms: list[Stamps]) -> list[Stamps]:
    """The forms that read the most texts; none if they read less than half."""
    counts = [len(column) - _parse(column, form).null_count() for form in forms]
    most = max(counts)
    return [
        form for form, count in zip(forms, counts, strict=True) if count == most > len(column) / 2
    ]


def _parse(column: pl.Series, form: Stamps) -> pl.Series:
    """Datetimes, in UTC where the texts have an offset; null for other texts."""
    if not form.offsets:
        return column.str.to_datetime(form.format, strict=False, time_unit="us")
    suffix = column.str.extract(OFFSET)
    plain = column.str.replace(r" ?(?:Z|[+-]\d{2}:?\d{2})$", "")
    return plain.str.to_datetime(form.format, strict=False, time_unit="us") - _offset(suffix)


def _offset(suffix: pl.Series) -> pl.Series:
    """Durations from "Z", "+01:00" or "-0530"."""
    parts = suffix.str.strip_chars().str.replace("Z", "+0000", literal=True).str.replace(":", "")
    minutes = parts.str.slice(1, 2).cast(pl.Int64) * 60 + parts.str.slice(3, 2).cast(pl.Int64)
    sign = 1 - 2 * parts.str.starts_with("-").cast(pl.Int64)
    return (minutes * sign * 60 * 10**6).cast(pl.Duration("us"))
