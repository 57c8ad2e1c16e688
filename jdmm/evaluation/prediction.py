"""Predictions in observation space: point predictions, uncertainties, and scores of targets.

Works with every `Model`. The predictive distribution of a new observation x*_t at step t, given
everything observed x, averages the emission distribution over the posterior:

    p(x*_t | x) = E[p(x*_t | z_t)],    z_{1:T} ~ q(z_{1:T} | x)
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.compiling import Static
from jdmm.errors import InputError
from jdmm.evaluation import importance
from jdmm.evaluation.batching import bucketed_batches
from jdmm.evaluation.images import decode_in_turn, image_names
from jdmm.evaluation.sample_statistics import (
    probability_integral_transform,
    quantiles,
    ranked_probability_score,
    warn_of_few_samples,
)
from jdmm.inference.gaussian import Moments
from jdmm.likelihoods import Categorical, mixture_log_prob
from jdmm.models.base import Model, Variables
from jdmm.series import Series

LEVEL = 0.95
"""The probability that a central interval holds, unless the caller asks for another."""


class Calibration(NamedTuple):
    """Scales of the uncertainty, from `jdmm.calibrate`.

    posterior: multiplies the noise of posterior samples.
    emission: widens the emission distributions: multiplies the sd of a normal, the scale of its
        relatives and the sd of counts (never below that of a Poisson), and divides the logits of
        binary values and categories.
    """

    posterior: float = 1.0
    emission: float = 1.0


UNCALIBRATED = Calibration()
"""The default: the model's own posterior and emissions."""


class Prediction(NamedTuple):
    """Predictions of every value, observed or not: modality -> ``(batch, time, feature)``.

    Of images there are `mean`, `expected`, `sd` and `samples` only: the other fields would take
    much memory, and say little about single pixels.

    Values and scores are in the units of the data, log densities in nats. The fields from
    `expected` to `crps` need samples, and are empty where `num_samples` is 0. So are `log_prob`,
    `pit` and `crps` without targets, and `samples` unless asked for. Class numbers have no spread:
    categorical modalities are left out of `expected`, `sd`, `lower`, `upper`, `pit` and `crps`.

    mean: the mean of the emission distribution at the path of posterior means; of a category the
        most probable class, as a number.
    probabilities: class probabilities of the categorical modalities, ``(batch, time, feature,
        classes)``: averaged over the posterior samples, or at the path of posterior means where
        there are none.
    expected: the mean of the predictive distribution. It differs from `mean` where the decoder is
        not linear; of a binary value it is the probability of 1.
    sd: the standard deviation of the predictive distribution.
    lower, upper: the bounds of its central interval of the requested level.
    samples: ``(sample, batch, time, feature)``; all values with one sample number come from one
        latent path.
    log_prob: the log density of the targets under the predictive distribution.
    pit: its distribution function at the targets (probability integral transform). A central
        interval of level c covers a target if ``|pit - 0.5| <= c / 2``.
    crps: the continuous ranked probability score of the targets.
    states: mean and variance of the states on the path of posterior means, ``(batch, time,
        latent)``.
    log_weights: log p(x, z) - log q(z | x) of the posterior samples in nats, ``(batch, sample)``,
        x being what is observed; None unless asked for. See `jdmm.evaluation.importance`.
    """

    mean: dict[str, Any]
    probabilities: dict[str, Any]
    expected: dict[str, Any]
    sd: dict[str, Any]
    lower: dict[str, Any]
    upper: dict[str, Any]
    samples: dict[str, Any]
    log_prob: dict[str, Any]
    pit: dict[str, Any]
    crps: dict[str, Any]
    states: Moments
    log_weights: Any = None


class Sampled(NamedTuple):
    """What `sample_values` computes: three of the fields of `Prediction`."""

    expected: dict[str, Any]
    probabilities: dict[str, Any]
    samples: dict[str, Any]


def predict(
    model: Model,
    variables: Variables,
    series: Series,
    key: jax.Array,
    num_samples: int = 100,
    targets: Series | None = None,
    calibration: Calibration = UNCALIBRATED,
    *,
    level: float = LEVEL,
    return_samples: bool = False,
    return_log_weights: bool = False,
) -> Prediction:
    """Predicts every value of one batch from what is observed of it.

    This smooths, imputes and extrapolates: every value that is not observed is predicted. The whole
    batch is in memory at once; `predict_all` works through many series in batches.

    Args:
        model: any model.
        variables: its variables.
        series: what is observed.
        key: of all random numbers.
        num_samples: number of posterior samples; 0 for point predictions alone, which is fast.
        targets: values to score, in the shape of `series`. Every value is scored: use
            `targets.observed` to pick those that count.
        calibration: scales of the uncertainty. They change neither `states` nor `mean`, except
            that of a category.
        level: probability of the central interval between `lower` and `upper`.
        return_samples: whether to return the samples.
        return_log_weights: whether to return the importance weights of the samples.

    Raises:
        InputError: if the series or the targets disagree with the model or with each other, or for
            an impossible number.
    """
    _check(model, series, num_samples, targets, level, return_samples, return_log_weights)
    tails = (1 - level) / 2, (1 + level) / 2
    return predict_batch(
        Static(model),
        num_samples,
        return_samples,
        return_log_weights,
        variables,
        series,
        targets,
        key,
        calibration,
        tails,
    )


def predict_all(
    model: Model,
    variables: Variables,
    series: Series,
    key: jax.Array,
    num_samples: int = 100,
    targets: Series | None = None,
    batch_size: int = 100,
    calibration: Calibration = UNCALIBRATED,
    *,
    level: float = LEVEL,
    return_samples: bool = False,
    return_log_weights: bool = False,
) -> Prediction:
    """`predict` in batches of `batch_size` series, as numpy arrays.

    The program is compiled once for a model and a shape of the batches. Further calls, also with
    other variables, use it again.

    Raises:
        InputError: as `predict`, or for a batch size below 1.
    """
    _check(model, series, num_samples, targets, level, return_samples, return_log_weights)
    tails = (1 - level) / 2, (1 + level) / 2
    series, targets = jax.device_get((series, targets))
    pieces, places = [], []
    for index, (rows, steps) in enumerate(bucketed_batches(np.asarray(series.lengths), batch_size)):
        piece = predict_batch(
            Static(model),
            num_samples,
            return_samples,
            return_log_weights,
            variables,
            series.take(rows).until(steps),
            None if targets is None else targets.take(rows).until(steps),
            jax.random.fold_in(key, index),
            calibration,
            tails,
        )
        pieces.append(_padded(jax.device_get(piece), series.num_steps))
        places.append(rows)
    # the row of each series among those of all batches, the first of equal ones
    order = np.unique(np.concatenate(places), return_index=True)[1]
    samples = {
        name: np.concatenate([piece.samples[name] for piece in pieces], 1)[:, order]
        for name in pieces[0].samples
    }
    pieces = [piece._replace(samples={}) for piece in pieces]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *pieces)
    return joined._replace(samples=samples)


def sample_values(
    model: Model,
    variables: Variables,
    series: Series,
    key: jax.Array,
    num_samples: int = 100,
    calibration: Calibration = UNCALIBRATED,
    *,
    level: float = LEVEL,
) -> Sampled:
    """The samples of `predict`, without the statistics that are computed from them.

    Args:
        model: any model.
        variables: its variables.
        series: what is observed.
        key: of all random numbers.
        num_samples: number of posterior samples.
        calibration: scales of the uncertainty.
        level: of the widest interval that is wanted of the samples.

    Raises:
        InputError: as `predict`.
    """
    _check(model, series, num_samples, None, level, True, False)
    return _sample_batch(Static(model), num_samples, variables, series, key, calibration)


@partial(jax.jit, static_argnums=(0, 1))
def _sample_batch(
    static: Static[Model],
    num_samples: int,
    variables: Variables,
    series: Series,
    key: jax.Array,
    calibration: Calibration,
) -> Sampled:
    # the compiler leaves out what is not returned
    found = predict_batch(
        static, num_samples, True, False, variables, series, None, key, calibration, (0.0, 1.0)
    )
    return Sampled(found.expected, found.probabilities, found.samples)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def predict_batch(
    static: Static[Model],
    num_samples: int,
    return_samples: bool,
    return_log_weights: bool,
    variables: Variables,
    series: Series,
    targets: Series | None,
    key: jax.Array,
    calibration: Calibration,
    tails: tuple[float, float],
) -> Prediction:
    """The compiled program of `predict`; `tails` are the levels of the quantiles."""
    model, likelihoods = static.value, static.value.likelihoods
    mean_key, sample_key, emission_key = jax.random.split(key, 3)
    if num_samples:
        path, paths = model.posterior_paths(
            variables, series, (mean_key, sample_key), num_samples, calibration.posterior
        )
    else:
        path, paths = model.posterior_mean(variables, series, mean_key), None
    point = model.emissions_of(variables, path.states, series)
    fields = {name: {} for name in Prediction._fields if name not in ("states", "log_weights")}
    prediction = Prediction(**fields, states=path.posterior)
    for name, likelihood in likelihoods.items():
        prediction.mean[name] = likelihood.mean(point[name])
        probabilities = likelihood.probabilities(point[name])
        if probabilities is not None:
            prediction.probabilities[name] = probabilities
    if paths is None:
        return prediction

    images = image_names(model.modalities)
    if images:
        emissions, pixels = decode_in_turn(
            model,
            variables,
            series,
            paths.states,
            prediction.mean,
            calibration.emission,
            emission_key,
            return_samples,
        )
        prediction.expected.update(pixels.expected)
        prediction.sd.update(pixels.sd)
        prediction.samples.update(pixels.samples)
    else:
        emissions = model.emissions_of(variables, paths.states, series)
    if return_log_weights:
        weights = importance.weights_of(model, variables, series, paths, emissions)
        prediction = prediction._replace(log_weights=weights.T)
    for index, (name, likelihood) in enumerate(likelihoods.items()):
        if name in images:
            continue
        raw = likelihood.rescale(emissions[name], calibration.emission)
        samples = likelihood.sample(raw, jax.random.fold_in(emission_key, index))
        if return_samples:
            prediction.samples[name] = samples
        if targets is not None:
            prediction.log_prob[name] = mixture_log_prob(likelihood, raw, targets.values[name])
        probabilities = likelihood.probabilities(raw)
        if probabilities is not None:
            average = jnp.mean(probabilities, 0)
            prediction.probabilities[name] = average
            prediction.mean[name] = jnp.argmax(average, -1).astype(average.dtype)
            continue
        samples = jnp.sort(samples, 0)
        prediction.expected[name] = jnp.mean(likelihood.mean(raw), 0)
        prediction.sd[name] = jnp.std(samples, 0)
        prediction.lower[name], prediction.upper[name] = quantiles(samples, jnp.array(tails))
        if targets is not None:
            value = targets.values[name]
            prediction.pit[name] = probability_integral_transform(samples, value)
            prediction.crps[name] = ranked_probability_score(samples, value)
    return prediction


def _padded(prediction: Prediction, num_steps: int) -> Prediction:
    """The prediction with zeros up to `num_steps` steps."""

    def pad(leaf: np.ndarray, axis: int) -> np.ndarray:
        width = [(0, 0)] * leaf.ndim
        width[axis] = (0, num_steps - leaf.shape[axis])
        return np.pad(leaf, width) if num_steps > leaf.shape[axis] else leaf

    samples = jax.tree.map(lambda leaf: pad(leaf, 2), prediction.samples)
    rest = prediction._replace(samples={}, log_weights=None)
    padded = jax.tree.map(lambda leaf: pad(leaf, 1), rest)
    return padded._replace(samples=samples, log_weights=prediction.log_weights)


def check_same_shape(series: Series, targets: Series) -> None:
    """Checks that targets can be compared with what is predicted from the series.

    Raises:
        InputError: naming the modality that differs.
    """
    for name, values in series.values.items():
        if targets.values[name].shape != values.shape:
            raise InputError(
                f"expected targets of shape {values.shape} in modality {name!r}, like the series, "
                f"got {targets.values[name].shape}"
            )


def _check(
    model: Model,
    series: Series,
    num_samples: int,
    targets: Series | None,
    level: float,
    return_samples: bool,
    return_log_weights: bool,
) -> None:
    model.check(series)
    if targets is not None:
        model.check(targets)
        check_same_shape(series, targets)
    if num_samples < 0:
        raise InputError(f"expected num_samples of at least 0, got {num_samples}")
    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, such as 0.95, got {level}")
    if return_log_weights and image_names(model.modalities):
        raise InputError(
            "expected no return_log_weights for images, whose samples are not kept: use "
            "log_likelihood_bounds"
        )
    if return_log_weights:
        importance.check(model, series)
    if num_samples == 0 and (targets is not None or return_samples or return_log_weights):
        what = "targets" if targets is not None else "return_samples"
        raise InputError(f"expected num_samples of at least 1 with {what}, got 0")
    intervals = any(
        m.image is None and not isinstance(m.likelihood, Categorical) for m in model.modalities
    )
    if num_samples and intervals:
        warn_of_few_samples(num_samples, level)
