"""The noisy spirals of Tan et al. (2020), number for number, as a tensorflow-datasets builder.

Over the steps of a spiral of aspect ratio R its radius r and angle theta change linearly::

    x = sqrt(R) r cos(theta)        y = r sin(theta) / sqrt(R)
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jdmm.compiling import cache_dir
from jdmm.data.building import prepare, prepared_dir
from jdmm.data.spirals.dataset import NOISE, NUM_STEPS, SERIES, TRAIN
from jdmm.errors import InputError, one_line

Arrays = dict[str, np.ndarray]
"""The noisy "x" and "y" and the "clean_x" and "clean_y", each ``(batch, 100, 1)`` float32."""


class NoisySpirals(tfds.core.GeneratorBasedBuilder):
    """1000 noisy spirals, split as published: 600 training series and 400 test series.

    Features: the noisy "x" and "y" and the "clean_x" and "clean_y", each ``(100, 1)`` float32. The
    scalars that they are computed from: "direction" (-1 clockwise, 1 counterclockwise),
    "start_radius", "end_radius", "start_angle", "end_angle" (radians, signed by the direction) and
    "ratio".
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. To look for checksums would import importlib_resources, which
    # tensorflow-datasets 4.9.10 needs but does not install.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        curve = tfds.features.Tensor(shape=(NUM_STEPS, 1), dtype=np.float32)
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
            disable_shuffling=True,  # _split_generators does the published shuffle
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        # The published data come from one legacy generator, seeded with 1, in this order.
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
        for position, i in enumerate(order):  # series are stored in the order of these keys
            yield position, spirals[i]


def load_arrays(data_dir: str | None) -> tuple[Arrays, Arrays]:
    """The training and the test series; the first use makes them in a second or two.

    Args:
        data_dir: where the data set is, or is made; None for "jdmm" in the user's cache directory
            ($XDG_CACHE_HOME, or else ~/.cache).

    Raises:
        InputError: if the data set under `data_dir` can be neither written nor read.
    """
    root = Path(data_dir).expanduser() if data_dir else cache_dir()
    prepare(NoisySpirals, root)
    return _read(root)


def _spiral(random: np.random.RandomState, direction: int) -> dict[str, Any]:
    """One example. The order of the calls of `random` is part of the published data."""
    start_radius = 0.25 + 0.5 * random.random_sample()
    end_radius = 2.25 + 0.5 * random.random_sample()
    start_angle = direction * np.pi * random.random_sample()
    end_angle = direction * np.pi * (4 + random.random_sample())
    ratio = 2 ** (2 * random.random_sample() - 1)
    radius = np.linspace(start_radius, end_radius, NUM_STEPS)
    angle = np.linspace(start_angle, end_angle, NUM_STEPS)
    x = np.sqrt(ratio) * radius * np.cos(angle)
    y = radius * np.sin(angle) / np.sqrt(ratio)
    curves = {
        "x": x + NOISE * random.standard_normal(NUM_STEPS),
        "y": y + NOISE * random.standard_normal(NUM_STEPS),
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


def _read(root: Path) -> tuple[Arrays, Arrays]:
    """The training and the test series."""
    try:
        builder: Any = NoisySpirals(data_dir=root)  # Any: its decorators confuse type checkers
        sets = [list(builder.as_data_source(split)) for split in ("train", "test")]
        if [len(rows) for rows in sets] != [TRAIN, SERIES - TRAIN]:
            raise ValueError(f"{len(sets[0])} training and {len(sets[1])} test series")
        names = ("x", "y", "clean_x", "clean_y")
        train, test = (
            {name: np.stack([row[name] for row in rows]) for name in names} for rows in sets
        )
        return train, test
    except Exception as error:  # damaged files make the readers raise errors of any kind
        raise InputError(
            f"expected the noisy spirals in {prepared_dir(NoisySpirals, root)}, got files that "
            f"cannot be read ({one_line(error)}): delete it, and the next run makes them again"
        ) from error
