"""Arrays -> matplotlib figures: never touches a model, and leaves matplotlib's global state alone.

Every function takes numpy arrays and returns a `Figure` of its own, which `save` writes as a PNG.
Colours are Okabe & Ito's, told apart with any colour vision.
"""

import math
import os
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from jdmm.errors import InputError

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, VERMILLION, GREEN, PURPLE = PALETTE[:4]
GREY = "#808080"

INTERVAL = 1.96
"""Half width of a normal variable's central 95% interval, in standard deviations."""

REGION = math.sqrt(-2.0 * math.log(0.05))
"""Radius of the joint 95% region of two normal variables, in sd: chi2_2(0.95) = 5.991 = 2.448^2."""

MAX_SERIES, MAX_LATENT, MAX_FEATURES, MAX_SAMPLES = 12, 15, 8, 36

_TRUTH: dict[str, Any] = {"color": "#606060", "linewidth": 0.8}
_MEAN: dict[str, Any] = {"color": VERMILLION, "linewidth": 2.0, "solid_capstyle": "round"}
_ELLIPSE: dict[str, Any] = {"facecolor": to_rgba(VERMILLION, 0.1), "edgecolor": "#EAAE7F"}
_DOT: dict[str, Any] = {"ls": "none", "marker": "o", "ms": 3.2, "mew": 0.6, "color": BLUE}
_POINTS: dict[tuple[bool, bool], dict[str, Any]] = {  # by what is seen of (x, y)
    (True, True): {**_DOT, "label": "x and y seen"},
    (True, False): {**_DOT, "label": "x only", "color": GREEN, "marker": ">", "ms": 4.2},
    (False, True): {**_DOT, "label": "y only", "color": PURPLE, "marker": "^", "ms": 4.2},
    (False, False): {**_DOT, "label": "hidden", "color": GREY, "fillstyle": "none", "alpha": 0.6},
}
_SCHEDULES = "schedules"
_KINDS = {  # the axis of a learning curve -> words that give its series away
    "loss": {"loss"},
    "negative log-likelihood": {"nll"},
    "KL divergence": {"kl", "match"},
    "score": {"score"},
    _SCHEDULES: {"beta", "learning"},
}


class Panel(NamedTuple):
    """One spiral, what the model was shown of it, and what the model made of it.

    clean: ``(time, 2)`` the true spiral.
    noisy: ``(time, 2)`` its noisy observation.
    seen: ``(time, 2)`` bool, the coordinates that the model was shown.
    mean: ``(time, 2)`` predicted mean.
    sd: ``(time, 2)`` predictive standard deviation, latent and emission together.
    score: mean squared error.
    """

    clean: np.ndarray
    noisy: np.ndarray
    seen: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    score: float


def task_grid(panels: Mapping[str, Sequence[Panel]], row_labels: Sequence[str]) -> Figure:
    """Tasks as columns, spirals as rows; ellipses are joint 95% regions at every ~10th step.

    All panels share one scale, set by the true spirals: a prediction that explodes leaves its
    panel rather than squash it.

    Args:
        panels: task -> one panel per row.
        row_labels: ``(rows,)`` what the rows are, e.g. best, median, worst.
    """
    rows, columns = len(row_labels), len(panels)
    for task, column in panels.items():
        if len(column) != rows:
            raise InputError(f"expected {rows} panels (one per row) for {task}, got {len(column)}")
    limit = 1.08 * max(np.abs(p.clean).max() for column in panels.values() for p in column)
    figure, cells = _cells(rows * columns, columns, (2.6, 2.75))
    tasks = list(panels.items())
    for i, axes in enumerate(cells):
        row, (task, column) = i // columns, tasks[i % columns]
        _draw_panel(axes, column[row], limit)
        _tidy(axes, task if row == 0 else "")
        axes.tick_params(labelbottom=row == rows - 1, labelleft=i % columns == 0)
        axes.set_ylabel("" if i % columns else row_labels[row], fontsize=11, fontweight="bold")
    region = Line2D([], [], ls="none", marker="o", ms=11, label="joint 95% region")
    region.set(markerfacecolor=_ELLIPSE["facecolor"], markeredgecolor=_ELLIPSE["edgecolor"])
    points = [Line2D([], [], **style) for style in _POINTS.values()]
    truth = Line2D([], [], label="truth", **_TRUTH)
    mean = Line2D([], [], label="predicted mean", **_MEAN)
    _legend(figure, [truth, *points, mean, region], min(7, 2 * columns))
    return figure


def _draw_panel(axes: Axes, panel: Panel, limit: float) -> None:
    """One spiral within +-limit."""
    time = len(panel.clean)
    # Out of sight is far enough: the renderer overflows on numbers like 1e30.
    mean = np.clip(panel.mean, -10 * limit, 10 * limit)
    sd = np.clip(panel.sd, 0, 10 * limit)
    for t in np.linspace(0, time - 1, 1 + math.ceil((time - 1) / 10)).astype(int):
        (x, y), (width, height) = mean[t], 2 * REGION * sd[t]
        axes.add_patch(Ellipse((x, y), width, height, zorder=1, **_ELLIPSE))
    axes.plot(*mean.T, zorder=2, **_MEAN)
    axes.plot(*panel.clean.T, zorder=3, **_TRUTH)
    for kind, style in _POINTS.items():
        axes.plot(*panel.noisy[(panel.seen == kind).all(axis=1)].T, zorder=4, **style)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    corner: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "bbox": box}
    axes.text(0.03, 0.975, f"MSE {panel.score:.3g}", fontsize=9, zorder=5, **corner)
    axes.set(xlim=(-limit, limit), ylim=(-limit, 1.15 * limit), aspect="equal")
    axes.locator_params(nbins=5, integer=True)


def learning_curves(
    history: Mapping[str, tuple[np.ndarray, np.ndarray]], best_epoch: int | None
) -> Figure:
    """One axis per kind of quantity, which is read off the words of a series' name.

    Schedules are drawn relative to their maximum; the other axes are logarithmic where all values
    are positive and span more than a decade.

    Args:
        history: name such as "train/filter_nll" -> epochs ``(n,)`` and values ``(n,)``.
        best_epoch: marked by a vertical line.
    """
    groups: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {title: {} for title in _KINDS}
    for name, (epochs, values) in history.items():
        if len(values):
            groups.setdefault(_kind(name), {})[name] = (epochs, np.asarray(values))
    groups = {title: group for title, group in groups.items() if group}
    figure, cells = _cells(len(groups), 3, (3.9, 2.9))
    for axes, (title, group) in zip(cells, groups.items(), strict=True):
        for color, (name, (epochs, values)) in zip(cycle(PALETTE), group.items(), strict=False):
            label = name.removeprefix(f"validation/{title}/").replace("/", " ").replace("_", " ")
            if title == _SCHEDULES:
                label, values = f"{label} (max {values.max():.3g})", values / (values.max() or 1.0)
            marker = "o" if len(values) == 1 else None
            axes.plot(epochs, values, color=color, label=label, marker=marker, linewidth=1.4)
        everything = np.concatenate([values for _, values in group.values()])
        if title != _SCHEDULES and 0 < 10 * everything.min() < everything.max():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
        elif title != _SCHEDULES:
            settled = np.concatenate([v[e > 0.1 * e.max()] for e, v in group.values()])
            # the first epochs can be so wild that nothing is to be seen of the others
            if settled.size and np.ptp(everything) > 3 * np.ptp(settled) > 0:
                margin = 0.1 * np.ptp(settled)
                axes.set_ylim(settled.min() - margin, settled.max() + margin)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=GREY, linestyle="--", linewidth=1, zorder=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        axes.legend(fontsize=8, frameon=False)
        _tidy(axes, title, "epoch")
    if best_epoch is not None:
        _legend(figure, [Line2D([], [], color=GREY, ls="--", label=f"best epoch: {best_epoch}")])
    return figure


def _kind(name: str) -> str:
    """Title of the axis for a series: "kind" of "part/kind/name", a known kind, or a first word."""
    parts = name.split("/")
    if len(parts) > 2:
        return parts[-2]
    words = parts[-1].split("_")
    return next((title for title, known in _KINDS.items() if known & set(words)), words[0])


def latent_trajectories(
    mean: np.ndarray,
    sd: np.ndarray,
    labels: np.ndarray | None = None,
    label_names: Sequence[str] = (),
) -> Figure:
    """Each latent dimension against time with its 95% interval, and two principal components.

    At most 12 series are drawn, evenly spread over those given, and the 15 dimensions that vary
    most. The principal components are those of the means of all the series.

    Args:
        mean: ``(series, time, latent)`` posterior means; NaN in the padding.
        sd: ``(series, time, latent)`` posterior standard deviations.
        labels: ``(series,)`` int, gives the colour; None colours each series differently.
        label_names: ``(labels,)`` names for the legend.
    """
    series, _, latent = mean.shape
    chosen = np.linspace(0, series - 1, min(series, MAX_SERIES)).astype(int)
    keys = chosen if labels is None else np.asarray(labels)[chosen]
    colors = {i: PALETTE[key % len(PALETTE)] for i, key in zip(chosen, keys, strict=True)}
    states = mean[np.isfinite(mean).all(axis=-1)]
    dimensions = np.sort(np.argsort(-states.var(axis=0), kind="stable")[:MAX_LATENT])
    figure, cells = _cells(len(dimensions) + (latent > 1), 3, (3.5, 2.5))
    for axes, d in zip(cells, dimensions, strict=False):
        for i, color in colors.items():
            axes.plot(mean[i, :, d], color=color, linewidth=1.1)
            _band(axes, mean[i, :, d], sd[i, :, d], color, alpha=0.08)
        _tidy(axes, f"latent {d}", "time step")
    if latent > 1:
        center = states.mean(axis=0)
        scatter, directions = np.linalg.eigh((states - center).T @ (states - center))
        share = scatter[::-1] / max(scatter.sum(), np.finfo(scatter.dtype).tiny)
        for i, color in colors.items():
            path = (mean[i] - center) @ directions[:, :-3:-1]
            cells[-1].plot(*path.T, color=color, linewidth=1.1)
            cells[-1].plot(*path[0], color=color, marker="o", markersize=4)
        cells[-1].set_ylabel(f"second, {share[1]:.0%}", fontsize=9)
        first = f"first, {share[0]:.0%} of the variance"
        _tidy(cells[-1], "principal components (dot: start)", first)
    pairs = zip(cycle(PALETTE), label_names, strict=False)
    lines = [Line2D([], [], color=color, label=name) for color, name in pairs]
    _legend(figure, [*lines, Patch(color=GREY, alpha=0.25, linewidth=0, label="95% interval")])
    return figure


def samples_grid(samples: np.ndarray, title: str) -> Figure:
    """Drawn spirals on one scale, dark where they start and bright where they end.

    At most 36 are drawn. One that reaches beyond 1.5 times the median extent leaves its panel.

    Args:
        samples: ``(series, time, 2)``.
        title: above the grid.
    """
    samples = samples[:MAX_SAMPLES]
    extents = np.abs(samples).max(axis=(1, 2))
    limit = 1.08 * min(extents.max(), 1.5 * np.median(extents))
    figure, cells = _cells(len(samples), math.ceil(math.sqrt(len(samples))), (1.6, 1.6))
    for axes, sample in zip(cells, np.clip(samples, -10 * limit, 10 * limit), strict=True):
        axes.plot(*sample.T, color=GREY, linewidth=0.7, zorder=1)
        axes.scatter(*sample.T, c=np.arange(len(sample)), cmap="viridis", s=5, zorder=2)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
        _tidy(axes)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    return figure


def imputations(
    values: np.ndarray,
    observed: np.ndarray,
    mean: np.ndarray,
    sd: np.ndarray,
    names: Sequence[str],
    index: int,
) -> Figure:
    """One series: what was observed, and the prediction with its 95% interval, by feature.

    Args:
        values: ``(series, time, feature)``, read only where observed.
        observed: ``(series, time, feature)`` bool.
        mean: ``(series, time, feature)`` predicted means; NaN in the padding.
        sd: ``(series, time, feature)`` predictive standard deviations.
        names: ``(feature,)``; the first 8 features are drawn.
        index: the series to draw.
    """
    count = min(len(names), MAX_FEATURES)
    time = values.shape[1]
    figure, cells = _cells(count, 1, (9.0, 1.5))
    for d, axes in enumerate(cells):
        shown = np.flatnonzero(observed[index, :, d])
        _band(axes, mean[index, :, d], sd[index, :, d], VERMILLION, alpha=0.2)
        axes.plot(mean[index, :, d], label="predicted mean", **_MEAN)
        axes.plot(shown, values[index, shown, d], label="observed", **_DOT)
        axes.set_xlim(-0.01 * time, 1.01 * time)
        axes.set_ylabel(names[d], fontsize=10, parse_math=False)
        axes.tick_params(labelbottom=d == count - 1)
        _tidy(axes, "", "time step" if d == count - 1 else "")
    rest = f", first {count} of {len(names)} features" if count < len(names) else ""
    figure.suptitle(f"series {index}{rest}", fontsize=12, fontweight="bold")
    _legend(figure, cells[0].get_legend_handles_labels()[0])
    return figure


def reliability(pits: Mapping[str, np.ndarray]) -> Figure:
    """Coverage of central intervals against their level, one curve per name, from 0 to 1.

    Args:
        pits: name -> ``(value,)`` probability integral transforms of what was predicted.
    """
    figure, (axes,) = _cells(1, 1, (4.4, 4.0))
    levels = np.linspace(0.0, 1.0, 41)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as it should be")
    for color, (name, pit) in zip(cycle(PALETTE), pits.items(), strict=False):
        covered = (np.abs(pit[:, None] - 0.5) <= levels / 2).mean(0)
        axes.plot(levels, covered, color=color, label=name.replace("_", " "), linewidth=1.4)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_ylabel("share of the values inside", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    _tidy(axes, "reliability of the intervals", "level of the interval")
    return figure


def scores(by_task: Mapping[str, Mapping[str, Mapping[str, float]]], label: str) -> Figure:
    """A panel per task: a dot per run, or curves over the numbers of runs "method@number".

    Args:
        by_task: task -> run -> "mean" and, of several seeds, "sd".
        label: of the scores, on a logarithmic axis where they differ enough.
    """
    names = [name for runs in by_task.values() for name in runs]
    curved = all("@" in name for name in names)
    height = 3.0 if curved else 1.0 + 0.22 * len(set(names))
    figure, cells = _cells(len(by_task), 3, (3.6, height))
    for number, (axes, (task, runs)) in enumerate(zip(cells, by_task.items(), strict=True)):
        if curved:
            _curves(axes, runs, label)
        else:
            _dots(axes, runs, named=number % 3 == 0)
        _tidy(axes, task, "" if curved else label)
    if curved:
        _legend(figure, cells[0].get_legend_handles_labels()[0])
    return figure


def _dots(axes: Axes, runs: Mapping[str, Mapping[str, float]], named: bool) -> None:
    """A row per run, the first above."""
    for place, run in enumerate(runs.values()):
        axes.errorbar(
            run["mean"], -place, xerr=run.get("sd", 0.0), color=BLUE, marker="o", ms=5, capsize=2
        )
    axes.set_yticks([-place for place in range(len(runs))], runs if named else [""] * len(runs))
    axes.set_ylim(0.6 - len(runs), 0.4)
    axes.grid(axis="y", color="#E8E8E8", linewidth=0.8)
    _logarithmic(axes, [run["mean"] for run in runs.values()], "x")


def _curves(axes: Axes, runs: Mapping[str, Mapping[str, float]], label: str) -> None:
    """A curve per method."""
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for name, run in runs.items():
        method, _, number = name.rpartition("@")
        curves.setdefault(method, []).append((float(number), run["mean"], run.get("sd", 0.0)))
    for color, (name, points) in zip(cycle(PALETTE), curves.items(), strict=False):
        x, mean, sd = np.array(sorted(points)).T
        axes.errorbar(x, mean, yerr=sd, color=color, marker="o", ms=4, label=name)
    axes.set_ylabel(label, fontsize=9)
    _logarithmic(axes, [run["mean"] for run in runs.values()], "y")


def _logarithmic(axes: Axes, values: Sequence[float], which: Literal["x", "y"]) -> None:
    """A logarithmic axis for positive values that differ by a factor of three or more."""
    if 0 < 3 * min(values) <= max(values):
        getattr(axes, f"set_{which}scale")("log")
        axis = getattr(axes, f"{which}axis")
        near = max(values) < 100 * min(values)
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if near else (1,), numticks=6))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a PNG atomically: a reader finds the old file or the new one, never half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        figure.savefig(partial, format="png", dpi=110, bbox_inches="tight")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _cells(count: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes of `size` inches, row by row, and room for a legend."""
    columns = max(1, min(columns, count))
    rows = max(1, math.ceil(count / columns))
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.7), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, 1 + i) for i in range(count)]


def _legend(figure: Figure, handles: Sequence[Artist], columns: int = 6) -> None:
    """One legend below everything."""
    place = "outside lower center"
    figure.legend(handles=handles, loc=place, ncols=columns, frameon=False, fontsize=10)


def _band(axes: Axes, mean: np.ndarray, sd: np.ndarray, color: str, alpha: float) -> None:
    """The central 95% interval around the means ``(time,)`` of normal variables."""
    steps, low, high = np.arange(len(mean)), mean - INTERVAL * sd, mean + INTERVAL * sd
    axes.fill_between(steps, low, high, color=color, alpha=alpha, lw=0, label="95% interval")


def _tidy(axes: Axes, title: str = "", xlabel: str = "") -> None:
    """Title, light frame and small tick labels."""
    axes.set_title(title.replace("_", " "), fontsize=11, fontweight="bold")
    axes.set_xlabel(xlabel, fontsize=9)
    axes.spines[:].set(color="#C8C8C8", linewidth=0.8)
    axes.tick_params(which="both", labelsize=8, color="#C8C8C8", labelcolor="#404040")
