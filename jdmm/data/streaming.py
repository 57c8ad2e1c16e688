"""Training series that are read when they are needed: from files, or from a source of your own.

A file of series is an ArrayRecord: a header in JSON, and one record per series. Records are
compressed, are read in any order, and carry hashes, so that damage is noticed.
"""

import abc
import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from jdmm.data.scaling import Standardise
from jdmm.errors import InputError, one_line
from jdmm.files import replace_file
from jdmm.series import Series

FORMAT = "jdmm series 1"


class SeriesSource(abc.ABC):
    """Series that are too many for memory.

    Training reads each batch shortly before its step, from several threads at once.
    """

    @property
    @abc.abstractmethod
    def batch(self) -> int:
        """Number of all series."""

    @abc.abstractmethod
    def take(self, rows: np.ndarray) -> Series:
        """The series at `rows`, of the same modalities, padded steps and types whatever the rows.

        Args:
            rows: ``(batch,)`` whole numbers from 0; -1 is the last series.
        """


class SeriesFile(SeriesSource):
    """The series of a file of `write_series`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens the file and reads its header.

        Raises:
            InputError: if the file cannot be read, is cut short, or was written by another program.
                The message begins with the path.
        """
        self.path = Path(path)
        with self._reporting():
            self.path.open("rb").close()  # says why a file cannot be opened; ArrayRecord does not
            self._reader = ArrayRecordReader(os.fspath(path), options="readahead_buffer_size:0")
            header = json.loads(self._reader.read([0])[0])
            if header["format"] != FORMAT:
                raise ValueError(f"format {header['format']}")
            self._record = _record(header)

    @property
    def batch(self) -> int:
        """Number of all series."""
        return self._reader.num_records() - 1

    def take(self, rows: Sequence[int] | np.ndarray) -> Series:
        """Reads the series at `rows`, as NumPy arrays.

        Args:
            rows: ``(batch,)`` whole numbers; negative ones count from the end.

        Raises:
            InputError: if a record is damaged.
            IndexError: for a row that is not in the file.
        """
        every = range(1, 1 + self.batch)  # record 0 is the header
        places = [every[row] for row in rows]
        with self._reporting():
            table = np.frombuffer(b"".join(self._reader.read(places)), self._record)
        values, observed = (
            {name: np.ascontiguousarray(part[name]) for name in part.dtype.names or ()}
            for part in (table["values"], table["observed"])
        )
        given = table.dtype.names or ()
        names = [name for name in ("lengths", "index", "inputs") if name in given]
        return Series(values, observed, *(np.ascontiguousarray(table[name]) for name in names))

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turns what a bad file raises into an `InputError`."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"{self.path}: expected a file that can be read, got: {reason}"
            ) from error
        except Exception as error:  # ArrayRecord and the decoders raise errors of many kinds
            raise InputError(
                f"{self.path}: expected a whole file of jdmm.write_series, got "
                f"{one_line(error)}: write it again"
            ) from error


class Rows(SeriesSource):
    """Some of the series of another source."""

    def __init__(self, source: SeriesSource, rows: np.ndarray) -> None:
        """Keeps both; reads nothing."""
        self._source, self._rows = source, rows

    @property
    def batch(self) -> int:
        """Number of these series."""
        return len(self._rows)

    def take(self, rows: np.ndarray) -> Series:
        """The series at `rows` of them."""
        return self._source.take(self._rows[rows])


class Scaled(SeriesSource):
    """The series of another source, scaled as they are read."""

    def __init__(self, source: SeriesSource, scaling: Standardise) -> None:
        """Keeps both; reads nothing."""
        self._source, self._scaling = source, scaling

    @property
    def batch(self) -> int:
        """Number of all series."""
        return self._source.batch

    def take(self, rows: np.ndarray) -> Series:
        """The scaled series at `rows`."""
        return self._scaling.apply(self._source.take(rows))


def first_series(series: Series | SeriesSource, count: int) -> Series:
    """The first `count` series, or all if there are fewer, in memory."""
    return series.take(np.arange(min(count, series.batch)))


def write_series(
    path: str | os.PathLike[str],
    series: Series | Iterable[Series],
    num_steps: int | None = None,
) -> None:
    """Writes series to a file for `SeriesFile`, whole or not at all.

    Args:
        path: of the file.
        series: the series, or batches of them one after the other, such as a generator makes them.
            A `Series` keeps its `index`; series of several batches are numbered 0, 1, ... in
            their order, because each batch may count from 0 itself. Images may be bytes (uint8).
        num_steps: to which all series are padded; by default that of the first batch. Later batches
            may be shorter.

    Raises:
        InputError: if there is no series, a batch disagrees with the first one or is longer than
            `num_steps`, or the file cannot be written.
    """
    batches = iter([series] if isinstance(series, Series) else _numbered(series))
    first = next(batches, None)
    if first is None:
        raise InputError("expected at least one series to write, got none")
    header = _header(first, first.num_steps if num_steps is None else num_steps)
    try:
        with replace_file(path) as part:
            part.touch()  # says why a file cannot be written; ArrayRecord does not
            # groups of one record, because each series is read alone
            writer = ArrayRecordWriter(os.fspath(part), "group_size:1")
            _on_disk(writer.write, json.dumps(header).encode())
            for batch in itertools.chain([first], batches):
                for row in _table(batch, header):
                    _on_disk(writer.write, row.tobytes())
            _on_disk(writer.close)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{os.fspath(path)}: expected a file that can be written, got: {reason}"
        ) from error


def _numbered(batches: Iterable[Series]) -> Iterator[Series]:
    """The batches, their series numbered from 0 on."""
    begin = 0
    for batch in batches:
        index = np.arange(begin, begin + batch.batch, dtype=np.int32)
        begin += batch.batch
        yield batch.replace(index=index)


def _header(series: Series, num_steps: int) -> dict[str, Any]:
    """What all records of a file share."""
    modalities = {
        name: {"features": value.shape[-1], "bytes": value.dtype == np.uint8}
        for name, value in series.values.items()
    }
    header = {"format": FORMAT, "num_steps": num_steps, "modalities": modalities}
    return header | ({"inputs": series.num_inputs} if series.num_inputs else {})


def _record(header: dict[str, Any]) -> np.dtype:
    """The layout of a record."""
    steps, modalities = header["num_steps"], header["modalities"].items()
    values = [
        (name, "u1" if own["bytes"] else "<f4", (steps, own["features"]))
        for name, own in modalities
    ]
    observed = [(name, "?", (steps, own["features"])) for name, own in modalities]
    fields: Any = [("values", values), ("observed", observed), ("lengths", "<i4"), ("index", "<i4")]
    if "inputs" in header:
        fields.append(("inputs", "<f4", (steps, header["inputs"])))
    return np.dtype(fields)


def _table(series: Series, header: dict[str, Any]) -> np.ndarray:
    """The records ``(batch,)`` of the series.

    Raises:
        InputError: for series that do not fit into the records.
    """
    num_steps, own = header["num_steps"], _header(series, header["num_steps"])
    if series.num_steps > num_steps:
        raise InputError(
            f"expected series of at most num_steps={num_steps}, got a batch of "
            f"{series.num_steps}: give num_steps to write_series"
        )
    if own != header:
        raise InputError(
            f"expected the modalities of the first batch, {header['modalities']}, and its "
            f"{header.get('inputs', 0)} inputs in all batches, got {own['modalities']} and "
            f"{own.get('inputs', 0)} inputs"
        )
    table = np.zeros(series.batch, _record(header))
    for name in series.values:
        table["values"][name][:, : series.num_steps] = series.values[name]
        table["observed"][name][:, : series.num_steps] = series.observed[name]
    table["lengths"], table["index"] = series.lengths, series.index
    if series.inputs is not None:
        table["inputs"][:, : series.num_steps] = series.inputs
    return table


def _on_disk(call: Callable[..., Any], *arguments: Any) -> None:
    """Calls a writer, whose errors are those of the disk.

    Raises:
        OSError: if it fails.
    """
    try:
        call(*arguments)
    except RuntimeError as error:
        raise OSError(one_line(error)) from error
