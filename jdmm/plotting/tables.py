"""Columns of tables over time, with what fills them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jdmm.plotting.style import DOT, MEAN, VERMILLION, grid, legend, tidy

MAX_COLUMNS = 8


class Curve(NamedTuple):
    """One column, each array ``(step,)``.

    observed: NaN where missing.
    predicted: at all steps.
    lower, upper: bounds of the interval; None for categories.
    names: of categories, whose numbers the arrays hold.
    """

    observed: np.ndarray
    predicted: np.ndarray
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None
    names: Sequence[str] = ()


def filled(
    curves: Mapping[str, Curve],
    stretches: Sequence[slice],
    titles: Sequence[str],
    name: str,
    level: float,
) -> Figure:
    """Columns of the table as rows, stretches of time as columns.

    Args:
        curves: column -> its curve; the first 8 are drawn.
        stretches: steps of each panel.
        titles: of the stretches.
        name: of the series, above the figure.
        level: of the interval.
    """
    chosen = list(curves.items())[:MAX_COLUMNS]
    wide = 9.0 if len(stretches) == 1 else 4.2
    figure, cells = grid(len(chosen) * len(stretches), len(stretches), (wide, 1.5))
    for number, axes in enumerate(cells):
        row, place = divmod(number, len(stretches))
        column, curve = chosen[row]
        part = stretches[place]
        steps = np.arange(part.start, part.stop)
        if curve.lower is not None and curve.upper is not None:
            axes.fill_between(
                steps,
                curve.lower[part],
                curve.upper[part],
                color=VERMILLION,
                alpha=0.2,
                lw=0,
                label=f"{level:.0%} interval",
            )
        axes.plot(steps, curve.predicted[part], label="predicted", **{**MEAN, "linewidth": 1.2})
        axes.plot(steps, curve.observed[part], label="observed", **DOT)
        if curve.names:
            axes.set_yticks(range(len(curve.names)), list(curve.names), parse_math=False)
        axes.set_ylabel(column if place == 0 else "", fontsize=10, parse_math=False)
        tidy(axes, titles[place] if row == 0 else "", "step" if row == len(chosen) - 1 else "")
    left = f", first {len(chosen)} of {len(curves)} columns" * (len(chosen) < len(curves))
    figure.suptitle(f"{name}{left}".strip(", "), fontsize=12, parse_math=False)
    legend(figure, cells[0].get_legend_handles_labels()[0])
    return figure
