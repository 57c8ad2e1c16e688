"""What any model should beat: the mean, the last value carried on, linear interpolation.

Each is the posterior mean of a Gaussian process per feature, which gives its uncertainty: values
independent of each other, or a random walk that is seen without error, told of the past alone
(carried) or of both sides (a Brownian bridge between neighbours, a walk beyond the ends). Nothing
is trained; the mean and the variances of values and of steps are those of the training series.
"""

from dataclasses import dataclass
from typing import Any, Self

import jax
import numpy as np
from jax import numpy as jnp
from jax.scipy.stats import norm

from jdmm.errors import InputError
from jdmm.inference.gaussian import Moments
from jdmm.inference.smoothing import SmoothedPosterior
from jdmm.likelihoods import SD_FLOOR, Raw
from jdmm.models.base import Config, Modality, Multimodal, Variables, nothing
from jdmm.models.numbers import apart, check_numbers, side_by_side
from jdmm.series import Series

KINDS = ("mean", "carry", "interpolate")


@dataclass(frozen=True)
class Simple(Multimodal):
    """A baseline for imputation; its latent states are the values of all modalities side by side.

    Attributes:
        kind: "mean", "carry" or "interpolate".
    """

    kind: str = "interpolate"

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if self.kind not in KINDS:
            raise InputError(f"expected model.kind among {', '.join(KINDS)}, got {self.kind!r}")
        check_numbers(self.modalities, "a simple baseline")

    @classmethod
    def from_config(cls, modalities: tuple[Modality, ...], config: Config) -> Self:
        """The model of the field `model` of a configuration."""
        return cls(modalities, config.model.kind)

    def fit(self, series: Series) -> Variables:
        """Mean, variance of the values and of their steps, ``(feature,)``.

        Raises:
            InputError: if a feature is never observed, or never twice in a row.
        """
        values, seen = (np.asarray(leaf) for leaf in side_by_side(series))
        both = seen[:, 1:] & seen[:, :-1]
        if not seen.any((0, 1)).all() or not both.any((0, 1)).all():
            raise InputError("expected every feature to be observed twice in a row somewhere")
        mean = np.mean(values, (0, 1), where=seen)
        steps = np.mean(np.diff(values, axis=1) ** 2, (0, 1), where=both)
        variance = np.mean((values - mean) ** 2, (0, 1), where=seen)
        return {"mean": mean, "variance": variance, "step": steps}

    def infer(self, variables: Variables, series: Series, key: jax.Array) -> SmoothedPosterior:
        """The posterior of every value; the states are its means and sd, side by side."""
        return jax.tree.map(lambda leaf: leaf[0], self.draw(variables, series, key, 1))

    def draw(
        self, variables: Variables, series: Series, key: jax.Array, count: int, scale: Any = 1.0
    ) -> SmoothedPosterior:
        """The same states `count` times, ``(count, batch, time, ...)``; emissions do the rest."""
        del key
        moments = self._moments(variables, series)
        states = jnp.concatenate([moments.mean, scale * moments.sd], -1)
        chain = SmoothedPosterior(moments, moments, states)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), chain)

    def sample(
        self, variables: Variables, key: jax.Array, count: int, time: int, reverse: bool = False
    ) -> jax.Array:
        """The states of series of which nothing is observed, ``(count, time, ...)``."""
        del reverse
        return self.infer(variables, nothing(self.modalities, count, time), key).states

    def decode(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Means and sd of the values, apart again."""
        del variables
        mean, sd = jnp.split(states, 2, -1)
        return apart(self.modalities, mean, sd)

    def log_likelihood(self, variables: Variables, series: Series) -> jax.Array:
        """Exact log p(x) of what is observed of every series in nats, ``(batch,)``.

        Each value of a random walk given the last one before it, the first given the mean; of
        "mean" each by itself. Variances have the floor that emissions have.
        """
        values, seen = side_by_side(series)
        expected = self._expected(variables, values, seen)
        log_prob = norm.logpdf(values, expected.mean, jnp.maximum(expected.sd, SD_FLOOR))
        return jnp.sum(jnp.where(seen, log_prob, 0.0), (1, 2))

    def _expected(self, variables: Variables, values: jax.Array, seen: jax.Array) -> Moments:
        """Of every value, given those before it."""
        mean, variance, step = _everywhere(variables, values)
        if self.kind == "mean":
            return Moments(mean, variance)
        time = _times(values)
        before, last = (
            jnp.pad(leaf[:, :-1], ((0, 0), (1, 0), (0, 0)), constant_values=-1.0)
            for leaf in _nearest(values, seen, time, reverse=False)
        )
        known = last >= 0
        return Moments(
            jnp.where(known, before, mean),
            jnp.where(known, jnp.minimum((time - last) * step, variance), variance),
        )

    def _moments(self, variables: Variables, series: Series) -> Moments:
        values, seen = side_by_side(series)
        time = _times(values)
        mean, variance, step = _everywhere(variables, values)
        if self.kind == "mean":
            return Moments(jnp.where(seen, values, mean), jnp.where(seen, 0.0, variance))
        before, last = _nearest(values, seen, time, reverse=False)
        after, following = _nearest(values, seen, time, reverse=True)
        past, future = last >= 0, following < series.time
        if self.kind == "carry":
            future = jnp.zeros_like(future)
        gone, ahead = time - last, following - time
        share = jnp.where(gone + ahead > 0, gone / jnp.maximum(gone + ahead, 1), 0.0)
        between = before + share * (after - before)
        found = jnp.where(past & future, between, jnp.where(past, before, after))
        distance = jnp.where(past & future, share * ahead, jnp.where(past, gone, ahead))
        known = past | future
        return Moments(
            jnp.where(known, found, mean),
            jnp.where(known, jnp.minimum(distance * step, variance), variance),
        )


def _times(values: jax.Array) -> jax.Array:
    return jnp.arange(values.shape[1], dtype=float)[None, :, None]


def _everywhere(variables: Variables, values: jax.Array) -> tuple[jax.Array, ...]:
    """Mean and variance of the values and variance of the steps, as large as the values."""
    return tuple(
        jnp.broadcast_to(variables[name], values.shape) for name in ("mean", "variance", "step")
    )


def _nearest(
    values: jax.Array, seen: jax.Array, time: jax.Array, reverse: bool
) -> tuple[jax.Array, jax.Array]:
    """The last observed value up to each step and its time; -1 and beyond the end: none."""
    nothing = jnp.full(values.shape, float(values.shape[1]) if reverse else -1.0)
    own = (jnp.where(seen, values, 0.0), jnp.where(seen, time, nothing), seen)

    def later(first: Any, second: Any) -> Any:
        kept = jax.tree.map(lambda a, b: jnp.where(second[2], b, a), first[:2], second[:2])
        return (*kept, first[2] | second[2])

    value, when, _ = jax.lax.associative_scan(later, own, reverse=reverse, axis=1)
    return value, when
