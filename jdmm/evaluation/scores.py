"""Scores of predictions: squared error, accuracy, coverage, CRPS and log density.

Real and binary modalities are scored by their squared error and by their intervals, categorical
ones by their accuracy. All have a log density.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax import numpy as jnp

from jdmm.data.base import Split
from jdmm.data.modality import Modality
from jdmm.evaluation.prediction import Prediction
from jdmm.likelihoods import Categorical
from jdmm.series import Series

LEVELS = (0.5, 0.8, 0.95)
"""Levels of the central intervals whose coverage is reported."""


def numeric(modalities: Sequence[Modality]) -> list[str]:
    """Names of the modalities whose values are numbers."""
    return [m.name for m in modalities if not isinstance(m.likelihood, Categorical)]


def categorical(modalities: Sequence[Modality]) -> list[str]:
    """Names of the modalities whose values are classes."""
    return [m.name for m in modalities if isinstance(m.likelihood, Categorical)]


def squared_error(
    mean: Mapping[str, Any], truth: Mapping[str, Any], counted: Mapping[str, Any]
) -> Any:
    """Squared error per step of each series, ``(batch,)``.

    It is summed over the features of all modalities in `mean`, and averaged over the steps at which
    any of these is counted.

    Args:
        mean: modality -> ``(batch, time, feature)`` predictions.
        truth: the same of the true values.
        counted: masks of the values that are scored.
    """
    errors = sum(
        jnp.sum(jnp.where(counted[name], (mean[name] - truth[name]) ** 2, 0.0), -1) for name in mean
    )
    steps = jnp.any(jnp.concatenate([counted[name] for name in mean], -1), -1)
    return jnp.sum(errors, -1) / jnp.maximum(jnp.sum(steps, -1), 1)


def hidden(shown: Series, targets: Series) -> dict[str, np.ndarray]:
    """Modality -> mask ``(batch, time, feature)`` of the targets that were not shown."""
    return {
        name: np.asarray(observed) & ~np.asarray(shown.observed[name])
        for name, observed in targets.observed.items()
    }


def select(
    values: Mapping[str, Any], counted: Mapping[str, np.ndarray], names: Sequence[str]
) -> np.ndarray:
    """The counted values of the modalities `names`, in one row ``(value,)``."""
    rows = [np.asarray(values[name])[counted[name]] for name in names]
    return np.concatenate(rows) if rows else np.zeros(0)


def interval_targets(shown: Series, split: Split) -> dict[str, np.ndarray]:
    """Masks of the values whose intervals are scored.

    These are the hidden values. Where none was hidden, they are those of the second observation;
    without one, there are none, because what was shown is no test of an interval.
    """
    masks = hidden(shown, split.series)
    if split.second is not None and not any(mask.any() for mask in masks.values()):
        return {name: np.asarray(mask) for name, mask in split.series.observed.items()}
    return masks


def scored_values(shown: Series, split: Split) -> dict[str, np.ndarray]:
    """Modality -> values that densities and intervals are scored at.

    These are the observed values where they are hidden, and the second observation elsewhere.

    Args:
        shown: what one task shows of the split, or several tasks, ``(task * batch, ...)``.
        split: the split.
    """
    times = shown.batch // split.series.batch
    second = split.series.values if split.second is None else split.second
    return {
        name: np.where(
            shown.observed[name],
            np.concatenate([second[name]] * times),
            np.concatenate([values] * times),
        )
        for name, values in split.series.values.items()
    }


def score(
    prediction: Prediction, shown: Series, split: Split, modalities: Sequence[Modality]
) -> dict[str, Any]:
    """Scores of one task over a split. A score that the data do not allow is left out.

    Args:
        prediction: of every value, with densities at the hidden values or the second observation.
        shown: what the model was shown.
        split: what is scored.
        modalities: those of the data set.

    Returns:
        "mse": mean and sd over series of `squared_error` at all observed values, shown or not.
        "mse_truth": the same against the split's truth.
        "accuracy": share of the hidden classes that are predicted, or of all if none was hidden.
        "coverage50", "coverage80", "coverage95": share of the values of `interval_targets` within
        the central intervals of these levels; "crps": their mean CRPS, in the values' units; "nll":
        their mean negative log density, in nats per value, classes included.
    """
    numbers, classes = numeric(modalities), categorical(modalities)
    observed = {name: np.asarray(mask) for name, mask in split.series.observed.items()}
    scores: dict[str, Any] = {}
    truths = {"mse": split.series.values, "mse_truth": split.truth}
    for name, truth in truths.items():
        if numbers and truth is not None:
            means = {number: prediction.mean[number] for number in numbers}
            errors = np.asarray(squared_error(means, truth, observed))
            scores[name] = {"mean": float(errors.mean()), "sd": float(errors.std())}
    if classes:
        masks = hidden(shown, split.series)
        counted = masks if any(masks[name].any() for name in classes) else observed
        correct = {n: np.asarray(prediction.mean[n]) == split.series.values[n] for n in classes}
        if any(counted[name].any() for name in classes):
            scores["accuracy"] = float(select(correct, counted, classes).mean())
    counted = interval_targets(shown, split)
    pit = select(prediction.pit, counted, numbers)
    if pit.size:
        for level in LEVELS:
            inside = np.abs(pit - 0.5) <= level / 2
            scores[f"coverage{round(100 * level)}"] = float(np.mean(inside))
        scores["crps"] = float(select(prediction.crps, counted, numbers).mean())
    log_prob = select(prediction.log_prob, counted, list(counted))
    if log_prob.size:
        scores["nll"] = float(-log_prob.mean())
    return scores
