"""Predictions against closed forms and quadrature; what is refused; how often it compiles."""

import warnings
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax import numpy as jnp
from scipy import special, stats

from jdmm import (
    MDMM,
    Bernoulli,
    Categorical,
    InputError,
    LossWeights,
    Modality,
    predict,
    predict_all,
    series_from_arrays,
)
from jdmm.compiling import Compilations
from jdmm.evaluation import prediction, sample_statistics
from jdmm.evaluation.prediction import Calibration
from jdmm.inference.gaussian import Moments
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Normal, unconstrain_sd
from jdmm.models import MODELS, MVAE
from jdmm.models.base import Model
from jdmm.series import Series

NOISE = 0.5


def class_logits(states, stack=np.stack):
    """The first class wins where the state is near 0, the others far from it on either side."""
    return stack([0 * states + 0.8, states, -states], -1)


@dataclass(frozen=True)
class Known(Model):
    """States ~ N(mean, sd^2) per series and step, whatever is observed; one of each likelihood."""

    modalities: tuple[Modality, ...] = (
        Modality("real"),
        Modality("binary", likelihood=Bernoulli()),
        Modality("label", likelihood=Categorical(3)),
    )

    def posterior_mean(self, variables, series, key):
        path = self.posterior_samples(variables, series, key, 1, 0.0)
        return jax.tree.map(lambda leaf: leaf[0], path)

    def posterior_samples(self, variables, series, key, count, scale=1.0):
        self.check(series)
        own = {name: jnp.asarray(leaf)[series.index] for name, leaf in variables.items()}
        shape = (count, *own["mean"].shape)
        mean, sd = (jnp.broadcast_to(own[name], shape) for name in ("mean", "sd"))
        moments = Moments(mean, sd**2)
        return PosteriorPath(moments, moments, mean + scale * sd * jax.random.normal(key, shape))

    def emissions(self, variables, states):
        raw_sd = jnp.full_like(states, unconstrain_sd(jnp.float32(NOISE)))
        return {
            "real": (states, raw_sd),
            "binary": (2.0 * states,),
            "label": (class_logits(states, jnp.stack),),
        }


class Forbidden(Known):
    """Its posterior must not be sampled: what asks for that must be refused before."""

    def posterior_mean(self, variables, series, key):
        return Known().posterior_mean(variables, series, key)

    def posterior_samples(self, variables, series, key, count, scale=1.0):
        raise AssertionError("sampled")


def series(batch: int = 2, num_steps: int = 3) -> Series:
    rng = np.random.default_rng(0)
    shape = (batch, num_steps)
    return series_from_arrays(
        {
            "real": rng.normal(size=shape),
            "binary": rng.integers(0, 2, shape),
            "label": rng.integers(0, 3, shape),
        }
    )


def variables(batch: int = 2, num_steps: int = 3) -> dict[str, np.ndarray]:
    shape = (batch, num_steps, 1)
    mean = np.linspace(0.1, 1.0, batch * num_steps).reshape(shape)
    return {"mean": mean.astype(np.float32), "sd": np.full(shape, 2.0, np.float32)}


def expectation(function) -> np.ndarray:
    """E of ``function(states (..., node))`` by Gauss-Hermite quadrature, over the nodes."""
    own = variables()
    nodes, weights = special.roots_hermitenorm(80)
    states = own["mean"][..., None].astype(float) + own["sd"][..., None] * nodes
    return np.tensordot(function(states), weights / weights.sum(), (3, 0))


def sampled(num_samples: int = 20_000, **options):
    return predict_all(Known(), variables(), series(), jax.random.key(0), num_samples, **options)


def test_real_values_against_the_closed_form():
    """N(mean, sd^2 + noise^2): moments, bounds of the asked level, density, PIT and CRPS."""
    targets = series()
    scales = Calibration(1.5, 0.5)
    found = sampled(targets=targets, level=0.8, calibration=scales)
    mean, sd = variables()["mean"], np.sqrt((1.5 * 2.0) ** 2 + (0.5 * NOISE) ** 2)
    exact = stats.norm(mean, sd)
    np.testing.assert_allclose(found.mean["real"], mean, rtol=1e-6)
    np.testing.assert_allclose(found.expected["real"], mean, atol=0.1)
    np.testing.assert_allclose(found.sd["real"], sd, rtol=0.03)
    np.testing.assert_allclose(found.lower["real"], exact.ppf(0.1), atol=0.2)
    np.testing.assert_allclose(found.upper["real"], exact.ppf(0.9), atol=0.2)
    truth = targets.values["real"]
    np.testing.assert_allclose(found.log_prob["real"], exact.logpdf(truth), atol=0.15)
    np.testing.assert_allclose(found.pit["real"], exact.cdf(truth), atol=0.02)
    u = (truth - mean) / sd
    crps = sd * (u * (2 * stats.norm.cdf(u) - 1) + 2 * stats.norm.pdf(u) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(found.crps["real"], crps, atol=0.06)
    np.testing.assert_array_equal(found.states.variance, variables()["sd"] ** 2)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_binary_values_and_categories_against_quadrature(temperature):
    """Probabilities average over the states; the log mass of the targets agrees with them."""
    targets = series()
    found = sampled(targets=targets, calibration=Calibration(1.0, temperature))
    one = expectation(lambda states: special.expit(2 * states / temperature))
    np.testing.assert_allclose(found.expected["binary"], one, atol=0.02)
    np.testing.assert_allclose(found.sd["binary"], np.sqrt(one * (1 - one)), atol=0.02)
    mass = np.where(targets.values["binary"] == 1, one, 1 - one)
    np.testing.assert_allclose(np.exp(found.log_prob["binary"]), mass, atol=0.02)
    np.testing.assert_allclose(found.crps["binary"], (1 - mass) ** 2, atol=0.02)  # Brier score

    probabilities = expectation(
        lambda states: special.softmax(class_logits(states) / temperature, axis=-1)
    )
    assert found.probabilities["label"].shape == (2, 3, 1, 3)
    np.testing.assert_allclose(found.probabilities["label"], probabilities, atol=0.02)
    label = targets.values["label"].astype(int)
    mass = np.take_along_axis(probabilities, label[..., None], -1)[..., 0]
    np.testing.assert_allclose(np.exp(found.log_prob["label"]), mass, atol=0.02)
    if temperature == 1.0:
        # at the mean of the states another class is the most probable
        np.testing.assert_array_equal(found.mean["label"], probabilities.argmax(-1))
        at_mean = class_logits(variables()["mean"]).argmax(-1)
        assert (found.mean["label"] != at_mean).any()
    for field in ("expected", "sd", "lower", "upper", "pit", "crps"):
        assert set(getattr(found, field)) == {"real", "binary"}


def test_point_predictions_alone():
    """Without samples the posterior is not sampled, and only mean and probabilities are there."""
    found = predict_all(Forbidden(), variables(), series(), jax.random.key(0), 0)
    mean = variables()["mean"]
    np.testing.assert_allclose(found.mean["real"], mean, rtol=1e-6)
    np.testing.assert_allclose(found.mean["binary"], special.expit(2 * mean), rtol=1e-5)
    expected = special.softmax(class_logits(mean), -1)
    np.testing.assert_allclose(found.probabilities["label"], expected, rtol=1e-5)
    np.testing.assert_array_equal(found.mean["label"], expected.argmax(-1))
    for field in ("expected", "sd", "lower", "upper", "samples", "log_prob", "pit", "crps"):
        assert getattr(found, field) == {}


def test_samples_in_batches():
    """The samples that the other fields come from, joined over batches of 2, 2 and 1 series."""
    given = variables(5), series(5)
    found = predict_all(
        Known(), *given, jax.random.key(0), 39, batch_size=2, level=0.95, return_samples=True
    )
    assert {name: value.shape for name, value in found.samples.items()} == {
        name: (39, 5, 3, 1) for name in ("real", "binary", "label")
    }
    np.testing.assert_allclose(found.samples["real"].std(0), found.sd["real"], rtol=1e-5)
    np.testing.assert_allclose(found.samples["real"].min(0), found.lower["real"], rtol=1e-5)
    np.testing.assert_allclose(found.samples["real"].max(0), found.upper["real"], rtol=1e-5)
    assert set(np.unique(found.samples["label"])) == {0.0, 1.0, 2.0}
    # one sample comes from one state: binary values follow the real ones
    correlation = np.corrcoef(found.samples["real"].ravel(), found.samples["binary"].ravel())
    assert correlation[0, 1] > 0.5
    one = predict(
        Known(),
        given[0],
        given[1].take(np.array([2, 3])),
        jax.random.fold_in(jax.random.key(0), 1),
        39,
        return_samples=True,
    )
    np.testing.assert_array_equal(one.samples["real"], found.samples["real"][:, 2:4])


@pytest.mark.parametrize(("level", "needed"), [(0.95, 39), (0.9, 19), (0.5, 3)])
def test_intervals_need_samples(level, needed):
    with pytest.warns(UserWarning, match=f"at least {needed} samples, got {needed - 1}"):
        sample_statistics.warn_of_few_samples(needed - 1, level)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_statistics.warn_of_few_samples(needed, level)


def test_few_samples_warn():
    """At the caller's line."""
    with pytest.warns(UserWarning, match="at least 39 samples, got 2") as caught:
        predict_all(Known(), variables(), series(), jax.random.key(0), 2)
    assert caught[0].filename == __file__


def test_bad_input_is_refused_before_anything_is_compiled():
    good = series()
    longer = series(2, 4)
    label = good.replace(values=good.values | {"label": good.values["label"] + 7})
    other = good.select(["real", "binary"])
    cases = [
        ({"series": other}, "modality 'label'"),
        ({"series": label}, "whole numbers from 0 to 2"),
        ({"targets": label}, "whole numbers from 0 to 2"),
        ({"targets": other}, "modality 'label'"),
        ({"targets": longer}, r"targets of shape \(2, 3, 1\) in modality 'real'.*\(2, 4, 1\)"),
        ({"num_samples": -1}, "num_samples of at least 0"),
        ({"num_samples": 0, "targets": good}, "at least 1 with targets"),
        ({"num_samples": 0, "return_samples": True}, "at least 1 with return_samples"),
        ({"level": 95}, "level between 0 and 1"),
    ]
    compilations = Compilations()
    for options, message in cases:
        for function in (predict, predict_all):
            given = {"series": good} | options
            with pytest.raises(InputError, match=message):
                function(Forbidden(), variables(), key=jax.random.key(0), **given)
    with pytest.raises(InputError, match="batch size of at least 1"):
        predict_all(Forbidden(), variables(), good, jax.random.key(0), batch_size=0)
    assert compilations.of("predict_batch") == {"predict_batch": 0}


class Listed(nn.Module):
    """An encoder with a list as a field, which has no hash."""

    sizes: list[int]

    @nn.compact
    def __call__(self, values, observed):
        for size in self.sizes:
            values = nn.Dense(size)(values)
        return Moments(values, jnp.exp(values))


def test_compiled_once_for_a_model_and_a_shape():
    """Other variables, series, keys, scales and levels need no further program."""
    data = series_from_arrays({"x": np.zeros((3, 2))})

    def make(encoder=None):
        modality = Modality("x", encoder=encoder)
        return MVAE((modality,), latent=1, hidden=2, multipliers={"x": 2.0})

    listed = make(Listed([2, 1]))
    for first, second in [(make(), make()), (listed, listed)]:
        fresh = first.init(jax.random.key(0), data)
        count = Compilations()
        predict_all(first, fresh, data, jax.random.key(0), 39, batch_size=2)
        assert count.of("predict_batch") == {"predict_batch": 1}
        other = jax.tree.map(lambda leaf: leaf + 1.0, fresh)
        changed = series_from_arrays({"x": np.ones((3, 2))})
        options = {"batch_size": 2, "calibration": Calibration(2.0, 0.5), "level": 0.5}
        found = predict_all(second, other, changed, jax.random.key(1), 39, **options)
        assert count.of("predict_batch") == {"predict_batch": 1}
        assert np.isfinite(found.sd["x"]).all()


def test_another_model_is_another_program():
    """Models that differ do not share predictions."""
    data = series_from_arrays({"x": np.zeros((1, 2))})
    one = MVAE((Modality("x"),), latent=1, hidden=2)
    fresh = one.init(jax.random.key(0), data)
    count = Compilations()
    for model in (one, MVAE((Modality("x", likelihood=Bernoulli()),), latent=1, hidden=2)):
        found = predict_all(model, fresh, data, jax.random.key(0), 0)
    assert count.of("predict_batch") == {"predict_batch": 2}
    raw = one.emissions(fresh, one.posterior_mean(fresh, data, jax.random.key(0)).states)
    np.testing.assert_allclose(found.mean["x"], jax.nn.sigmoid(raw["x"][0]), rtol=1e-5)


def test_equal_models_have_one_hash():
    modalities = (Modality("x", encoder=nn.Dense(3)), Modality("y", 2, Normal()))
    for name, kind in MODELS.items():
        own = (Modality("x"), Modality("y", 2, Normal()))
        assert hash(kind(own)) == hash(kind(own)) and kind(own) == kind(own), name
    one, same, other = (
        MDMM(modalities, weights=LossWeights(multipliers={"x": weight})) for weight in (2, 2.0, 3)
    )
    assert hash(one) == hash(same) and one == same and one != other
    with pytest.raises(ValueError, match="immutable"):
        one.weights.multipliers["x"] = 1.0


@pytest.mark.parametrize(("count", "levels"), [(9, (0.6, 0.8)), (100, (0.5, 0.8, 0.95))])
def test_intervals_cover_their_level(count, levels):
    """Of further samples from the same distribution; few have exact quantiles at tenths alone."""
    keys = jax.random.split(jax.random.key(0))
    samples = jnp.sort(jax.random.normal(keys[0], (count, 40_000)), 0)
    value = jax.random.normal(keys[1], (40_000,))
    pit = np.array(sample_statistics.probability_integral_transform(samples, value))
    if count == 100:
        assert stats.kstest(pit, "uniform").pvalue > 0.001
    for level in levels:
        edges = jnp.array([0.5 - level / 2, 0.5 + level / 2])
        lower, upper = sample_statistics.quantiles(samples, edges)
        inside = np.array((lower <= value) & (value <= upper))
        error = np.sqrt(level * (1 - level) / len(value))
        np.testing.assert_allclose(inside.mean(), level, atol=4 * error)
        clear = np.abs(np.abs(pit - 0.5) - level / 2) > 1e-5
        np.testing.assert_array_equal((np.abs(pit - 0.5) <= level / 2)[clear], inside[clear])


def test_transform_of_single_values():
    """Beyond all samples, between two, at one, and at several of the same value."""
    samples = jnp.array([1.0, 2.0, 4.0, 4.0, 4.0])[:, None]
    found = [
        float(sample_statistics.probability_integral_transform(samples, jnp.array([value]))[0])
        for value in (0.0, 1.0, 1.5, 3.0, 4.0, 9.0)
    ]
    np.testing.assert_allclose(found, np.array([0.5, 1, 1.5, 2.5, 4, 5.5]) / 6, rtol=1e-6)


def test_ranked_probability_score_of_a_normal():
    """sd (u (2 F(u) - 1) + 2 f(u) - 1 / sqrt(pi)), u = (x - mean) / sd (Gneiting et al. 2005)."""
    mean, sd = 0.4, 1.7
    value = jnp.array([-3.0, 0.0, 0.4, 2.5])
    samples = mean + sd * jax.random.normal(jax.random.key(0), (50, 20_000, 4))
    ranked = jnp.sort(samples, 0)
    score = jax.vmap(sample_statistics.ranked_probability_score, (1, None))(ranked, value)
    u = (np.array(value) - mean) / sd
    expected = sd * (u * (2 * stats.norm.cdf(u) - 1) + 2 * stats.norm.pdf(u) - 1 / np.sqrt(np.pi))
    error = np.array(score.std(0)) / np.sqrt(20_000)
    assert (np.abs(np.array(score.mean(0)) - expected) < 5 * error).all()


def test_samples_alone_are_those_of_a_prediction():
    """Without the statistics, and with the same random numbers."""
    given = Known(), variables(), series(), jax.random.key(0), 39
    whole = predict(*given, return_samples=True)
    alone = prediction.sample_values(*given)
    for name in ("real", "binary", "label"):
        np.testing.assert_allclose(alone.samples[name], whole.samples[name], rtol=1e-6)
    np.testing.assert_allclose(alone.expected["real"], whole.expected["real"], rtol=1e-6)
    np.testing.assert_allclose(alone.probabilities["label"], whole.probabilities["label"], 1e-6)
    text = prediction._sample_batch.lower(
        prediction.Static(given[0]), 39, *given[1:4], prediction.UNCALIBRATED
    )
    assert " sort(" not in text.compile().as_text()
