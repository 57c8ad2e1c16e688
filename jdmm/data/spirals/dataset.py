"""The noisy spirals of Tan et al. (2020): two modalities, the coordinates "x" and "y"."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure

from jdmm.data import tasks
from jdmm.data.base import Dataset, Outcome, Split, draw_latents
from jdmm.data.modality import Modality
from jdmm.data.tasks import Task
from jdmm.errors import InputError
from jdmm.plotting.plane import Panel, samples_grid, task_grid
from jdmm.series import series_from_arrays

SERIES, TRAIN, NUM_STEPS = 1000, 600, 100

NOISE = 0.1
"""Standard deviation, in the units of x and y."""

NAMES = ("x", "y")
RANKS = ("best", "median", "worst")


@dataclass(frozen=True)
class Spirals(Dataset):
    """The noisy spirals, with clean curves and a second noisy observation of each.

    Attributes:
        dir: folder in which the data set is, or is made on first use; "" for the user's cache.
        validation: number of validation series, cut from the 600 training series.

    Raises:
        InputError: if `validation` is out of range.
    """

    dir: str = ""
    validation: int = 60
    locations: ClassVar[tuple[str, ...]] = ("dir",)

    def __post_init__(self) -> None:
        """Checks the values."""
        if not 0 < self.validation < TRAIN:
            raise InputError(
                f"expected data.validation between 1 and {TRAIN - 1} spirals, got {self.validation}"
            )

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """One feature each."""
        return Modality("x"), Modality("y")

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks of the paper."""
        return {
            "reconstruction": tasks.reconstruction,
            "drop_half": tasks.drop_half,
            "forward_extrapolation": tasks.forward_extrapolation,
            "backward_extrapolation": tasks.backward_extrapolation,
            "conditional_generation": tasks.conditional_generation(given=("x",)),
            "weak_supervision": tasks.weak_supervision,
        }

    def load(self) -> dict[str, Split]:
        """600 - `validation` training, `validation` validation and the 400 test series.

        Raises:
            InputError: if the data set can be neither written nor read.
        """
        from jdmm.data.spirals.builder import load_arrays  # imports tensorflow-datasets, slowly

        train, test = load_arrays(self.dir or None)
        order = np.random.default_rng(0).permutation(TRAIN)
        first, rest = order[: self.validation], order[self.validation :]
        return {
            "train": _split({name: array[rest] for name, array in train.items()}),
            "validation": _split({name: array[first] for name, array in train.items()}),
            "test": _split(test),
        }

    def draw(self, split: Split, outcomes: Mapping[str, Outcome]) -> dict[str, Figure]:
        """The best, the median and the worst spiral of each task, and latent states by direction.

        Args:
            split: the split that was evaluated.
            outcomes: task -> outcome.
        """
        labels = counterclockwise(split).astype(int)
        latents = draw_latents(split, outcomes, labels, ("clockwise", "counterclockwise"))
        return {"tasks": _draw_tasks(split, outcomes), **latents}

    def draw_samples(self, samples: Mapping[str, np.ndarray], title: str) -> Figure:
        """Sampled spirals in the plane.

        Args:
            samples: "x" and "y" -> ``(series, time, 1)`` expected values.
            title: above the figure.
        """
        return samples_grid(_pairs(samples), title)


def counterclockwise(split: Split) -> np.ndarray:
    """Which spirals turn counterclockwise, ``(batch,)``: those that sweep a positive area."""
    x, y = (_truth(split)[..., place] for place in range(2))
    area = np.sum(x[:, :-1] * np.diff(y), 1) - np.sum(y[:, :-1] * np.diff(x), 1)
    return area > 0


def _draw_tasks(split: Split, outcomes: Mapping[str, Outcome]) -> Figure:
    """Spirals ranked by their squared error against the clean curve."""
    truth = _truth(split)
    observed = np.where(_pairs(split.series.observed), _pairs(split.series.values), np.nan)
    panels = {}
    for task, outcome in outcomes.items():
        shown, mean, sd = (_pairs(tree) for tree in (outcome.shown.observed, *outcome[1:3]))
        errors = ((mean - truth) ** 2).sum(-1).mean(-1)
        order = np.argsort(errors)
        panels[task] = [
            Panel(truth[i], observed[i], shown[i], mean[i], sd[i], float(errors[i]))
            for i in (order[0], order[len(order) // 2], order[-1])
        ]
    return task_grid(panels, RANKS)


def _truth(split: Split) -> np.ndarray:
    assert split.truth is not None
    return _pairs(split.truth)


def _pairs(arrays: Mapping[str, Any]) -> np.ndarray:
    """Both coordinates, ``(batch, time, 2)``."""
    return np.concatenate([np.asarray(arrays[name]) for name in NAMES], -1)


def _split(arrays: Mapping[str, np.ndarray]) -> Split:
    """The series with a second observation, whose noise is the same in every run."""
    truth = {name: arrays[f"clean_{name}"] for name in NAMES}
    random = np.random.default_rng(1)
    second = {
        name: (curve + NOISE * random.standard_normal(curve.shape)).astype(np.float32)
        for name, curve in truth.items()
    }
    return Split(series_from_arrays({name: arrays[name] for name in NAMES}), truth, second)
