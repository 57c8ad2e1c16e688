"""How to train, and the values that follow from the step: learning rate, beta, batches."""

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


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        epochs: passes over the training series.
        restarts: fresh starts, of which the one that does best on validation goes on to the end;
            1 for none. They race by successive halving (Jamieson & Talwalkar 2016): after each of
            `restart_epochs` the better half of those that are left stays, after the last the best.
        restart_epochs: epochs since the start, rising.
        batch_size: series per step.
        learning_rate: the highest of the schedule.
        schedule: "cosine" (to 0 at the last step) or "constant", after the warm-up.
        warmup_epochs: of linearly rising learning rate.
        weight_decay: L2 penalty added to the gradient, as in Adam with weight decay of [T20].
        clip_norm: largest global norm of a gradient; 0 for none.
        ema_decay: decay per step of the moving average of the variables that is validated and kept;
            0 for the last variables themselves.
        beta_epochs: of beta, the weight of the divergences, rising linearly from 0 to `beta_peak`.
        beta_peak: reached then. Above 1 it makes information dear, so that
            the transitions must carry it.
        beta_fall: fractions of all epochs between which beta goes on from there to `beta_final`.
        beta_final: its last value; 1 is the evidence lower bound itself.
        deletions: what is hidden of each training series; targets stay complete.
        precision: of the matrix products of a train step where the hardware knows others than
            "float32": "tensorfloat32" or "bfloat16". Everything else is in float32 always.
        validate_every: epochs between validations (and checkpoints).
        patience: validations without improvement before stopping; 0 for never.
    """

    epochs: int = 100
    restarts: int = 1
    restart_epochs: tuple[int, ...] = (30, 45, 75)
    batch_size: int = 25
    learning_rate: float = 0.02
    schedule: str = "cosine"
    warmup_epochs: float = 3.0
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.99
    beta_epochs: float = 10.0
    beta_peak: float = 2.0
    beta_fall: tuple[float, float] = (0.5, 0.9)
    beta_final: float = 1.0
    deletions: Deletions = Deletions()
    precision: str = "float32"
    validate_every: int = 5
    patience: int = 0

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        expectations = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "restarts": (self.restarts >= 1, "at least 1 (no trials)"),
            "restart_epochs": (
                self.restarts == 1
                or (
                    len(self.restart_epochs) > 0
                    and all(a < b for a, b in itertools.pairwise((0, *self.restart_epochs)))
                    and self.restart_epochs[-1] < self.epochs
                ),
                "rising from at least 1 and below epochs",
            ),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "learning_rate": (0 < self.learning_rate < math.inf, "positive and finite"),
            "schedule": (self.schedule in ("cosine", "constant"), "'cosine' or 'constant'"),
            "warmup_epochs": (0 <= self.warmup_epochs <= self.epochs, "within 0..epochs"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more"),
            "clip_norm": (0 <= self.clip_norm < math.inf, "0 (none) or more"),
            "ema_decay": (0 <= self.ema_decay < 1, "within 0..1, below 1"),
            "beta_epochs": (0 <= self.beta_epochs < math.inf, "0 or more"),
            "beta_peak": (0 <= self.beta_peak < math.inf, "0 or more"),
            "beta_final": (0 <= self.beta_final < math.inf, "0 or more"),
            "beta_fall": (is_range(self.beta_fall), "two rising fractions within 0..1"),
            "precision": (self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            "validate_every": (self.validate_every >= 1, "at least 1"),
            "patience": (self.patience >= 0, "0 (never) or more"),
        }
        for name, (holds, expected) in expectations.items():
            if not holds:
                raise InputError(f"expected {name} {expected}, got {getattr(self, name)!r}")


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
    def rungs(self) -> list[tuple[int, int]]:
        """Of the race of the starts: how many run in each, and to which epoch."""
        if self.settings.restarts == 1:
            return []
        lasts = self.settings.restart_epochs
        return [(math.ceil(self.settings.restarts / 2**n), last) for n, last in enumerate(lasts)]

    @property
    def all_steps(self) -> int:
        """`steps`, and those of the starts that come to nothing."""
        epochs, before = self.settings.epochs, 0
        for runners, last in self.rungs:
            epochs += (runners - 1) * (last - before)
            before = last
        return epochs * self.steps_per_epoch

    def progress(self, step: Any) -> Any:
        """Fraction of the training done before `step`."""
        return step / self.steps

    def learning_rate(self, step: Any) -> Any:
        """LinearGaussianSSM warm-up, then cosine decay or a constant."""
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
