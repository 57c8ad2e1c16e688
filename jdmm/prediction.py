"""What a trained model says of series: means, uncertainties and densities in observation space.

Works with any model that has `infer`, `draw`, `decode` and `likelihoods`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.gaussian import Moments
from jdmm.likelihoods import Likelihood, Raw, mixture_log_prob
from jdmm.series import Series

Variables = Any
INTERVAL = (0.025, 0.975)
"""Quantiles that bound the central 95 % interval."""


class Model(Protocol):
    """What prediction asks of a model."""

    @property
    def likelihoods(self) -> dict[str, Likelihood]:
        """Modality -> likelihood."""
        ...

    def infer(self, variables: Variables, series: Series, key: jax.Array) -> Moments:
        """The most probable latent sequence, ``(batch, time, latent)``."""
        ...

    def draw(self, variables: Variables, series: Series, key: jax.Array, count: int) -> jax.Array:
        """Posterior draws ``(count, batch, time, latent)``."""
        ...

    def decode(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality."""
        ...


class Prediction(NamedTuple):
    """Modality -> ``(batch, time, feature)`` at every step, shown or not.

    mean: the decoded MAP sequence.
    sd: standard deviation of the predictive distribution: latent and emission uncertainty.
    lower, upper: bounds of its central 95 % interval.
    log_prob: its log density at the targets in nats, where targets were given.
    states: mean and variance of the latent MAP sequence, ``(batch, time, latent)``.
    """

    mean: dict[str, Any]
    sd: dict[str, Any]
    lower: dict[str, Any]
    upper: dict[str, Any]
    log_prob: dict[str, Any]
    states: Moments


def predict(
    model: Model,
    variables: Variables,
    series: Series,
    key: jax.Array,
    draws: int = 100,
    targets: Series | None = None,
) -> Prediction:
    """Predicts every value of a batch from what is observed of it; see `Prediction`.

    Smooths, fills in and extrapolates alike: whatever is not observed is predicted. All the
    memory is taken at once; `predict_all` goes through many series in batches.
    """
    infer_key, draw_key, emission_key = jax.random.split(key, 3)
    states = model.infer(variables, series, infer_key)
    raw = model.decode(variables, states.mean)
    drawn = model.decode(variables, model.draw(variables, series, draw_key, draws))
    mean, sd, lower, upper, log_prob = {}, {}, {}, {}, {}
    for index, (name, likelihood) in enumerate(model.likelihoods.items()):
        emitted = likelihood.sample(drawn[name], jax.random.fold_in(emission_key, index))
        mean[name] = likelihood.mean(raw[name])
        sd[name] = jnp.std(emitted, 0)
        lower[name], upper[name] = jnp.quantile(emitted, jnp.array(INTERVAL), 0)
        if targets is not None:
            log_prob[name] = mixture_log_prob(likelihood, drawn[name], targets.values[name])
    return Prediction(mean, sd, lower, upper, log_prob, states)


def predict_all(
    model: Model,
    variables: Variables,
    series: Series,
    key: jax.Array,
    draws: int = 100,
    targets: Series | None = None,
    batch_size: int = 100,
) -> Prediction:
    """`predict` in batches, compiled once, as numpy arrays."""

    @jax.jit
    def one(
        variables: Variables, shown: Series, scored: Series | None, key: jax.Array
    ) -> Prediction:
        return predict(model, variables, shown, key, draws, scored)

    pieces = []
    for index, rows in enumerate(batches(series.batch, batch_size)):
        scored = None if targets is None else targets.take(rows)
        piece = one(variables, series.take(rows), scored, jax.random.fold_in(key, index))
        pieces.append(jax.device_get(piece))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: series.batch], *pieces)


def batches(count: int, size: int) -> Iterator[np.ndarray]:
    """Row numbers in batches of one size; the last repeats the last row to fill up."""
    size = min(size, count)
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)
