"""Optimisation: the train step and the loop over epochs. No files, no devices.

The loop is a generator, so that its caller decides what to keep, to show and to write. All
randomness comes from the seed, the start, the step and the epoch: what `Progress` holds is enough
to go on as if never interrupted.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np
import optax
from flax import struct
from jax import numpy as jnp

from jdmm import corruption
from jdmm.errors import DivergenceError, InputError
from jdmm.objectives import Loss
from jdmm.schedule import Schedule, TrainSettings
from jdmm.series import Series

Variables = Any
Scorer = Callable[[Variables], dict[str, float]]
"""Variables -> named validation figures, with a "score" to be minimised."""


class Model(Protocol):
    """What training asks of a model."""

    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables for series of this form."""
        ...

    def loss(
        self,
        variables: Variables,
        series: Series,
        targets: Series,
        key: jax.Array,
        progress: jax.Array | float,
    ) -> Loss:
        """Numerators and count: `series` is shown, `targets` are scored.

        `progress` is the fraction of the training that is done.
        """
        ...


@struct.dataclass
class TrainState:
    """What a step changes, as one tree of arrays.

    Attributes:
        seed: of all keys.
        start: which fresh start this is, for the keys too.
        step: steps taken since.
        variables: of the model.
        average: their moving average.
        optimizer: the optimizer's memory.
    """

    seed: Any
    start: Any
    step: Any
    variables: Any
    average: Any
    optimizer: Any


@dataclass
class Progress:
    """Where a training run stands, complete for resuming.

    Attributes:
        state: the train state.
        leader: the state of the best trial so far.
        leader_score: its validation score.
        trials: trials finished; as many as `restarts` once the leader goes on.
        steps: taken so far, trials included.
        best: the averaged variables of the best validation so far.
        best_score: their score; None before the first validation.
        best_epoch: epochs behind them.
        stale: validations since.
        sums: metric -> sum over the steps of the unfinished epoch.
        seconds: spent in training so far.
        record: figures of the epoch just finished, None if it was interrupted.
    """

    state: TrainState
    leader: TrainState
    best: Any
    leader_score: float | None = None
    trials: int = 0
    steps: int = 0
    best_score: float | None = None
    best_epoch: int = 0
    stale: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    record: dict[str, float] | None = None


def optimizer(schedule: Schedule) -> optax.GradientTransformation:
    """Adam with L2 weight decay behind a clipped gradient, on one vector of all variables."""
    settings = schedule.settings
    return optax.flatten(
        optax.chain(
            optax.clip_by_global_norm(settings.clip_norm or float("inf")),
            optax.add_decayed_weights(settings.weight_decay),
            optax.adam(schedule.learning_rate),
        )
    )


def make_train_step(model: Model, schedule: Schedule) -> Callable[..., Any]:
    """``(state, series, rows) -> (state, metrics)``, pure, to be compiled once.

    `series` is the whole training set, `rows` says which of them make the batch.
    """
    optimise = optimizer(schedule)
    settings = schedule.settings

    def train_step(state: TrainState, series: Series, rows: jax.Array) -> tuple[TrainState, Any]:
        targets = _batch(series, rows)
        key = jax.random.fold_in(jax.random.key(state.seed), state.start)
        deletion_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
        shown = targets.hide(corruption.delete(deletion_key, targets, settings.deletions))
        beta = schedule.beta(state.step)

        def objective(variables: Variables) -> tuple[jax.Array, dict[str, jax.Array]]:
            loss = model.loss(variables, shown, targets, loss_key, schedule.progress(state.step))
            return loss.total(beta), loss.means()

        (loss, terms), gradient = jax.value_and_grad(objective, has_aux=True)(state.variables)
        updates, memory = optimise.update(gradient, state.optimizer, state.variables)
        variables = optax.apply_updates(state.variables, updates)
        metrics = {"loss": loss, **terms, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(
            seed=state.seed,
            start=state.start,
            step=state.step + 1,
            variables=variables,
            average=optax.incremental_update(variables, state.average, 1.0 - settings.average),
            optimizer=memory,
        ), metrics

    return train_step


def start(model: Model, series: Series, settings: TrainSettings, seed: int) -> Progress:
    """The progress before the first step."""
    state = _initialiser(model, series, settings)(seed, 0)
    return Progress(state=state, leader=state, best=state.average)


def run_epochs(
    model: Model,
    series: Series,
    settings: TrainSettings,
    progress: Progress,
    score: Scorer | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    on_step: Callable[[], Any] = lambda: None,
) -> Iterator[Progress]:
    """Trains from `progress` on, and yields it after every epoch and when interrupted.

    Args:
        model: has `init` and `loss`.
        series: all training series.
        settings: how to train.
        progress: from `start`, or a restored one; changed in place. Its state holds the seed.
        score: validation, run every `validate_every` epochs and after the last; without it the
            last variables are the best.
        interrupted: asked after every step; once true, the run yields and ends.
        on_step: called after every step, for a progress bar.

    Raises:
        DivergenceError: if a metric is not finite, naming it and the step; `progress` then stands
            as it was yielded last.
        InputError: if a batch is larger than the training set.
    """
    if settings.batch_size > series.batch:
        raise InputError(
            f"expected batch_size of at most the {series.batch} training series, "
            f"got {settings.batch_size}"
        )
    if settings.restarts > 1 and score is None:
        raise InputError("expected validation series to choose among restarts, got none")
    schedule = Schedule(settings, series.batch)
    train_step = jax.jit(make_train_step(model, schedule), donate_argnums=0)
    fresh = _initialiser(model, series, settings)
    device_series = jax.tree.map(jnp.asarray, series)
    per_epoch = schedule.steps_per_epoch
    while True:
        trying = 1 < settings.restarts > progress.trials
        epoch, done = divmod(int(progress.state.step), per_epoch)
        if not trying and (epoch == settings.epochs or _exhausted(progress, settings)):
            return
        began = time.perf_counter()
        # the step consumes its state; what the caller holds in `progress` must outlive it
        state = jax.tree.map(jnp.copy, progress.state)
        measured = []
        for rows in schedule.rows(int(state.seed), int(state.start), epoch)[done:]:
            state, metrics = train_step(state, device_series, rows)
            measured.append(metrics)
            on_step()
            if interrupted():
                break
        _accumulate(progress.sums, jax.device_get(measured), progress.steps)
        progress.state = state
        progress.steps += len(measured)
        progress.seconds += time.perf_counter() - began
        if done + len(measured) < per_epoch:
            progress.record = None
            yield progress
            return
        epoch += 1
        progress.record = {
            "start": int(state.start),
            "epoch": epoch,
            "step": progress.steps,
            **{f"train/{name}": total / per_epoch for name, total in progress.sums.items()},
            "train/beta": float(schedule.beta(epoch * per_epoch)),
            "train/learning_rate": float(schedule.learning_rate(epoch * per_epoch)),
        }
        progress.sums = {}
        if score is None:
            progress.best, progress.best_epoch = state.average, epoch
        elif trying and epoch == settings.restart_epochs:
            _end_trial(progress, score)
            if progress.trials == settings.restarts:
                progress.state = progress.leader
            else:
                progress.state = fresh(int(state.seed), progress.trials)
        elif not trying and (epoch % settings.validate_every == 0 or epoch == settings.epochs):
            _validate(progress, score, epoch)
        yield progress


def fit(
    model: Model,
    series: Series,
    validation: Series | None = None,
    settings: TrainSettings | None = None,
    seed: int = 0,
) -> Variables:
    """Trains `model` and returns its best variables: training in one line.

    With `validation` series, the variables of the lowest validation loss; else the last averaged.
    """
    settings = settings or TrainSettings()
    score = None if validation is None else loss_scorer(model, validation, seed)
    progress = start(model, series, settings, seed)
    for _ in run_epochs(model, series, settings, progress, score):
        pass
    return progress.best


def loss_scorer(model: Model, validation: Series, seed: int) -> Scorer:
    """Scores variables by their loss (beta = 1) on complete validation series, in one batch."""

    @jax.jit
    def evaluate(variables: Variables, series: Series, key: jax.Array) -> tuple[jax.Array, Any]:
        loss = model.loss(variables, series, series, key, 1.0)
        return loss.total(1.0), loss.means()

    def score(variables: Variables) -> dict[str, float]:
        total, terms = jax.device_get(evaluate(variables, validation, jax.random.key(seed)))
        return {
            "score": float(total),
            "loss": float(total),
            **{k: float(v) for k, v in terms.items()},
        }

    return score


def _batch(series: Series, rows: jax.Array) -> Series:
    """The series `rows`; those of index -1 are empty, of length 0."""
    batch = series.take(rows)
    real = rows >= 0
    batch = batch.replace(lengths=jnp.where(real, batch.lengths, 0))  # type: ignore[attr-defined]
    return batch.hide({name: real[:, None, None] for name in batch.values})


def _initialiser(
    model: Model, series: Series, settings: TrainSettings
) -> Callable[[int, int], TrainState]:
    """``(seed, number) -> state`` of a fresh start, each with variables and keys of its own."""
    optimise = optimizer(Schedule(settings, series.batch))

    @jax.jit  # compiled as one, it takes a fraction of the time and memory
    def make(seed: jax.Array, number: jax.Array, example: Series) -> TrainState:
        key = jax.random.fold_in(jax.random.key(seed), number)
        variables = model.init(key, example)
        step = jnp.zeros((), jnp.int32)
        return TrainState(seed, number, step, variables, variables, optimise.init(variables))

    def fresh(seed: int, number: int) -> TrainState:
        state = make(np.uint32(seed), np.int32(number), series.take(slice(0, 1)))
        # a step consumes its state: no leaves may share memory
        return jax.tree.map(jnp.copy, state)

    return fresh


def _end_trial(progress: Progress, score: Scorer) -> None:
    """Scores a trial that has run its time, and keeps it if it leads."""
    figures = _scored(progress, score)
    if progress.leader_score is None or figures["score"] < progress.leader_score:
        progress.leader, progress.leader_score = progress.state, figures["score"]
    progress.trials += 1


def _scored(progress: Progress, score: Scorer) -> dict[str, float]:
    """Validation figures of the averaged variables, which go into the record too."""
    figures = score(progress.state.average)
    assert progress.record is not None
    progress.record |= {f"validation/{name}": value for name, value in figures.items()}
    return figures


def _validate(progress: Progress, score: Scorer, epoch: int) -> None:
    """Scores the state, and keeps its averaged variables if they are the best."""
    figures = _scored(progress, score)
    if progress.best_score is None or figures["score"] < progress.best_score:
        progress.best, progress.best_score = progress.state.average, figures["score"]
        progress.best_epoch, progress.stale = epoch, 0
    else:
        progress.stale += 1


def _exhausted(progress: Progress, settings: TrainSettings) -> bool:
    return bool(settings.patience) and progress.stale >= settings.patience


def _accumulate(sums: dict[str, float], measured: list[dict[str, Any]], first_step: int) -> None:
    """Adds each step's metrics, in order, so that an interrupted epoch ends with the same sums."""
    for offset, metrics in enumerate(measured):
        for name, value in metrics.items():
            if not np.isfinite(value):
                raise DivergenceError(
                    f"{name} is {float(value)} at step {first_step + offset}: training stopped; "
                    "try a lower learning_rate or a smaller clip_norm"
                )
            sums[name] = sums.get(name, 0.0) + float(value)
