"""Scores of trained models: on validation series while they train, and on a split at the end."""

import contextlib
import hashlib
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.data.spirals import Split
from jdmm.evaluation import calibration, importance, tasks
from jdmm.evaluation.prediction import UNCALIBRATED, Calibration, predict_all
from jdmm.experiments import report, settings
from jdmm.experiments.logs import replace_text
from jdmm.experiments.settings import Config
from jdmm.models.base import ExactLikelihood, GradientModel, Model
from jdmm.series import Series
from jdmm.training.progress import Progress, Scorer
from jdmm.training.schedule import Schedule
from jdmm.training.scoring import loss_scorer

CALIBRATION_DRAWS = 60
"""At most; it goes through all pairs of scales."""


def seeds_of(config: Config) -> list[int]:
    """The seeds of a run."""
    return list(range(config.seed, config.seed + config.seeds))


def seed_dirs(config: Config, workdir: Path) -> dict[int, Path]:
    """Seed -> the directory of its logs, figures, report and results."""
    seeds = seeds_of(config)
    if len(seeds) == 1:
        return {seeds[0]: workdir}
    return {seed: workdir / f"seed-{seed}" for seed in seeds}


def validation_scorer(config: Config, model: GradientModel, series: Series) -> Scorer:
    """Validation figures: each task's MSE, the loss, and the score that selects the best epoch."""
    names = tuple(config.eval.tasks)
    shown = jax.jit(partial(tasks.show, names))(series, jax.random.key(config.eval.seed))
    truth = jax.tree.map(lambda leaf: np.concatenate([leaf] * len(names)), series)
    loss = loss_scorer(model, series, config.eval.seed)
    quick = model.for_validation  # this runs often
    key = jax.random.key(config.eval.seed)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, None, None))
    def errors(variables: Any, shown: Series, truth: Series, key: jax.Array) -> jax.Array:
        raw = quick.emissions(variables, quick.posterior_mean(variables, shown, key).states)
        mean = {name: model.likelihoods[name].mean(raw[name]) for name in raw}
        each = tasks.squared_error(mean, truth.values, truth.observed)
        return jnp.mean(each.reshape(len(names), -1), 1)

    def score(variables: Any) -> dict[str, list[float]]:
        """Figure -> one per seed."""
        each = jax.device_get(errors(variables, shown, truth, key))
        figures = loss(variables)
        if config.eval.select == "score":
            figures["score"] = np.mean(np.log(each), 1)
        figures |= {f"mse/{name}": each[:, task] for task, name in enumerate(names)}
        return {name: np.asarray(values).tolist() for name, values in figures.items()}

    return score


def evaluate(
    config: Config,
    workdir: Path,
    model: Model,
    progress: Progress,
    data: dict[str, Split],
    split: str,
) -> dict[str, Any]:
    """Scores every task on a split; writes results, figures and report into `workdir`.

    The test split's files are `results.json`, `report.md` and `figures/`; another split's carry
    its name. Of several seeds, each has its own, and `workdir` their mean and sd.
    """
    epochs = 1.0
    if settings.is_trained(config):
        schedule = Schedule(settings.train_settings(config), data["train"].noisy.batch)
        epochs = max(progress.steps / schedule.steps_per_epoch, 1)
    directories = seed_dirs(config, workdir)
    each = []
    for row, (seed, directory) in enumerate(directories.items()):
        alone = jax.tree.map(lambda leaf, row=row: leaf[row], progress.best)
        facts = {
            "seed": seed,
            "best_epoch": progress.best_epoch[row] if progress.best_epoch else None,
            "validation_score": progress.best_score[row] if progress.best_score else None,
            "train_seconds": progress.seconds,
            "seconds_per_epoch": progress.seconds / epochs,
        }
        scales = calibrated(config, directory, model, alone, data["validation"])
        facts["calibration"] = scales._asdict()
        each.append(
            _evaluate_seed(config, directory, model, alone, scales, facts, data[split], split)
        )
    if len(each) == 1:
        return each[0]
    results = report.over_seeds(each)
    suffix = _suffix(split)
    report.write_over_seeds(workdir, suffix, results, list(directories.values()))
    replace_text(workdir / f"results{suffix}.json", json.dumps(results, indent=2) + "\n")
    return results


def _evaluate_seed(
    config: Config,
    workdir: Path,
    model: Model,
    variables: Any,
    scales: Calibration,
    facts: dict[str, Any],
    data: Split,
    split: str,
) -> dict[str, Any]:
    """One seed's results, written and drawn into its own directory."""
    began = time.perf_counter()
    names = tuple(config.eval.tasks)
    targets, clean = data.noisy, data.clean
    shown = jax.jit(partial(tasks.show, names))(targets, jax.random.key(config.eval.seed))
    # nothing is held out of what was shown: there a second observation is to be predicted
    scored = {
        name: np.where(mask, *(np.concatenate([leaf] * len(names)) for leaf in pair))
        for name, mask in shown.observed.items()
        for pair in [(data.again[name], targets.values[name])]
    }
    everything = predict_all(
        model,
        variables,
        shown,
        jax.random.key(config.eval.seed),
        config.eval.draws,
        shown.replace(values=scored),  # type: ignore[attr-defined]
        config.eval.batch_size,
        scales,
    )
    outcomes = {}
    for index, name in enumerate(names):
        rows = slice(index * targets.batch, (index + 1) * targets.batch)
        outcomes[name] = jax.tree.map(lambda leaf, rows=rows: leaf[rows], (everything, shown))
    results = {
        "config": settings.plain(config),
        **facts,
        "split": split,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables)),
        "params_sha256": fingerprint(variables),
        "evaluate_seconds": time.perf_counter() - began,
        "tasks": {
            name: tasks.score(prediction, seen, targets, clean)
            for name, (prediction, seen) in outcomes.items()
        },
        "log_likelihood": _log_likelihood(config, model, variables, targets),
    }
    suffix = _suffix(split)
    figures = report.draw_figures(workdir, suffix, outcomes, targets, clean)
    report.write(workdir, suffix, results, figures)
    replace_text(workdir / f"results{suffix}.json", json.dumps(results, indent=2) + "\n")
    return results


def _log_likelihood(
    config: Config, model: Model, variables: Any, series: Series
) -> dict[str, float]:
    """Log-likelihood in nats per time step, exact, or bounds and the effective number of draws."""
    steps = float(np.sum(series.lengths))
    if isinstance(model, ExactLikelihood):
        return {"exact": float(jnp.sum(jax.jit(model.log_likelihood)(variables, series)) / steps)}
    if not config.eval.get("importance"):
        return {}
    key, counts = jax.random.key(config.eval.seed), config.eval.importance
    size = config.eval.batch_size
    weighed = importance.log_likelihood_bounds(model, variables, series, key, counts, size)
    bounds = {f"bound{count}": float(each.sum() / steps) for count, each in weighed.bounds.items()}
    return {**bounds, "effective_draws": float(weighed.effective.mean())}


def _suffix(split: str) -> str:
    return "" if split == "test" else f"-{split}"


def calibrated(
    config: Config, directory: Path, model: Model, variables: Any, data: Split
) -> Calibration:
    """The scales kept in `directory` for these variables, or chosen on validation series now."""
    if not config.eval.calibrate:
        return UNCALIBRATED
    path, mark = directory / "calibration.json", fingerprint(variables)
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_text())
        if kept.pop("params_sha256") == mark:
            return Calibration(**kept)
    key = jax.random.key(config.eval.seed)
    show = jax.jit(tasks.show, static_argnums=0)
    shown = [jax.device_get(show((name,), data.noisy, key)) for name in config.eval.tasks]
    held_out = [_held_out(data, seen) for seen in shown]
    draws, size = min(config.eval.draws, CALIBRATION_DRAWS), config.eval.batch_size
    scales = calibration.calibrate(model, variables, shown, held_out, key, draws, size)
    directory.mkdir(parents=True, exist_ok=True)
    kept = {**scales._asdict(), "params_sha256": mark}
    replace_text(path, json.dumps(kept, indent=2) + "\n")
    return scales


def _held_out(data: Split, shown: Series) -> Series:
    """What was hidden; the second observation of everything if nothing was."""
    hidden = {name: ~np.asarray(mask) for name, mask in shown.observed.items()}
    held_out = jax.device_get(data.noisy.hide(hidden))
    if any(mask.any() for mask in held_out.observed.values()):
        return held_out
    return data.noisy.replace(values=data.again)  # type: ignore[attr-defined]


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
