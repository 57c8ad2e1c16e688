"""Optimisation: the train step and the loop over epochs. No files; devices only by name.

The loop is a generator, so that its caller decides what to keep, to show and to write. All
randomness comes from the seed, the start, the step and the epoch: what `Progress` holds is enough
to go on as if never interrupted. Several seeds are trained at once as one more axis in front.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax import numpy as jnp
from jax.flatten_util import ravel_pytree

from jdmm.data import corruption
from jdmm.errors import InputError
from jdmm.models.base import GradientModel, Variables
from jdmm.series import Series
from jdmm.training.parallel import Devices, StepCost
from jdmm.training.progress import (
    SEED_AXES,
    Progress,
    Scorer,
    TrainState,
    accumulate,
    finish_trial,
    record_epoch,
    standing,
    stopped,
    validate,
)
from jdmm.training.schedule import Schedule, TrainSettings


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


def make_train_step(
    model: GradientModel, schedule: Schedule, axis: str | None = None
) -> Callable[..., Any]:
    """``(state, series, rows) -> (state, metrics)`` of one seed, pure, to be compiled once.

    `series` is the whole training set, `rows` says which of them make the batch: all of it, or,
    with the name of a mapped device axis, this device's part.
    """
    optimise = optimizer(schedule)
    settings = schedule.settings

    @jax.default_matmul_precision(settings.precision)
    def train_step(state: TrainState, series: Series, rows: jax.Array) -> tuple[TrainState, Any]:
        targets = _batch(series, rows)
        key = jax.random.fold_in(jax.random.key(state.seed), state.start)
        deletion_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
        progress, beta = schedule.progress(state.step), schedule.beta(state.step)
        kept = corruption.delete(deletion_key, targets, settings.deletions, progress)
        shown = targets.hide(kept)

        def objective(variables: Variables) -> tuple[jax.Array, dict[str, jax.Array]]:
            loss = model.loss(variables, shown, targets, loss_key, progress)
            if axis is not None:  # this device's share of the loss of the global batch
                loss = loss._replace(count=jax.lax.psum(loss.count, axis))
            return loss.total(beta), loss.means()

        (loss, terms), gradient = jax.value_and_grad(objective, has_aux=True)(state.variables)
        if axis is not None:
            # as one vector: a sum over processes costs its round trip, not its numbers
            flat, unravel = ravel_pytree((loss, terms, gradient))
            loss, terms, gradient = unravel(jax.lax.psum(flat, axis))
        updates, memory = optimise.update(gradient, state.optimizer, state.variables)
        variables = optax.apply_updates(state.variables, updates)
        metrics = {"loss": loss, **terms, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(
            seed=state.seed,
            start=state.start,
            step=state.step + 1,
            variables=variables,
            ema=optax.incremental_update(variables, state.ema, 1.0 - settings.ema_decay),
            optimizer=memory,
        ), metrics

    return train_step


def over_seeds(train_step: Callable[..., Any], together: bool = False) -> Callable[..., Any]:
    """The same step of several models: state, rows and metrics have an axis of seeds.

    `together` they are one program over wider arrays, which keeps a GPU busy; else one after the
    other, so that what each works on stays in a CPU's caches.
    """
    if together:
        return jax.vmap(train_step, in_axes=(SEED_AXES, None, 0), out_axes=(SEED_AXES, 0))

    @functools.wraps(train_step)
    def one_by_one(state: TrainState, series: Series, rows: jax.Array) -> tuple[TrainState, Any]:
        step = state.step

        def one(inputs: tuple[TrainState, jax.Array]) -> tuple[TrainState, Any]:
            own, own_rows = inputs
            following, metrics = train_step(own.replace(step=step), series, own_rows)  # type: ignore[attr-defined]
            return following.replace(step=()), metrics

        following, metrics = jax.lax.map(one, (state.replace(step=()), rows))  # type: ignore[attr-defined]
        return following.replace(step=step + 1), metrics

    return one_by_one


def start(
    model: GradientModel, series: Series, settings: TrainSettings, seeds: Sequence[int]
) -> Progress:
    """The progress before the first step."""
    state = _initialiser(model, series, settings)(np.array(seeds), 0)
    count = len(seeds)
    starts = settings.restarts if settings.restarts > 1 else 0
    return Progress(
        state=state,
        best=state.ema,
        runners=jax.tree.map(lambda leaf: np.stack([leaf] * starts), state) if starts else None,
        race=[[float("inf")] * count for _ in range(starts)],
        best_score=[float("inf")] * count,
        best_epoch=[0] * count,
        stale=[0] * count,
    )


def run_epochs(
    model: GradientModel,
    series: Series,
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
        model: has `init` and `loss`.
        series: all training series.
        settings: how to train.
        progress: from `start`, or a restored one; changed in place. Its state holds the seeds.
        score: validation, run every `validate_every` epochs and after the last; without it the
            last variables are the best.
        interrupted: asked after every step, with the number of steps; once true, the run yields
            and ends.
        on_step: called after every step, for a progress bar.
        devices: over which each batch is divided; by default one.
        on_compile: called once, with what compiling the train step cost.

    Raises:
        DivergenceError: if a metric is not finite, naming it and the step; `progress` then stands
            as it was yielded last.
        InputError: if a batch is larger than the training set, or cannot be divided.
    """
    if settings.batch_size > series.batch:
        raise InputError(
            f"expected batch_size of at most the {series.batch} training series, "
            f"got {settings.batch_size}"
        )
    if settings.restarts > 1 and score is None:
        raise InputError("expected validation series to choose among restarts, got none")
    devices = devices or Devices.one()
    devices.check(settings.batch_size)
    schedule = Schedule(settings, series.batch)
    seeds = np.asarray(progress.state.seed).tolist()
    fresh = _initialiser(model, series, settings)
    everything = devices.replicate(series)
    train_step = None
    per_epoch = schedule.steps_per_epoch
    while True:
        rung, place, last = standing(schedule, progress.trials)
        trying = last < settings.epochs
        epoch, done = divmod(int(progress.state.step), per_epoch)
        if not trying and (epoch == settings.epochs or all(stopped(progress, settings))):
            return
        began = time.perf_counter()
        # the step consumes its state; what the caller holds in `progress` must outlive it
        state = devices.replicate(progress.state)
        starts = np.asarray(progress.state.start).tolist()
        each = [schedule.rows(*pair, epoch) for pair in zip(seeds, starts, strict=True)]
        batches = np.stack(each, 1)
        if train_step is None:
            step = over_seeds(make_train_step(model, schedule, devices.axis), devices.vectorised)
            train_step, cost = devices.compile(step, state, everything, devices.shard(batches[0]))
            on_compile(cost)
        measured = []
        for rows in batches[done:]:
            state, metrics = train_step(state, everything, devices.shard(rows))
            measured.append(metrics)
            on_step()
            if interrupted(progress.steps + len(measured)):
                break
        accumulate(progress, [devices.unreplicate(metrics) for metrics in measured])
        progress.state = devices.unreplicate(state)
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
        elif trying and epoch == last:
            finish_trial(progress, score, place, schedule.rungs[rung][0])
            rung, place, _ = standing(schedule, progress.trials)
            if rung == 0:
                progress.state = fresh(np.array(seeds), place)
            else:
                progress.state = jax.tree.map(lambda leaf, n=place: leaf[n], progress.runners)
        elif not trying and (epoch % settings.validate_every == 0 or epoch == settings.epochs):
            validate(progress, score, epoch, settings)
        yield progress


def fit(
    model: GradientModel,
    series: Series,
    validation: Series | None = None,
    settings: TrainSettings | None = None,
    seed: int = 0,
    devices: Devices | None = None,
) -> Variables:
    """Trains `model` and returns its best variables: training in one line.

    With `validation` series, the variables of the lowest validation loss; else the last averaged.
    Runs on one device, or on those that `Devices.available()` gives.
    """
    settings = settings or TrainSettings()
    score = None if validation is None else loss_scorer(model, validation, seed)
    progress = start(model, series, settings, [seed])
    for _ in run_epochs(model, series, settings, progress, score, devices=devices):
        pass
    return jax.tree.map(lambda leaf: leaf[0], progress.best)


def loss_scorer(model: GradientModel, validation: Series, seed: int) -> Scorer:
    """Scores variables by their loss (beta = 1) on complete validation series, in one batch."""

    def evaluate(variables: Variables, series: Series, key: jax.Array) -> tuple[jax.Array, Any]:
        loss = model.loss(variables, series, series, key, 1.0)
        return loss.total(1.0), loss.means()

    every = jax.jit(jax.vmap(evaluate, in_axes=(0, None, None)))

    def score(variables: Variables) -> dict[str, Any]:
        total, terms = jax.device_get(every(variables, validation, jax.random.key(seed)))
        return {"score": total, "loss": total, **terms}

    return score


def _batch(series: Series, rows: jax.Array) -> Series:
    """The series `rows`; those of index -1 are empty, of length 0."""
    batch = series.take(rows)
    real = rows >= 0
    batch = batch.replace(lengths=jnp.where(real, batch.lengths, 0))  # type: ignore[attr-defined]
    return batch.hide({name: real[:, None, None] for name in batch.values})


def _initialiser(
    model: GradientModel, series: Series, settings: TrainSettings
) -> Callable[[np.ndarray, int], TrainState]:
    """``(seeds, number) -> state`` of fresh starts, each with variables and keys of its own."""
    optimise = optimizer(Schedule(settings, series.batch))

    @jax.jit  # compiled as one, it takes a fraction of the time and memory
    def make(seeds: jax.Array, number: jax.Array, example: Series) -> TrainState:
        def one(seed: jax.Array) -> TrainState:
            key = jax.random.fold_in(jax.random.key(seed), number)
            variables = model.init(key, example)
            step = jnp.zeros((), jnp.int32)
            return TrainState(seed, number, step, variables, variables, optimise.init(variables))

        return jax.vmap(one, out_axes=SEED_AXES)(seeds)

    return lambda seeds, number: make(
        seeds.astype(np.uint32), np.int32(number), series.take(slice(0, 1))
    )
