"""The data set of a user's own file."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jdmm.data import tasks
from jdmm.data.base import DRAWN, SPLITS, Dataset, Outcome, Split, draw_latents
from jdmm.data.fitted_schema import SCHEMA
from jdmm.data.modality import Modality
from jdmm.data.prepare import check_shares
from jdmm.data.tables.grid import Grid
from jdmm.data.tables.schema import INPUTS, Schema
from jdmm.data.tables.table import Table, fitted_to, read_grid
from jdmm.data.tasks import Task
from jdmm.errors import InputError
from jdmm.plotting import series as plots

BY_TIME, BY_SERIES, AUTO = "time", "series", "auto"

MANY = 20
"""Series from which on they are split, and not their time."""


class Parts(NamedTuple):
    """Stretches of the series that make up one split, each an array ``(stretch,)``.

    source: number of the series.
    start: the first step.
    stop: the step after the last.
    """

    source: np.ndarray
    start: np.ndarray
    stop: np.ndarray


@dataclass(frozen=True)
class Files(Dataset):
    """A table of one or more incomplete time series, in a CSV, Parquet or NPZ file.

    The series are cut into windows. The first part of their time is for training, the next one for
    validation and the last one for the test; many series are split as a whole instead. Values
    that may be scaled are, by mean and standard deviation of the training part.

    Attributes:
        path: the file.
        schema: a JSON file that says what the columns are; "" guesses it. See
            `jdmm.data.tables.schema`.
        window: time steps of a training series.
        train_windows: at least about so many windows for training. Those of a short file overlap,
            so that an epoch has enough of them.
        shares: of training, validation and test.
        split: by "time", by "series", or "auto": by series if there are 20 or more.
        scored_windows: at most so many windows of validation and of test, evenly spread; 0 for all.

    Raises:
        InputError: for an impossible value.
    """

    path: str = ""
    schema: str = ""
    window: int = 64
    train_windows: int = 100
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    split: str = AUTO
    scored_windows: int = 200
    locations: ClassVar[tuple[str, ...]] = ("path", "schema")

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.window < 2:
            raise InputError(f"expected data.window of at least 2 steps, got {self.window}")
        if self.train_windows < 1:
            raise InputError(f"expected data.train_windows of at least 1, got {self.train_windows}")
        check_shares("data.shares", self.shares)
        if self.split not in (AUTO, BY_TIME, BY_SERIES):
            raise InputError(
                f"expected data.split among {AUTO}, {BY_TIME}, {BY_SERIES}, got {self.split!r}"
            )
        if self.scored_windows < 0:
            raise InputError(
                f"expected data.scored_windows of at least 0 (all), got {self.scored_windows}"
            )

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those of the schema, with the sizes of its counts. One that is not given is guessed."""
        return self.fitted_schema.modalities

    @property
    def inputs(self) -> int:
        """Columns of inputs, and sine and cosine of each place in the calendar."""
        return self.known_schema.inputs

    def example_inputs(self, num_steps: int) -> np.ndarray | None:
        """Those of the first series from its first step on; the calendar goes on after its end.

        Raises:
            InputError: for more steps than the columns of inputs have.
        """
        if not self.inputs:
            return None
        table = self.table.extend(after=max(num_steps - int(self.table.grid.counts[0]), 0))
        first = np.zeros(1, np.int64)
        return table.cut(first, first, np.array([num_steps])).inputs[0]

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Fill single values and blocks of single columns, and forecast."""
        block = max(self.window // 8, 2)
        return {
            "fill_10": tasks.fill_values(0.1),
            "fill_50": tasks.fill_values(0.5),
            "fill_blocks": tasks.fill_blocks(0.25, block),
            "forecast": tasks.forecast(0.75),
        }

    @functools.cached_property
    def known_schema(self) -> Schema:
        """The schema as given or guessed; with mean and sd only if the given one has them."""
        return Schema.load(self.schema) if self.schema else self._read[0]

    @property
    def fitted_schema(self) -> Schema:
        """The schema with mean and sd of the training part."""
        return self.known_schema if self.known_schema.fitted else self.table.schema

    @functools.cached_property
    def _read(self) -> tuple[Schema, Grid]:
        if not self.path:
            raise InputError(
                "expected data.path, got none: set --config.data.path to a CSV, Parquet or NPZ file"
            )
        return read_grid(self.path, self.known_schema if self.schema else None)

    @functools.cached_property
    def table(self) -> Table:
        """The table, scaled by its training part.

        Raises:
            InputError: if the file cannot be read, or does not fit the schema.
        """
        schema, grid = self._read
        if not schema.fitted:
            train = self._parts(grid)["train"]
            cells = np.zeros(grid.starts[-1], bool)
            for source, start, stop in zip(*train, strict=True):
                cells[grid.starts[source] + start : grid.starts[source] + stop] = True
            schema = fitted_to(schema, grid, cells)
        return Table(schema, grid, self.path)

    def in_workdir(self, workdir: Path) -> "Files":
        """The data set with the schema that the work directory keeps.

        Raises:
            InputError: if it cannot be read, was edited, or `schema` is another one.
        """
        return dataclasses.replace(self, schema=Schema.kept_in(workdir, self.schema))

    def keep(self, workdir: Path) -> None:
        """Writes the schema with mean and sd."""
        self.table.schema.save(workdir / SCHEMA)

    def describe(self) -> list[str]:
        """The schema and the account of the table."""
        table = self.table
        schema, parts = table.schema, self._parts(table.grid)
        keys = f"time {schema.time!r}" if schema.time else "no time column"
        keys += f", series {schema.series!r} ({len(table.names)})" if schema.series else ""
        lines = [
            f"{self.path}: {'given' if self.schema else 'guessed'} schema: {keys}, step "
            f"{schema.step}, calendar {', '.join(schema.calendar) or 'none'}"
        ]
        for name, columns in schema.groups.items():
            own = {column: schema.columns[column] for column in columns}
            first = own[columns[0]]
            kind = first.likelihood + f" of {len(first.categories)}" * bool(first.categories)
            kind = "known at all steps" if name == INPUTS else kind
            if len({column.likelihood for column in own.values()}) > 1:
                kind = "mixed"
                columns = [f"{column} ({own[column].likelihood})" for column in columns]
            lines.append(f"  {name} ({kind}): {', '.join(columns)}")
        lines += [f"  {line}" for line in table.account.lines()]
        how = BY_SERIES if self._by_series(table.grid) else BY_TIME
        steps = (f"{name} {(p.stop - p.start).sum()}" for name, p in parts.items())
        return [*lines, f"  steps by {how}: {', '.join(steps)}"]

    def load(self) -> dict[str, Split]:
        """Windows of the parts. Windows without an observed value are left out.

        Raises:
            InputError: if the file cannot be read, does not fit the schema, or has a part without
                observed values.
        """
        table = self.table
        splits = {}
        for name, part in self._parts(table.grid).items():
            stride = self.window
            if name == "train":
                steps = int((part.stop - part.start).sum())
                stride = training_stride(steps, self.window, self.train_windows)
            source, start, lengths = _windows(part, self.window, stride)
            seen = _observed(table.grid, source, start, lengths)
            if not seen.any():
                raise InputError(
                    f"{self.path}: expected observed values in the {name} part, got none: choose "
                    "other data.shares, or a longer file"
                )
            chosen = np.flatnonzero(seen)
            if name != "train" and self.scored_windows:
                count = min(self.scored_windows, len(chosen))
                chosen = chosen[np.linspace(0, len(chosen) - 1, count).round().astype(int)]
            splits[name] = Split(table.cut(source[chosen], start[chosen], lengths[chosen]))
        return splits

    def _by_series(self, grid: Grid) -> bool:
        if self.split == AUTO:
            return len(grid.names) >= MANY
        return self.split == BY_SERIES

    def _parts(self, grid: Grid) -> dict[str, Parts]:
        """Name of a split -> its stretches of the series."""
        every, shares = np.arange(len(grid.names)), np.cumsum([0.0, *self.shares])
        if self._by_series(grid):
            edges = np.rint(shares * len(every)).astype(int)
            own = [every[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
            return {
                name: Parts(rows, np.zeros(len(rows), int), grid.counts[rows])
                for name, rows in zip(SPLITS, own, strict=True)
            }
        edges = np.rint(shares[:, None] * grid.counts).astype(int)
        return {
            name: Parts(every, edges[place], edges[place + 1]) for place, name in enumerate(SPLITS)
        }

    def class_name(self, modality: str, number: int) -> str:
        """The category."""
        (column,) = self.known_schema.groups[modality]
        return self.known_schema.columns[column].categories[number]

    def draw(self, split: Split, outcomes: Mapping[str, Outcome]) -> dict[str, Figure]:
        """A figure per task, with a row per column and its scaled values, and the latent states."""
        figures = {}
        valid = np.asarray(split.series.valid)[:DRAWN, :, None]
        for task, outcome in outcomes.items():
            mean, sd = self._columns(outcome.mean), self._columns(outcome.sd)
            trees = (split.series.values, split.series.observed, outcome.shown.observed)
            figures[task] = plots.imputations(
                *(self._columns(tree) for tree in trees),
                mean={name: np.where(valid, each, np.nan) for name, each in mean.items()},
                sd={name: sd.get(name, np.full(each.shape, np.nan)) for name, each in mean.items()},
            )
        return {**figures, **draw_latents(split, outcomes)}

    def _columns(self, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Column -> ``(series, step, 1)`` of the first series; without modalities that lack."""
        return {
            column: np.asarray(arrays[modality])[:DRAWN, :, [place]]
            for modality, columns in self.known_schema.predicted.items()
            if modality in arrays
            for place, column in enumerate(columns)
        }


def training_stride(steps: int, window: int, least: int) -> int:
    """Steps from one training window to the next: all of them, or fewer for `least` windows."""
    return min(max(steps // least, 1), window)


def _windows(part: Parts, length: int, stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Series, first step and steps of windows; the last of a stretch may be shorter."""
    whole = part.stop - part.start
    counts = np.where(whole > 0, 1 - (-np.maximum(whole - length, 0) // stride), 0)
    which = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = part.start[which] + number * stride
    return part.source[which], start, np.minimum(part.stop[which] - start, length)


def _observed(grid: Grid, source: np.ndarray, start: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Which windows have an observed value, inputs aside."""
    seen = np.zeros(grid.starts[-1] + 1, np.int64)
    for modality, values in grid.values.items():
        if modality != INPUTS:
            seen[1:] += (~np.isnan(values)).any(1)
    total = np.cumsum(seen)
    begin = grid.starts[source] + start
    return total[begin + lengths] > total[begin]
