"""One experiment in one work directory: train, evaluate, sample, infer.

The work directory holds `config.json`, `metrics.jsonl`, `events.*` (TensorBoard), `checkpoints/`,
`figures/*.png`, `report.md` and `results.json`. Everything in it is either written whole or
continued, so that a run killed at any moment goes on from its last checkpoint.
"""

import contextlib
import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from tqdm import tqdm

from jdmm import plotting, report, settings, tasks, training
from jdmm.checkpoints import Checkpoints
from jdmm.data.files import read_npz, write_npz
from jdmm.data.spirals import Split
from jdmm.errors import InputError, Interrupted
from jdmm.logs import MetricsLog, replace_text
from jdmm.models.mdmm import MDMM
from jdmm.prediction import Prediction, predict_all
from jdmm.schedule import Schedule
from jdmm.series import Series
from jdmm.settings import Config
from jdmm.training import Progress, Scorer

SPLITS = ("train", "validation", "test")


def train_and_evaluate(config: Config, workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Trains, or goes on training, then scores the test series; returns the results.

    Raises:
        InputError: for a configuration that cannot work, or a work directory of another one.
        DivergenceError: if training is no longer finite; the last checkpoint stays.
        Interrupted: after SIGTERM, once a checkpoint is written.
    """
    settings.check(config)
    workdir = Path(workdir)
    data = settings.load_data(config)
    model, how = settings.build_model(config), settings.train_settings(config)
    if how.batch_size > data["train"].noisy.batch:
        raise InputError(
            f"expected batch_size of at most the {data['train'].noisy.batch} training series, "
            f"got {how.batch_size}"
        )
    _claim(config, workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    fresh = training.start(model, data["train"].noisy, how, config.seed)
    progress = checkpoints.restore(fresh) or fresh
    score = validation_scorer(config, model, data["validation"].noisy)
    steps = Schedule(how, data["train"].noisy.batch).all_steps
    with (
        contextlib.closing(checkpoints),
        contextlib.closing(MetricsLog(workdir, progress.steps)) as log,
        tqdm(total=steps, initial=progress.steps, unit="step", disable=None) as bar,
        _on_sigterm() as interrupted,
    ):
        for _ in training.run_epochs(
            model, data["train"].noisy, how, progress, score, interrupted, bar.update
        ):
            record = progress.record
            if record is None:
                checkpoints.save(progress)
                raise Interrupted(
                    f"stopped by SIGTERM at step {progress.steps}; the "
                    "same command goes on from there"
                )
            log.write(record)
            if "validation/score" in record or record["epoch"] == how.epochs:
                checkpoints.save(progress)
                bar.set_postfix(epoch=record["epoch"], score=record.get("validation/score"))
    return evaluate(config, workdir, model, progress, data, "test")


def evaluate_workdir(workdir: str | os.PathLike[str], split: str = "test") -> dict[str, Any]:
    """Scores the best variables of a work directory on a split, and writes and draws the results.

    Raises:
        InputError: if the split is unknown, or the directory holds no finished checkpoint.
    """
    if split not in SPLITS:
        raise InputError(f"expected a split among {', '.join(SPLITS)}, got {split!r}")
    config, model, progress = _restore(Path(workdir))
    data = settings.load_data(config)
    return evaluate(config, Path(workdir), model, progress, data, split)


def sample_workdir(
    workdir: str | os.PathLike[str],
    count: int,
    time: int,
    output: str | os.PathLike[str] | None = None,
    reverse: bool = False,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Draws series from the prior; writes them as .npz, two modalities or more also as a figure.

    Returns:
        modality -> ``(count, time, feature)`` with emission noise, "<modality>_mean" without.

    Raises:
        InputError: for numbers below 1, or a directory without a finished checkpoint.
    """
    if count < 1 or time < 1:
        raise InputError(f"expected count and steps of at least 1, got {count} and {time}")
    workdir = Path(workdir)
    config, model, progress = _restore(workdir)

    @jax.jit
    def draw(variables: Any, key: jax.Array) -> dict[str, jax.Array]:
        state_key, emission_key = jax.random.split(key)
        states = model.sample(variables, state_key, count, time, reverse)
        drawn = {}
        for index, (name, raw) in enumerate(model.decode(variables, states).items()):
            likelihood = model.likelihoods[name]
            drawn[f"{name}_mean"] = likelihood.mean(raw)
            drawn[name] = likelihood.sample(raw, jax.random.fold_in(emission_key, index))
        return drawn

    arrays = jax.device_get(draw(progress.best, jax.random.key(seed)))
    write_npz(output or workdir / "samples.npz", arrays)
    names = [modality.name for modality in model.modalities]
    if len(names) == 2 and all(arrays[name].shape[-1] == 1 for name in names):
        means = np.concatenate([arrays[f"{name}_mean"] for name in names], -1)
        title = "Means drawn from the prior, " + ("backwards" if reverse else "forwards")
        plotting.save(plotting.samples_grid(means, title), workdir / "figures" / "samples.png")
    return arrays


def infer_file(
    workdir: str | os.PathLike[str],
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    before: int = 0,
    after: int = 0,
    seed: int = 0,
) -> Prediction:
    """Fills in the series of an .npz file, and extrapolates them by `before` and `after` steps.

    Writes, per modality, "<name>_mean", "<name>_sd", "<name>_lower" and "<name>_upper" (95 %
    interval), each ``(batch, before + time + after, feature)``, and "lengths".

    Raises:
        InputError: for a bad file, negative numbers, or a directory without a finished checkpoint.
    """
    config, model, progress = _restore(Path(workdir))
    series = read_npz(source, {m.name: m.features for m in model.modalities}).pad(before, after)
    prediction = predict_all(
        model,
        progress.best,
        series,
        jax.random.key(seed),
        config.eval.draws,
        batch_size=config.eval.batch_size,
    )
    arrays = {
        f"{name}_{kind}": getattr(prediction, kind)[name]
        for name in prediction.mean
        for kind in ("mean", "sd", "lower", "upper")
    }
    write_npz(output, arrays | {"lengths": np.asarray(series.lengths)})
    return prediction


def validation_scorer(config: Config, model: MDMM, series: Series) -> Scorer:
    """Validation figures: each task's MSE, the loss, and the score that selects the best epoch."""
    names = tuple(config.eval.tasks)
    shown = jax.jit(partial(tasks.show, names))(series, jax.random.key(config.eval.seed))
    truth = jax.tree.map(lambda leaf: np.concatenate([leaf] * len(names)), series)
    loss = training.loss_scorer(model, series, config.eval.seed)
    quick = model.with_points(model.points)  # as many points as in training: this runs often
    key = jax.random.key(config.eval.seed)

    @jax.jit
    def errors(variables: Any, shown: Series, truth: Series, key: jax.Array) -> jax.Array:
        states = quick.infer(variables, shown, key).mean
        raw = quick.decode(variables, states)
        mean = {name: model.likelihoods[name].mean(raw[name]) for name in raw}
        each = tasks.squared_error(mean, truth.values, truth.observed)
        return jnp.mean(each.reshape(len(names), -1), 1)

    def score(variables: Any) -> dict[str, float]:
        measured = jax.device_get(errors(variables, shown, truth, key)).tolist()
        each = dict(zip(names, measured, strict=True))
        figures = loss(variables)
        if config.eval.select == "score":
            figures["score"] = sum(math.log(value) for value in each.values()) / len(each)
        return figures | {f"mse/{name}": value for name, value in each.items()}

    return score


def evaluate(
    config: Config,
    workdir: Path,
    model: MDMM,
    progress: Progress,
    data: dict[str, Split],
    split: str,
) -> dict[str, Any]:
    """Scores every task on a split; writes results, figures and report into `workdir`.

    The test split's files are `results.json`, `report.md` and `figures/`; another split's carry
    its name.
    """
    began = time.perf_counter()
    schedule = Schedule(settings.train_settings(config), data["train"].noisy.batch)
    epochs = progress.steps / schedule.steps_per_epoch
    names = tuple(config.eval.tasks)
    targets, clean = data[split].noisy, data[split].clean
    shown = jax.jit(partial(tasks.show, names))(targets, jax.random.key(config.eval.seed))
    repeated = jax.tree.map(lambda leaf: np.concatenate([leaf] * len(names)), targets)
    everything = predict_all(
        model,
        progress.best,
        shown,
        jax.random.key(config.eval.seed),
        config.eval.draws,
        repeated,
        config.eval.batch_size,
    )
    outcomes = {}
    for index, name in enumerate(names):
        rows = slice(index * targets.batch, (index + 1) * targets.batch)
        outcomes[name] = jax.tree.map(lambda leaf, rows=rows: leaf[rows], (everything, shown))
    results = {
        "config": settings.plain(config),
        "seed": config.seed,
        "split": split,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(progress.best)),
        "params_sha256": fingerprint(progress.best),
        "best_epoch": progress.best_epoch,
        "train_seconds": progress.seconds,
        "seconds_per_epoch": progress.seconds / max(epochs, 1),
        "evaluate_seconds": time.perf_counter() - began,
        "tasks": {
            name: tasks.score(prediction, seen, targets, clean)
            for name, (prediction, seen) in outcomes.items()
        },
    }
    suffix = "" if split == "test" else f"-{split}"
    figures = report.draw_figures(workdir, suffix, outcomes, targets, clean)
    report.write(workdir, suffix, results, figures)
    replace_text(workdir / f"results{suffix}.json", json.dumps(results, indent=2) + "\n")
    return results


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


def _claim(config: Config, workdir: Path) -> None:
    """Makes the work directory this experiment's, or makes sure that it is already."""
    path = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            other = settings.difference(config, settings.load_config(path))
            if other:
                raise InputError(
                    f"expected a work directory of this configuration, got {workdir} "
                    f"where {other}: give another --workdir"
                )
        else:
            settings.save_config(config, path)
    except OSError as error:
        raise InputError(
            f"expected a work directory that can be written, got {workdir} ({error.strerror})"
        ) from None


def _restore(workdir: Path) -> tuple[Config, MDMM, Progress]:
    """Configuration, model and latest progress of a work directory."""
    config = settings.load_config(workdir / "config.json")
    model = settings.build_model(config)
    like = training.start(model, _example(model), settings.train_settings(config), config.seed)
    with contextlib.closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        progress = checkpoints.restore(like)
    if progress is None:
        raise InputError(f"expected a checkpoint in {workdir}, got none: train first")
    return config, model, progress


def _example(model: MDMM) -> Series:
    """One step of nothing, which has the form of the model's series."""
    shapes = {m.name: (1, 1, m.features) for m in model.modalities}
    return Series(
        values={name: jnp.zeros(shape) for name, shape in shapes.items()},
        observed={name: jnp.zeros(shape, bool) for name, shape in shapes.items()},
        lengths=jnp.ones(1, jnp.int32),
        index=jnp.zeros(1, jnp.int32),
    )


@contextlib.contextmanager
def _on_sigterm() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM only raises a flag, which the yielded function reads."""
    received: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    except ValueError:  # not in the main thread: signals are somebody else's business
        yield lambda: False
        return
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)
