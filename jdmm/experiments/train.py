"""Training in a work directory: checkpoints, logs, a progress bar, and SIGTERM."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jdmm.compiling import Compilations
from jdmm.data.base import Split
from jdmm.data.streaming import SeriesSource
from jdmm.errors import InputError, Interrupted, UnsuitableDataError
from jdmm.experiments import settings
from jdmm.experiments.logs import MetricsLog
from jdmm.experiments.settings import Experiment
from jdmm.experiments.validation import validation_scorer
from jdmm.models.base import GradientModel, SelfFittingModel, unobserved_series
from jdmm.series import Series
from jdmm.training import loop, parallel
from jdmm.training.checkpoints import Checkpoints, separate
from jdmm.training.parallel import Devices, StepCost
from jdmm.training.progress import Progress
from jdmm.training.schedule import Schedule, TrainSettings


class Trained(NamedTuple):
    """Trained variables, and how they came about.

    Attributes:
        variables: of the best epoch, with a leading axis of seeds.
        seconds: spent in training.
        steps: taken in training, by all starts; 0 for a model that fits itself.
        best_epoch: of each seed; None for a model that fits itself.
        best_score: validation score of each seed; None for a model that fits itself.
    """

    variables: Any
    seconds: float
    steps: int = 0
    best_epoch: list[int] | None = None
    best_score: list[float] | None = None

    def of_seed(self, row: int) -> Any:
        """The variables of one seed."""
        return jax.tree.map(lambda leaf: leaf[row], self.variables)

    @property
    def best_row(self) -> int:
        """The place of the seed with the best validation score."""
        return int(np.argmin(self.best_score)) if self.best_score else 0


def train(
    experiment: Experiment, workdir: Path, data: dict[str, Split], devices: Devices | None = None
) -> Trained:
    """Trains a model, or continues its training, in a work directory.

    Args:
        experiment: what is trained, and how.
        workdir: where everything is written.
        data: the splits; the test series are not used.
        devices: over which each batch is divided; by default all that are found.

    Raises:
        InputError: for a batch size that the data or devices do not allow, or a work directory of
            another experiment.
        DivergenceError: if training is no longer finite; the last checkpoint stays.
        Interrupted: after SIGTERM, once a checkpoint is written.
        PeerLost: if another process of the job is gone.
    """
    model, series = experiment.model, data["train"].training
    devices = devices or Devices.available()
    check_training(experiment, data, devices)
    if parallel.is_primary():
        claim(experiment, workdir)
    if isinstance(model, SelfFittingModel):
        return _fit(model, series)
    model, training = _trainable(experiment)
    with (
        contextlib.closing(Checkpoints(workdir / "checkpoints")) as checkpoints,
        parallel.report_lost_peers(),
    ):
        progress = _resume(
            checkpoints, loop.initial_progress(model, series, training, experiment.seeds)
        )
        _run_epochs(experiment, workdir, data, progress, checkpoints, devices)
    return _trained(progress)


def check_training(experiment: Experiment, data: dict[str, Split], devices: Devices) -> None:
    """Checks what `train` needs before it writes anything.

    Raises:
        InputError: for a batch size that the data or devices do not allow.
    """
    if not isinstance(experiment.model, SelfFittingModel):
        model, training = _trainable(experiment)
        loop.check_training(model, data["train"].training, training, devices)


def restore(experiment: Experiment, workdir: Path) -> Trained:
    """The trained variables of a work directory. A model that fits itself is fitted again.

    Raises:
        InputError: if there is no checkpoint, or it cannot be read.
    """
    if isinstance(experiment.model, SelfFittingModel):
        return _fit(experiment.model, experiment.load()["train"].training)
    model, training = _trainable(experiment)
    example = unobserved_series(model.modalities, 1, 1, model.inputs)
    like = loop.initial_progress(model, example, training, experiment.seeds)
    with contextlib.closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        progress = checkpoints.restore(like)
    if progress is None:
        raise InputError(f"expected a checkpoint in {workdir}, got none: train first")
    return _trained(progress)


def seed_dirs(seeds: list[int], workdir: Path) -> dict[int, Path]:
    """Seed -> the directory of its logs, figures, report and results."""
    if len(seeds) == 1:
        return {seeds[0]: workdir}
    return {seed: workdir / f"seed-{seed}" for seed in seeds}


def _fit(model: SelfFittingModel, series: Series | SeriesSource) -> Trained:
    """Fits a model, which takes seconds; so nothing is kept.

    Raises:
        UnsuitableDataError: for series that memory does not hold.
    """
    if isinstance(series, SeriesSource):
        raise UnsuitableDataError(
            f"expected series in memory for {type(model).__name__}, which fits itself, got a file "
            "of series: give a part of them as .npz, or choose another model"
        )
    began = time.perf_counter()
    with tqdm(unit="iteration", disable=None if parallel.is_primary() else True) as bar:

        def show(figures: dict[str, float]) -> None:
            bar.set_postfix({k: v for k, v in figures.items() if k != "iteration"}, refresh=False)
            bar.update()

        fitted = model.fit(series, show)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf)[None], fitted)
    return Trained(variables, time.perf_counter() - began)


def _trainable(experiment: Experiment) -> tuple[GradientModel, TrainSettings]:
    """The model that is trained step by step, and how."""
    assert isinstance(experiment.model, GradientModel) and experiment.training is not None
    return experiment.model, experiment.training


def _trained(progress: Progress) -> Trained:
    return Trained(
        progress.best, progress.seconds, progress.steps, progress.best_epoch, progress.best_score
    )


def claim(experiment: Experiment, workdir: Path) -> None:
    """Writes the configuration into a new work directory, or compares it with that of an old one.

    Raises:
        InputError: if the directory is of another experiment, or cannot be written.
    """
    path = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            settings.save_config(experiment.config, path)
        elif other := settings.difference(experiment, settings.load_config(path)):
            raise InputError(
                f"expected a work directory of this configuration, got {workdir} "
                f"where {other}: give another --workdir"
            )
        experiment.dataset.keep(workdir)
    except OSError as error:
        raise InputError(
            f"expected a work directory that can be written, got {workdir} ({error.strerror})"
        ) from None


def _resume(checkpoints: Checkpoints, fresh: Progress) -> Progress:
    """The latest progress that process 0 finds, or the fresh one, in all processes."""
    found = checkpoints.restore(fresh) if parallel.is_primary() else None
    arrays, figures = separate(found or fresh)
    return Progress(**parallel.broadcast_arrays(arrays), **parallel.broadcast(figures))


def _run_epochs(
    experiment: Experiment,
    workdir: Path,
    data: dict[str, Split],
    progress: Progress,
    checkpoints: Checkpoints,
    devices: Devices,
) -> None:
    """Trains to the end, with logs and checkpoints, or until SIGTERM."""
    model, training = _trainable(experiment)
    primary, series = parallel.is_primary(), data["train"].training
    compilations = Compilations()
    score = validation_scorer(
        experiment.evaluation, experiment.dataset, model, data["validation"].series
    )
    with contextlib.ExitStack() as stack:
        steps = Schedule(training, series.batch).all_steps
        disable = None if primary else True
        bar = stack.enter_context(
            tqdm(total=steps, initial=progress.steps, unit="step", disable=disable)
        )
        directories = seed_dirs(experiment.seeds, workdir).values() if primary else ()
        logs = [
            stack.enter_context(contextlib.closing(MetricsLog(directory, progress.steps)))
            for directory in directories
        ]
        interrupted = stack.enter_context(_on_sigterm())
        for _ in loop.run_epochs(
            model,
            series,
            training,
            progress,
            lambda variables: parallel.broadcast(score(variables) if primary else None),
            interrupted,
            bar.update,
            devices,
            on_compile=lambda cost: primary and print(_describe(cost, devices), file=sys.stderr),
        ):
            _record_epoch(progress, training, logs, checkpoints, bar)
    for name, times in compilations.of("train_step", "errors", "evaluate").items():
        if times > 1:
            print(f"{name} was compiled {times} times, expected 1: please report", file=sys.stderr)


def _record_epoch(
    progress: Progress,
    training: TrainSettings,
    logs: list[MetricsLog],
    checkpoints: Checkpoints,
    bar: Any,
) -> None:
    """Logs an epoch, and writes a checkpoint after a validation; process 0 alone writes.

    Raises:
        Interrupted: if the epoch was interrupted, after writing a checkpoint.
    """
    records = progress.records
    if records is None:
        if parallel.is_primary():
            checkpoints.save(progress)
        raise Interrupted(
            f"stopped by SIGTERM at step {progress.steps}; the same command continues from there"
        )
    for log, record in zip(logs, records, strict=False):
        log.write(record)
    validated = "validation/score" in records[0]
    if parallel.is_primary() and (validated or records[0]["epoch"] == training.epochs):
        checkpoints.save(progress)
        scores = [record.get("validation/score") for record in records]
        bar.set_postfix(epoch=records[0]["epoch"], score=scores)


def _describe(cost: StepCost, devices: Devices) -> str:
    """What the train step costs, in words."""
    memory = "" if cost.bytes is None else f", {cost.bytes / 1e6:.0f} MB on each"
    return f"train step on {devices.count} device(s): compiled in {cost.seconds:.1f} s{memory}"


@contextlib.contextmanager
def _on_sigterm() -> Iterator[Callable[[int], bool]]:
    """Yields a function of the steps taken that says whether to stop; SIGTERM does not kill."""
    if jax.process_count() > 1:
        yield parallel.reached_end
        return
    received: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    except ValueError:  # signals can only be caught in the main thread
        yield lambda steps: False
        return
    try:
        yield lambda steps: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)
