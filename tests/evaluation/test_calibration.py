"""The scales of a model whose errors are known; what is refused; how often it compiles."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

from jdmm import (
    Bernoulli,
    Categorical,
    DynamicalVAE,
    InputError,
    Modality,
    calibrate,
    predict_all,
    series_from_arrays,
)
from jdmm.compiling import Compilations
from jdmm.evaluation.calibration import EMISSION, POSTERIOR, coverage_errors
from jdmm.inference.gaussian import Moments
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import unconstrain_sd

STATE, NOISE = 1.0, 0.5  # sd of the state behind each value, and of the noise on it


TRUE = {"state_sd": STATE, "noise_sd": NOISE}


@dataclass(frozen=True)
class Unsure(DynamicalVAE):
    """Knows nothing of a state ~ N(0, STATE^2) per step, and takes the sd of its variables."""

    modalities: tuple[Modality, ...] = (Modality("x"), Modality("y"))
    latent: int = 1

    def init(self, key, series):
        return TRUE

    def emissions(self, variables, states):
        raw_sd = jnp.full_like(states, unconstrain_sd(jnp.float32(variables["noise_sd"])))
        return {"x": (states, raw_sd), "y": (0.0 * states, raw_sd)}

    def posterior_path(self, variables, series, key, scale=1.0):
        noise = jnp.moveaxis(self.noise(series, key, scale), -1, 0)
        moments = Moments(0 * noise, variables["state_sd"] ** 2 + 0 * noise)
        return PosteriorPath(moments, moments, variables["state_sd"] * noise)


@dataclass(frozen=True)
class Mixed(Unsure):
    """Beside the real values, binary ones and categories that it takes for fair coins and dice."""

    modalities: tuple[Modality, ...] = (
        Modality("x"),
        Modality("y"),
        Modality("binary", likelihood=Bernoulli()),
        Modality("label", likelihood=Categorical(3)),
    )

    def emissions(self, variables, states):
        binary, label = (0.0 * states,), (jnp.zeros((*states.shape, 3)),)
        return super().emissions(variables, states) | {"binary": binary, "label": label}


def data(batch=80, time=40):
    """x has the state behind it, y is noise alone: the two scales can be told apart."""
    rng = np.random.default_rng(0)
    x = STATE * rng.normal(size=(batch, time)) + NOISE * rng.normal(size=(batch, time))
    return series_from_arrays({"x": x, "y": NOISE * rng.normal(size=(batch, time))})


def hide_all(series):
    return series.hide({name: np.array(False) for name in series.values})


@pytest.mark.parametrize(("state", "noise"), [(1 / 1.6, 1.25), (1.25, 1 / 1.2)])
def test_wrong_scales_are_undone(state, noise):
    """And the intervals then cover their level, in both modalities."""
    model, complete = Unsure(), data(40, 40)
    variables = {"state_sd": STATE * state, "noise_sd": NOISE * noise}
    hidden = nothing = hide_all(complete)
    found = calibrate(model, variables, [complete, hidden], [nothing, complete], jax.random.key(0))
    np.testing.assert_allclose(found.posterior, 1 / state, rtol=0.16)
    np.testing.assert_allclose(found.emission, 1 / noise, rtol=0.16)
    predicted = predict_all(
        model, variables, hidden, jax.random.key(1), 200, complete, calibration=found
    )
    for name, pit in predicted.pit.items():
        for level in (0.5, 0.8, 0.95):
            covered = np.mean(np.abs(pit - 0.5) <= level / 2)
            np.testing.assert_allclose(covered, level, atol=0.05, err_msg=name)


def test_errors_against_the_closed_form():
    """Coverage of N(0, v) by the interval of N(0, w) is 2 F(1.96 sqrt(w / v)) - 1."""
    complete = data(25, 40)
    hidden = hide_all(complete)
    scales = POSTERIOR[::8]
    found = coverage_errors(
        Unsure(), TRUE, [hidden], [complete], jax.random.key(0), scales, num_samples=200
    )
    assert found.shape == (len(scales), len(EMISSION))
    emission = np.array(EMISSION)
    width = np.sqrt((np.array(scales)[:, None] * STATE) ** 2 + (emission * NOISE) ** 2)
    expected = sum(
        (2 * stats.norm.cdf(stats.norm.ppf(0.975) * ratio) - 1 - 0.95) ** 4
        for ratio in (width / np.hypot(STATE, NOISE), emission)
    )
    # the sampling error of a coverage is 0.01
    np.testing.assert_allclose(found**0.25, expected**0.25, atol=0.03)


def test_search_finds_the_best_of_all_pairs():
    """On the whole grid, wherever the best posterior scale lies between the coarse ones."""
    complete = data(20, 20)
    hidden = hide_all(complete)
    for state in (1.7, 1.0, 0.8, 0.7, 0.25):
        given = Unsure(), TRUE | {"state_sd": state}, [hidden], [complete], jax.random.key(0)
        errors = coverage_errors(*given, POSTERIOR, num_samples=39)
        row, column = np.unravel_index(np.argmin(errors), errors.shape)
        assert calibrate(*given, num_samples=39) == (POSTERIOR[row], EMISSION[column])


def test_categories_do_not_count():
    """Nor do binary values whose intervals are right at any scale."""
    complete = data(20, 20)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (20, 20, 1)).astype(np.float32)
    everything = series_from_arrays(
        {**complete.values, "binary": labels % 2, "label": labels},
    )
    hidden, key = hide_all(everything), jax.random.key(0)
    real = {name: np.array(name in complete.values) for name in everything.values}
    expected = calibrate(Mixed(), TRUE, [hidden], [everything.hide(real)], key, 39)
    assert calibrate(Mixed(), TRUE, [hidden], [everything], key, 39) == expected
    label = everything.hide({name: np.array(name == "label") for name in everything.values})
    assert calibrate(Mixed(), TRUE, [hidden], [label], key, 39) == (1.0, 1.0)


def test_with_nothing_hidden_a_model_stays_as_it_is():
    complete = data(2, 3)
    nothing = hide_all(complete)
    assert calibrate(Unsure(), TRUE, [complete], [nothing], jax.random.key(0)) == (1.0, 1.0)


def test_a_batch_filled_up_counts_each_series_once():
    """Six series at the mean are covered, the seventh, far away, is not."""
    values = np.zeros((7, 2))
    values[6] = 100.0
    complete = series_from_arrays({"x": values, "y": values})
    given = Unsure(), TRUE, [hide_all(complete)], [complete], jax.random.key(0), (1.0,), 39
    for size in (7, 4):
        found = coverage_errors(*given, batch_size=size)
        np.testing.assert_allclose(found, 2 * (6 / 7 - 0.95) ** 4, rtol=1e-6)


def test_compiled_once_for_a_model_and_a_shape():
    """For both rounds of the search, all batches, and further calls with other series."""
    complete = data(7, 5)
    count = Compilations()
    for factor in (1.0, 2.0):
        values = {name: factor * value for name, value in complete.values.items()}
        given = series_from_arrays(values)
        calibrate(Unsure(), TRUE, [hide_all(given)], [given], jax.random.key(0), 39, batch_size=4)
        assert count.of("covered_values") == {"covered_values": 1}


def test_bad_input_is_refused_before_anything_is_compiled():
    complete, other = data(2, 3), data(2, 4)
    wide = series_from_arrays({"x": np.zeros((2, 3, 2)), "y": np.zeros((2, 3))})
    cases = [
        ([], [], {}, "at least one case"),
        ([complete], [complete, complete], {}, "1 shown and 2 held out"),
        ([wide], [complete], {}, "modality 'x' with features=1"),
        ([complete], [wide], {}, "modality 'x' with features=1"),
        ([complete], [other], {}, r"shape \(2, 3, 1\) in modality 'x'"),
        ([complete, other], [complete, other], {}, r"shape \(2, 3, 1\) in modality 'x'"),
        ([complete], [complete], {"num_samples": 0}, "num_samples of at least 1"),
        ([complete], [complete], {"batch_size": 0}, "batch size of at least 1"),
    ]
    count = Compilations()
    for shown, held_out, options, message in cases:
        with pytest.raises(InputError, match=message):
            calibrate(Unsure(), TRUE, shown, held_out, jax.random.key(0), **options)
    assert count.of("covered_values") == {"covered_values": 0}


def test_few_samples_warn():
    complete = data(2, 3)
    with pytest.warns(UserWarning, match="at least 39 samples, got 38"):
        calibrate(Unsure(), TRUE, [complete], [hide_all(complete)], jax.random.key(0), 38)
