"""Moments of predicted pixels against closed forms, and what images do not take part in."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax import numpy as jnp
from scipy import special

from jdmm import Bernoulli, Categorical, InputError, Modality, predict_all, series_from_arrays
from jdmm.evaluation import calibration, importance
from jdmm.evaluation.images import image_names
from jdmm.evaluation.prediction import Calibration
from jdmm.inference.gaussian import Moments
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Likelihood, Normal, unconstrain_sd
from jdmm.models.base import Model
from jdmm.networks import Image

GAINS = np.array([-1.0, 0.0, 1.0, 2.0], np.float32)
OFFSET, NOISE = 0.5, 0.01
SMALL = Image((2, 2, 1), (1,), "group")
IMAGES = Modality("video", image=SMALL), Modality("mask", likelihood=Bernoulli(), image=SMALL)
OTHERS = Modality("real"), Modality("label", likelihood=Categorical(2))


@dataclass(frozen=True)
class Known(Model):
    """States ~ N(mean, sd^2) whatever is observed; pixels are linear in them, or their logits."""

    modalities: tuple[Modality, ...] = (*OTHERS, *IMAGES)

    def posterior_mean(self, variables, series, key):
        path = self.posterior_samples(variables, series, key, 1, 0.0)
        return jax.tree.map(lambda leaf: leaf[0], path)

    def posterior_samples(self, variables, series, key, count, scale=1.0):
        shape = (count, series.batch, series.num_steps, 1)
        mean, sd = (jnp.full(shape, variables[name]) for name in ("mean", "sd"))
        moments = Moments(mean, sd**2)
        return PosteriorPath(moments, moments, mean + scale * sd * jax.random.normal(key, shape))

    def emissions(self, variables, states):
        one = jnp.full_like(states, unconstrain_sd(jnp.float32(NOISE)))
        pixels = states * jnp.broadcast_to(GAINS, (*states.shape[:-1], 4))
        raw = {
            "real": (states, one),
            "label": (jnp.stack([states, -states], -1),),
            "video": (OFFSET + pixels, jnp.broadcast_to(one, pixels.shape)),
            "mask": (pixels,),
        }
        return {name: raw[name] for name in self.likelihoods}


VARIABLES = {"mean": 0.3, "sd": 0.02}
SERIES = series_from_arrays(
    {
        "real": np.zeros((2, 3, 1)),
        "label": np.ones((2, 3, 1)),
        "video": np.full((2, 3, 4), 0.4),
        "mask": np.ones((2, 3, 4)),
    }
)


def predicted(model=Known(), variables=VARIABLES, num_samples=4000, **options):  # noqa: B008
    series = SERIES.select(list(model.likelihoods))
    key = jax.random.key(0)
    return predict_all(model, variables, series, key, num_samples, targets=series, **options)


def test_moments_of_real_pixels_against_the_closed_form():
    found = predicted(calibration=Calibration(2.0, 0.5))
    mean, sd = OFFSET + 0.3 * GAINS, np.hypot(2 * 0.02 * GAINS, 0.5 * NOISE)
    np.testing.assert_allclose(found.mean["video"], np.broadcast_to(mean, (2, 3, 4)), rtol=1e-6)
    np.testing.assert_allclose(found.expected["video"], found.mean["video"], atol=0.005)
    np.testing.assert_allclose(found.sd["video"], np.broadcast_to(sd, (2, 3, 4)), rtol=0.05)


def test_moments_of_binary_pixels_against_quadrature():
    found = predicted(variables={"mean": 0.3, "sd": 1.5})
    nodes, weights = special.roots_hermitenorm(80)
    one = special.expit((0.3 + 1.5 * nodes) * GAINS[:, None]) @ (weights / weights.sum())
    np.testing.assert_allclose(
        found.mean["mask"], np.broadcast_to(special.expit(0.3 * GAINS), (2, 3, 4)), rtol=1e-5
    )
    np.testing.assert_allclose(found.expected["mask"][0, 0], one, atol=0.03)
    np.testing.assert_allclose(found.sd["mask"][0, 0], np.sqrt(one * (1 - one)), atol=0.01)


class NoMoments(Normal):
    moments = Likelihood.moments


def test_pixels_of_a_likelihood_without_moments_are_sampled():
    found = predicted(Known((Modality("video", likelihood=NoMoments(), image=SMALL),)))
    np.testing.assert_allclose(found.sd["video"][0, 0], np.hypot(0.02 * GAINS, NOISE), rtol=0.1)


def test_the_other_modalities_are_predicted_as_without_images():
    """With the same numbers; images have neither intervals nor densities."""
    found, alone = predicted(num_samples=39), predicted(Known(OTHERS), num_samples=39)
    for field in ("mean", "probabilities", "expected", "sd", "lower", "upper", "log_prob", "pit"):
        own, expected = getattr(found, field), getattr(alone, field)
        for name, values in expected.items():
            np.testing.assert_allclose(own[name], values, rtol=1e-6, err_msg=f"{field} {name}")
        images = {"video", "mask"} if field in ("mean", "expected", "sd") else set()
        assert set(own) == set(expected) | images
    assert set(found.crps) == {"real"}


def test_samples_of_images_on_request():
    found = predicted(return_samples=True)
    assert found.samples["video"].shape == (4000, 2, 3, 4)
    np.testing.assert_allclose(found.samples["video"].std(0), found.sd["video"], rtol=0.1)
    assert set(np.unique(found.samples["mask"])) == {0.0, 1.0}
    with pytest.raises(InputError, match="log_likelihood_bounds"):
        predicted(num_samples=39, return_log_weights=True)


def test_point_predictions_alone():
    found = predict_all(Known(), VARIABLES, SERIES, jax.random.key(0), 0)
    assert found.mean["video"].shape == (2, 3, 4) and found.expected == {}


def test_bounds_and_calibration_of_images():
    """Bounds as of plain features; intervals of images are none of the calibration's business."""
    plain = tuple(
        Modality(m.name, m.features, m.likelihood) if m.image is not None else m
        for m in Known().modalities
    )
    assert image_names(plain) == [] and image_names(Known().modalities) == ["video", "mask"]
    bounds, expected = (
        importance.log_likelihood_bounds(model, VARIABLES, SERIES, jax.random.key(0), (1, 50))
        for model in (Known(), Known(plain))
    )
    np.testing.assert_allclose(bounds.bounds[50], expected.bounds[50], rtol=1e-5)
    cases = [SERIES], [SERIES], jax.random.key(0)
    found, alone, other = (
        calibration.coverage_errors(model, VARIABLES, *each, (1.0, 2.0), 39)
        for model, each in (
            (Known(), cases),
            (Known(OTHERS), ([SERIES.select(["real", "label"])],) * 2 + (jax.random.key(0),)),
            (Known(plain), cases),
        )
    )
    np.testing.assert_allclose(found, alone)
    assert (other > found).all()


def test_classes_of_pixels_are_no_image():
    decoder = nn.Dense(4)
    classes = Modality("parts", likelihood=Categorical(2), image=SMALL, decoder=decoder)
    assert image_names([classes]) == []
