"""What all figures share: colours, axes, legends, and how they are written."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jdmm.files import replace_file

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours by Okabe and Ito, which can be told apart with any colour vision."""

BLUE, VERMILLION, GREEN, PURPLE = PALETTE[:4]
GREY = "#808080"

MEAN: dict[str, Any] = {"color": VERMILLION, "linewidth": 2.0, "solid_capstyle": "round"}
DOT: dict[str, Any] = {"ls": "none", "marker": "o", "ms": 3.2, "mew": 0.6, "color": BLUE}
HIDDEN_DOT: dict[str, Any] = {**DOT, "color": GREY, "fillstyle": "none", "alpha": 0.6}

INTERVAL = 1.96
"""Half width of a normal variable's central 95% interval, in standard deviations."""


def grid(count: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes of `size` inches, row by row, and room for a legend."""
    columns = max(1, min(columns, count))
    rows = max(1, math.ceil(count / columns))
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.7), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, 1 + i) for i in range(count)]


def legend(figure: Figure, handles: Sequence[Artist], columns: int = 6) -> None:
    """One legend below all axes."""
    place = "outside lower center"
    figure.legend(handles=handles, loc=place, ncols=columns, frameon=False, fontsize=10)


def interval(axes: Axes, mean: np.ndarray, sd: np.ndarray, color: str, alpha: float) -> None:
    """The central 95% interval around the means ``(time,)`` of normal variables."""
    steps, low, high = np.arange(len(mean)), mean - INTERVAL * sd, mean + INTERVAL * sd
    axes.fill_between(steps, low, high, color=color, alpha=alpha, lw=0, label="95% interval")


def tidy(axes: Axes, title: str = "", xlabel: str = "") -> None:
    """Sets title and label of the horizontal axis, a light frame and small tick labels."""
    axes.set_title(title.replace("_", " "), fontsize=11, fontweight="bold")
    axes.set_xlabel(xlabel, fontsize=9)
    axes.spines[:].set(color="#C8C8C8", linewidth=0.8)
    axes.tick_params(which="both", labelsize=8, color="#C8C8C8", labelcolor="#404040")


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as a PNG, whole or not at all; makes the folder if needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as part:
        figure.savefig(part, format="png", dpi=110, bbox_inches="tight")
