"""Training settings, and what follows from them: learning rate, beta, batches, rungs."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import optax
from jax import numpy as jnp

from jdmm.data.corruption import Deletions, is_range
from jdmm.errors import InputError

PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Durations are fractions of the training, so that every number of epochs is legal. The defaults
    are the best known settings for the spirals, except those that belong to their long runs:
    `configs/spirals.py` has more `epochs` and `restarts`, and a shorter `warmup` and `beta_rise`.

    Attributes:
        epochs: passes over the training series.
        restarts: random starts. Successive halving (Jamieson & Talwalkar 2016) chooses among them
            by validation: all are trained up to the first rung, the better half of them up to the
            next, and the best after the last rung to the end. 1 trains a single start. More than
            one needs validation series and at least two epochs.
        restart_rungs: rising fractions of the epochs at which candidates are compared. They are
            rounded to whole epochs between the first and the last but one; rungs that fall on the
            same epoch are one rung.
        batch_size: series per step.
        learning_rate: the peak of the schedule.
        schedule: of the learning rate after the warm-up: "cosine" (to 0 at the last step) or
            "constant".
        warmup: fraction of the training over which the learning rate rises linearly from 0.
        weight_decay: L2 penalty added to the gradient, as in Adam with weight decay of [T20].
        clip_norm: largest global norm of the gradient; 0 does not clip.
        ema_decay: decay per step of the exponential moving average of the variables, which is
            validated and kept; 0 keeps the variables themselves.
        beta_rise: fraction of the training over which beta, the weight of the divergences, rises
            linearly from 0 to `beta_peak`.
        beta_peak: largest beta. Above 1, encoding an observation costs more than it explains, so
            that the transitions have to carry the information.
        beta_fall: fractions of the training between which beta moves on to `beta_final`.
        beta_final: last beta; 1 gives the evidence lower bound itself.
        deletions: what is hidden from the training series. Hidden values are still scored.
        precision: of matrix products in a train step on hardware that has several: "float32",
            "tensorfloat32" or "bfloat16". Everything else is float32.
        validate_every: epochs from one validation to the next.
        patience: validations without improvement after which training stops; 0 never stops.
        streamed: whether each batch moves to the devices shortly before its step, instead of all
            training series at the start: for series that are larger than the memory of a device.
            Results are the same, bit for bit. A `SeriesSource` is streamed in any case.

    Raises:
        InputError: for an impossible value, naming the field.
    """

    epochs: int = 100
    restarts: int = 1
    restart_rungs: tuple[float, ...] = (0.075, 0.1125, 0.1875)
    batch_size: int = 25
    learning_rate: float = 0.02
    schedule: str = "cosine"
    warmup: float = 0.03
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.99
    beta_rise: float = 0.1
    beta_peak: float = 2.0
    beta_fall: tuple[float, float] = (0.3, 0.8)
    beta_final: float = 0.2
    deletions: Deletions = Deletions()
    precision: str = "float32"
    validate_every: int = 5
    patience: int = 0
    streamed: bool = False

    def __post_init__(self) -> None:
        """Checks the values."""
        rungs = (0.0, *self.restart_rungs, 1.0)
        expectations = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "restarts": (self.restarts >= 1, "at least 1 (a single start)"),
            "restart_rungs": (
                len(rungs) > 2 and all(a < b for a, b in itertools.pairwise(rungs)),
                "rising fractions above 0 and below 1",
            ),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "learning_rate": (0 < self.learning_rate < math.inf, "positive and finite"),
            "schedule": (self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            "warmup": (0 <= self.warmup <= 1, "a fraction within 0..1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more"),
            "clip_norm": (0 <= self.clip_norm < math.inf, "0 (none) or more"),
            "ema_decay": (0 <= self.ema_decay < 1, "within 0..1, below 1"),
            "beta_rise": (0 <= self.beta_rise <= 1, "a fraction within 0..1"),
            "beta_peak": (0 <= self.beta_peak < math.inf, "0 or more"),
            "beta_fall": (is_range(self.beta_fall), "two rising fractions within 0..1"),
            "beta_final": (0 <= self.beta_final < math.inf, "0 or more"),
            "precision": (self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            "validate_every": (self.validate_every >= 1, "at least 1"),
            "patience": (self.patience >= 0, "0 (never) or more"),
        }
        for name, (holds, expected) in expectations.items():
            if not holds:
                raise InputError(f"expected {name} {expected}, got {getattr(self, name)!r}")
        if self.restarts > 1 and self.epochs == 1:
            raise InputError(
                f"expected at least 2 epochs to choose among restarts={self.restarts}, got 1: "
                "train longer, or set restarts=1"
            )


@dataclass(frozen=True)
class Schedule:
    """The steps of a training run, and the values that follow from a step.

    Attributes:
        settings: how to train.
        series: number of training series.
    """

    settings: TrainSettings
    series: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch, with the last, smaller batch."""
        return math.ceil(self.series / self.settings.batch_size)

    @property
    def steps(self) -> int:
        """Steps of one start from the first to the last epoch."""
        return self.settings.epochs * self.steps_per_epoch

    @property
    def rungs(self) -> list[tuple[int, int]]:
        """Candidates and last epoch of each rung of successive halving; empty for one start."""
        settings = self.settings
        if settings.restarts == 1:
            return []
        exact = (round(fraction * settings.epochs) for fraction in settings.restart_rungs)
        lasts = sorted({min(max(epoch, 1), settings.epochs - 1) for epoch in exact})
        return [(math.ceil(settings.restarts / 2**n), last) for n, last in enumerate(lasts)]

    @property
    def all_steps(self) -> int:
        """`steps`, and the steps of the candidates that are dropped."""
        epochs, before = self.settings.epochs, 0
        for candidates, last in self.rungs:
            epochs += (candidates - 1) * (last - before)
            before = last
        return epochs * self.steps_per_epoch

    def fraction_done(self, step: Any) -> Any:
        """Fraction of the training done before `step`, 0 to 1."""
        return step / self.steps

    def learning_rate(self, step: Any) -> Any:
        """Learning rate of `step`: linear warm-up, then cosine decay or a constant."""
        settings = self.settings
        warmup = round(settings.warmup * self.steps)
        peak = settings.learning_rate
        if settings.schedule == "constant":
            following = optax.constant_schedule(peak)
        else:
            following = optax.cosine_decay_schedule(peak, max(self.steps - warmup, 1))
        rise = optax.linear_schedule(0.0, peak, max(warmup, 1))
        return optax.join_schedules([rise, following], [warmup])(step)

    def beta(self, step: Any) -> Any:
        """Weight of the divergences at `step`: from 0 to `beta_peak`, later to `beta_final`."""
        settings = self.settings
        rise = settings.beta_rise * self.steps
        first, last = (max(fraction * self.steps, rise) for fraction in settings.beta_fall)
        risen = jnp.minimum(step / rise, 1.0) if rise else 1.0
        fallen = jnp.clip((step - first) / max(last - first, 1.0), 0.0, 1.0)
        return risen * (settings.beta_peak + fallen * (settings.beta_final - settings.beta_peak))

    def rows(self, seed: int, start: int, epoch: int) -> np.ndarray:
        """Rows ``(step, batch)`` of the series of an epoch in random order.

        -1 fills up the last batch.
        """
        order = np.random.default_rng((seed, start, epoch)).permutation(self.series)
        size = self.steps_per_epoch * self.settings.batch_size
        filled = np.concatenate([order, np.full(size - self.series, -1)])
        return filled.reshape(self.steps_per_epoch, -1).astype(np.int32)
