"""What the program knows of a data set."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jdmm.data.modality import Modality, check_series
from jdmm.data.tasks import STANDARD_TASKS, Task
from jdmm.errors import InputError
from jdmm.likelihoods import Categorical
from jdmm.plotting import series as plots
from jdmm.plotting import storyboard
from jdmm.plotting.storyboard import Strip
from jdmm.series import Series

SPLITS = ("train", "validation", "test")

DRAWN = 3
"""Series in the default figure of a task."""


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        series: what is observed.
        truth: modality -> ``(batch, time, feature)`` values without noise, which predictions are
            scored against beside the observed ones; None where they are not known.
        second: modality -> ``(batch, time, feature)`` of a second observation of the same series
            with noise of its own. The intervals of a task that hides nothing are scored on it; None
            where there is none.
    """

    series: Series
    truth: Mapping[str, np.ndarray] | None = None
    second: Mapping[str, np.ndarray] | None = None

    def check(self, modalities: tuple[Modality, ...]) -> None:
        """Checks the arrays against the modalities.

        Raises:
            InputError: naming the modality that disagrees.
        """
        check_series(modalities, self.series)
        for what, arrays in (("truth", self.truth), ("second observation", self.second)):
            if arrays is None:
                continue
            for name, values in self.series.values.items():
                shape = np.shape(arrays[name]) if name in arrays else None
                if shape != values.shape:
                    raise InputError(
                        f"expected the {what} of modality {name!r} of shape {values.shape}, got "
                        f"{shape}"
                    )


class Outcome(NamedTuple):
    """What a model made of one task on a split, as numpy arrays for figures.

    Attributes:
        shown: what the model was shown.
        mean: modality -> ``(batch, time, feature)`` predicted mean, or most probable class.
        sd: modality -> ``(batch, time, feature)`` predictive standard deviation.
        latent_mean: ``(batch, time, latent)`` posterior mean of the states.
        latent_sd: their posterior standard deviation.
        probabilities: modality -> ``(batch, time, feature, classes)`` of categories.
    """

    shown: Series
    mean: Mapping[str, Any]
    sd: Mapping[str, Any]
    latent_mean: np.ndarray
    latent_sd: np.ndarray
    probabilities: Mapping[str, Any] = {}


class Dataset(abc.ABC):
    """A data set: its series, their modalities, the tasks on them, and how they are drawn.

    A subclass is a frozen dataclass. Its fields are those of the section `data` of a configuration,
    and `jdmm.data.datasets` gives it a name. Series are arrays in memory; a source that streams
    them would be another way to fill `Split.series`.

    Attributes:
        locations: fields that say where data are kept. They may change between two runs of the
            same experiment.
    """

    locations: ClassVar[tuple[str, ...]] = ()

    @property
    @abc.abstractmethod
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities, with their likelihoods and, where not the default, their networks.

        They also decide the scores: squared error and intervals of numbers, accuracy of classes.
        """

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Name -> task. Add new ones at the end: random numbers follow a task's place."""
        return STANDARD_TASKS

    @abc.abstractmethod
    def load(self) -> dict[str, Split]:
        """The splits `SPLITS`, as numpy arrays.

        Raises:
            InputError: if the data cannot be read or made.
        """

    def draw(self, split: Split, outcomes: Mapping[str, Outcome]) -> dict[str, Figure]:
        """Figures of an evaluation by name.

        By default one per task, of the observed and the predicted values of the first series, and
        one of the latent states.

        Args:
            split: the split that was evaluated.
            outcomes: task -> outcome.
        """
        figures = {task: self._draw_task(split, outcome) for task, outcome in outcomes.items()}
        return {**figures, **draw_latents(split, outcomes)}

    def animate(self, split: Split, outcomes: Mapping[str, Outcome]) -> dict[str, np.ndarray]:
        """Animations of an evaluation by name, ``(time, height, width, 3)`` uint8.

        By default one per task, if a modality has images.

        Args:
            split: the split that was evaluated.
            outcomes: task -> outcome.
        """
        if not any(m.image for m in self.modalities):
            return {}
        return {
            f"{task}_video": storyboard.animation(self._strips(split, outcome))
            for task, outcome in outcomes.items()
        }

    def class_name(self, modality: str, number: int) -> str:
        """What a class is called in figures."""
        del modality
        return str(number)

    def draw_samples(self, samples: Mapping[str, np.ndarray], title: str) -> Figure:
        """A figure of series sampled from the prior: each feature over time, or storyboards.

        Args:
            samples: modality -> ``(series, time, feature)`` expected values.
            title: above the figure.
        """
        images = {m.name: m.image.shape for m in self.modalities if m.image is not None}
        if not images:
            return plots.curves({m.name: samples[m.name] for m in self.modalities}, title)
        each = {
            name: np.asarray(samples[name]).reshape(*samples[name].shape[:2], *shape)
            for name, shape in images.items()
        }
        count = min(DRAWN, len(next(iter(each.values()))))
        return storyboard.storyboard(
            [
                Strip(f"{title}, {row}", {name: frames[row] for name, frames in each.items()})
                for row in range(count)
            ]
        )

    def _draw_task(self, split: Split, outcome: Outcome) -> Figure:
        """The first series: storyboards of images, else curves with intervals of the numbers."""
        if any(m.image for m in self.modalities):
            return storyboard.storyboard(self._strips(split, outcome))
        valid = np.asarray(split.series.valid)[..., None]
        mean = {name: np.where(valid, values, np.nan) for name, values in outcome.mean.items()}
        sd = {
            m.name: np.full_like(mean[m.name], np.nan)
            if isinstance(m.likelihood, Categorical)
            else outcome.sd[m.name]
            for m in self.modalities
        }
        trees = (split.series.values, split.series.observed, outcome.shown.observed, mean, sd)
        return plots.imputations(
            *({m.name: np.asarray(tree[m.name])[:DRAWN] for m in self.modalities} for tree in trees)
        )

    def _strips(self, split: Split, outcome: Outcome) -> list[Strip]:
        """The first series with images: what is true, what was shown and what is predicted."""
        labels = [m.name for m in self.modalities if isinstance(m.likelihood, Categorical)]
        strips = []
        for row in range(min(DRAWN, split.series.batch)):
            steps = int(split.series.lengths[row])
            rows = {}
            for modality in self.modalities:
                if modality.image is not None:
                    rows |= self._rows(modality, split.series, outcome, row, steps)
            title, captions, correct = f"series {row}", [], []
            if labels:
                title = ", ".join(
                    f"{name} {self.class_name(name, int(split.series.values[name][row, 0, 0]))}"
                    for name in labels
                )
                name = labels[-1]
                found = np.asarray(outcome.mean[name])[row, :steps, 0].astype(int)
                chances = np.asarray(outcome.probabilities[name])[row, :steps, 0].max(-1)
                captions = [
                    f"{self.class_name(name, number)} {chance:.2f}"
                    for number, chance in zip(found, chances, strict=True)
                ]
                correct = (found == split.series.values[name][row, :steps, 0]).tolist()
            strips.append(Strip(title, rows, captions, correct))
        return strips

    @staticmethod
    def _rows(
        modality: Modality, series: Series, outcome: Outcome, row: int, steps: int
    ) -> dict[str, np.ndarray]:
        """What each row of a storyboard shows -> frames; nothing shown has no row of its own."""
        assert modality.image is not None
        name, shape = modality.name, (steps, *modality.image.shape)

        def frames(values: Any) -> np.ndarray:
            return np.asarray(values[name])[row, :steps].reshape(shape)

        truth = np.where(frames(series.observed), frames(series.values), np.nan)
        given = frames(outcome.shown.observed)
        shown = {f"{name} shown": np.where(given, truth, np.nan)} if given.any() else {}
        return {f"{name}": truth, **shown, f"{name} predicted": frames(outcome.mean)}


def draw_latents(
    split: Split,
    outcomes: Mapping[str, Outcome],
    labels: np.ndarray | None = None,
    label_names: Sequence[str] = (),
) -> dict[str, Figure]:
    """The figure "latents", of the states under the first task; none for a model without states.

    Args:
        split: the split that was evaluated.
        outcomes: task -> outcome.
        labels: ``(batch,)`` whole numbers that give the series their colours.
        label_names: what the labels stand for.
    """
    outcome = next(iter(outcomes.values()))
    if not outcome.latent_mean.shape[-1]:
        return {}
    valid = np.asarray(split.series.valid)[..., None]
    mean = np.where(valid, outcome.latent_mean, np.nan)
    return {"latents": plots.latent_trajectories(mean, outcome.latent_sd, labels, label_names)}
