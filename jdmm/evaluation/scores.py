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
from jdmm.evaluation.images import ssim
from jdmm.evaluation.prediction import Prediction
from jdmm.likelihoods import Categorical
from jdmm.series import Series

LEVELS = (0.5, 0.8, 0.95)
"""Levels of the central intervals whose coverage is reported."""


def numeric(modalities: Sequence[Modality]) -> list[str]:
    """Names of the modalities whose values are numbers."""
    return [m.name for m in modalities if not isinstance(m.likelihood, Categorical)]


def images(modalities: Sequence[Modality]) -> list[str]:
    """Names of the modalities whose values are images."""
    return [m.name for m in modalities if m.image is not None]


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

    Images have scores of their own, and do not enter those of numbers.

    Args:
        prediction: of every value, with densities at the hidden values or the second observation.
        shown: what the model was shown.
        split: what is scored.
        modalities: those of the data set.

    Returns:
        "mse": mean and sd over series of `squared_error` at all observed values, shown or not.
        "mse_truth": the same against the split's truth.
        "accuracy": share of the hidden classes that are predicted, or of all if none was hidden. Of
        several categorical modalities, "accuracy_<modality>".
        "series_accuracy_<modality>": the same of whole series, for classes that do not change
        within a series: the class whose probability, averaged over the steps, is highest.
        "ssim_<modality>": structural similarity of all observed images, mean and sd over series.
        "pixel_mse_<modality>": their squared error per pixel.
        "coverage50", "coverage80", "coverage95": share of the values of `interval_targets` within
        the central intervals of these levels; "crps": their mean CRPS, in the values' units; "nll":
        their mean negative log density, in nats per value, classes included.
    """
    pictures, classes = images(modalities), categorical(modalities)
    numbers = [name for name in numeric(modalities) if name not in pictures]
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
        for name in classes if len(classes) > 1 else ():
            if counted[name].any():
                scores[f"accuracy_{name}"] = float(correct[name][counted[name]].mean())
        if len(classes) == 1 and counted[classes[0]].any():
            scores["accuracy"] = float(select(correct, counted, classes).mean())
        for name in classes:
            known = name in prediction.probabilities
            if known and _constant(split.series.values[name], counted[name]):
                own = split.series.values[name], counted[name], prediction.probabilities[name]
                scores[f"series_accuracy_{name}"] = _series_accuracy(*own)
    for modality in modalities:
        if modality.image is not None:
            scores |= _image_scores(modality, prediction, split.series)
    counted = interval_targets(shown, split)
    pit = select(prediction.pit, counted, numbers)
    if pit.size:
        for level in LEVELS:
            inside = np.abs(pit - 0.5) <= level / 2
            scores[f"coverage{round(100 * level)}"] = float(np.mean(inside))
        scores["crps"] = float(select(prediction.crps, counted, numbers).mean())
    log_prob = select(prediction.log_prob, counted, [*numbers, *classes])
    if log_prob.size:
        scores["nll"] = float(-log_prob.mean())
    return scores


def _constant(values: np.ndarray, counted: np.ndarray) -> bool:
    """Whether every series of more than one step has one class at all of them."""
    low = np.where(counted, values, np.inf).min((1, 2))
    high = np.where(counted, values, -np.inf).max((1, 2))
    some = counted.any((1, 2))
    return bool(some.any() and (low == high)[some].all() and values.shape[1] > 1)


def _series_accuracy(values: np.ndarray, counted: np.ndarray, probabilities: Any) -> float:
    """Share of the series, of one class each, whose class has the highest mean probability."""
    weights = counted[..., None]
    average = np.sum(np.where(weights, probabilities, 0.0), (1, 2))
    some = counted.any((1, 2))
    actual = np.where(counted, values, 0).max((1, 2))
    return float((average.argmax(-1) == actual)[some].mean())


def _image_scores(modality: Modality, prediction: Prediction, series: Series) -> dict[str, Any]:
    """Structural similarity and squared error of all observed frames of one modality."""
    assert modality.image is not None
    name, shape = modality.name, modality.image.shape
    observed: np.ndarray = np.all(np.asarray(series.observed[name]), axis=-1)
    truth, mean = (np.asarray(tree[name]) for tree in (series.values, prediction.mean))
    each = []
    for row in np.flatnonzero(np.any(observed, axis=1)):
        frames = [pixels[row][observed[row]].reshape(-1, *shape) for pixels in (truth, mean)]
        each.append((ssim(*frames).mean(), np.mean((frames[0] - frames[1]) ** 2)))
    if not each:
        return {}
    found = dict(zip(("ssim", "pixel_mse"), np.array(each).T, strict=True))
    return {
        f"{kind}_{name}": {"mean": float(own.mean()), "sd": float(own.std())}
        for kind, own in found.items()
    }
