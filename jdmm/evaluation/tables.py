"""Predictions of tables, in the units of the table."""

from collections.abc import Sequence

import jax
import numpy as np
from tqdm import tqdm

from jdmm.data.tables.table import Table
from jdmm.data.tables.units import summarise
from jdmm.evaluation.long import overlapping_windows, predict_long
from jdmm.evaluation.prediction import Calibration
from jdmm.models.base import Model, Variables

SPAN = 4
"""Windows of the training that are predicted at once. With more of them, fewer steps are computed
twice as context."""

MAX_VALUES = 2**21
"""Most sampled values of a batch; they decide the memory."""


def predicted_columns(
    model: Model,
    variables: Variables,
    table: Table,
    window: int,
    key: jax.Array,
    draws: int,
    calibration: Calibration,
    levels: Sequence[float],
) -> dict[str, np.ndarray]:
    """Names of columns of predictions -> ``(step,)`` over the series one after the other.

    A bar on a terminal shows the progress.

    Args:
        model: trained on windows of the table's schema.
        variables: its variables.
        table: with the steps to extrapolate.
        window: steps of a window in training: `SPAN` times as many are predicted at once, from
            themselves and one window on each side.
        key: of all random numbers.
        draws: posterior samples.
        calibration: scales of the uncertainty.
        levels: of the intervals.
    """
    starts = np.concatenate([[0], np.cumsum(table.lengths)])
    ends = (table.before, table.after)
    windows = overlapping_windows(table.lengths, SPAN * window, window, ends)
    each = int(np.median(windows.length)) * sum(m.features for m in model.modalities)
    batch_size = max(MAX_VALUES // (draws * each), 1)
    found: dict[str, np.ndarray] = {}
    batches = predict_long(
        model, variables, table.cut, windows, key, draws, batch_size, calibration, max(levels)
    )
    with tqdm(total=int(starts[-1]), unit="step", disable=None) as bar:
        for rows, sampled in batches:
            columns = summarise(table.schema, sampled, levels)
            for name, values in columns.items():
                whole = found.setdefault(name, np.empty(starts[-1]))
                for row in range(len(rows.source)):
                    first = starts[rows.source[row]]
                    begin, end, shown = rows.begin[row], rows.end[row], rows.start[row]
                    whole[first + begin : first + end] = values[row, begin - shown : end - shown]
            bar.update(int((rows.end - rows.begin).sum()))
    return found
