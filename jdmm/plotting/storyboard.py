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

GAP = 2
"""Pixels between two images."""


@dataclass(frozen=True)
class Strip:
    """One video.

    Attributes:
        title: of the video.
        rows: what each row shows -> frames ``(time, height, width, 1 or 3)`` from 0 to 1, NaN where
            nothing was shown.
        captions: one for each time step, below its frames; empty for none.
        correct: whether each caption is right.
    """

    title: str
    rows: Mapping[str, np.ndarray]
    captions: Sequence[str] = ()
    correct: Sequence[bool] = ()


def storyboard(strips: Sequence[Strip]) -> Figure:
    """The same steps of all rows of each video, below each other.

    Args:
        strips: the videos.
    """
    heights = [len(strip.rows) + 0.6 for strip in strips]
    figure = Figure(figsize=(1.1 * FRAMES + 1, 1.1 * sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(strips), 1, height_ratios=heights)
    for place, strip in zip([grid[i] for i in range(len(strips))], strips, strict=True):
        axes = figure.add_subplot(place)
        steps = _steps(strip)
        rows = [_row(frames[steps]) for frames in strip.rows.values()]
        height, width = strip.rows[next(iter(strip.rows))].shape[1:3]
        axes.imshow(np.concatenate(rows), interpolation="nearest")
        axes.set_title(strip.title, fontsize=10, fontweight="bold", loc="left")
        axes.set_yticks(
            [(height + GAP) * (i + 0.5) for i in range(len(rows))], list(strip.rows), fontsize=8
        )
        labels = [
            f"{step}" + (f"\n{strip.captions[step]}" if strip.captions else "") for step in steps
        ]
        axes.set_xticks([(width + GAP) * (i + 0.5) for i in range(len(steps))], labels, fontsize=7)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for label, step in zip(axes.get_xticklabels(), steps, strict=True):
            if len(strip.correct):
                label.set_color(GREEN if strip.correct[step] else VERMILLION)
    return figure


def animation(strips: Sequence[Strip], scale: int = 2) -> np.ndarray:
    """The rows of each video side by side and the videos below each other, ``(time, ...)`` uint8.

    Args:
        strips: the videos; one that ends early keeps its last frame.
        scale: screen pixels of a pixel.
    """
    length = max(len(next(iter(strip.rows.values()))) for strip in strips)
    columns = max(len(strip.rows) for strip in strips)

    def frame(step: int) -> np.ndarray:
        pictures = []
        for strip in strips:
            each = [frames[min(step, len(frames) - 1)] for frames in strip.rows.values()]
            each += [np.full_like(each[0], np.nan)] * (columns - len(each))
            pictures.append(_row(np.stack([_coloured(own) for own in each])))
        whole = (255 * np.concatenate(pictures)).round().astype(np.uint8)
        return whole.repeat(scale, 0).repeat(scale, 1)

    return np.stack([frame(step) for step in range(length)])


def save_animation(frames: np.ndarray, path: str | os.PathLike[str], per_second: int = 25) -> None:
    """Writes frames ``(time, height, width, 3)`` uint8 as a GIF, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(frame) for frame in frames]
    with replace_file(path) as part:
        images[0].save(
            part,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=1000 // per_second,
            loop=0,
        )


def _steps(strip: Strip) -> np.ndarray:
    """Evenly spaced time steps of a video."""
    last = len(next(iter(strip.rows.values()))) - 1
    return np.unique(np.linspace(0, last, FRAMES).round().astype(int))


def _coloured(frames: np.ndarray) -> np.ndarray:
    """Frames with three channels, grey where they are NaN."""
    frames = np.where(np.isfinite(frames), np.clip(frames, 0, 1), HIDDEN)
    return np.broadcast_to(frames, (*frames.shape[:-1], 3))


def _row(frames: np.ndarray) -> np.ndarray:
    """Frames beside each other, with white lines between and below."""
    padded = np.pad(_coloured(frames), ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=1.0)
    return np.concatenate(list(padded), 1)
