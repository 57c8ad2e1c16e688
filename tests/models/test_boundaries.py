"""Models and modalities that cannot work are refused by name, before anything is compiled."""

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax import numpy as jnp

from jdmm import (
    MDMM,
    MVAE,
    VRNN,
    Bernoulli,
    Categorical,
    ImputationBaseline,
    InputError,
    LinearGaussianSSM,
    LossWeights,
    Modality,
    Normal,
    Quadrature,
    StructuredInference,
    series_from_arrays,
)
from jdmm.inference.gaussian import Moments
from jdmm.models import MODELS

X = (Modality("x"),)
SERIES = series_from_arrays({"x": np.zeros((1, 2))})
NETWORKED = [MDMM, MVAE, VRNN, StructuredInference]


class Encoder(nn.Module):
    latent: int

    @nn.compact
    def __call__(self, values, observed):
        mean = nn.Dense(self.latent)(values)
        return Moments(mean, jnp.exp(mean))


class Decoder(nn.Module):
    """Returns `outputs` arrays of `features`."""

    outputs: int
    features: int = 1

    @nn.compact
    def __call__(self, states):
        return tuple(nn.Dense(self.features)(states) for _ in range(self.outputs))


class NoTuple(nn.Module):
    @nn.compact
    def __call__(self, states):
        return nn.Dense(1)(states)


@pytest.mark.parametrize("kind", MODELS.values())
@pytest.mark.parametrize(
    ("modalities", "words"),
    [((), "at least one modality"), ((Modality("x"), Modality("x")), "'x' twice")],
)
def test_modalities_of_any_model(kind, modalities, words):
    with pytest.raises(InputError, match=words):
        kind(modalities)


@pytest.mark.parametrize("kind", NETWORKED)
@pytest.mark.parametrize("options", [{"latent": -1}, {"latent": 1.5}, {"hidden": 0}])
def test_sizes(kind, options):
    with pytest.raises(InputError, match=f"model.{next(iter(options))} to be a whole number"):
        kind(X, **options)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        *((kind, {"latent": 0}, "model.latent") for kind in (MDMM, MVAE, StructuredInference)),
        *(
            (kind, options, words)
            for kind in (MVAE, VRNN, StructuredInference)
            for options, words in [
                ({"unimodal": -1.0}, "loss.unimodal"),
                ({"unimodal": float("nan")}, "loss.unimodal"),
                ({"multipliers": {"x": -1.0}}, "loss.multipliers.x"),
                ({"multipliers": {"z": 1.0}}, r"loss.multipliers among \['x'\], got 'z'"),
            ]
        ),
        (MDMM, {"weights": LossWeights(multipliers={"z": 1.0})}, "loss.multipliers"),
        (VRNN, {"components": 0}, "model.components"),
        (StructuredInference, {"direction": "sideways"}, "model.direction"),
        (StructuredInference, {"missing": "guess"}, "model.missing"),
        (LinearGaussianSSM, {"latent": 0}, "model.latent"),
        (LinearGaussianSSM, {"iterations": 0}, "model.iterations"),
        (LinearGaussianSSM, {"tolerance": -1.0}, "model.tolerance"),
        (ImputationBaseline, {"kind": "guess"}, "model.kind"),
    ],
)
def test_options(kind, options, words):
    with pytest.raises(InputError, match=words):
        kind(X, **options)


@pytest.mark.parametrize(
    "name", ["filter", "smoother", "time_reversal", "prior_matching", "filter_unimodal"]
)
def test_negative_weights(name):
    with pytest.raises(InputError, match=f"loss.{name} finite and at least 0"):
        LossWeights(**{name: -1.0})


@pytest.mark.parametrize("kind", [VRNN, StructuredInference, LinearGaussianSSM, ImputationBaseline])
def test_encoders_that_a_model_would_not_use(kind):
    with pytest.raises(InputError, match="'x' without"):
        kind((Modality("x", encoder=Encoder(5)),))


@pytest.mark.parametrize("kind", [LinearGaussianSSM, ImputationBaseline])
def test_decoders_that_a_model_would_not_use(kind):
    with pytest.raises(InputError, match="'x' without"):
        kind((Modality("x", decoder=Decoder(2)),))


@pytest.mark.parametrize("kind", [LinearGaussianSSM, ImputationBaseline])
@pytest.mark.parametrize("likelihood", [Bernoulli(), Categorical(3)])
def test_models_of_real_numbers_refuse_other_likelihoods(kind, likelihood):
    with pytest.raises(InputError, match="Normal likelihood in modality 'light'"):
        kind((Modality("light", likelihood=likelihood),))


@pytest.mark.parametrize("kind", [MDMM, MVAE])
def test_several_categorical_features_need_an_encoder(kind):
    with pytest.raises(InputError, match="one categorical feature in modality 'labels', got 2"):
        kind((Modality("labels", 2, Categorical(3)),))


def test_mixtures_without_real_numbers():
    labels = (Modality("label", likelihood=Categorical(3)),)
    with pytest.raises(InputError, match="model.components of 1"):
        VRNN(labels, components=2)


@pytest.mark.parametrize("kind", [MDMM, MVAE])
def test_encoder_of_another_size(kind):
    model = kind((Modality("x", encoder=Encoder(3)),), latent=4)
    with pytest.raises(InputError, match=r"encoder of modality 'x'.* \(1, 2, 4\), .* \(1, 2, 3\)"):
        jax.eval_shape(model.init, jax.random.key(0), SERIES)
    jax.eval_shape(kind(model.modalities, latent=3).init, jax.random.key(0), SERIES)


@pytest.mark.parametrize("kind", NETWORKED)
@pytest.mark.parametrize("decoder", [Decoder(1), Decoder(2, features=3), NoTuple()])
def test_decoder_that_does_not_fit_its_likelihood(kind, decoder):
    model = kind((Modality("x", decoder=decoder),))
    with pytest.raises(InputError, match=r"decoder of modality 'x' to return raw outputs of Norm"):
        jax.eval_shape(model.init, jax.random.key(0), SERIES)


@pytest.mark.parametrize("kind", NETWORKED)
def test_decoder_that_fits_its_likelihood(kind):
    model = kind((Modality("x", decoder=Decoder(2)),))
    jax.eval_shape(model.init, jax.random.key(0), SERIES)


def test_decoder_of_a_normal_where_a_mixture_is_needed():
    model = VRNN((Modality("x", decoder=Decoder(2)),), components=2)
    with pytest.raises(InputError, match="'x' to return raw outputs of NormalMixture"):
        jax.eval_shape(model.init, jax.random.key(0), SERIES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": ""}, "name as text"),
        ({"name": 3}, "name as text"),
        ({"name": "x", "features": 0}, "'x' with at least 1 feature"),
        ({"name": "x", "features": 1.5}, "'x' with at least 1 feature"),
        ({"name": "x", "likelihood": Normal}, "likelihood in modality 'x'"),
        ({"name": "x", "encoder": Encoder}, "Flax module as encoder of modality 'x'"),
        ({"name": "x", "decoder": "mlp"}, "Flax module as decoder of modality 'x'"),
    ],
)
def test_modalities(options, words):
    with pytest.raises(InputError, match=words):
        Modality(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"covariance": "round"}, "'diagonal', 'full', got 'round'"),
        ({"quadrature": Quadrature("gauss_hermite")}, "diagonal covariance, got 'gauss_hermite'"),
        ({"prediction_quadrature": Quadrature("gauss_hermite")}, "got 'gauss_hermite'"),
        (
            {"covariance": "full", "quadrature": Quadrature("particles", 25)},
            "even number of particles.*got 25",
        ),
        (
            {"covariance": "full", "prediction_quadrature": Quadrature("gauss_hermite", order=10)},
            "2000 points of gauss_hermite, got 10\\^5",
        ),
    ],
)
def test_covariance_and_quadrature_must_fit(options, words):
    with pytest.raises(InputError, match=words):
        MDMM(X, **options)
