"""Learning curves, scores of several runs, and how reliable intervals are."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from jdmm.plotting.style import BLUE, GREY, PALETTE, grid, legend, tidy

_SCHEDULES = "schedules"
_KINDS = {  # panel of the learning curves -> words in the names of its metrics
    "loss": {"loss"},
    "negative log-likelihood": {"nll"},
    "KL divergence": {"kl", "matching"},
    "score": {"score"},
    _SCHEDULES: {"beta", "learning"},
}

Curves = dict[str, tuple[np.ndarray, np.ndarray]]
"""Metric -> epochs and values, ``(n,)``."""


def learning_curves(
    history: Mapping[str, tuple[np.ndarray, np.ndarray]], best_epoch: int | None
) -> Figure:
    """One panel per kind of quantity; the words of a metric's name give its kind.

    Schedules are drawn relative to their maximum. The other axes are logarithmic where all values
    are positive and span more than a decade.

    Args:
        history: name such as "train/filter_nll" -> epochs ``(n,)`` and values ``(n,)``.
        best_epoch: marked by a vertical line.
    """
    groups: dict[str, Curves] = {title: {} for title in _KINDS}
    for name, (epochs, values) in history.items():
        if len(values):
            groups.setdefault(_kind(name), {})[name] = (epochs, np.asarray(values))
    groups = {title: group for title, group in groups.items() if group}
    figure, cells = grid(len(groups), 3, (3.9, 2.9))
    for axes, (title, group) in zip(cells, groups.items(), strict=True):
        _draw_curves(axes, title, group)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=GREY, linestyle="--", linewidth=1, zorder=0)
    if best_epoch is not None:
        legend(figure, [Line2D([], [], color=GREY, ls="--", label=f"best epoch: {best_epoch}")])
    return figure


def _draw_curves(axes: Axes, title: str, group: Curves) -> None:
    """The metrics of one kind."""
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
        # wild first epochs would flatten the rest of the curve
        if settled.size and np.ptp(everything) > 3 * np.ptp(settled) > 0:
            margin = 0.1 * np.ptp(settled)
            axes.set_ylim(settled.min() - margin, settled.max() + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.legend(fontsize=8, frameon=False)
    tidy(axes, title, "epoch")


def _kind(name: str) -> str:
    """The panel of a metric: "kind" of "part/kind/name", a known kind, or the first word."""
    parts = name.split("/")
    if len(parts) > 2:
        return parts[-2]
    words = parts[-1].split("_")
    return next((title for title, known in _KINDS.items() if known & set(words)), words[0])


def reliability(pits: Mapping[str, np.ndarray]) -> Figure:
    """Coverage of central intervals against their level, one curve per name.

    Args:
        pits: name -> ``(value,)`` probability integral transforms of the true values.
    """
    figure, (axes,) = grid(1, 1, (4.4, 4.0))
    levels = np.linspace(0.0, 1.0, 41)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="calibrated")
    for color, (name, pit) in zip(cycle(PALETTE), pits.items(), strict=False):
        covered = (np.abs(pit[:, None] - 0.5) <= levels / 2).mean(0)
        axes.plot(levels, covered, color=color, label=name.replace("_", " "), linewidth=1.4)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_ylabel("coverage", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    tidy(axes, "reliability of the intervals", "level of the interval")
    return figure


def scores(by_task: Mapping[str, Mapping[str, Mapping[str, float]]], label: str) -> Figure:
    """One panel per task with a dot per run, or with curves where runs are named "method@number".

    The axis of the scores is logarithmic where they differ by a factor of three or more.

    Args:
        by_task: task -> run -> "mean" and, for several seeds, "sd".
        label: what the scores are.
    """
    names = [name for runs in by_task.values() for name in runs]
    curved = all("@" in name for name in names)
    height = 3.0 if curved else 1.0 + 0.22 * len(set(names))
    figure, cells = grid(len(by_task), 3, (3.6, height))
    for number, (axes, (task, runs)) in enumerate(zip(cells, by_task.items(), strict=True)):
        if curved:
            _curves(axes, runs, label)
        else:
            _dots(axes, runs, named=number % 3 == 0)
        tidy(axes, task, "" if curved else label)
    if curved:
        legend(figure, cells[0].get_legend_handles_labels()[0])
    return figure


def _dots(axes: Axes, runs: Mapping[str, Mapping[str, float]], named: bool) -> None:
    """A row per run, the first one on top."""
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
    """Makes an axis logarithmic for positive values that differ by a factor of three or more."""
    if 0 < 3 * min(values) <= max(values):
        getattr(axes, f"set_{which}scale")("log")
        axis = getattr(axes, f"{which}axis")
        near = max(values) < 100 * min(values)
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if near else (1,), numticks=6))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
