"""Series and latent states over time."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from jdmm.plotting.style import (
    DOT,
    GREY,
    HIDDEN_DOT,
    MEAN,
    PALETTE,
    VERMILLION,
    grid,
    interval,
    legend,
    tidy,
)

MAX_SERIES, MAX_LATENT, MAX_FEATURES = 12, 15, 8


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
    figure, cells = grid(len(dimensions) + (latent > 1), 3, (3.5, 2.5))
    for axes, d in zip(cells, dimensions, strict=False):
        for i, color in colors.items():
            axes.plot(mean[i, :, d], color=color, linewidth=1.1)
            interval(axes, mean[i, :, d], sd[i, :, d], color, alpha=0.08)
        tidy(axes, f"latent {d}", "time step")
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
        tidy(cells[-1], "principal components (dot: start)", first)
    pairs = zip(cycle(PALETTE), label_names, strict=False)
    lines = [Line2D([], [], color=color, label=name) for color, name in pairs]
    legend(figure, [*lines, Patch(color=GREY, alpha=0.25, linewidth=0, label="95% interval")])
    return figure


def imputations(
    values: Mapping[str, Any],
    observed: Mapping[str, Any],
    shown: Mapping[str, Any],
    mean: Mapping[str, Any],
    sd: Mapping[str, Any],
) -> Figure:
    """Features as rows, series as columns: what was observed, and what was predicted from a part.

    The vertical axes follow the observed values: a prediction that explodes leaves its panel. Of
    many features the first 8 are drawn.

    Args:
        values: modality -> ``(series, time, feature)``, read only where observed.
        observed: modality -> masks of the same shape.
        shown: modality -> masks of the values that the model was shown.
        mean: modality -> predicted means; NaN in the padding.
        sd: modality -> predictive standard deviations; NaN draws no interval.
    """
    names = feature_names(values)
    x, seen, given, center, width = map(_concatenate, (values, observed, shown, mean, sd))
    rows, columns = min(len(names), MAX_FEATURES), len(x)
    figure, cells = grid(rows * columns, columns, (3.6, 1.5))
    for i, axes in enumerate(cells):
        d, row = divmod(i, columns)
        low, high = _limits(x[..., d][seen[..., d]])
        far = 10 * (high - low)  # the renderer overflows on numbers like 1e30
        line = np.clip(center[row, :, d], low - far, high + far)
        interval(axes, line, np.clip(width[row, :, d], 0, far), VERMILLION, alpha=0.2)
        axes.plot(line, label="predicted mean", **MEAN)
        for mask, label, style in (
            (given[row, :, d], "observed and shown", DOT),
            (seen[row, :, d] & ~given[row, :, d], "observed and hidden", HIDDEN_DOT),
        ):
            steps = np.flatnonzero(mask)
            axes.plot(steps, x[row, steps, d], label=label, **style)
        axes.set(xlim=(-0.01 * x.shape[1], 1.01 * x.shape[1]), ylim=(low, high))
        axes.set_ylabel(names[d] if row == 0 else "", fontsize=10, parse_math=False)
        axes.tick_params(labelbottom=d == rows - 1, labelleft=row == 0)
        tidy(axes, f"series {row}" if d == 0 else "", "time step" if d == rows - 1 else "")
    if rows < len(names):
        figure.suptitle(f"first {rows} of {len(names)} features", fontsize=12)
    legend(figure, cells[0].get_legend_handles_labels()[0])
    return figure


def curves(samples: Mapping[str, Any], title: str) -> Figure:
    """Features as rows, in each the curves of at most 12 series on a scale for most of them.

    Args:
        samples: modality -> ``(series, time, feature)``; the first 8 features are drawn.
        title: above the figure.
    """
    names, values = feature_names(samples), _concatenate(samples)[:MAX_SERIES]
    figure, cells = grid(min(len(names), MAX_FEATURES), 1, (9.0, 1.5))
    for d, axes in enumerate(cells):
        low, high = _limits(np.quantile(values[..., d], (0.02, 0.98)))
        far = 10 * (high - low)
        for series, color in zip(values[..., d], cycle(PALETTE), strict=False):
            axes.plot(np.clip(series, low - far, high + far), color=color, linewidth=1.1)
        axes.set_ylim(low, high)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(names[d], fontsize=10, parse_math=False)
        tidy(axes, "", "time step" if axes is cells[-1] else "")
    figure.suptitle(title, fontsize=12, fontweight="bold")
    return figure


def feature_names(arrays: Mapping[str, Any]) -> list[str]:
    """Names of the features of all modalities, whose arrays are ``(..., feature)``."""
    sizes = {name: np.shape(array)[-1] for name, array in arrays.items()}
    return [
        name if size == 1 else f"{name}[{number}]"
        for name, size in sizes.items()
        for number in range(size)
    ]


def _concatenate(arrays: Mapping[str, Any]) -> np.ndarray:
    """The features of all modalities side by side, ``(..., feature)``."""
    return np.concatenate([np.asarray(array) for array in arrays.values()], -1)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """A range with room for all values; (-1, 1) for none."""
    if not values.size:
        return -1.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = 0.25 * (high - low) or 0.5 * abs(high) or 1.0
    return low - margin, high + margin
