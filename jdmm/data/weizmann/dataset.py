"""The Weizmann human actions: videos, silhouettes, and who does what (Tan et al. 2020)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np

from jdmm.data import tasks
from jdmm.data.base import Dataset, Split
from jdmm.data.modality import Modality
from jdmm.data.tasks import Keep, Task
from jdmm.data.weizmann.clips import ACTIONS, PERSONS, SIZE, Clip, read_clips
from jdmm.errors import InputError
from jdmm.likelihoods import Bernoulli, Categorical, Normal
from jdmm.networks import Image
from jdmm.networks.backgrounds import NONE
from jdmm.networks.images import BATCH
from jdmm.series import Series

VIDEO, SILHOUETTE, PERSON, ACTION = "video", "silhouette", "person", "action"
NAMES = (VIDEO, SILHOUETTE, PERSON, ACTION)

LIKELIHOODS = {"bernoulli": Bernoulli(), "normal": Normal()}

CLASSES = 10
"""Of both labels, as published, although there are nine persons."""


@dataclass(frozen=True)
class Weizmann(Dataset):
    """Videos of nine persons, one of whom is held out for the test and one for validation.

    The others' videos are cut into segments for training. Validation and test have whole videos.
    All tasks show the video alone, or the silhouettes where there is no video.

    Attributes:
        path: a folder with the original archives, their `classification_masks.mat`, or an `.npz`
            file of clips; see `jdmm.data.weizmann.clips`.
        include: the modalities, among "video", "silhouette", "person" and "action".
        test_person: whose videos are the test split.
        validation_person: whose videos are the validation split.
        segment: time steps of a training series.
        stride: steps from one segment to the next.
        copies: of each segment. All but the first are moved by up to `shift` pixels in each
            direction, and half of them mirrored, the same ones every time.
        shift: pixels by which copies are moved at most.
        likelihood: of the pixels of the video, "bernoulli" or "normal".
        channels: of the convolutions.
        normalisation: of the convolutions, "batch" or "group".
        background: of the modality that the tasks show, "", "mean" or "recalled"; see
            `Image.background`.
        aligned: whether the silhouettes of the `.mat` file are those with the person in the middle.

    Raises:
        InputError: for an impossible value.
    """

    path: str = ""
    include: tuple[str, ...] = NAMES
    test_person: str = "shahar"
    validation_person: str = "moshe"
    segment: int = 25
    stride: int = 25
    copies: int = 1
    shift: int = 6
    likelihood: str = "bernoulli"
    channels: tuple[int, ...] = Image.channels
    normalisation: str = BATCH
    background: str = NONE
    aligned: bool = False
    locations: ClassVar[tuple[str, ...]] = ("path",)

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("include", "channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in self.include:
            if name not in NAMES or self.include.count(name) > 1:
                raise InputError(
                    f"expected data.include of different names among {', '.join(NAMES)}, got "
                    f"{name!r}"
                )
        if not {VIDEO, SILHOUETTE} & set(self.include):
            raise InputError("expected 'video' or 'silhouette' in data.include, got neither")
        for name in ("test_person", "validation_person"):
            if getattr(self, name) not in PERSONS:
                raise InputError(
                    f"expected data.{name} among {', '.join(PERSONS)}, got {getattr(self, name)!r}"
                )
        if self.test_person == self.validation_person:
            raise InputError(f"expected two persons to hold out, got {self.test_person!r} twice")
        for name in ("segment", "stride", "copies"):
            if getattr(self, name) < 1:
                raise InputError(f"expected data.{name} of at least 1, got {getattr(self, name)}")
        if not 0 <= self.shift < SIZE:
            raise InputError(f"expected data.shift within 0..{SIZE - 1}, got {self.shift}")
        if self.likelihood not in LIKELIHOODS:
            raise InputError(
                f"expected data.likelihood among {', '.join(LIKELIHOODS)}, got {self.likelihood!r}"
            )
        _ = self.modalities  # checks the images

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Images of 64x64 pixels, and labels that are the same at all steps of a video."""

        def image(name: str, channels: int, likelihood: Bernoulli | Normal) -> Modality:
            background = self.background if name == self.shown else NONE
            form = Image((SIZE, SIZE, channels), self.channels, self.normalisation, background)
            return Modality(name, likelihood=likelihood, image=form)

        every = {
            VIDEO: image(VIDEO, 3, LIKELIHOODS[self.likelihood]),
            SILHOUETTE: image(SILHOUETTE, 1, Bernoulli()),
            PERSON: Modality(PERSON, likelihood=Categorical(CLASSES)),
            ACTION: Modality(ACTION, likelihood=Categorical(CLASSES)),
        }
        return tuple(every[name] for name in self.include)

    @property
    def shown(self) -> str:
        """The modality that the tasks show."""
        return VIDEO if VIDEO in self.include else SILHOUETTE

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks of the paper.

        Reconstruction also generates the silhouettes and predicts the labels, which no task shows.
        """
        return {
            "reconstruction": self._alone(tasks.reconstruction),
            "drop_half": self._alone(tasks.drop_half),
            "forward_extrapolation": self._alone(tasks.forward_extrapolation),
            "backward_extrapolation": self._alone(tasks.backward_extrapolation),
        }

    def _alone(self, task: Task) -> Task:
        """The task on one modality, the others hidden."""

        def alone(key: jax.Array, series: Series) -> Keep:
            keep = task(key, series)
            return {name: mask & (name == self.shown) for name, mask in keep.items()}

        return alone

    def class_name(self, modality: str, number: int) -> str:
        """The name of the person or the action."""
        names = PERSONS if modality == PERSON else ACTIONS
        return names[number] if number < len(names) else str(number)

    def load(self) -> dict[str, Split]:
        """Segments of the videos of seven persons; whole videos of one person each.

        Raises:
            InputError: if the data cannot be read, or lack a modality or a person.
        """
        if not self.path:
            raise InputError(
                "expected data.path, got none: set --config.data.path to the folder of the "
                "archives, to classification_masks.mat or to an .npz file of clips"
            )
        clips = read_clips(Path(self.path).expanduser(), self.aligned)
        for name in (VIDEO, SILHOUETTE):
            lacking = [clip.name for clip in clips if getattr(clip, name) is None]
            if name in self.include and lacking:
                raise InputError(
                    f"{self.path}: expected a {name} of every clip, got none of {lacking[0]}: "
                    "leave it out of data.include"
                )
        held_out = {"test": self.test_person, "validation": self.validation_person}
        parts = {
            split: [clip for clip in clips if clip.person == person]
            for split, person in held_out.items()
        }
        segments = [
            part
            for clip in clips
            if clip.person not in held_out.values()
            for part in self._segments(clip)
        ]
        random = np.random.default_rng(0)
        parts["train"] = [
            part if copy == 0 else _moved(part, random, self.shift)
            for copy in range(self.copies)
            for part in segments
        ]
        for split, own in parts.items():
            if not own:
                whose = f"of {held_out[split]}" if split in held_out else "of other persons"
                persons = ", ".join(sorted({clip.person for clip in clips}))
                raise InputError(
                    f"{self.path}: expected clips {whose} for the {split} split, got those of "
                    f"{persons}: choose others as data.test_person and data.validation_person"
                )
        floats = {
            split: jax.device_get(self._series(own).as_float())
            for split, own in parts.items()
            if split != "train"
        }
        return {
            "train": Split(self._series(parts["train"])),
            "validation": Split(floats["validation"]),
            "test": Split(floats["test"]),
        }

    def _segments(self, clip: Clip) -> Iterator[Clip]:
        """The clip in pieces of `segment` steps; the last one ends where the clip ends."""
        frames = _frames(clip)
        last = max(frames - self.segment, 0)
        for start in [*range(0, last, self.stride), last]:
            own = slice(start, start + self.segment)
            yield clip._replace(
                video=None if clip.video is None else clip.video[own],
                silhouette=None if clip.silhouette is None else clip.silhouette[own],
            )

    def _series(self, clips: Sequence[Clip]) -> Series:
        """Padded series; images as bytes."""
        lengths = np.array([_frames(clip) for clip in clips], np.int32)
        inside = (np.arange(lengths.max()) < lengths[:, None])[..., None]
        values, observed = {}, {}
        for modality in self.modalities:
            name = modality.name
            kind = np.float32 if modality.image is None else np.uint8
            values[name] = np.zeros((*inside.shape[:2], modality.features), kind)
            for row, clip in enumerate(clips):
                values[name][row, : lengths[row]] = _values(clip, name)
            observed[name] = np.broadcast_to(inside, values[name].shape)
        return Series(values, observed, lengths, np.arange(len(clips), dtype=np.int32))


def _moved(clip: Clip, random: np.random.Generator, shift: int) -> Clip:
    """The clip, moved and perhaps mirrored; the border repeats its last pixels."""
    down, right = random.integers(-shift, shift + 1, 2)
    mirrored = random.random() < 0.5
    rows, columns = (np.clip(np.arange(SIZE) - by, 0, SIZE - 1) for by in (down, right))
    columns = columns[::-1] if mirrored else columns

    def moved(pixels: np.ndarray | None) -> np.ndarray | None:
        return None if pixels is None else pixels[:, rows][:, :, columns]

    return clip._replace(video=moved(clip.video), silhouette=moved(clip.silhouette))


def _frames(clip: Clip) -> int:
    pixels = clip.video if clip.video is not None else clip.silhouette
    assert pixels is not None
    return len(pixels)


def _values(clip: Clip, name: str) -> np.ndarray | int:
    """Pixels ``(time, pixel)``, or the number of a class."""
    if name == PERSON:
        return PERSONS.index(clip.person)
    if name == ACTION:
        return ACTIONS.index(clip.action)
    pixels = clip.video if name == VIDEO else clip.silhouette
    assert pixels is not None
    return pixels.reshape(len(pixels), -1)
