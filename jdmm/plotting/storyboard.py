"""Videos: storyboards of evenly spaced frames, and animations."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from jdmm.files import replace_file
from jdmm.plotting.style import GREEN, VERMILLION

FRAMES = 10
"""Frames of a storyboard."""

HIDDEN = 0.85
"""Grey of what was not shown."""

COLOURS = 128
"""Of an animation."""

GAP = 2
"""Pixels between two images."""


@dataclass(frozen=True)
class Strip:
    """One video.

    Attributes:
        title: of the video.
        rows: what each row shows -> frames ``(time, height, width, channel)`` from 0 to 1, NaN
            where nothing was shown. Sizes may differ; other than three channels are averaged.
        captions: one for each time step, below its frames; empty for none.
        correct: whether each caption is right, None where that is not known; empty for none.
    """

    title: str
    rows: Mapping[str, np.ndarray]
    captions: Sequence[str] = ()
    correct: Sequence[bool | None] = ()

    @property
    def num_steps(self) -> int:
        """Number of time steps."""
        return len(next(iter(self.rows.values())))


def storyboard(strips: Sequence[Strip]) -> Figure:
    """Evenly spaced frames of each video: time from left to right, what is shown as rows.

    Captions are green where they are right, red where they are wrong.

    Args:
        strips: the videos, one below the other.
    """
    heights = [len(strip.rows) + 0.6 for strip in strips]
    figure = Figure(figsize=(1.1 * FRAMES + 1, 1.1 * sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(strips), 1, height_ratios=heights)
    for i, strip in enumerate(strips):
        axes = figure.add_subplot(grid[i])
        steps = np.unique(np.linspace(0, strip.num_steps - 1, FRAMES).round().astype(int))
        rows = _equal_sizes([_coloured(frames[steps]) for frames in strip.rows.values()])
        height, width = (GAP + size for size in rows[0].shape[1:3])
        axes.imshow(np.concatenate([_side_by_side(row) for row in rows]), interpolation="nearest")
        axes.set_title(strip.title, fontsize=10, fontweight="bold", loc="left")
        axes.set_yticks([height * (j + 0.5) for j in range(len(rows))], list(strip.rows))
        axes.set_xticks([width * (j + 0.5) for j in range(len(steps))], _labels(strip, steps))
        axes.set_xlim(-0.5, FRAMES * width - 0.5)  # frames of short videos are no larger
        axes.tick_params(length=0, labelsize=8)
        axes.spines[:].set_visible(False)
        for label, step in zip(axes.get_xticklabels(), steps, strict=True):
            right = strip.correct[step] if strip.correct else None
            label.set_color({None: "black", True: GREEN, False: VERMILLION}[right])
    return figure


def animation(strips: Sequence[Strip], scale: int = 1) -> np.ndarray:
    """Frames ``(time, height, width, 3)`` uint8: the rows of each video side by side.

    Args:
        strips: the videos, one below the other; one that ends early keeps its last frame.
        scale: screen pixels of a pixel.
    """

    def frame(step: int) -> np.ndarray:
        pictures = []
        for strip in strips:
            last = min(step, strip.num_steps - 1)
            each = [_coloured(frames[last : last + 1]) for frames in strip.rows.values()]
            pictures.append(_side_by_side(np.concatenate(_equal_sizes(each))))
        width = max(picture.shape[1] for picture in pictures)
        padded = [
            np.pad(each, ((0, 0), (0, width - each.shape[1]), (0, 0)), constant_values=1.0)
            for each in pictures
        ]
        whole = (255 * np.concatenate(padded)).round().astype(np.uint8)
        return whole.repeat(scale, 0).repeat(scale, 1)

    return np.stack([frame(step) for step in range(max(strip.num_steps for strip in strips))])


def save_animation(frames: np.ndarray, path: str | os.PathLike[str], per_second: int = 25) -> None:
    """Writes frames ``(time, height, width, 3)`` uint8 as a GIF, whole or not at all.

    Equal frames that follow each other become one that is shown longer.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sample = frames[:: max(len(frames) // 5, 1)]
    palette = Image.fromarray(np.concatenate(list(sample))).quantize(COLOURS)
    # without dithering, whose noise takes most of the file
    images = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    with replace_file(path) as part:
        images[0].save(
            part,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=1000 // per_second,
            loop=0,
        )


def _labels(strip: Strip, steps: np.ndarray) -> list[str]:
    """Number and caption of each time step."""
    numbers = ["step 0", *(str(step) for step in steps[1:])]
    if not strip.captions:
        return numbers
    return [f"{n}\n{strip.captions[step]}" for n, step in zip(numbers, steps, strict=True)]


def _coloured(frames: np.ndarray) -> np.ndarray:
    """Frames with three channels, grey where they are NaN."""
    frames = np.where(np.isfinite(frames), np.clip(frames, 0, 1), HIDDEN)
    if frames.shape[-1] != 3:
        frames = frames.mean(-1, keepdims=True)
    return np.broadcast_to(frames, (*frames.shape[:-1], 3))


def _equal_sizes(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Frames in the size of the largest, by repeating pixels."""
    height, width = (max(row.shape[axis] for row in rows) for axis in (1, 2))
    places = [
        [
            np.arange(full) * size // full
            for full, size in zip((height, width), row.shape[1:3], strict=True)
        ]
        for row in rows
    ]
    return [row[:, down][:, :, across] for row, (down, across) in zip(rows, places, strict=True)]


def _side_by_side(frames: np.ndarray) -> np.ndarray:
    """Frames beside each other, with white lines between and below."""
    padded = np.pad(frames, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=1.0)
    return np.concatenate(list(padded), 1)
