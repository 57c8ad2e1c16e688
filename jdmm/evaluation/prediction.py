"""What a trained model says of series: means, uncertainties and densities in observation space.

Works with any model that has `infer`, `draw`, `decode` and `likelihoods`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.inference.gaussian import Moments
from jdmm.likelihoods import mixture_log_prob
from jdmm.models.base import Model, Variables
from jdmm.series import Series

INTERVAL = (0.025, 0.975)
"""Quantiles that bound the central 95 % interval."""


class Calibration(NamedTuple):
    """Scales that make intervals honest; see `jdmm.calibration`.

    posterior: of the noise of posterior draws.
    emission: of the spread of the emissions.
    """

    posterior: float = 1.0
    emission: float = 1.0


UNCALIBRATED = Calibration()
"""The model's own posterior and emissions."""


class Prediction(NamedTuple):
    """Modality -> ``(batch, time, feature)`` at every step, shown or not.

    mean: the decoded MAP sequence.
    sd: standard deviation of the predictive distribution: latent and emission uncertainty.
    lower, upper: bounds of its central 95 % interval.
    log_prob: its log density at the targets in nats, where targets were given; so the next two.
    pit: its distribution function at the targets (probability integral transform); a central
        interval of level c covers a target if ``|pit - 0.5| <= c / 2``.
    crps: continuous ranked probability score of the targets, in their units.
    states: mean and variance of the latent MAP sequence, ``(batch, time, latent)``.
    """

    mean: dict[str, Any]
    sd: dict[str, Any]
    lower: dict[str, Any]
    upper: dict[str, Any]
    log_prob: dict[str, Any]
    pit: dict[str, Any]
    crps: dict[str, Any]
    states: Moments


def predict(
    model: Model,
    variables: Variables,
    series: Series,
    key: jax.Array,
    draws: int = 100,
    targets: Series | None = None,
    calibration: Calibration = UNCALIBRATED,
) -> Prediction:
    """Predicts every value of a batch from what is observed of it; see `Prediction`.

    Smooths, fills in and extrapolates alike: whatever is not observed is predicted. All the
    memory is taken at once; `predict_all` goes through many series in batches. `calibration` is for
    what is said of uncertainty; the means are the model's own.
    """
    infer_key, draw_key, emission_key = jax.random.split(key, 3)
    chain = model.posterior_mean(variables, series, infer_key)
    raw = model.emissions(variables, chain.states)
    inflated = model.posterior_samples(variables, series, draw_key, draws, calibration.posterior)
    drawn = model.emissions(variables, inflated.states)
    mean, sd, lower, upper, log_prob, pit, crps = ({} for _ in range(7))
    for index, (name, likelihood) in enumerate(model.likelihoods.items()):
        drawn[name] = likelihood.rescale(drawn[name], calibration.emission)
        emitted = likelihood.sample(drawn[name], jax.random.fold_in(emission_key, index))
        mean[name] = likelihood.mean(raw[name])
        emitted = jnp.sort(emitted, 0)
        sd[name] = jnp.std(emitted, 0)
        lower[name], upper[name] = quantiles(emitted, jnp.array(INTERVAL))
        if targets is not None:
            truth = targets.values[name]
            log_prob[name] = mixture_log_prob(likelihood, drawn[name], truth)
            pit[name] = probability_integral_transform(emitted, truth)
            crps[name] = ranked_probability_score(emitted, truth)
    return Prediction(mean, sd, lower, upper, log_prob, pit, crps, chain.posterior)


def quantiles(draws: jax.Array, levels: jax.Array) -> jax.Array:
    """Quantiles ``(level, ...)`` of which a further draw falls short with those probabilities.

    Of n sorted draws ``(draw, ...)`` the i-th has a share i / (n + 1) of further ones below it; in
    between it is interpolated. The usual (i - 1) / (n - 1) gives 95 % intervals that cover 93 %.
    """
    count = draws.shape[0]
    place = jnp.clip(levels * (count + 1) - 1, 0.0, count - 1.0)
    below = jnp.floor(place).astype(int)
    share = (place - below).reshape(-1, *(1,) * (draws.ndim - 1))
    first, second = draws[below], draws[jnp.minimum(below + 1, count - 1)]
    return first + share * (second - first)


def probability_integral_transform(draws: jax.Array, value: jax.Array) -> jax.Array:
    """The level at which `quantiles` of `draws` ``(draw, ...)`` give `value`."""
    below = draws < value[None]
    first = jnp.max(jnp.where(below, draws, -jnp.inf), 0)
    last = jnp.min(jnp.where(below, jnp.inf, draws), 0)
    inside = jnp.isfinite(first) & jnp.isfinite(last)
    first, last = jnp.where(inside, first, 0.0), jnp.where(inside, last, 1.0)
    share = jnp.where(inside, (value - first) / (last - first), 0.5)
    return (jnp.sum(below, 0) + share) / (draws.shape[0] + 1)


def ranked_probability_score(draws: jax.Array, value: jax.Array) -> jax.Array:
    """CRPS, E|x - value| - E|x - x'| / 2, unbiased from sorted `draws` ``(draw, ...)``.

    Gneiting & Raftery, *Strictly Proper Scoring Rules, Prediction, and Estimation*, JASA 2007.
    """
    count = draws.shape[0]
    rank = jnp.arange(count).reshape(-1, *(1,) * value.ndim)
    spread = jnp.sum((2 * rank - count + 1) * draws, 0) / max(count * (count - 1), 1)
    return jnp.mean(jnp.abs(draws - value[None]), 0) - spread


def predict_all(
    model: Model,
    variables: Variables,
    series: Series,
    key: jax.Array,
    draws: int = 100,
    targets: Series | None = None,
    batch_size: int = 100,
    calibration: Calibration = UNCALIBRATED,
) -> Prediction:
    """`predict` in batches, compiled once, as numpy arrays."""

    @jax.jit
    def one(
        variables: Variables,
        shown: Series,
        scored: Series | None,
        key: jax.Array,
        calibration: Calibration,
    ) -> Prediction:
        return predict(model, variables, shown, key, draws, scored, calibration)

    pieces = []
    for index, rows in enumerate(batches(series.batch, batch_size)):
        scored = None if targets is None else targets.take(rows)
        batch_key = jax.random.fold_in(key, index)
        piece = one(variables, series.take(rows), scored, batch_key, calibration)
        pieces.append(jax.device_get(piece))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: series.batch], *pieces)


def batches(count: int, size: int) -> Iterator[np.ndarray]:
    """Row numbers in batches of one size; the last repeats the last row to fill up."""
    size = min(size, count)
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)
