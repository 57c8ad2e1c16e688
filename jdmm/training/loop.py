"""The loop over epochs, with validation and the choice among random starts.

The loop is a generator: its caller decides what to keep, to show and to write. `Progress` holds all
that is needed to resume, bit for bit.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jdmm.data.streaming import SeriesSource
from jdmm.errors import InputError
from jdmm.models.base import GradientModel
from jdmm.series import Series
from jdmm.training.batches import keep, stream
from jdmm.training.parallel import Devices, StepCost
from jdmm.training.progress import (
    Progress,
    Scorer,
    accumulate,
    finish_trial,
    next_trial,
    record_epoch,
    stopped,
    validate,
)
from jdmm.training.schedule import Schedule, TrainSettings
from jdmm.training.step import initialiser, make_train_step, over_seeds, stacked, unstacked

QUEUED = 8
"""Steps that may wait for the devices."""


def check_training(
    model: GradientModel,
    series: Series | SeriesSource,
    settings: TrainSettings,
    devices: Devices,
    validated: bool = True,
) -> None:
    """Checks that the model can be trained on the series, before anything is compiled.

    Args:
        model: is trained.
        series: the training series.
        settings: how to train.
        devices: the devices that share each batch.
        validated: whether there are validation series.

    Raises:
        InputError: for series that disagree with the model or the deletions, a batch that is larger
            than the training set or cannot be divided among the devices, or settings that need
            validation series. Of a source, only the first series is checked.
    """
    known = series if isinstance(series, Series) else series.take(np.arange(1))
    model.check(known)
    settings.deletions.check(known)
    if settings.batch_size > series.batch:
        raise InputError(
            f"expected batch_size of at most the {series.batch} training series, "
            f"got {settings.batch_size}"
        )
    devices.check(settings.batch_size)
    for name, needed in (("restarts", settings.restarts > 1), ("patience", settings.patience > 0)):
        if needed and not validated:
            raise InputError(
                f"expected validation series for {name}={getattr(settings, name)}, got none"
            )


def initial_progress(
    model: GradientModel,
    series: Series | SeriesSource,
    settings: TrainSettings,
    seeds: Sequence[int],
) -> Progress:
    """The progress before the first step."""
    state = initialiser(model, series, settings)(np.array(seeds), 0)
    count = len(seeds)
    starts = settings.restarts if settings.restarts > 1 else 0
    candidates = jax.tree.map(lambda leaf: np.stack([leaf] * starts), state) if starts else None
    return Progress(
        state=state,
        best=state.ema,
        candidates=candidates,
        candidate_scores=[[float("inf")] * count for _ in range(starts)],
        best_score=[float("inf")] * count,
        best_epoch=[0] * count,
        stale=[0] * count,
    )


def run_epochs(
    model: GradientModel,
    series: Series | SeriesSource,
    settings: TrainSettings,
    progress: Progress,
    score: Scorer | None = None,
    interrupted: Callable[[int], bool] = lambda steps: False,
    on_step: Callable[[], Any] = lambda: None,
    devices: Devices | None = None,
    on_compile: Callable[[StepCost], Any] = lambda cost: None,
) -> Iterator[Progress]:
    """Trains from `progress` on, and yields it after every epoch and when interrupted.

    Args:
        model: is trained.
        series: the training series. Those of a source are read batch by batch, in the background.
        settings: how to train.
        progress: from `initial_progress` or a checkpoint; updated in place. Its state holds the
            seeds.
        score: scores the averaged variables every `validate_every` epochs and after the last.
            Without it, the last averaged variables are the best.
        interrupted: called after every step with the number of steps; once it returns True, the
            loop yields and ends.
        on_step: called after every step, for a progress bar.
        devices: the devices that share each batch; by default one.
        on_compile: called once, with the cost of compiling the train step.

    Raises:
        DivergenceError: if a metric is not finite, naming it and the step; `progress` stays as it
            was last yielded.
        InputError: for series or settings that cannot be trained with; see `check_training`.
            Streamed series that the model cannot take are refused when they are read.
    """
    devices = devices or Devices.one()
    check_training(model, series, settings, devices, score is not None)
    schedule = Schedule(settings, series.batch)
    seeds = np.asarray(progress.state.seed).tolist()
    fresh = initialiser(model, series, settings)
    if isinstance(series, Series) and not settings.streamed:
        feed = keep(series, devices)
    else:
        feed = stream(model, series, devices)
    train_step = None
    per_epoch = schedule.steps_per_epoch
    while True:
        trial = next_trial(schedule, progress.finished_trials)
        epoch, done = divmod(int(progress.state.step), per_epoch)
        if trial.chosen and (epoch == settings.epochs or all(stopped(progress, settings))):
            return
        began = time.perf_counter()
        # the step consumes its state; what the caller holds in `progress` must outlive it
        state = devices.replicate(stacked(model, progress.state))
        starts = np.asarray(progress.state.start).tolist()
        each = [schedule.rows(*pair, epoch) for pair in zip(seeds, starts, strict=True)]
        batches = np.stack(each, 1)
        measured = []
        for given, rows in feed(batches[done:]):
            if train_step is None:
                step = make_train_step(model, schedule, devices.axis)
                step = over_seeds(step, devices.vectorised)
                train_step, cost = devices.compile(step, state, given, rows)
                on_compile(cost)
            state, metrics = train_step(state, given, rows)
            measured.append(metrics)
            if len(measured) > QUEUED:  # a queued step holds its batch in memory
                jax.block_until_ready(measured[-QUEUED])
            on_step()
            if interrupted(progress.steps + len(measured)):
                break
        accumulate(progress, [devices.unreplicate(metrics) for metrics in measured])
        progress.state = unstacked(model, devices.unreplicate(state))
        progress.steps += len(measured)
        progress.seconds += time.perf_counter() - began
        if done + len(measured) < per_epoch:
            progress.records = None
            yield progress
            return
        epoch += 1
        record_epoch(progress, schedule, epoch)
        if score is None:
            progress.best, progress.best_epoch = progress.state.ema, [epoch] * len(seeds)
        elif not trial.chosen and epoch == trial.last_epoch:
            finish_trial(progress, score, trial)
            following = next_trial(schedule, progress.finished_trials)
            if following.rung == 0:
                progress.state = fresh(np.array(seeds), following.candidate)
            else:
                progress.state = jax.tree.map(
                    lambda leaf, n=following.candidate: leaf[n], progress.candidates
                )
        elif trial.chosen and (epoch % settings.validate_every == 0 or epoch == settings.epochs):
            validate(progress, score, epoch, settings)
        yield progress
