"""Scores of predictions: squared error, accuracy, coverage, CRPS, log density and SSIM.

Real and binary modalities are scored by their squared error and by their intervals, categorical
ones by their accuracy. Both have a log density. Images are scored by their structural similarity
and by their squared error per pixel.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jax import numpy as jnp

from jdmm.data.base import Split
from jdmm.data.modality import Modality
from jdmm.evaluation.images import WINDOW, image_names, ssim
from jdmm.evaluation.prediction import Prediction
from jdmm.likelihoods import Categorical
from jdmm.series import Series

LEVELS = (0.5, 0.8, 0.95)
"""Levels of the central intervals whose coverage is reported."""


def numeric(modalities: Sequence[Modality]) -> list[str]:
    """Names of the modalities whose values are numbers; images included."""
    return [m.name for m in modalities if not isinstance(m.likelihood, Categorical)]


def with_intervals(modalities: Sequence[Modality]) -> list[str]:
    """Names of the modalities whose values are numbers; images left out."""
    images = image_names(modalities)
    return [name for name in numeric(modalities) if name not in images]


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


def scored_values(
    shown: Series, split: Split, unscored: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Modality -> values that densities and intervals are scored at.

    These are the observed values where they are hidden, and the second observation elsewhere.

    Args:
        shown: what one task shows of the split, or several tasks, ``(task * batch, ...)``.
        split: the split.
        unscored: modalities without densities and intervals, whose shown values are returned,
            which takes no further memory.
    """
    times = shown.batch // split.series.batch
    second = split.series.values if split.second is None else split.second
    return {
        name: shown.values[name]
        if name in unscored
        else np.where(
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
        "accuracy": share of the hidden classes that are predicted, or of all if none was hidden.
        "accuracy_<modality>": the same of one modality, where several are categorical.
        "series_accuracy_<modality>": share of the series whose class is predicted, of a modality
        whose class never changes within a series. The prediction is the class with the highest
        probability, averaged over the steps at which the class counts for "accuracy".
        "ssim_<modality>": structural similarity of the images of which all pixels are observed,
        shown or not; the mean over each series, of which mean and sd over the series are given. It
        is left out for images smaller than 11x11.
        "pixel_mse_<modality>": squared error per pixel of the same images.
        "hidden_ssim_<modality>", "hidden_pixel_mse_<modality>": the same of those that were hidden,
        where others were shown.
        "crps_<modality>": the mean CRPS of one modality, where the numeric ones have different
        likelihoods, so that their units may differ.
        "coverage50", "coverage80", "coverage95": share of the values of `interval_targets` within
        the central intervals of these levels; "crps": their mean CRPS, in the values' units; "nll":
        their mean negative log density, in nats per value, classes included.
    """
    numbers, classes = with_intervals(modalities), categorical(modalities)
    observed = {name: np.asarray(mask) for name, mask in split.series.observed.items()}
    scores: dict[str, Any] = {}
    truths = {"mse": split.series.values, "mse_truth": split.truth}
    for name, truth in truths.items():
        if numbers and truth is not None:
            means = {number: prediction.mean[number] for number in numbers}
            errors = np.asarray(squared_error(means, truth, observed))
            scores[name] = {"mean": float(errors.mean()), "sd": float(errors.std())}
    scores |= _class_scores(prediction, shown, split.series, classes)
    pictures = image_names(modalities)
    for modality in modalities:
        if modality.name in pictures:
            scores |= _image_scores(modality, prediction, shown, split.series)
    counted = interval_targets(shown, split)
    pit = select(prediction.pit, counted, numbers)
    if pit.size:
        for level in LEVELS:
            inside = np.abs(pit - 0.5) <= level / 2
            scores[f"coverage{round(100 * level)}"] = float(np.mean(inside))
        scores["crps"] = float(select(prediction.crps, counted, numbers).mean())
        if len({m.likelihood for m in modalities if m.name in numbers}) > 1:
            for name in numbers:
                own = select(prediction.crps, counted, [name])
                scores |= {f"crps_{name}": float(own.mean())} if own.size else {}
    log_prob = select(prediction.log_prob, counted, [*numbers, *classes])
    if log_prob.size:
        scores["nll"] = float(-log_prob.mean())
    return scores


def _class_scores(
    prediction: Prediction, shown: Series, series: Series, classes: Sequence[str]
) -> dict[str, float]:
    """Accuracies of the categorical modalities `classes`."""
    observed = {name: np.asarray(series.observed[name]) for name in classes}
    masks = hidden(shown, series)
    counted = masks if any(masks[name].any() for name in classes) else observed
    correct = {name: np.asarray(prediction.mean[name]) == series.values[name] for name in classes}
    scores = {}
    if any(counted[name].any() for name in classes):
        scores["accuracy"] = float(select(correct, counted, classes).mean())
    for name in classes:
        if not counted[name].any():
            continue
        if len(classes) > 1:
            scores[f"accuracy_{name}"] = float(correct[name][counted[name]].mean())
        known = name in prediction.probabilities
        if known and _constant(series.values[name], observed[name]):
            own = series.values[name], counted[name], prediction.probabilities[name]
            scores[f"series_accuracy_{name}"] = _series_accuracy(*own)
    return scores


def _constant(values: np.ndarray, observed: np.ndarray) -> bool:
    """Whether every series has one class, and some series is observed at several steps."""
    low = np.where(observed, values, np.inf).min((1, 2))
    high = np.where(observed, values, -np.inf).max((1, 2))
    count = observed.sum((1, 2))
    return bool((low == high)[count > 0].all() and (count > 1).any())


def _series_accuracy(values: np.ndarray, counted: np.ndarray, probabilities: Any) -> float:
    """Share of the series, of one class each, whose class has the highest mean probability."""
    total = np.sum(np.where(counted[..., None], probabilities, 0.0), (1, 2))
    actual = np.where(counted, values, 0).max((1, 2))
    return float((total.argmax(-1) == actual)[counted.any((1, 2))].mean())


def _image_scores(
    modality: Modality, prediction: Prediction, shown: Series, series: Series
) -> dict[str, Any]:
    """Structural similarity and squared error of the images of one modality."""
    assert modality.image is not None
    name, shape = modality.name, modality.image.shape
    observed, seen = (np.all(np.asarray(tree.observed[name]), axis=-1) for tree in (series, shown))
    both = [np.asarray(tree[name]) for tree in (series.values, prediction.mean)]
    scores: dict[str, list[float]] = {}
    for row in np.flatnonzero(np.any(observed, axis=1)):
        truth, mean = (pixels[row][observed[row]].reshape(-1, *shape) for pixels in both)
        each = {"pixel_mse": np.mean((truth - mean) ** 2, (1, 2, 3))}
        if min(shape[:2]) >= WINDOW:
            each["ssim"] = ssim(truth, mean)
        unseen = ~seen[row][observed[row]]
        for kind, own in each.items():
            scores.setdefault(kind, []).append(own.mean())
            if seen.any() and unseen.any():
                scores.setdefault(f"hidden_{kind}", []).append(own[unseen].mean())
    return {
        f"{kind}_{name}": {"mean": float(np.mean(each)), "sd": float(np.std(each))}
        for kind, each in scores.items()
    }
