"""Curves in a plane: two-dimensional series beside what a model made of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from jdmm.errors import InputError
from jdmm.plotting.style import (
    DOT,
    GREEN,
    GREY,
    HIDDEN_DOT,
    MEAN,
    PURPLE,
    VERMILLION,
    grid,
    legend,
    tidy,
)

REGION = math.sqrt(-2.0 * math.log(0.05))
"""Radius of the joint 95% region of two normal variables, in sd: chi2_2(0.95) = 5.991 = 2.448^2."""

MAX_SAMPLES = 36

_TRUTH: dict[str, Any] = {"color": "#606060", "linewidth": 0.8}
_ELLIPSE: dict[str, Any] = {"facecolor": to_rgba(VERMILLION, 0.1), "edgecolor": "#EAAE7F"}
_POINTS: dict[tuple[bool, bool], dict[str, Any]] = {  # by which of (x, y) are shown
    (True, True): {**DOT, "label": "x and y shown"},
    (True, False): {**DOT, "label": "x only", "color": GREEN, "marker": ">", "ms": 4.2},
    (False, True): {**DOT, "label": "y only", "color": PURPLE, "marker": "^", "ms": 4.2},
    (False, False): {**HIDDEN_DOT, "label": "hidden"},
}


class Panel(NamedTuple):
    """One curve, what the model was shown of it, and what the model predicted.

    Attributes:
        truth: ``(time, 2)`` the curve without noise.
        observed: ``(time, 2)`` its noisy observation.
        shown: ``(time, 2)`` mask of the coordinates that the model was shown.
        mean: ``(time, 2)`` predicted means.
        sd: ``(time, 2)`` predictive standard deviations.
        score: mean squared error.
    """

    truth: np.ndarray
    observed: np.ndarray
    shown: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    score: float


def task_grid(panels: Mapping[str, Sequence[Panel]], row_labels: Sequence[str]) -> Figure:
    """Tasks as columns, curves as rows; ellipses are joint 95% regions at every ~10th step.

    All panels share one scale, set by the true curves: a prediction that explodes leaves its panel.

    Args:
        panels: task -> one panel per row.
        row_labels: what the rows are, such as best, median and worst.

    Raises:
        InputError: if a task has another number of panels.
    """
    rows, columns = len(row_labels), len(panels)
    for task, column in panels.items():
        if len(column) != rows:
            raise InputError(f"expected {rows} panels (one per row) for {task}, got {len(column)}")
    limit = 1.08 * max(np.abs(p.truth).max() for column in panels.values() for p in column)
    figure, cells = grid(rows * columns, columns, (2.6, 2.75))
    tasks = list(panels.items())
    for i, axes in enumerate(cells):
        row, (task, column) = i // columns, tasks[i % columns]
        _draw_panel(axes, column[row], limit)
        tidy(axes, task if row == 0 else "")
        axes.tick_params(labelbottom=row == rows - 1, labelleft=i % columns == 0)
        axes.set_ylabel("" if i % columns else row_labels[row], fontsize=11, fontweight="bold")
    region = Line2D([], [], ls="none", marker="o", ms=11, label="joint 95% region")
    region.set(markerfacecolor=_ELLIPSE["facecolor"], markeredgecolor=_ELLIPSE["edgecolor"])
    points = [Line2D([], [], **style) for style in _POINTS.values()]
    truth = Line2D([], [], label="truth", **_TRUTH)
    mean = Line2D([], [], label="predicted mean", **MEAN)
    legend(figure, [truth, *points, mean, region], min(7, 2 * columns))
    return figure


def _draw_panel(axes: Axes, panel: Panel, limit: float) -> None:
    """One curve within +-limit."""
    num_steps = len(panel.truth)
    # the renderer overflows on numbers like 1e30
    mean = np.clip(panel.mean, -10 * limit, 10 * limit)
    sd = np.clip(panel.sd, 0, 10 * limit)
    for t in np.linspace(0, num_steps - 1, 1 + math.ceil((num_steps - 1) / 10)).astype(int):
        (x, y), (width, height) = mean[t], 2 * REGION * sd[t]
        axes.add_patch(Ellipse((x, y), width, height, zorder=1, **_ELLIPSE))
    axes.plot(*mean.T, zorder=2, **MEAN)
    axes.plot(*panel.truth.T, zorder=3, **_TRUTH)
    for kind, style in _POINTS.items():
        axes.plot(*panel.observed[(panel.shown == kind).all(axis=1)].T, zorder=4, **style)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    corner: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "bbox": box}
    axes.text(0.03, 0.975, f"MSE {panel.score:.3g}", fontsize=9, zorder=5, **corner)
    axes.set(xlim=(-limit, limit), ylim=(-limit, 1.15 * limit), aspect="equal")
    axes.locator_params(nbins=5, integer=True)


def samples_grid(samples: np.ndarray, title: str) -> Figure:
    """Curves on one scale, dark where they start and bright where they end.

    At most 36 are drawn. One that reaches beyond 1.5 times the median extent leaves its panel.

    Args:
        samples: ``(series, time, 2)``.
        title: above the grid.
    """
    samples = samples[:MAX_SAMPLES]
    extents = np.abs(samples).max(axis=(1, 2))
    limit = 1.08 * min(extents.max(), 1.5 * np.median(extents))
    figure, cells = grid(len(samples), math.ceil(math.sqrt(len(samples))), (1.6, 1.6))
    for axes, sample in zip(cells, np.clip(samples, -10 * limit, 10 * limit), strict=True):
        axes.plot(*sample.T, color=GREY, linewidth=0.7, zorder=1)
        axes.scatter(*sample.T, c=np.arange(len(sample)), cmap="viridis", s=5, zorder=2)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
        tidy(axes)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    return figure
