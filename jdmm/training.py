"""Optimisation: the train step, its schedules, and the loop over epochs. No files, no devices.

The loop is a generator, so that its caller decides what to keep, to show and to write. All
randomness comes from the seed, the step and the epoch: what is told by `Progress` is enough to go
on as if never interrupted.
"""

import math
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
from jdmm.corruption import Deletions, is_range
from jdmm.errors import DivergenceError, InputError
from jdmm.objectives import Loss
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


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        epochs: passes over the training series.
        restarts: fresh starts that are tried for `restart_epochs` each; the one of the best
            validation score goes on to the end. 1 for none.
        restart_epochs: length of a trial.
        batch_size: series per step.
        learning_rate: the highest of the schedule.
        schedule: "cosine" (to 0 at the last step) or "constant", after the warm-up.
        warmup_epochs: of linearly rising learning rate.
        weight_decay: L2 penalty added to the gradient, as in Adam with weight decay of [T20].
        clip_norm: largest global norm of a gradient; 0 for none.
        average: decay per step of the moving average of the variables that is validated and kept;
            0 for the last variables themselves.
        beta_epochs: of beta, the weight of the divergences, rising linearly from 0 to `beta_peak`.
        beta_peak: reached then. Above 1 it makes information dear, so that
            the transitions must carry it.
        beta_fall: fractions of all epochs between which beta goes on from there to `beta_final`.
        beta_final: its last value; 1 is the evidence lower bound itself.
        deletions: what is hidden of each training series; targets stay complete.
        validate_every: epochs between validations (and checkpoints).
        patience: validations without improvement before stopping; 0 for never.
    """

    epochs: int = 100
    restarts: int = 1
    restart_epochs: int = 30
    batch_size: int = 25
    learning_rate: float = 0.02
    schedule: str = "cosine"
    warmup_epochs: float = 3.0
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    average: float = 0.99
    beta_epochs: float = 10.0
    beta_peak: float = 2.0
    beta_fall: tuple[float, float] = (0.5, 0.9)
    beta_final: float = 1.0
    deletions: Deletions = Deletions()
    validate_every: int = 5
    patience: int = 0

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        expectations = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "restarts": (self.restarts >= 1, "at least 1 (no trials)"),
            "restart_epochs": (
                self.restarts == 1 or 1 <= self.restart_epochs < self.epochs,
                "at least 1 and below epochs",
            ),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "learning_rate": (0 < self.learning_rate < math.inf, "positive and finite"),
            "schedule": (self.schedule in ("cosine", "constant"), "'cosine' or 'constant'"),
            "warmup_epochs": (0 <= self.warmup_epochs <= self.epochs, "within 0..epochs"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more"),
            "clip_norm": (0 <= self.clip_norm < math.inf, "0 (none) or more"),
            "average": (0 <= self.average < 1, "within 0..1, below 1"),
            "beta_epochs": (0 <= self.beta_epochs < math.inf, "0 or more"),
            "beta_peak": (0 <= self.beta_peak < math.inf, "0 or more"),
            "beta_final": (0 <= self.beta_final < math.inf, "0 or more"),
            "beta_fall": (is_range(self.beta_fall), "two rising fractions within 0..1"),
            "validate_every": (self.validate_every >= 1, "at least 1"),
            "patience": (self.patience >= 0, "0 (never) or more"),
        }
        for name, (holds, expected) in expectations.items():
            if not holds:
                raise InputError(f"expected {name} {expected}, got {getattr(self, name)!r}")


@struct.dataclass
class TrainState:
    """What a step changes, as one tree of arrays.

    Attributes:
        start: which fresh start this is, for the keys.
        step: steps taken since.
        variables: of the model.
        average: their moving average.
        optimizer: the optimizer's memory.
    """

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


@dataclass(frozen=True)
class Schedule:
    """Step counts of a run and the values that follow from them."""

    settings: TrainSettings
    series: int

    @property
    def steps_per_epoch(self) -> int:
        """The last, smaller batch counts too."""
        return math.ceil(self.series / self.settings.batch_size)

    @property
    def steps(self) -> int:
        """From a fresh start to the end."""
        return self.settings.epochs * self.steps_per_epoch

    @property
    def all_steps(self) -> int:
        """The same and the trials that come to nothing."""
        lost = (self.settings.restarts - 1) * self.settings.restart_epochs
        return self.steps + lost * self.steps_per_epoch

    def progress(self, step: Any) -> Any:
        """Fraction of the training done before `step`."""
        return step / self.steps

    def learning_rate(self, step: Any) -> Any:
        """Linear warm-up, then cosine decay or a constant."""
        settings = self.settings
        warmup = round(settings.warmup_epochs * self.steps_per_epoch)
        peak = settings.learning_rate
        if settings.schedule == "constant":
            following = optax.constant_schedule(peak)
        else:
            following = optax.cosine_decay_schedule(peak, max(self.steps - warmup, 1))
        rise = optax.linear_schedule(0.0, peak, max(warmup, 1))
        return optax.join_schedules([rise, following], [warmup])(step)

    def beta(self, step: Any) -> Any:
        """Weight of the divergences: 0 to `beta_peak`, later to `beta_final`."""
        settings = self.settings
        rising = settings.beta_epochs * self.steps_per_epoch
        first, last = (max(fraction * self.steps, rising) for fraction in settings.beta_fall)
        risen = jnp.minimum(step / rising, 1.0) if rising else 1.0
        fall = jnp.clip((step - first) / max(last - first, 1.0), 0.0, 1.0)
        return risen * (settings.beta_peak + fall * (settings.beta_final - settings.beta_peak))

    def rows(self, seed: int, start: int, epoch: int) -> np.ndarray:
        """``(step, batch)`` series of an epoch in random order; -1 fills up the last batch."""
        order = np.random.default_rng((seed, start, epoch)).permutation(self.series)
        size = self.steps_per_epoch * self.settings.batch_size
        filled = np.concatenate([order, np.full(size - self.series, -1)])
        return filled.reshape(self.steps_per_epoch, -1).astype(np.int32)


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


def make_train_step(model: Model, schedule: Schedule, seed: int) -> Callable[..., Any]:
    """``(state, series, rows) -> (state, metrics)``, pure, to be compiled once.

    `series` is the whole training set, `rows` says which of them make the batch.
    """
    optimise = optimizer(schedule)
    settings = schedule.settings

    def train_step(state: TrainState, series: Series, rows: jax.Array) -> tuple[TrainState, Any]:
        targets = _batch(series, rows)
        key = jax.random.fold_in(jax.random.key(seed), state.start)
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
            start=state.start,
            step=state.step + 1,
            variables=variables,
            average=optax.incremental_update(variables, state.average, 1.0 - settings.average),
            optimizer=memory,
        ), metrics

    return train_step


def start(model: Model, series: Series, settings: TrainSettings, seed: int) -> Progress:
    """The progress before the first step."""
    state = _fresh(model, series, settings, seed, 0)
    return Progress(state=state, leader=state, best=state.average)


def run_epochs(
    model: Model,
    series: Series,
    settings: TrainSettings,
    seed: int,
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
        seed: of batches, deletions and noise.
        progress: from `start`, or a restored one; changed in place.
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
    train_step = jax.jit(make_train_step(model, schedule, seed), donate_argnums=0)
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
        for rows in schedule.rows(seed, int(state.start), epoch)[done:]:
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
                progress.state = _fresh(model, series, settings, seed, progress.trials)
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
    for _ in run_epochs(model, series, settings, seed, progress, score):
        pass
    return progress.best


def loss_scorer(model: Model, validation: Series, seed: int) -> Scorer:
    """Scores variables by their loss (beta = 1) on complete validation series, in one batch."""

    @jax.jit
    def evaluate(variables: Variables) -> tuple[jax.Array, dict[str, jax.Array]]:
        loss = model.loss(variables, validation, validation, jax.random.key(seed), 1.0)
        return loss.total(1.0), loss.means()

    def score(variables: Variables) -> dict[str, float]:
        total, terms = jax.device_get(evaluate(variables))
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


def _fresh(
    model: Model, series: Series, settings: TrainSettings, seed: int, number: int
) -> TrainState:
    """The state of a fresh start, each with variables and keys of its own."""
    optimise = optimizer(Schedule(settings, series.batch))

    @jax.jit  # compiled as one, it takes a fraction of the time and memory
    def make(number: jax.Array, example: Series) -> TrainState:
        key = jax.random.fold_in(jax.random.key(seed), number)
        variables = model.init(key, example)
        step = jnp.zeros((), jnp.int32)
        return TrainState(number, step, variables, variables, optimise.init(variables))

    state = make(jnp.int32(number), series.take(slice(0, 1)))
    # the step consumes its state, so that no two leaves may share memory
    return state.replace(  # type: ignore[attr-defined]
        start=jnp.copy(state.start), average=jax.tree.map(jnp.copy, state.average)
    )


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
