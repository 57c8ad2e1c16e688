"""Where a training run stands, complete for resuming, and how validation moves it on.

With restarts, several starts race by successive halving before the best goes on to the end.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import struct
from jax import numpy as jnp

from jdmm.errors import DivergenceError
from jdmm.training.schedule import Schedule, TrainSettings

Variables = Any
Scorer = Callable[[Variables], dict[str, Any]]
"""Variables ``(seed, ...)`` -> validation figures ``(seed,)``, with a "score" to be minimised."""


@struct.dataclass
class TrainState:
    """What a step changes, as one tree of arrays; all but `step` have a leading axis of seeds.

    Attributes:
        seed: of all keys.
        start: which fresh start this is, for the keys too.
        step: steps taken since, the same for all seeds.
        variables: of the model.
        ema: their moving average.
        optimizer: the optimizer's memory.
    """

    seed: Any
    start: Any
    step: Any
    variables: Any
    ema: Any
    optimizer: Any


SEED_AXES: Any = TrainState(seed=0, start=0, step=None, variables=0, ema=0, optimizer=0)
"""Where a `TrainState` has its seeds, for `jax.vmap`."""


@dataclass
class Progress:
    """Where a training run stands, complete for resuming; lists and arrays have a place per seed.

    Attributes:
        state: the train state.
        best: the averaged variables of the best validation so far.
        runners: the states of the starts that race, ``(place, seed, ...)``, the best of the last
            rung first; none without a race.
        race: their validation scores, ``[place][seed]``, infinite where there is none yet.
        trials: runs from rung to rung that are finished.
        best_score: the score of `best`, infinite before the first.
        best_epoch: epochs behind it.
        stale: validations since.
        steps: taken so far, trials included.
        sums: metric -> sums over the steps of the unfinished epoch.
        seconds: spent in training so far.
        records: each seed's figures of the epoch just finished, None if it was interrupted.
    """

    state: TrainState
    best: Any
    runners: Any
    race: list[list[float]]
    best_score: list[float]
    best_epoch: list[int]
    stale: list[int]
    trials: int = 0
    steps: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    records: list[dict[str, float]] | None = None


def record_epoch(progress: Progress, schedule: Schedule, epoch: int) -> None:
    """Makes the figures of each seed out of the sums of an epoch that is complete."""
    steps = epoch * schedule.steps_per_epoch
    shared = {
        "epoch": epoch,
        "step": progress.steps,
        "train/beta": float(schedule.beta(steps)),
        "train/learning_rate": float(schedule.learning_rate(steps)),
    }
    names = zip(np.asarray(progress.state.seed), np.asarray(progress.state.start), strict=True)
    progress.records = [
        {"seed": int(seed), "start": int(start)}
        | shared
        | {f"train/{k}": sums[n] / schedule.steps_per_epoch for k, sums in progress.sums.items()}
        for n, (seed, start) in enumerate(names)
    ]
    progress.sums = {}


def standing(schedule: Schedule, trials: int) -> tuple[int, int, int]:
    """Rung, place among its runners and last epoch of the trial that follows `trials` others.

    Behind the last rung the best start runs alone, to the end.
    """
    for rung, (runners, last) in enumerate(schedule.rungs):
        if trials < runners:
            return rung, trials, last
        trials -= runners
    return len(schedule.rungs), 0, schedule.settings.epochs


def finish_trial(progress: Progress, score: Scorer, place: int, runners: int) -> None:
    """Puts a start that has run its time back in its place; after a rung the best come first."""
    progress.race[place] = _scored(progress, score).tolist()
    progress.runners = jax.tree.map(
        lambda every, own: _replaced(every, place, own), progress.runners, progress.state
    )
    progress.trials += 1
    if place + 1 < runners:
        return
    race = np.array(progress.race)
    order = np.argsort(race[:runners], 0)
    seeds = np.arange(race.shape[1])

    def ranked(every: Any) -> np.ndarray:
        every = np.asarray(every)
        return _replaced(every, slice(runners), every[order, seeds])

    progress.race = ranked(race).tolist()
    # steps are those of all seeds together
    steps = progress.runners.step
    progress.runners = jax.tree.map(ranked, progress.runners.replace(step=())).replace(step=steps)


def _replaced(array: Any, place: Any, value: Any) -> np.ndarray:
    changed = np.array(array)
    changed[place] = value
    return changed


def validate(progress: Progress, score: Scorer, epoch: int, settings: TrainSettings) -> None:
    """Scores the state, and keeps its averaged variables where they are the best."""
    running = ~np.array(stopped(progress, settings))
    scores = _scored(progress, score)
    better = running & (scores < np.array(progress.best_score))
    progress.best = _where(better, progress.state.ema, progress.best)
    progress.best_score = np.where(better, scores, progress.best_score).tolist()
    progress.best_epoch = np.where(better, epoch, progress.best_epoch).tolist()
    progress.stale = np.where(better, 0, np.array(progress.stale) + running).tolist()


def _scored(progress: Progress, score: Scorer) -> np.ndarray:
    """Scores of the averaged variables; all their figures go into the records too."""
    assert progress.records is not None
    figures = score(progress.state.ema)
    for name, values in figures.items():
        for record, value in zip(progress.records, np.ravel(values).tolist(), strict=True):
            record[f"validation/{name}"] = value
    return np.ravel(figures["score"])


def _where(chosen: np.ndarray, these: Any, others: Any) -> Any:
    """Trees of leaves ``(seed, ...)``: the chosen seeds of `these`, the rest of `others`."""
    return jax.tree.map(
        lambda a, b: jnp.where(chosen.reshape(-1, *(1,) * (a.ndim - 1)), a, b), these, others
    )


def stopped(progress: Progress, settings: TrainSettings) -> list[bool]:
    """Which seeds have lost their patience."""
    return [bool(settings.patience) and stale >= settings.patience for stale in progress.stale]


def accumulate(progress: Progress, measured: list[dict[str, Any]]) -> None:
    """Adds each step's metrics, in order, so that an interrupted epoch ends with the same sums."""
    seeds = np.asarray(progress.state.seed)
    for offset, metrics in enumerate(jax.device_get(measured)):
        for name, values in metrics.items():
            if not np.isfinite(values).all():
                first = np.flatnonzero(~np.isfinite(values))[0]
                whose = f" of seed {seeds[first]}" if len(seeds) > 1 else ""
                raise DivergenceError(
                    f"{name}{whose} is {float(values[first])} at step {progress.steps + offset}: "
                    "training stopped; try a lower learning_rate or a smaller clip_norm"
                )
            before = progress.sums.get(name, [0.0] * len(seeds))
            progress.sums[name] = [
                total + float(v) for total, v in zip(before, values, strict=True)
            ]
