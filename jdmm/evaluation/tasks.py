"""The inference tasks of Tan et al. 2020, section 7 of the paper's supplement, and their scores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.data import corruption
from jdmm.errors import InputError
from jdmm.evaluation.prediction import Prediction
from jdmm.series import Series

Keep = dict[str, jax.Array]
Task = Callable[[jax.Array, Series], Keep]


def reconstruction(key: jax.Array, series: Series) -> Keep:
    """Everything is shown."""
    del key
    return _same(series, corruption.segment(series, 0.0, 1.0))


def drop_half(key: jax.Array, series: Series) -> Keep:
    """A random half of the steps of each modality is hidden, independently."""
    names = sorted(series.values)
    draws = corruption.uniform(key, series, series.num_steps * len(names))
    orders = draws.reshape(series.batch, series.num_steps, len(names))
    return {
        name: corruption.scattered(orders[..., number], series, 0.5)
        for number, name in enumerate(names)
    }


def forward_extrapolation(key: jax.Array, series: Series) -> Keep:
    """The first 75 % are shown."""
    del key
    return _same(series, corruption.segment(series, 0.0, 0.75))


def backward_extrapolation(key: jax.Array, series: Series) -> Keep:
    """The last 75 % are shown."""
    del key
    return _same(series, corruption.segment(series, 0.25, 1.0))


def conditional_generation(key: jax.Array, series: Series) -> Keep:
    """The first modality is shown, and the first 25 % of the others."""
    del key
    names = list(series.values)
    part = corruption.segment(series, 0.0, 0.25)
    return {name: jnp.ones_like(part) if name == names[0] else part for name in names}


def weak_supervision(key: jax.Array, series: Series) -> Keep:
    """The first and the last 25 % are hidden, and a random half of the rest of each modality."""
    middle = corruption.segment(series, 0.25, 0.75)
    names = sorted(series.values)
    draws = corruption.uniform(key, series, series.num_steps * len(names))
    orders = draws.reshape(series.batch, series.num_steps, len(names))
    orders = jnp.where(middle, orders, jnp.inf)  # a quarter of all is half of the middle
    return {
        name: middle & corruption.scattered(orders[..., number], series, 0.25)
        for number, name in enumerate(names)
    }


TASKS: dict[str, Task] = {
    task.__name__: task
    for task in (
        reconstruction,
        drop_half,
        forward_extrapolation,
        backward_extrapolation,
        conditional_generation,
        weak_supervision,
    )
}


def show(names: Sequence[str], series: Series, key: jax.Array) -> Series:
    """What the tasks `names` show of `series`, stacked: ``(task * batch, ...)``, task by task.

    Raises:
        InputError: if a name is not one of `TASKS`.
    """
    for name in names:
        if name not in TASKS:
            raise InputError(f"expected tasks among {', '.join(TASKS)}, got {name!r}")
    shown = [
        series.hide(TASKS[name](jax.random.fold_in(key, list(TASKS).index(name)), series))
        for name in names
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *shown)


def squared_error(
    mean: Mapping[str, Any], truth: Mapping[str, Any], counted: Mapping[str, Any]
) -> Any:
    """Per series, squared error summed over modalities and features, averaged over its steps.

    Args:
        mean: modality -> ``(batch, time, feature)`` prediction.
        truth: the same of the truth.
        counted: masks; a step counts if any of its values does.

    Returns:
        ``(batch,)``.
    """
    errors = sum(
        jnp.sum(jnp.where(counted[name], (mean[name] - truth[name]) ** 2, 0.0), -1) for name in mean
    )
    steps = jnp.any(jnp.concatenate([counted[name] for name in mean], -1), -1)
    return jnp.sum(errors, -1) / jnp.maximum(jnp.sum(steps, -1), 1)


LEVELS = (0.5, 0.8, 0.95)
"""Of the central intervals whose coverage is reported."""


def score(
    prediction: Prediction, shown: Series, targets: Series, clean: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Scores of one task over a split.

    Returns:
        "mse_noisy" and, with `clean`, "mse_clean": mean and sd over series of `squared_error` over
        all steps, shown ones too; over the values that were hidden, or all if none was,
        "coverage50", "coverage80", "coverage95", "crps" (in the values' units) and "nll" (nats per
        value).
    """
    truths = {"mse_noisy": targets.values} | ({} if clean is None else {"mse_clean": clean})
    scores: dict[str, Any] = {}
    for name, truth in truths.items():
        errors = np.asarray(squared_error(prediction.mean, truth, targets.observed))
        scores[name] = {"mean": float(errors.mean()), "sd": float(errors.std())}
    off = np.abs(held_out(prediction.pit, shown, targets) - 0.5)
    for level in LEVELS:
        scores[f"coverage{round(100 * level)}"] = float(np.mean(off <= level / 2))
    scores["crps"] = float(held_out(prediction.crps, shown, targets).mean())
    scores["nll"] = float(-held_out(prediction.log_prob, shown, targets).mean())
    return scores


def held_out(figure: Mapping[str, Any], shown: Series, targets: Series) -> np.ndarray:
    """The figures of the values that were hidden, or of all if none was, in one row."""
    names = list(targets.values)
    values, observed, seen = (
        np.concatenate([np.ravel(tree[name]) for name in names])
        for tree in (figure, targets.observed, shown.observed)
    )
    hidden = observed & ~seen
    return values[hidden if hidden.any() else observed]


def _same(series: Series, keep: jax.Array) -> Keep:
    return {name: keep for name in series.values}
