"""The data set of a user's own series of several modalities."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np

from jdmm.data import tasks
from jdmm.data.arrays.guessing import LOOKED_AT, guess
from jdmm.data.arrays.reading import read_series
from jdmm.data.arrays.schema import ArraySchema
from jdmm.data.base import SPLITS, Dataset, Split
from jdmm.data.fitted_schema import SCHEMA
from jdmm.data.modality import Modality
from jdmm.data.prepare import check_shares, windows
from jdmm.data.scaling import Standardise
from jdmm.data.streaming import Rows, Scaled, SeriesSource, first_series
from jdmm.data.tasks import Keep, Task
from jdmm.errors import InputError
from jdmm.networks import Image
from jdmm.networks.backgrounds import NONE
from jdmm.networks.images import BATCH
from jdmm.series import Series

MANY = 20
"""Series from which on their windows are split by series, and not by time."""


@dataclass(frozen=True)
class Arrays(Dataset):
    """Series of several modalities in an .npz file, or in a file of `jdmm.write_series`.

    The training series of a file of series stay there, and are read when they are needed. Values
    that may be scaled are, by mean and standard deviation of the first 1000 training series.

    Attributes:
        path: the file; one that does not end with .npz is a file of series. `jdmm.data.npz` says
            what an .npz file holds.
        schema: a JSON file that says what the modalities are; "" guesses it. See
            `jdmm.data.arrays.schema`.
        validation: a file of the validation series; "" takes them from `path`.
        test: the same of the test series.
        shares: of training, validation and test, as far as they are taken from `path`.
        window: time steps of windows that the series of an .npz file are cut into; 0 leaves them
            whole. Windows of 20 series or more are split by series, those of fewer by time.
        scored_series: at most so many validation and test series are used, the first ones; 0 for
            all. Memory holds them.
        channels: of the convolutions of images.
        normalisation: of these convolutions, "batch" or "group".
        background: what decoders of images start from, "", "mean" or "recalled"; see
            `Image.background`.

    Raises:
        InputError: for an impossible value.
    """

    path: str = ""
    schema: str = ""
    validation: str = ""
    test: str = ""
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    window: int = 0
    scored_series: int = 500
    channels: tuple[int, ...] = Image.channels
    normalisation: str = BATCH
    background: str = NONE
    locations: ClassVar[tuple[str, ...]] = ("path", "schema", "validation", "test")

    def __post_init__(self) -> None:
        """Checks the values."""
        object.__setattr__(self, "channels", tuple(self.channels))
        check_shares("data.shares", self.shares)
        if self.window < 0 or self.window == 1:
            raise InputError(
                f"expected data.window of 0 (whole series) or at least 2 steps, got {self.window}"
            )
        if self.scored_series < 0:
            raise InputError(
                f"expected data.scored_series of at least 0 (all), got {self.scored_series}"
            )

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those of the schema, with the sizes of its counts. One that is not given is guessed."""
        return self._build(self.fitted_schema)

    @property
    def inputs(self) -> int:
        """Number of inputs in the file."""
        return self.known_schema.inputs

    def example_inputs(self, num_steps: int) -> np.ndarray | None:
        """Those of the first training series.

        Raises:
            InputError: for more steps than it has.
        """
        if not self.inputs:
            return None
        series = self._parts["train"]
        first = series.take(np.arange(1))
        if num_steps > int(first.lengths[0]):
            raise InputError(
                f"expected at most the {int(first.lengths[0])} steps of the first training series, "
                f"whose inputs drive the samples, got {num_steps}"
            )
        return np.asarray(first.inputs)[0, :num_steps]

    @property
    def scaling(self) -> Standardise:
        """By the first training series."""
        return self.fitted_schema.scaling

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Fill values and blocks, extrapolate, and generate each modality from the others."""
        return {
            "fill_10": tasks.fill_values(0.1),
            "fill_50": tasks.fill_values(0.5),
            "drop_half": tasks.drop_half,
            "forward_extrapolation": tasks.forward_extrapolation,
            "backward_extrapolation": tasks.backward_extrapolation,
            "reconstruction": tasks.reconstruction,
            "fill_blocks": _fill_blocks,
            **{f"without_{name}": tasks.without(name) for name in self.known_schema.modalities},
        }

    @functools.cached_property
    def known_schema(self) -> ArraySchema:
        """The schema as given or guessed; with mean and sd only if the given one has them."""
        if self.schema:
            return ArraySchema.load(self.schema)
        return guess(Path(self._path).expanduser())

    @functools.cached_property
    def fitted_schema(self) -> ArraySchema:
        """The schema with mean, sd and sizes of the first training series."""
        if self.known_schema.fitted:
            return self.known_schema
        return self.known_schema.fit(first_series(self._parts["train"], LOOKED_AT))

    def in_workdir(self, workdir: Path) -> "Arrays":
        """The data set with the schema that the work directory keeps.

        Raises:
            InputError: if it cannot be read, was edited, or `schema` is another one.
        """
        return dataclasses.replace(self, schema=ArraySchema.kept_in(workdir, self.schema))

    def keep(self, workdir: Path) -> None:
        """Writes the schema with mean, sd and sizes."""
        self.fitted_schema.save(workdir / SCHEMA)

    def describe(self) -> list[str]:
        """The schema, and how many series each part has."""
        lines = [f"{self.path}: {'given' if self.schema else 'guessed'} schema"]
        for name, own in self.known_schema.modalities.items():
            form = f"images of {own.image}" if own.image else f"features {own.features}"
            lines.append(f"  {name}: {own.likelihood}, {form}")
        if self.inputs:
            lines.append(f"  {self.inputs} inputs, which drive the dynamics")
        counts = (f"{name} {self._parts[name].batch}" for name in SPLITS)
        kind = f"windows of {self.window} steps" if self.window else "series"
        return [*lines, f"  {kind}: {', '.join(counts)}"]

    def load(self) -> dict[str, Split]:
        """The splits, scaled.

        Raises:
            InputError: if a file cannot be read, does not fit the schema, or has too few series.
        """
        splits = {}
        for name, part in self._parts.items():
            source = None
            if name != "train":
                series = first_series(part, self.scored_series or part.batch)
            elif isinstance(part, SeriesSource):
                series, source = first_series(part, LOOKED_AT), Scaled(part, self.scaling)
            else:
                series = part
            floats = jax.device_get(series.as_float())
            splits[name] = Split(self.scaling.apply(floats), source=source)
        return splits

    @property
    def _path(self) -> str:
        if not self.path:
            raise InputError(
                "expected data.path, got none: set --config.data.path to an .npz file or a file of "
                "jdmm.write_series"
            )
        return self.path

    def _build(self, schema: ArraySchema) -> tuple[Modality, ...]:
        return schema.build(
            channels=self.channels, normalisation=self.normalisation, background=self.background
        )

    @functools.cached_property
    def _parts(self) -> dict[str, Series | SeriesSource]:
        """Split -> its series as the files have them, those of files of series on disk."""
        own = {name: path for name in SPLITS[1:] if (path := getattr(self, name))}
        found = {name: self._read(path)[0] for name, path in own.items()}
        series, position = self._read(self._path)
        rest = [name for name in SPLITS if name not in own]
        shares = np.array([self.shares[SPLITS.index(name)] for name in rest])
        edges = np.cumsum(shares / shares.sum())[:-1]
        which = np.searchsorted(edges, position, side="right")
        for place, name in enumerate(rest):
            rows = np.flatnonzero(which == place)
            if not rows.size:
                raise InputError(
                    f"{self.path}: expected at least one series for {name}, got "
                    f"{series.batch} series in all: choose other data.shares, set data.window, or "
                    f"give data.{name if name != 'train' else 'test'}"
                )
            found[name] = series.take(rows) if isinstance(series, Series) else Rows(series, rows)
        return {name: found[name] for name in SPLITS}

    def _read(self, path: str) -> tuple[Series | SeriesSource, np.ndarray]:
        """The series of a file, and the position of each among all, from 0 to 1."""
        modalities, inputs = self._build(self.known_schema), self.inputs
        series = read_series(path, modalities, inputs)
        if isinstance(series, SeriesSource):
            if self.window:
                raise InputError(
                    f"expected data.window=0 for the file of series {path}, got {self.window}: cut "
                    "the series when you write it"
                )
            return series, _shuffled(series.batch)
        if not self.window:
            return series, _shuffled(series.batch)
        cut = windows(series, self.window, drop_empty=True)
        if series.batch >= MANY:
            return cut.series, _shuffled(series.batch)[cut.source]
        middle = cut.start + cut.series.lengths / 2
        return cut.series, middle / series.lengths[cut.source]


def _fill_blocks(key: jax.Array, series: Series) -> Keep:
    """Hides a quarter of the blocks of single features, of an eighth of the steps each."""
    return tasks.fill_blocks(0.25, max(series.num_steps // 8, 2))(key, series)


def _shuffled(count: int) -> np.ndarray:
    """A position from 0 to 1 for each of so many series, in an order that is always the same."""
    return (np.random.default_rng(0).permutation(count) + 0.5) / count
