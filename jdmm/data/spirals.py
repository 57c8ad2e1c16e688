"""The noisy spirals of Tan et al. (2020), number for number, as a tensorflow-datasets builder.

Over the 100 steps of a spiral of aspect ratio R its radius r and angle theta change linearly::

    x = sqrt(R) r cos(theta)        y = r sin(theta) / sqrt(R)

Both coordinates are observed with noise: two modalities, "x" and "y", of one feature each.
"""

import contextlib
import io
import os
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from jdmm.compiling import cache_dir
from jdmm.errors import InputError
from jdmm.series import Series, series_from_arrays

SERIES, TRAIN, TIME = 1000, 600, 100
NOISE = 0.1  # standard deviation, in the units of x and y


class Split(NamedTuple):
    """One part of the spirals.

    Attributes:
        noisy: what is observed, modalities "x" and "y" of ``(batch, 100, 1)``, nothing missing.
        clean: "x" and "y" -> ``(batch, 100, 1)`` float32, the same series without the noise.
        again: the same as `clean`, observed a second time, with other noise. Predictions are scored
            on it where a model has been shown the first.
    """

    noisy: Series
    clean: dict[str, np.ndarray]
    again: dict[str, np.ndarray]


class NoisySpirals(tfds.core.GeneratorBasedBuilder):
    """1000 noisy spirals, split as published: 600 to train on, 400 to test on.

    Features: the noisy "x", "y" and the clean "clean_x", "clean_y", each ``(100, 1)`` float32;
    the scalars that made them: "direction" (-1 clockwise, 1 counterclockwise), "start_radius",
    "end_radius", "start_angle", "end_angle" (radians, signed by the direction) and "ratio".
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. Looking for checksums would import importlib_resources, which
    # tensorflow-datasets 4.9.10 needs but does not install.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        curve = tfds.features.Tensor(shape=(TIME, 1), dtype=np.float32)
        number = tfds.features.Scalar(dtype=np.float32)
        return tfds.core.DatasetInfo(
            builder=self,
            description="Noisy spirals of Tan et al. (2020), https://arxiv.org/abs/1905.13570",
            features=tfds.features.FeaturesDict(
                {
                    "x": curve,
                    "y": curve,
                    "clean_x": curve,
                    "clean_y": curve,
                    "direction": tfds.features.Scalar(dtype=np.int32),
                    "start_radius": number,
                    "end_radius": number,
                    "start_angle": number,
                    "end_angle": number,
                    "ratio": number,
                }
            ),
            disable_shuffling=True,  # the published shuffle is done by _split_generators
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        # One legacy generator, seeded with 1, draws everything in this order: the published data.
        random = np.random.RandomState(1)
        order = np.arange(SERIES)
        random.shuffle(order)
        spirals = [_spiral(random, -1 if i < SERIES // 2 else 1) for i in range(SERIES)]
        return {
            "train": self._generate_examples(spirals, order[:TRAIN]),
            "test": self._generate_examples(spirals, order[TRAIN:]),
        }

    def _generate_examples(
        self, spirals: list[dict[str, Any]], order: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for position, i in enumerate(order):  # stored in the order of these keys
            yield position, spirals[i]


def load_spirals(data_dir: str | None, validation: int, seed: int) -> dict[str, Split]:
    """The noisy spirals in memory; made under `data_dir` on first use, which takes a second or two.

    Several processes may do so at once, and one that is killed does no harm: each works in a
    directory of its own, and the first to finish moves it into place.

    Args:
        data_dir: where the data set is or shall be; None for "jdmm" in the user's cache directory
            ($XDG_CACHE_HOME, or else ~/.cache).
        validation: number of series to cut from the 600 training series, 0 < `validation` < 600.
        seed: of the permutation that chooses them, >= 0. The test series never change.

    Returns:
        "train" (600 - `validation` series), "validation" and "test" (400 series).

    Raises:
        InputError: if `validation` or `seed` is out of range, or the data set under `data_dir`
            can be neither written nor read.
    """
    if not 0 < validation < TRAIN:
        raise InputError(f"expected 0 < validation < {TRAIN} spirals, got {validation}")
    if seed < 0:
        raise InputError(f"expected a seed >= 0 for the validation split, got {seed}")
    root = Path(data_dir).expanduser() if data_dir else cache_dir()
    _prepare(root)
    train, test = _read(root)
    chosen = np.random.default_rng(seed).permutation(TRAIN)
    return {
        "train": _split({name: array[chosen[validation:]] for name, array in train.items()}),
        "validation": _split({name: array[chosen[:validation]] for name, array in train.items()}),
        "test": _split(test),
    }


def _spiral(random: np.random.RandomState, direction: int) -> dict[str, Any]:
    """One example; the order in which `random` is called is part of the published data."""
    start_radius = 0.25 + 0.5 * random.random_sample()
    end_radius = 2.25 + 0.5 * random.random_sample()
    start_angle = direction * np.pi * random.random_sample()
    end_angle = direction * np.pi * (4 + random.random_sample())
    ratio = 2 ** (2 * random.random_sample() - 1)
    radius = np.linspace(start_radius, end_radius, TIME)
    angle = np.linspace(start_angle, end_angle, TIME)
    x = np.sqrt(ratio) * radius * np.cos(angle)
    y = radius * np.sin(angle) / np.sqrt(ratio)
    curves = {
        "x": x + NOISE * random.standard_normal(TIME),
        "y": y + NOISE * random.standard_normal(TIME),
        "clean_x": x,
        "clean_y": y,
    }
    return {
        **{name: curve[:, None].astype(np.float32) for name, curve in curves.items()},
        "direction": direction,
        "start_radius": start_radius,
        "end_radius": end_radius,
        "start_angle": start_angle,
        "end_angle": end_angle,
        "ratio": ratio,
    }


def _prepared_dir(root: Path) -> Path:
    """Where tensorflow-datasets looks for the data set below `root`."""
    return root / NoisySpirals.name / str(NoisySpirals.VERSION)


def _prepare(root: Path) -> None:
    """Writes the data set below `root`, unless it is there."""
    target = _prepared_dir(root)
    try:
        if target.exists():
            return
        logging.info("Making the noisy spirals in %s", target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=root) as own:
            builder = NoisySpirals(data_dir=own)
            # tensorflow-datasets prints a banner and draws progress bars, terminal or not.
            noise = io.StringIO()
            with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
                builder.download_and_prepare(
                    file_format="array_record",  # the one that works without TensorFlow
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                )
            try:
                os.rename(builder.data_dir, target)
            except OSError:
                if not target.exists():  # otherwise another process was first
                    raise
    except OSError as error:
        raise InputError(
            f"expected a data_dir that can be written, got {root}: {_line(error)}"
        ) from error


def _read(root: Path) -> list[dict[str, np.ndarray]]:
    """The training and the test set: "x", "y", "clean_x", "clean_y" -> ``(batch, 100, 1)``."""
    try:
        builder: Any = NoisySpirals(data_dir=root)  # Any: its decorators confuse type checkers
        sets = [list(builder.as_data_source(split)) for split in ("train", "test")]
        if [len(rows) for rows in sets] != [TRAIN, SERIES - TRAIN]:
            raise ValueError(f"{len(sets[0])} training and {len(sets[1])} test series")
        names = ("x", "y", "clean_x", "clean_y")
        return [{name: np.stack([row[name] for row in rows]) for name in names} for rows in sets]
    except Exception as error:  # there is no telling what a damaged file makes the readers raise
        raise InputError(
            f"expected the noisy spirals in {_prepared_dir(root)}, got files that cannot be read "
            f"({_line(error)}): delete it, and they will be made again"
        ) from error


def _line(error: Exception) -> str:
    """One short line, whatever the error's own message looks like."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 120)


def _split(arrays: dict[str, np.ndarray]) -> Split:
    clean = {name: arrays[f"clean_{name}"] for name in ("x", "y")}
    random = np.random.default_rng(1)
    again = {
        name: (curve + NOISE * random.standard_normal(curve.shape)).astype(np.float32)
        for name, curve in clean.items()
    }
    noisy = series_from_arrays({name: arrays[name] for name in ("x", "y")})
    return Split(noisy, clean, again)
