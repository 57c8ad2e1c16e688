"""The progress of a training run, which a resume restores, and how validation updates it.

With several random starts, successive halving chooses among them: see `TrainSettings.restarts`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import struct
from jax import numpy as jnp

from jdmm.errors import DivergenceError
from jdmm.models.base import Variables
from jdmm.training.schedule import Schedule, TrainSettings

Scorer = Callable[[Variables], dict[str, Any]]
"""Variables ``(seed, ...)`` -> figures ``(seed,)``, among them "score", which is minimised."""


BROKEN = "broken_series"
"""Metric of a step: index of a series whose numbers cannot be right, -1 if there is none."""


@struct.dataclass
class TrainState:
    """What a train step updates. All leaves but `step` have a leading axis of seeds.

    Attributes:
        seed: of all random numbers.
        start: number of the random start; random numbers depend on it too.
        step: steps taken from this start, the same for all seeds.
        variables: of the model.
        ema: exponential moving average of the variables.
        optimizer: state of the optimizer.
    """

    seed: Any
    start: Any
    step: Any
    variables: Any
    ema: Any
    optimizer: Any


STATE_AXES: Any = TrainState(seed=0, start=0, step=None, variables=0, ema=0, optimizer=0)
"""The axes of a `TrainState` to map over seeds, for `jax.vmap`."""


@dataclass
class Progress:
    """The progress of a training run; lists and arrays have one entry per seed.

    Attributes:
        state: the train state.
        best: averaged variables of the best validation so far.
        candidates: states of the random starts, ``(candidate, seed, ...)``. After a rung they are
            sorted by score, the best first. None for a single start.
        candidate_scores: their validation scores, ``[candidate][seed]``, infinite before the first.
        best_score: score of `best`, infinite before the first validation.
        best_epoch: epoch of `best`.
        stale: validations since `best`.
        finished_trials: trials of successive halving that are finished; see `Trial`.
        steps: steps taken in all, by all candidates.
        metric_sums: metric -> sums over the steps of the unfinished epoch.
        seconds: training time so far.
        records: figures of the epoch just finished; None after an interruption within an epoch.
    """

    state: TrainState
    best: Any
    candidates: Any
    candidate_scores: list[list[float]]
    best_score: list[float]
    best_epoch: list[int]
    stale: list[int]
    finished_trials: int = 0
    steps: int = 0
    metric_sums: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    records: list[dict[str, float]] | None = None


class Trial(NamedTuple):
    """The training of one candidate up to the next rung, or of the chosen one to the end.

    Attributes:
        rung: number of the rung.
        candidate: number of the candidate in the order of the last rung.
        candidates: how many reach this rung.
        last_epoch: its last epoch.
        chosen: whether the choice among the candidates is made.
    """

    rung: int
    candidate: int
    candidates: int
    last_epoch: int
    chosen: bool


def next_trial(schedule: Schedule, finished_trials: int) -> Trial:
    """The trial to run after so many others."""
    for rung, (candidates, last_epoch) in enumerate(schedule.rungs):
        if finished_trials < candidates:
            return Trial(rung, finished_trials, candidates, last_epoch, chosen=False)
        finished_trials -= candidates
    return Trial(len(schedule.rungs), 0, 1, schedule.settings.epochs, chosen=True)


def record_epoch(progress: Progress, schedule: Schedule, epoch: int) -> None:
    """Turns the sums of a finished epoch into the records of each seed."""
    steps = epoch * schedule.steps_per_epoch
    shared = {
        "epoch": epoch,
        "step": progress.steps,
        "train/beta": float(schedule.beta(steps)),
        "train/learning_rate": float(schedule.learning_rate(steps)),
    }
    sums = progress.metric_sums
    seeds = zip(np.asarray(progress.state.seed), np.asarray(progress.state.start), strict=True)
    progress.records = [
        {"seed": int(seed), "start": int(start)}
        | shared
        | {f"train/{name}": sums[name][row] / schedule.steps_per_epoch for name in sums}
        for row, (seed, start) in enumerate(seeds)
    ]
    progress.metric_sums = {}


def finish_trial(progress: Progress, score: Scorer, trial: Trial) -> None:
    """Scores a candidate and stores its state; the last of a rung sorts them by score."""
    progress.candidate_scores[trial.candidate] = _validation_scores(progress, score).tolist()
    progress.candidates = jax.tree.map(
        lambda every, own: _replaced(every, trial.candidate, own),
        progress.candidates,
        progress.state,
    )
    progress.finished_trials += 1
    if trial.candidate + 1 < trial.candidates:
        return
    scores = np.array(progress.candidate_scores)
    order = np.argsort(scores[: trial.candidates], 0)
    seeds = np.arange(scores.shape[1])

    def ranked(every: Any) -> np.ndarray:
        every = np.asarray(every)
        return _replaced(every, slice(trial.candidates), every[order, seeds])

    progress.candidate_scores = ranked(scores).tolist()
    step = progress.candidates.step  # without an axis of seeds, and the same for all candidates
    ranked_states = jax.tree.map(ranked, progress.candidates.replace(step=()))
    progress.candidates = ranked_states.replace(step=step)


def validate(progress: Progress, score: Scorer, epoch: int, settings: TrainSettings) -> None:
    """Scores the averaged variables, and keeps them as the best where they are."""
    running = ~np.array(stopped(progress, settings))
    scores = _validation_scores(progress, score)
    better = running & (scores < np.array(progress.best_score))
    _update_best(progress, better, progress.state.ema, scores, [epoch] * len(scores))
    progress.stale = np.where(better, 0, np.array(progress.stale) + running).tolist()


def conclude(progress: Progress, score: Scorer | None, schedule: Schedule) -> None:
    """Chooses the best variables of a training that ends early, after a whole epoch.

    Before the choice among the candidates, the best of those that are scored is taken; if there
    are none, or the last epoch was not validated, the current variables are validated.
    """
    if score is None:  # the last variables are the best already
        return
    assert progress.records is not None
    if not progress.finished_trials or next_trial(schedule, progress.finished_trials).chosen:
        validated = "validation/score" in progress.records[0]
        if not validated or not np.isfinite(progress.best_score).all():
            validate(progress, score, int(progress.records[0]["epoch"]), schedule.settings)
        return
    scores = np.array(progress.candidate_scores)
    rows, seeds = np.argmin(scores, 0), np.arange(scores.shape[1])
    variables = jax.tree.map(lambda leaf: np.asarray(leaf)[rows, seeds], progress.candidates.ema)
    epochs = np.asarray(progress.candidates.step)[rows] // schedule.steps_per_epoch
    _update_best(progress, np.ones(len(seeds), bool), variables, scores[rows, seeds], epochs)


def stopped(progress: Progress, settings: TrainSettings) -> list[bool]:
    """The seeds whose patience is exhausted."""
    return [bool(settings.patience) and stale >= settings.patience for stale in progress.stale]


def accumulate(progress: Progress, measured: list[dict[str, Any]]) -> None:
    """Adds the metrics of each step, in order, so that a resumed epoch has the same sums.

    Raises:
        DivergenceError: for a metric that is not finite, naming it and the step; or for a series
            whose covariance is broken, naming that too.
    """
    seeds = np.asarray(progress.state.seed)
    for offset, metrics in enumerate(jax.device_get(measured)):
        if (found := np.ravel(metrics.pop(BROKEN, -1)).max()) >= 0:
            raise DivergenceError(
                f"the covariance of training series {found} is no longer positive definite at "
                f"step {progress.steps + offset}: training stopped; try a lower learning_rate, a "
                "smaller clip_norm, or values of smaller scale"
            )
        for name, values in metrics.items():
            if not np.isfinite(values).all():
                first = np.flatnonzero(~np.isfinite(values))[0]
                whose = f" of seed {seeds[first]}" if len(seeds) > 1 else ""
                raise DivergenceError(
                    f"{name}{whose} is {float(values[first])} at step {progress.steps + offset}: "
                    "training stopped; try a lower learning_rate or a smaller clip_norm"
                )
            before = progress.metric_sums.get(name, [0.0] * len(seeds))
            progress.metric_sums[name] = [
                total + float(value) for total, value in zip(before, values, strict=True)
            ]


def _validation_scores(progress: Progress, score: Scorer) -> np.ndarray:
    """Scores of the averaged variables; all figures go into the records.

    Raises:
        DivergenceError: for a score that is not a number, naming the epoch.
    """
    assert progress.records is not None
    figures = score(progress.state.ema)
    for name, values in figures.items():
        for record, value in zip(progress.records, np.ravel(values).tolist(), strict=True):
            record[f"validation/{name}"] = value
    scores = np.ravel(figures["score"])
    if np.isnan(scores).any():
        raise DivergenceError(
            f"the validation score is nan at step {progress.steps} (epoch "
            f"{progress.records[0]['epoch']}): training stopped; try a lower learning_rate or a "
            "smaller clip_norm"
        )
    return scores


def _update_best(
    progress: Progress, better: np.ndarray, variables: Any, scores: np.ndarray, epochs: Any
) -> None:
    """Replaces the best variables, their score and epoch for the seeds that are `better`."""
    progress.best = jax.tree.map(
        lambda new, old: jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old),
        variables,
        progress.best,
    )
    progress.best_score = np.where(better, scores, progress.best_score).tolist()
    progress.best_epoch = np.where(better, epochs, progress.best_epoch).tolist()


def _replaced(array: Any, place: Any, value: Any) -> np.ndarray:
    """A copy of the array with a new value at `place`."""
    changed = np.array(array)
    changed[place] = value
    return changed
