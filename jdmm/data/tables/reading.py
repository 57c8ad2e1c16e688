"""Reads CSV, Parquet and NPZ files and frames of polars and pandas, wide or long."""

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from jdmm.data.npz import load_arrays
from jdmm.data.tables.schema import MISSING_WORDS, Schema
from jdmm.errors import InputError, one_line

FORMATS = (".csv", ".parquet", ".npz")

NUMERIC_SHARE = 0.5
"""A column of texts of which more are numbers is taken for numbers with mistakes."""


def is_table(path: str | os.PathLike[str]) -> bool:
    """Whether the ending of a file is that of a table to read and write."""
    return Path(path).suffix.lower() in (".csv", ".parquet")


def name_of(source: Any) -> str:
    """What messages call a source."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "table"


def read_frame(source: Any, where: str, schema: Schema | None = None) -> pl.DataFrame:
    """A frame with a row per time, as the source has it; empty cells and missing words are null.

    Args:
        source: the path of a CSV, Parquet or NPZ file, or a frame of polars or pandas. The arrays
            of an NPZ file are columns, ``(row,)`` each.
        where: its name, for messages.
        schema: has the words that stand for a missing value, and the columns of a long table,
            which is made wide.

    Raises:
        InputError: if the source cannot be read. The message begins with its name.
    """
    words = [
        word for word in (schema.missing if schema else MISSING_WORDS) if isinstance(word, str)
    ]
    frame = _frame(source, words, where)
    if not frame.height or not frame.width:
        raise InputError(f"{where}: expected rows and columns, got {frame.height} rows")
    frame = frame.with_columns(
        pl.when(pl.col(pl.String).str.strip_chars().is_in(["", *words]))
        .then(None)
        .otherwise(pl.col(pl.String))
        .name.keep()
    )
    if schema is not None and schema.variable:
        return _wide(frame, schema, where)
    return frame


def _frame(source: Any, words: Sequence[str], where: str) -> pl.DataFrame:
    if isinstance(source, pl.DataFrame):
        return source
    if isinstance(source, pl.LazyFrame):
        return source.collect()
    if type(source).__module__.split(".")[0] == "pandas" and hasattr(source, "columns"):
        plain = type(source.index).__name__ == "RangeIndex"
        return pl.from_pandas(source if plain else source.reset_index())
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"expected a path or a frame of polars or pandas, got {type(source).__name__}"
        )
    path = Path(source).expanduser()
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise InputError(f"{where}: expected a file that ends with {', '.join(FORMATS)}")
    if kind == ".npz":
        return _from_npz(path, where)
    try:
        with path.open("rb") as file:
            if kind == ".parquet":
                return pl.read_parquet(file)
            return _from_csv(path, words, where)
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise InputError(f"{where}: expected a file that can be read, got: {reason}") from error
    except Exception as error:  # damaged files make polars raise errors of any kind
        raise InputError(f"{where}: expected a {kind[1:]} file, got: {one_line(error)}") from error


def _from_csv(path: Path, words: Sequence[str], where: str) -> pl.DataFrame:
    """Commas, semicolons or tabs between the cells, as in the first line."""
    with path.open("rb") as file:
        head = file.read(1 << 16).decode("utf-8", errors="replace")
        file.seek(max(file.seek(0, os.SEEK_END) - (1 << 16), 0))
        tail = file.read().decode("utf-8", errors="replace")
    if not head.strip():
        raise InputError(f"{where}: expected a line of column names, got an empty file")
    first = head.splitlines()[0]
    separator = max(",;\t", key=first.count)
    commas = separator != "," and re.search(rf"{separator}-?\d+,\d+\s*({separator}|$)", head, re.M)
    frame = pl.read_csv(
        path,
        separator=separator,
        decimal_comma=bool(commas),
        infer_schema_length=None,
        null_values=["", *words],
    )
    last = tail.splitlines()[-1]
    cells = max(len(next(csv.reader([last], delimiter=separator))), 1)
    if cells < frame.width and '"' not in last:  # a quoted cell may hold a line end
        raise InputError(
            f"{where}: expected {frame.width} cells in the last row, got {cells}: the file is cut "
            "short"
        )
    return frame


def _from_npz(path: Path, where: str) -> pl.DataFrame:
    try:
        arrays = load_arrays(path)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    lengths = {name: np.shape(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or len(next(iter(lengths.values()))) != 1:
        raise InputError(f"{where}: expected columns of one length in an .npz table, got {lengths}")
    return pl.DataFrame({name: array for name, array in arrays.items()})


def _wide(frame: pl.DataFrame, schema: Schema, where: str) -> pl.DataFrame:
    """A row per series and time from a row per value."""
    index = [name for name in (schema.series, schema.time) if name]
    need_columns(frame, [*index, schema.variable, schema.value], where)
    keys = [*index, schema.variable]
    for name in keys:
        need_values(frame, name, where)
    if (twice := ~frame.select(keys).to_struct().is_first_distinct()).any():
        rows = np.flatnonzero(twice.to_numpy())
        values = frame.row(int(rows[0]), named=True)
        raise InputError(
            f"{where}: expected one value of each variable and time, got another one of "
            f"{values[schema.variable]!r} at {values[schema.time]} (row {rows[0] + 1})"
        )
    return frame.pivot(schema.variable, index=index, values=schema.value, sort_columns=True)


def need_columns(frame: pl.DataFrame, names: Sequence[str], where: str) -> None:
    """Checks that a frame has these columns.

    Raises:
        InputError: naming the one that it lacks.
    """
    for name in names:
        if name not in frame.columns:
            raise InputError(f"{where}: expected a column {name!r}, got {', '.join(frame.columns)}")


def need_values(frame: pl.DataFrame, name: str, where: str) -> None:
    """Checks that a column has no missing value.

    Raises:
        InputError: naming the row.
    """
    if frame[name].null_count():
        row = (frame[name].is_null().arg_max() or 0) + 1
        raise InputError(f"{where}: expected a value in row {row}, column {name!r}, got none")


def numbers(frame: pl.DataFrame, name: str, schema: Schema, where: str) -> np.ndarray:
    """A column as float64, NaN where it is missing.

    Raises:
        InputError: naming the row of what is no finite number.
    """
    column = frame[name]
    if column.dtype == pl.String:
        column = _cast(column, where)
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise InputError(f"{where}: expected numbers in column {name!r}, got {column.dtype}")
    values = column.cast(pl.Float64).to_numpy()
    sentinels = [word for word in schema.missing if not isinstance(word, str)]
    if sentinels:
        values = np.where(np.isin(values, sentinels), np.nan, values)
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values)))
        raise InputError(
            f"{where}: expected a finite number in row {row + 1}, column {name!r}, got infinity"
        )
    return values


def mixed(column: pl.Series) -> bool:
    """Whether a column of texts is one of numbers with mistakes."""
    parsed = column.str.strip_chars().cast(pl.Float64, strict=False)
    texts = len(column) - column.null_count()
    return texts > 0 and len(parsed) - parsed.null_count() > NUMERIC_SHARE * texts


def _cast(column: pl.Series, where: str) -> pl.Series:
    parsed = column.str.strip_chars().cast(pl.Float64, strict=False)
    wrong = parsed.is_null() & column.is_not_null()
    if wrong.any():
        row = wrong.arg_max() or 0
        raise InputError(
            f"{where}: expected a number in row {row + 1}, column {column.name!r}, got "
            f"{column[row]!r}: correct it, or add it to missing in the schema"
        )
    return parsed
