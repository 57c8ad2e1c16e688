"""Baselines for imputation: the mean, the last value carried forward, linear interpolation.

Each is the posterior mean of a Gaussian process per feature, which also gives its uncertainty.
"mean" takes all values as independent. The others are a random walk observed without error: "carry"
conditions on the past only, "interpolate" on both sides (a Brownian bridge between neighbours, a
walk beyond the ends). Mean, variance and variance of the steps are those of the training series.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
from jax import numpy as jnp
from jax.scipy.stats import norm

from jdmm.errors import InputError, UnsuitableDataError
from jdmm.inference.gaussian import Moments
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import SD_FLOOR, Raw
from jdmm.models.base import ExactLikelihood, SelfFittingModel, Variables
from jdmm.models.features import check_normal, concatenate_features, split_features
from jdmm.series import Series

KINDS = ("mean", "carry", "interpolate")


@dataclass(frozen=True)
class ImputationBaseline(SelfFittingModel, ExactLikelihood):
    """A baseline whose states are the means and sd of the features of all modalities.

    It looks at each feature alone: inputs, as other features, have no influence.

    Attributes:
        kind: "mean", "carry" or "interpolate".
    """

    kind: str = "interpolate"
    takes_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        if self.kind not in KINDS:
            raise InputError(f"expected model.kind among {', '.join(KINDS)}, got {self.kind!r}")
        check_normal(self.modalities, "an imputation baseline")

    def fit(
        self, series: Series, on_iteration: Callable[[dict[str, float]], Any] | None = None
    ) -> Variables:
        """Mean, variance of the values and variance of the steps, ``(feature,)``.

        There is one iteration, of which `on_iteration` gets the number.

        Raises:
            UnsuitableDataError: if a feature is never observed, or never at two successive steps.
        """
        self.check(series)
        values, observed = (np.asarray(leaf) for leaf in concatenate_features(series))
        both = observed[:, 1:] & observed[:, :-1]
        if not observed.any((0, 1)).all() or not both.any((0, 1)).all():
            raise UnsuitableDataError(
                "expected every feature to be observed twice in a row somewhere, got one never"
            )
        mean = np.mean(values, (0, 1), where=observed)
        steps = np.mean(np.diff(values, axis=1) ** 2, (0, 1), where=both)
        variance = np.mean((values - mean) ** 2, (0, 1), where=observed)
        if on_iteration is not None:
            on_iteration({"iteration": 0})
        return {"mean": mean, "variance": variance, "step": steps}

    def posterior_mean(self, variables: Variables, series: Series, key: jax.Array) -> PosteriorPath:
        """The posterior of every value; the states are its means and its sd, concatenated."""
        return jax.tree.map(lambda leaf: leaf[0], self.posterior_samples(variables, series, key, 1))

    def posterior_samples(
        self, variables: Variables, series: Series, key: jax.Array, count: int, scale: Any = 1.0
    ) -> PosteriorPath:
        """The same states `count` times, ``(count, batch, time, ...)``: only the emissions vary."""
        del key
        self.check(series)
        moments = self._moments(variables, series)
        states = jnp.concatenate([moments.mean, scale * moments.sd], -1)
        path = PosteriorPath(moments, moments, states)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), path)

    def emissions(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Means and sd of the values of each modality."""
        del variables
        mean, sd = jnp.split(states, 2, -1)
        return split_features(self.modalities, mean, sd)

    def log_likelihood(self, variables: Variables, series: Series) -> jax.Array:
        """Exact log p(x) of what is observed of each series in nats, ``(batch,)``.

        A value of a random walk is conditioned on the last one before it, the first one on the
        mean; the values of "mean" are independent. Variances have the floor of the emissions.
        """
        self.check(series)
        values, observed = concatenate_features(series)
        expected = self._expected(variables, values, observed)
        log_prob = norm.logpdf(values, expected.mean, jnp.maximum(expected.sd, SD_FLOOR))
        return jnp.sum(jnp.where(observed, log_prob, 0.0), (1, 2))

    def _expected(self, variables: Variables, values: jax.Array, observed: jax.Array) -> Moments:
        """Of every value, given those before it."""
        mean, variance, step = _broadcast(variables, values)
        if self.kind == "mean":
            return Moments(mean, variance)
        time = _time(values)
        before, last = (
            jnp.pad(leaf[:, :-1], ((0, 0), (1, 0), (0, 0)), constant_values=-1.0)
            for leaf in _nearest(values, observed, time, reverse=False)
        )
        known = last >= 0
        return Moments(
            jnp.where(known, before, mean),
            jnp.where(known, jnp.minimum((time - last) * step, variance), variance),
        )

    def _moments(self, variables: Variables, series: Series) -> Moments:
        """Of every value, given all that the kind conditions on."""
        values, observed = concatenate_features(series)
        time = _time(values)
        mean, variance, step = _broadcast(variables, values)
        if self.kind == "mean":
            return Moments(jnp.where(observed, values, mean), jnp.where(observed, 0.0, variance))
        before, last = _nearest(values, observed, time, reverse=False)
        after, following = _nearest(values, observed, time, reverse=True)
        past, future = last >= 0, following < series.num_steps
        if self.kind == "carry":
            future = jnp.zeros_like(future)
        since, until = time - last, following - time
        share = jnp.where(since + until > 0, since / jnp.maximum(since + until, 1), 0.0)
        between = before + share * (after - before)
        expected = jnp.where(past & future, between, jnp.where(past, before, after))
        distance = jnp.where(past & future, share * until, jnp.where(past, since, until))
        known = past | future
        return Moments(
            jnp.where(known, expected, mean),
            jnp.where(known, jnp.minimum(distance * step, variance), variance),
        )


def _time(values: jax.Array) -> jax.Array:
    return jnp.arange(values.shape[1], dtype=float)[None, :, None]


def _broadcast(variables: Variables, values: jax.Array) -> tuple[jax.Array, ...]:
    """Mean, variance and variance of the steps in the shape of the values."""
    return tuple(
        jnp.broadcast_to(variables[name], values.shape) for name in ("mean", "variance", "step")
    )


def _nearest(
    values: jax.Array, observed: jax.Array, time: jax.Array, reverse: bool
) -> tuple[jax.Array, jax.Array]:
    """The last observed value up to each step and its time, or the next one with `reverse`.

    Where there is none, the time is -1, or the number of steps with `reverse`.
    """
    none = jnp.full(values.shape, float(values.shape[1]) if reverse else -1.0)
    own = (jnp.where(observed, values, 0.0), jnp.where(observed, time, none), observed)

    def later(first: Any, second: Any) -> Any:
        kept = jax.tree.map(lambda a, b: jnp.where(second[2], b, a), first[:2], second[:2])
        return (*kept, first[2] | second[2])

    value, when, _ = jax.lax.associative_scan(later, own, reverse=reverse, axis=1)
    return value, when
