"""Scores of trained models on a split: predictions of every task, and the log-likelihood."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.data import tasks
from jdmm.data.base import Split
from jdmm.evaluation import calibration, importance, scores
from jdmm.evaluation.images import image_names
from jdmm.evaluation.prediction import UNCALIBRATED, Calibration, predict_all
from jdmm.experiments import report, settings
from jdmm.experiments.settings import Experiment
from jdmm.experiments.train import Trained, seed_dirs
from jdmm.files import write_text
from jdmm.models.base import ExactLikelihood
from jdmm.series import Series
from jdmm.training.schedule import Schedule

CALIBRATION_DRAWS = 60
"""At most so many posterior samples for each pair of scales."""


def evaluate(
    experiment: Experiment, workdir: Path, trained: Trained, data: dict[str, Split], split: str
) -> dict[str, Any]:
    """Scores every task on a split, and writes results, figures and report into `workdir`.

    The files of the test split are `results.json`, `report.md` and `figures/`; those of another
    split carry its name. With several seeds each has a directory of its own, and `workdir` holds
    the mean and the standard deviation over them.
    """
    suffix = "" if split == "test" else f"-{split}"
    directories = seed_dirs(experiment.seeds, workdir)
    epochs = 1.0
    if experiment.training is not None:
        schedule = Schedule(experiment.training, data["train"].training.batch)
        epochs = max(trained.steps / schedule.steps_per_epoch, 1.0)
    each = []
    for row, (seed, directory) in enumerate(directories.items()):
        variables = trained.of_seed(row)
        scales = calibrated(experiment, directory, variables, lambda: data["validation"])
        began = time.perf_counter()
        outcomes = predict_tasks(experiment, variables, scales, data[split])
        results = {
            "config": settings.plain(experiment.config),
            "seed": seed,
            "best_epoch": trained.best_epoch[row] if trained.best_epoch else None,
            "validation_score": trained.best_score[row] if trained.best_score else None,
            "train_seconds": trained.seconds,
            "seconds_per_epoch": trained.seconds / epochs,
            "calibration": scales._asdict(),
            "split": split,
            "parameters": num_parameters(variables),
            "params_sha256": fingerprint(variables),
            "tasks": {
                task: scores.score(prediction, shown, data[split], experiment.dataset.modalities)
                for task, (prediction, shown) in outcomes.items()
            },
            "log_likelihood": log_likelihood(experiment, variables, data[split].series, outcomes),
        }
        results["evaluate_seconds"] = time.perf_counter() - began
        figures = report.draw_figures(experiment.dataset, directory, suffix, data[split], outcomes)
        report.write(directory, suffix, results, figures)
        _write_results(directory, suffix, results)
        each.append(results)
    if len(each) == 1:
        return each[0]
    results = report.over_seeds(each)
    report.write_over_seeds(workdir, suffix, results, list(directories.values()))
    _write_results(workdir, suffix, results)
    return results


def predict_tasks(
    experiment: Experiment, variables: Any, scales: Calibration, split: Split
) -> report.Outcomes:
    """The prediction of every task, and what it shows of the series."""
    evaluation, series = experiment.evaluation, split.series
    names, key = evaluation.tasks, jax.random.key(evaluation.seed)
    images = image_names(experiment.model.modalities)
    shown = jax.jit(partial(tasks.show, experiment.dataset.tasks, names))(series, key)
    prediction = predict_all(
        experiment.model,
        variables,
        shown,
        key,
        evaluation.draws,
        shown.replace(  # type: ignore[attr-defined]
            values=scores.scored_values(shown, split, images)
        ),
        evaluation.batch_size,
        scales,
        return_log_weights=_weights_are_free(experiment, scales),
    )
    rows = np.split(np.arange(shown.batch), len(names))
    return {
        name: jax.tree.map(lambda leaf, own=own: leaf[own], (prediction, shown))
        for name, own in zip(names, rows, strict=True)
    }


def log_likelihood(
    experiment: Experiment, variables: Any, series: Series, outcomes: report.Outcomes
) -> dict[str, float]:
    """Log-likelihood in nats per step: "exact", or "bound<K>" and "effective_draws".

    Bounds are those of the samples of a task that shows everything, if its prediction has their
    weights, else of new samples.
    """
    model, evaluation = experiment.model, experiment.evaluation
    steps = float(np.sum(series.lengths))
    if isinstance(model, ExactLikelihood):
        return {"exact": float(jnp.sum(jax.jit(model.log_likelihood)(variables, series)) / steps)}
    if not evaluation.importance:
        return {}
    for prediction, shown in outcomes.values():
        complete = jax.tree.map(np.array_equal, dict(shown.observed), dict(series.observed))
        if prediction.log_weights is not None and all(complete.values()):
            weights = prediction.log_weights.T
            found = importance.bounds_of_weights(weights, evaluation.importance)
            break
    else:
        found = importance.log_likelihood_bounds(
            model,
            variables,
            series,
            jax.random.key(evaluation.seed),
            evaluation.importance,
            evaluation.batch_size,
        )
    bounds = {f"bound{count}": float(each.sum() / steps) for count, each in found.bounds.items()}
    return {**bounds, "effective_draws": float(found.effective.mean())}


def _weights_are_free(experiment: Experiment, scales: Calibration) -> bool:
    """Whether the samples of the predictions also give the bounds of the log-likelihood."""
    counts, model = experiment.evaluation.importance, experiment.model
    return (
        bool(counts)
        and max(counts) <= experiment.evaluation.draws  # type: ignore[type-var, arg-type]
        and scales == UNCALIBRATED  # these samples are from q itself
        and not isinstance(model, ExactLikelihood)
        and not image_names(model.modalities)
    )


def calibrated(
    experiment: Experiment, directory: Path, variables: Any, validation: Callable[[], Split]
) -> Calibration:
    """The scales of the intervals of these variables.

    They are read from `directory`, or chosen on the validation series and kept there. `validation`
    is called in the second case only.
    """
    if not experiment.evaluation.calibrate:
        return UNCALIBRATED
    path, mark = directory / "calibration.json", fingerprint(variables)
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_text())
        if kept.pop("params_sha256") == mark:
            return Calibration(**kept)
    scales = _calibrate(experiment, variables, validation())
    directory.mkdir(parents=True, exist_ok=True)
    kept = {**scales._asdict(), "params_sha256": mark}
    write_text(path, json.dumps(kept, indent=2) + "\n")
    return scales


def _calibrate(experiment: Experiment, variables: Any, validation: Split) -> Calibration:
    """The scales with which intervals cover what the tasks hide."""
    evaluation, dataset = experiment.evaluation, experiment.dataset
    key = jax.random.key(evaluation.seed)
    shown = [
        jax.device_get(jax.jit(partial(tasks.show, dataset.tasks, (name,)))(validation.series, key))
        for name in evaluation.tasks
    ]
    held_out = [
        validation.series.replace(  # type: ignore[attr-defined]
            values=scores.scored_values(each, validation),
            observed=scores.interval_targets(each, validation),
        )
        for each in shown
    ]
    return calibration.calibrate(
        experiment.model,
        variables,
        shown,
        held_out,
        key,
        min(evaluation.draws, CALIBRATION_DRAWS),
        evaluation.batch_size,
    )


def num_parameters(variables: Any) -> int:
    """The number of parameters, without running statistics."""
    params = variables.get("params", variables) if isinstance(variables, Mapping) else variables
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def fingerprint(variables: Any) -> str:
    """SHA-256 over the names, shapes and bytes of all variables."""
    digest = hashlib.sha256()
    for path, leaf in sorted(
        jax.tree_util.tree_leaves_with_path(variables), key=lambda item: str(item[0])
    ):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write_results(directory: Path, suffix: str, results: dict[str, Any]) -> None:
    write_text(directory / f"results{suffix}.json", json.dumps(results, indent=2) + "\n")
