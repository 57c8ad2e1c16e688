"""What the program knows of a data set."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jdmm.data.modality import Modality, check_series, images_of
from jdmm.data.scaling import Standardise
from jdmm.data.streaming import SeriesSource
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
        series: what is observed, in memory.
        truth: modality -> ``(batch, time, feature)`` values without noise, which predictions are
            scored against beside the observed ones; None where they are not known.
        second: modality -> ``(batch, time, feature)`` of a second observation of the same series
            with noise of its own. The intervals of a task that hides nothing are scored on it; None
            where there is none.
        source: the training series, where memory does not hold them; `series` are then a part of
            them. None if `series` are all.
    """

    series: Series
    truth: Mapping[str, np.ndarray] | None = None
    second: Mapping[str, np.ndarray] | None = None
    source: SeriesSource | None = None

    @property
    def training(self) -> Series | SeriesSource:
        """What models are trained on."""
        return self.series if self.source is None else self.source

    def check(self, modalities: tuple[Modality, ...], inputs: int = 0) -> None:
        """Checks the arrays against the modalities and the number of inputs.

        Raises:
            InputError: naming the modality that disagrees, or for another number of inputs.
        """
        check_series(modalities, self.series, inputs)
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
    and `jdmm.data.datasets` gives it a name. Series are arrays in memory, but training series may
    be read when they are needed (`Split.source`); with `TrainSettings.streamed` the devices hold
    one batch at a time.

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
    def inputs(self) -> int:
        """Number of inputs (`Series.inputs`), which drive the dynamics and are not modelled."""
        return 0

    def example_inputs(self, num_steps: int) -> np.ndarray | None:
        """Inputs ``(num_steps, input)`` under which samples from a model are drawn.

        Raises:
            InputError: for more steps than inputs are known at, or a data set that has inputs and
                does not override this method.
        """
        del num_steps
        if self.inputs:
            raise InputError(
                f"expected {type(self).__name__} to override example_inputs, since it has inputs, "
                "got the default"
            )
        return None

    @property
    def scaling(self) -> Standardise | None:
        """How its series were scaled, which `infer` and `sample` undo; None if they were not."""
        return None

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Name -> task. Add new ones at the end: random numbers follow a task's place."""
        return STANDARD_TASKS

    def in_workdir(self, workdir: Path) -> "Dataset":
        """The data set with what an earlier run kept of it in a work directory.

        Raises:
            InputError: if this cannot be read, or is of other data.
        """
        del workdir
        return self

    def keep(self, workdir: Path) -> None:
        """Writes into a work directory what models of the data need in use, if anything."""
        del workdir

    def describe(self) -> list[str]:
        """Lines for a user who trains a model, such as what was read; none by default."""
        return []

    @abc.abstractmethod
    def load(self) -> dict[str, Split]:
        """The splits `SPLITS`, as numpy arrays.

        Raises:
            InputError: if the data cannot be read or made.
        """

    def draw(self, split: Split, outcomes: Mapping[str, Outcome]) -> dict[str, Figure]:
        """Figures of an evaluation by name.

        By default one per task and one of the latent states. That of a task has the observed and
        the predicted values of the first series as curves. If there are images, it is their
        storyboard, and a figure "<task>_curves" has the other numeric modalities.

        Args:
            split: the split that was evaluated.
            outcomes: task -> outcome.
        """
        images = images_of(self.modalities)
        curves = [
            m
            for m in self.modalities
            if not images or (m not in images and not isinstance(m.likelihood, Categorical))
        ]
        figures = {}
        for task, outcome in outcomes.items():
            if images:
                figures[task] = storyboard.storyboard(self._strips(split, outcome))
            if curves:
                name = f"{task}_curves" if images else task
                figures[name] = _draw_curves(curves, split, outcome)
        return {**figures, **draw_latents(split, outcomes)}

    def animate(self, split: Split, outcomes: Mapping[str, Outcome]) -> dict[str, np.ndarray]:
        """Animations of an evaluation by name, ``(time, height, width, 3)`` uint8.

        By default one per task, if a modality has images.

        Args:
            split: the split that was evaluated.
            outcomes: task -> outcome.
        """
        if not images_of(self.modalities):
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
        images = images_of(self.modalities)
        if not images:
            return plots.curves({m.name: samples[m.name] for m in self.modalities}, title)
        count = min(DRAWN, len(samples[images[0].name]))
        return storyboard.storyboard(
            [
                Strip(f"{title}, {row}", {m.name: _frames(m, samples[m.name][row]) for m in images})
                for row in range(count)
            ]
        )

    def _strips(self, split: Split, outcome: Outcome) -> list[Strip]:
        """The first series with images: what is true, what was shown and what is predicted."""
        images = images_of(self.modalities)
        classes = [m.name for m in self.modalities if isinstance(m.likelihood, Categorical)]
        strips = []
        for row in range(min(DRAWN, split.series.batch)):
            rows: dict[str, np.ndarray] = {}
            for modality in images:
                rows |= _image_rows(modality, split.series, outcome, row)
            labels = [self._first_class(name, split.series, row) for name in classes]
            title = ", ".join(label for label in labels if label) or f"series {row}"
            captions = self._captions(classes[-1], split.series, outcome, row) if classes else []
            strips.append(
                Strip(title, rows, [text for text, _ in captions], [right for _, right in captions])
            )
        return strips

    def _first_class(self, name: str, series: Series, row: int) -> str:
        """The first observed class of a series, after the name of its modality; "" for none."""
        observed = np.asarray(series.observed[name])[row, :, 0]
        if not observed.any():
            return ""
        return (
            f"{name} {self.class_name(name, int(series.values[name][row, observed.argmax(), 0]))}"
        )

    def _captions(
        self, name: str, series: Series, outcome: Outcome, row: int
    ) -> list[tuple[str, bool | None]]:
        """The predicted class of each step with its probability, and whether it is right."""
        trees = (outcome.mean, outcome.probabilities, series.values, series.observed)
        steps = int(series.lengths[row])
        return [
            (
                f"{self.class_name(name, int(predicted))} {probabilities.max():.2f}",
                bool(predicted == actual) if observed else None,
            )
            for predicted, probabilities, actual, observed in zip(
                *(np.asarray(tree[name])[row, :steps, 0] for tree in trees), strict=True
            )
        ]


def _frames(modality: Modality, values: Any) -> np.ndarray:
    """Images ``(time, height, width, channel)`` from their pixels ``(time, feature)``."""
    assert modality.image is not None
    return np.asarray(values).reshape(-1, *modality.image.shape)


def _image_rows(
    modality: Modality, series: Series, outcome: Outcome, row: int
) -> dict[str, np.ndarray]:
    """Rows of a storyboard -> frames; if the task shows no such image, without what was shown."""
    name, own = modality.name, np.s_[row, : int(series.lengths[row])]
    shown = np.asarray(outcome.shown.observed[name])
    observed, given, values, mean = (
        _frames(modality, tree[own])
        for tree in (series.observed[name], shown, series.values[name], outcome.mean[name])
    )
    truth = np.where(observed, values, np.nan)
    second = {f"{name} shown": np.where(given, truth, np.nan)} if shown.any() else {}
    return {name: truth, **second, f"{name} predicted": mean}


def _draw_curves(modalities: Sequence[Modality], split: Split, outcome: Outcome) -> Figure:
    """The first series, with intervals of the numeric modalities."""
    valid = np.asarray(split.series.valid)[..., None]
    mean = {m.name: np.where(valid, outcome.mean[m.name], np.nan) for m in modalities}
    sd = {
        m.name: np.full_like(mean[m.name], np.nan)
        if isinstance(m.likelihood, Categorical)
        else outcome.sd[m.name]
        for m in modalities
    }
    trees = (split.series.values, split.series.observed, outcome.shown.observed, mean, sd)
    return plots.imputations(
        *({m.name: np.asarray(tree[m.name])[:DRAWN] for m in modalities} for tree in trees)
    )


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
