"""The validation score, which selects starts and epochs during training."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.data import tasks
from jdmm.data.base import Dataset
from jdmm.data.modality import images_of
from jdmm.evaluation import scores
from jdmm.experiments.settings import EvalSettings
from jdmm.models.base import GradientModel
from jdmm.series import Series
from jdmm.training.progress import Scorer
from jdmm.training.scoring import LEAST_BRIER_SCORE, brier_score, loss_scorer


def validation_scorer(
    evaluation: EvalSettings, dataset: Dataset, model: GradientModel, series: Series
) -> Scorer:
    """Metrics of the validation series: the loss, the errors of each task, and the "score".

    The errors of a task are the mean squared error of the numeric modalities, at all values; of
    each modality of images the same per pixel; and the Brier score ``sum_k (p_k - [k = value])^2``
    of the categorical modalities, at the hidden values, or at all if none is hidden. The score is
    to be minimised: the mean log of these errors, or the loss if `evaluation.select` says so.
    """
    names, key = evaluation.tasks, jax.random.key(evaluation.seed)
    shown = jax.jit(partial(tasks.show, dataset.tasks, names))(series, key)
    targets = jax.tree.map(lambda leaf: np.concatenate([leaf] * len(names)), series)
    weights = _class_weights(dataset, shown, targets, len(names))
    loss = loss_scorer(model, series, evaluation.seed)
    validated = model.for_validation
    images = {m.name: m.features for m in images_of(dataset.modalities)}
    numbers = scores.with_intervals(dataset.modalities)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, None, None, None))
    def errors(
        variables: Any, shown: Series, targets: Series, weights: dict[str, Any], key: jax.Array
    ) -> dict[str, jax.Array]:
        """Kind of error -> ``(task,)``."""
        path = validated.posterior_mean(variables, shown, key)
        raw = validated.emissions_of(variables, path.states, shown)
        found = {}
        mean = {name: model.likelihoods[name].mean(raw[name]) for name in [*numbers, *images]}

        def error(own: Sequence[str]) -> jax.Array:
            predicted = {name: mean[name] for name in own}
            each = scores.squared_error(predicted, targets.values, targets.observed)
            return jnp.mean(each.reshape(len(names), -1), 1)

        if numbers:
            found["mse"] = error(numbers)
        for name, pixels in images.items():
            found[f"pixel_mse_{name}"] = error([name]) / pixels
        if weights:
            brier = jnp.zeros(len(names))
            for name, weight in weights.items():
                probabilities = model.likelihoods[name].probabilities(raw[name])
                assert probabilities is not None  # of a categorical likelihood
                each = weight * brier_score(probabilities, targets.values[name])
                brier += jnp.sum(each.reshape(len(names), -1), 1)
            found["brier"] = jnp.maximum(brier, LEAST_BRIER_SCORE)
        return found

    def score(variables: Any) -> dict[str, list[float]]:
        """Metric -> one value per seed."""
        found = jax.device_get(errors(variables, shown, targets, weights, key))
        metrics = loss(variables)
        if evaluation.select == "score":
            metrics["score"] = np.mean(np.log(np.concatenate(list(found.values()), 1)), 1)
        for kind, values in found.items():
            metrics |= {f"{kind}/{task}": values[:, place] for place, task in enumerate(names)}
        return {name: np.asarray(values).tolist() for name, values in metrics.items()}

    return score


def _class_weights(
    dataset: Dataset, shown: Series, targets: Series, num_tasks: int
) -> dict[str, np.ndarray]:
    """Categorical modality -> weights ``(task * batch, time, feature)`` of its values.

    Those of one task and all modalities sum to 1.
    """
    classes = scores.categorical(dataset.modalities)
    masks = scores.hidden(shown, targets)
    weights = {name: np.zeros(np.shape(targets.values[name]), np.float32) for name in classes}
    for rows in np.split(np.arange(targets.batch), num_tasks) if classes else ():
        counted = {name: masks[name][rows] for name in classes}
        if not any(mask.any() for mask in counted.values()):
            counted = {name: np.asarray(targets.observed[name])[rows] for name in classes}
        total = max(sum(mask.sum() for mask in counted.values()), 1)
        for name, mask in counted.items():
            weights[name][rows] = mask / total
    return weights
