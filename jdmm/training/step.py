"""The train step: deletions, loss, gradient, optimizer and moving average of one batch.

All randomness follows from the seed, the number of the start and the step, so that a `TrainState`
is all that a resume needs. Several seeds are trained at once, along a leading axis of all leaves.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax import numpy as jnp
from jax.flatten_util import ravel_pytree

from jdmm.data import corruption
from jdmm.data.streaming import SeriesSource
from jdmm.models.base import GradientModel, Variables
from jdmm.networks import BATCH_STATS
from jdmm.series import Series
from jdmm.training.progress import BROKEN, STATE_AXES, TrainState
from jdmm.training.schedule import Schedule, TrainSettings


def optimizer(schedule: Schedule) -> optax.GradientTransformation:
    """Adam with L2 weight decay after clipping, on all variables as one vector."""
    settings = schedule.settings
    return optax.flatten(
        optax.chain(
            optax.clip_by_global_norm(settings.clip_norm or float("inf")),
            optax.add_decayed_weights(settings.weight_decay),
            optax.adam(schedule.learning_rate),
        )
    )


def initialiser(
    model: GradientModel, series: Series | SeriesSource, settings: TrainSettings
) -> Callable[[np.ndarray, int], TrainState]:
    """``(seeds, start) -> state``: fresh states of a random start, one per seed."""
    optimise = optimizer(Schedule(settings, series.batch))

    @jax.jit  # compiled as a whole, it takes a fraction of the time and memory
    def make(seeds: jax.Array, start: jax.Array, example: Series) -> TrainState:
        def one(seed: jax.Array) -> TrainState:
            key = jax.random.fold_in(jax.random.key(seed), start)
            variables = model.init(key, example.as_float())
            step = jnp.zeros((), jnp.int32)
            return TrainState(seed, start, step, variables, variables, optimise.init(variables))

        return jax.vmap(one, out_axes=STATE_AXES)(seeds)

    return lambda seeds, start: make(
        seeds.astype(np.uint32), np.int32(start), series.take(np.arange(1))
    )


def make_train_step(
    model: GradientModel, schedule: Schedule, axis: str | None = None
) -> Callable[..., Any]:
    """A pure function ``(state, series, rows) -> (state, metrics)`` of one seed, to be compiled.

    Args:
        model: is trained.
        schedule: the settings, and what follows from the step.
        axis: name of a mapped axis of devices, over which the loss is summed; None for one device.

    Returns:
        A function of the train state, all training series or those of the batch, and the rows
        ``(batch,)`` among them that make up the batch, or this device's part of it. Row -1 is an
        empty series.
    """
    optimise = optimizer(schedule)
    settings = schedule.settings

    @jax.default_matmul_precision(settings.precision)
    def train_step(state: TrainState, series: Series, rows: jax.Array) -> tuple[TrainState, Any]:
        targets = batch_of(series, rows)
        key = jax.random.fold_in(jax.random.key(state.seed), state.start)
        deletion_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
        fraction_done, beta = schedule.fraction_done(state.step), schedule.beta(state.step)
        kept = corruption.delete(deletion_key, targets, settings.deletions, fraction_done)
        shown = targets.hide(kept)

        def objective(variables: Variables) -> tuple[jax.Array, Any]:
            mode: dict[str, Any] = {"training": True} if BATCH_STATS in variables else {}
            loss = model.loss(variables, shown, targets, loss_key, fraction_done, **mode)
            if axis is not None:  # this device's share of the loss of the global batch
                loss = loss._replace(count=jax.lax.psum(loss.count, axis))
            return loss.total(beta), (loss.means(), loss.broken, loss.statistics)

        evaluate = jax.value_and_grad(objective, has_aux=True)
        (loss, (terms, broken, statistics)), gradient = evaluate(state.variables)
        if axis is not None:
            # as one vector, because a sum over processes costs a round trip
            flat, unravel = ravel_pytree((loss, terms, gradient))
            loss, terms, gradient = unravel(jax.lax.psum(flat, axis))
        updates, optimizer_state = optimise.update(gradient, state.optimizer, state.variables)
        variables: Any = optax.apply_updates(state.variables, updates)
        if statistics:  # are no parameters: they are averaged over the batches
            variables = {**variables, BATCH_STATS: statistics}
        metrics = {"loss": loss, **terms, "gradient_norm": optax.tree.norm(gradient)}
        if broken is not None:
            metrics[BROKEN] = broken if axis is None else jax.lax.pmax(broken, axis)
        return TrainState(
            seed=state.seed,
            start=state.start,
            step=state.step + 1,
            variables=variables,
            ema=optax.incremental_update(variables, state.ema, 1.0 - settings.ema_decay),
            optimizer=optimizer_state,
        ), metrics

    return train_step


def over_seeds(train_step: Callable[..., Any], vectorised: bool = False) -> Callable[..., Any]:
    """The same step for several seeds, along a leading axis of state, rows and metrics.

    Args:
        train_step: of one seed.
        vectorised: whether one program trains all seeds at once, which keeps a GPU busy. Otherwise
            they take turns, so that each finds its data in a CPU's caches.
    """
    if vectorised:
        return jax.vmap(train_step, in_axes=(STATE_AXES, None, 0), out_axes=(STATE_AXES, 0))

    @functools.wraps(train_step)
    def in_turns(state: TrainState, series: Series, rows: jax.Array) -> tuple[TrainState, Any]:
        step = state.step

        def one(inputs: tuple[TrainState, jax.Array]) -> tuple[TrainState, Any]:
            own, own_rows = inputs
            following, metrics = train_step(own.replace(step=step), series, own_rows)  # type: ignore[attr-defined]
            return following.replace(step=()), metrics

        following, metrics = jax.lax.map(one, (state.replace(step=()), rows))  # type: ignore[attr-defined]
        return following.replace(step=step + 1), metrics

    return in_turns


def stacked(model: GradientModel, state: TrainState) -> TrainState:
    """The state that the step takes: parameters of modalities of one form are stacked.

    A few large arrays instead of hundreds of small ones: the step compiles in a fraction of the
    time where there are many modalities.
    """
    own = partial(model.stack_parameters, axis=1)  # behind the seeds
    return state.replace(variables=own(state.variables), ema=own(state.ema))  # type: ignore[attr-defined]


def unstacked(model: GradientModel, state: TrainState) -> TrainState:
    """The inverse of `stacked`."""
    own = partial(model.unstack_parameters, axis=1)
    return state.replace(variables=own(state.variables), ema=own(state.ema))  # type: ignore[attr-defined]


def batch_of(series: Series, rows: jax.Array) -> Series:
    """The series at `rows` as floats; those at -1 are empty, with length 0."""
    batch = series.take(rows).as_float()
    real = rows >= 0
    batch = batch.replace(lengths=jnp.where(real, batch.lengths, 0))  # type: ignore[attr-defined]
    return batch.hide({name: real[:, None, None] for name in batch.values})
