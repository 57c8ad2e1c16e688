"""The scales of a model whose errors are known."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jdmm import DynamicalVAE, Modality, calibrate, predict_all, series_from_arrays
from jdmm.inference.gaussian import Moments
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import unconstrain_sd

STATE, NOISE = 1.0, 0.5  # sd of the state behind each value, and of the noise on it


@dataclass(frozen=True)
class Unsure(DynamicalVAE):
    """Knows nothing of a state ~ N(0, STATE^2) per step, and takes wrong sd for true ones."""

    modalities: tuple[Modality, ...] = (Modality("x"), Modality("y"))
    latent: int = 1
    state_sd: float = STATE
    noise_sd: float = NOISE

    def init(self, key, series):
        return {}

    def emissions(self, variables, states):
        raw_sd = jnp.full_like(states, unconstrain_sd(jnp.float32(self.noise_sd)))
        return {"x": (states, raw_sd), "y": (0.0 * states, raw_sd)}

    def posterior_path(self, variables, series, key, scale=1.0):
        noise = jnp.moveaxis(self.noise(series, key, scale), -1, 0)
        moments = Moments(0 * noise, self.state_sd**2 + 0 * noise)
        return PosteriorPath(moments, moments, self.state_sd * noise)


def data(batch=120, time=40):
    """x has the state behind it, y is noise alone: the two scales can be told apart."""
    rng = np.random.default_rng(0)
    x = STATE * rng.normal(size=(batch, time)) + NOISE * rng.normal(size=(batch, time))
    return series_from_arrays({"x": x, "y": NOISE * rng.normal(size=(batch, time))})


@pytest.mark.parametrize(("state", "noise"), [(1.0, 1.0), (1 / 1.6, 1.25), (1.25, 1 / 1.2)])
def test_wrong_scales_are_undone(state, noise):
    """And the intervals then cover what they say, in both modalities."""
    model, complete = Unsure(state_sd=STATE * state, noise_sd=NOISE * noise), data()
    hidden = complete.hide({name: np.array(False) for name in complete.values})
    nothing = hidden  # of what is complete
    found = calibrate(
        model, {}, [complete, hidden], [nothing, complete], jax.random.key(0), num_samples=100
    )
    np.testing.assert_allclose(found.posterior, 1 / state, rtol=0.16)
    np.testing.assert_allclose(found.emission, 1 / noise, rtol=0.16)
    told = predict_all(model, {}, hidden, jax.random.key(1), 200, complete, calibration=found)
    for name, pit in told.pit.items():
        for level in (0.5, 0.8, 0.95):
            covered = np.mean(np.abs(pit - 0.5) <= level / 2)
            np.testing.assert_allclose(covered, level, atol=0.05, err_msg=name)


def test_with_nothing_hidden_a_model_stays_as_it_is():
    complete = data(2, 3)
    nothing = complete.hide({name: np.array(False) for name in complete.values})
    assert calibrate(Unsure(), {}, [complete], [nothing], jax.random.key(0)) == (1.0, 1.0)


def test_a_batch_filled_up_counts_each_series_once():
    complete = data(7, 150)
    hidden = complete.hide({name: np.array(False) for name in complete.values})
    options = ({}, [hidden], [complete], jax.random.key(0), 30)
    for size in (7, 5):
        found = calibrate(Unsure(), *options, batch_size=size)
        assert 0.7 <= found.posterior <= 1.4 and 0.8 <= found.emission <= 1.2, size
