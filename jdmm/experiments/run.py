"""One experiment in one work directory: train, evaluate, sample, infer.

The work directory holds `config.json`, `metrics.jsonl`, `events.*` (TensorBoard), `checkpoints/`,
`calibration.json`, `figures/*.png`, `report.md` and `results.json`; of several seeds, each has all
but the first and the checkpoints in `seed-<number>/`, and the mean over seeds lies above.
Everything is either written whole or continued, so that a run killed at any moment goes on from
its last checkpoint.

In a job of several processes all train, and the first one reads checkpoints and writes.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jdmm.compiling import Compilations
from jdmm.data.npz import read_npz, write_npz
from jdmm.data.spirals import Split
from jdmm.errors import InputError, Interrupted
from jdmm.evaluation.prediction import Prediction, predict_all
from jdmm.experiments import plotting, settings
from jdmm.experiments.evaluate import calibrated, evaluate, seed_dirs, seeds_of, validation_scorer
from jdmm.experiments.logs import MetricsLog
from jdmm.experiments.settings import Config
from jdmm.models.base import GradientModel, Model, SelfFittingModel, unobserved_series
from jdmm.series import Series
from jdmm.training import loop, parallel
from jdmm.training.checkpoints import Checkpoints, separate
from jdmm.training.parallel import Devices, StepCost
from jdmm.training.progress import Progress
from jdmm.training.schedule import Schedule, TrainSettings

SPLITS = ("train", "validation", "test")


def train_and_evaluate(
    config: Config, workdir: str | os.PathLike[str], devices: Devices | None = None
) -> dict[str, Any]:
    """Trains, or goes on training, then scores the test series; returns the results.

    Args:
        config: the configuration.
        workdir: where everything is written.
        devices: over which each batch is divided; by default all that are found.

    Returns:
        What `results.json` holds; in processes that do not write, nothing.

    Raises:
        InputError: for a configuration that cannot work, or a work directory of another one.
        DivergenceError: if training is no longer finite; the last checkpoint stays.
        Interrupted: after SIGTERM, once a checkpoint is written.
        PeerLost: if another process of the job is gone.
    """
    workdir = Path(workdir)
    model, data, progress = train(config, workdir, devices)
    return evaluate(config, workdir, model, progress, data, "test") if parallel.is_primary() else {}


def train(
    config: Config, workdir: Path, devices: Devices | None = None
) -> tuple[Model, dict[str, Split], Progress]:
    """`train_and_evaluate` up to the test series, which it leaves alone; raises the same."""
    settings.check(config)
    devices = devices or Devices.available()
    data, model = settings.load_data(config), settings.build_model(config)
    series = data["train"].noisy
    if isinstance(model, SelfFittingModel):
        if parallel.is_primary():
            _claim(config, workdir)
        return model, data, _fit(model, series)
    assert isinstance(model, GradientModel)
    how = settings.train_settings(config)
    loop.check_training(model, series, how, devices)
    if parallel.is_primary():
        _claim(config, workdir)
    with (
        contextlib.closing(Checkpoints(workdir / "checkpoints")) as checkpoints,
        parallel.report_lost_peers(),
    ):
        progress = _resume(checkpoints, loop.initial_progress(model, series, how, seeds_of(config)))
        _train(config, workdir, model, how, data, progress, checkpoints, devices)
    return model, data, progress


def _fit(model: SelfFittingModel, series: Series) -> Progress:
    """A model that fits itself, in seconds, so that nothing needs to be kept."""
    began = time.perf_counter()
    best = jax.tree.map(lambda leaf: np.asarray(leaf)[None], model.fit(series))
    seconds = time.perf_counter() - began
    return Progress(None, best, None, [], [], [], [], seconds=seconds)  # type: ignore[arg-type]


def _train(
    config: Config,
    workdir: Path,
    model: GradientModel,
    how: TrainSettings,
    data: dict[str, Split],
    progress: Progress,
    checkpoints: Checkpoints,
    devices: Devices,
) -> None:
    """Trains to the end, with logs and checkpoints, or until SIGTERM."""
    series = data["train"].noisy
    compilations = Compilations()
    score = validation_scorer(config, model, data["validation"].noisy)
    leads = parallel.is_primary()
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(
                total=Schedule(how, series.batch).all_steps,
                initial=progress.steps,
                unit="step",
                disable=None if leads else True,
            )
        )
        logs = [
            stack.enter_context(contextlib.closing(MetricsLog(directory, progress.steps)))
            for directory in (seed_dirs(config, workdir).values() if leads else ())
        ]
        interrupted = stack.enter_context(_on_sigterm())
        for _ in loop.run_epochs(
            model,
            series,
            how,
            progress,
            lambda variables: parallel.broadcast(score(variables) if leads else None),
            interrupted,
            bar.update,
            devices,
            on_compile=lambda cost: leads and print(_told(cost, devices), file=sys.stderr),
        ):
            records = progress.records
            if records is None:
                if leads:
                    checkpoints.save(progress)
                raise Interrupted(
                    f"stopped by SIGTERM at step {progress.steps}; the "
                    "same command goes on from there"
                )
            for log, record in zip(logs, records, strict=False):
                log.write(record)
            if leads and ("validation/score" in records[0] or records[0]["epoch"] == how.epochs):
                checkpoints.save(progress)
                scores = [record.get("validation/score") for record in records]
                bar.set_postfix(epoch=records[0]["epoch"], score=scores)
    for name, times in compilations.of("train_step", "errors", "evaluate").items():
        if times > 1:
            print(f"{name} was compiled {times} times, expected 1: please report", file=sys.stderr)


def _told(cost: StepCost, devices: Devices) -> str:
    """What the train step costs, for the user."""
    memory = "" if cost.bytes is None else f", {cost.bytes / 1e6:.0f} MB on each"
    return f"train step on {devices.count} device(s): compiled in {cost.seconds:.1f} s{memory}"


def _resume(checkpoints: Checkpoints, fresh: Progress) -> Progress:
    """The latest progress, or the fresh one: what process 0 finds, in all processes."""
    found = checkpoints.restore(fresh) if parallel.is_primary() else None
    arrays, figures = separate(found or fresh)
    return Progress(**parallel.broadcast_arrays(arrays), **parallel.broadcast(figures))


def evaluate_workdir(workdir: str | os.PathLike[str], split: str = "test") -> dict[str, Any]:
    """Scores the best variables of a work directory on a split, and writes and draws the results.

    Raises:
        InputError: if the split is unknown, or the directory holds no finished checkpoint.
    """
    if split not in SPLITS:
        raise InputError(f"expected a split among {', '.join(SPLITS)}, got {split!r}")
    config, model, progress = _restore(Path(workdir))
    return evaluate(config, Path(workdir), model, progress, settings.load_data(config), split)


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
        states = model.prior_samples(variables, state_key, count, time, reverse)
        drawn = {}
        for index, (name, raw) in enumerate(model.emissions(variables, states).items()):
            likelihood = model.likelihoods[name]
            drawn[f"{name}_mean"] = likelihood.mean(raw)
            drawn[name] = likelihood.sample(raw, jax.random.fold_in(emission_key, index))
        return drawn

    arrays = jax.device_get(draw(_best(config, progress)[1], jax.random.key(seed)))
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
    best, variables = _best(config, progress)
    directory = seed_dirs(config, Path(workdir))[best]
    prediction = predict_all(
        model,
        variables,
        series,
        jax.random.key(seed),
        config.eval.draws,
        batch_size=config.eval.batch_size,
        calibration=calibrated(
            config, directory, model, variables, settings.load_data(config)["validation"]
        ),
    )
    arrays = {
        f"{name}_{kind}": getattr(prediction, kind)[name]
        for name in prediction.mean
        for kind in ("mean", "sd", "lower", "upper")
    }
    write_npz(output, arrays | {"lengths": np.asarray(series.lengths)})
    return prediction


def _best(config: Config, progress: Progress) -> tuple[int, Any]:
    """The seed of the best validation score, and its best variables."""
    row = int(np.argmin(progress.best_score)) if progress.best_score else 0
    return seeds_of(config)[row], jax.tree.map(lambda leaf: leaf[row], progress.best)


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


def _restore(workdir: Path) -> tuple[Config, Model, Progress]:
    """Configuration, model and latest progress of a work directory."""
    config = settings.load_config(workdir / "config.json")
    model = settings.build_model(config)
    if isinstance(model, SelfFittingModel):
        return config, model, _fit(model, settings.load_data(config)["train"].noisy)
    assert isinstance(model, GradientModel)
    like = loop.initial_progress(
        model,
        unobserved_series(model.modalities, 1, 1),
        settings.train_settings(config),
        seeds_of(config),
    )
    with contextlib.closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        progress = checkpoints.restore(like)
    if progress is None:
        raise InputError(f"expected a checkpoint in {workdir}, got none: train first")
    return config, model, progress


@contextlib.contextmanager
def _on_sigterm() -> Iterator[Callable[[int], bool]]:
    """Within, SIGTERM only raises a flag, which the yielded function of the steps taken reads."""
    if jax.process_count() > 1:
        yield parallel.reached_end
        return
    received: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    except ValueError:  # not in the main thread: signals are somebody else's business
        yield lambda steps: False
        return
    try:
        yield lambda steps: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)
