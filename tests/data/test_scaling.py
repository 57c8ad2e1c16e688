"""`Standardise` against exact rational arithmetic and scipy's densities, and its warnings."""

import json
import statistics
import warnings

import numpy as np
import pytest
from scipy.stats import norm

from jdmm.data.scaling import Standardise, warn_unscaled
from jdmm.errors import InputError
from jdmm.series import Series, series_from_arrays

NAN = np.nan


def measured() -> Series:
    """Two series of 40 and 25 steps; a third of the values is missing."""
    rng = np.random.default_rng(0)
    table = rng.normal([5.0, -2e4, 1e-3], [2.0, 1e3, 1e-5], (2, 40, 3))
    table[rng.random(table.shape) < 1 / 3] = NAN
    labels = rng.integers(0, 4, (2, 40, 1))
    return series_from_arrays({"table": table, "label": labels}, lengths=[40, 25])


def test_mean_and_sd_of_the_observed_values():
    series = measured()
    scaling = Standardise.fit(series, ["table"])
    assert list(scaling.mean) == list(scaling.sd) == ["table"]
    for feature in range(3):
        seen = [
            float(series.values["table"][row, step, feature])
            for row in range(2)
            for step in range(40)
            if series.observed["table"][row, step, feature]
        ]
        np.testing.assert_allclose(scaling.mean["table"][feature], statistics.fmean(seen), 1e-14)
        np.testing.assert_allclose(scaling.sd["table"][feature], statistics.pstdev(seen), 1e-12)


def test_scaled_series_have_mean_0_and_sd_1_and_keep_their_gaps():
    series = measured()
    scaled = Standardise.fit(series, ["table"]).apply(series)
    assert scaled.values["table"].dtype == np.float32
    for feature in range(3):
        seen = scaled.values["table"][..., feature][series.observed["table"][..., feature]]
        np.testing.assert_allclose([seen.mean(), seen.std()], [0, 1], atol=1e-5)
    assert not scaled.values["table"][~series.observed["table"]].any()
    for name in series.observed:
        np.testing.assert_array_equal(scaled.observed[name], series.observed[name])
    np.testing.assert_array_equal(scaled.values["label"], series.values["label"])
    np.testing.assert_array_equal(scaled.lengths, series.lengths)


@pytest.mark.parametrize("size", [1e4, 1e6, 1e9])
@pytest.mark.parametrize("relative", [1e-5, 1.0])
def test_large_values_lose_nothing(size, relative):
    """Against exact rational arithmetic; squares or a mean in float32 would fail by far."""
    values = size * (1 + relative * np.random.default_rng(1).normal(size=(4, 500)))
    series = series_from_arrays({"a": values})
    scaling = Standardise.fit(series)
    seen = series.values["a"].ravel().tolist()
    np.testing.assert_allclose(scaling.mean["a"], [statistics.mean(seen)], 1e-14)
    np.testing.assert_allclose(scaling.sd["a"], [statistics.pstdev(seen)], 1e-10)
    back = scaling.undo(scaling.apply(series).values)["a"]
    rounding = np.finfo(np.float32).eps * scaling.sd["a"].item()  # of |scaled| < 4 in float32
    np.testing.assert_allclose(back, series.values["a"], 1e-15, rounding)


def test_undo_gives_back_the_observed_values_and_leaves_others_alone():
    series = measured()
    scaling = Standardise.fit(series, ["table"])
    scaled = scaling.apply(series)
    back = scaling.undo(scaled.values)
    seen = series.observed["table"]
    np.testing.assert_allclose(back["table"][seen], series.values["table"][seen], 1e-6)
    assert back["label"] is scaled.values["label"]
    assert scaling.undo_scale({"label": 3})["label"] == 3


def test_undo_of_predicted_normals():
    """x = mean + sd z: quantiles, sd and log-density of x follow from those of z."""
    scaling = Standardise({"a": np.array([3.0, -7.0])}, {"a": np.array([2.0, 0.1])})
    location, scale = np.array([[0.5, -1.0]]), np.array([[0.3, 2.0]])
    original = norm(scaling.undo({"a": location})["a"], scaling.undo_scale({"a": scale})["a"])
    levels = np.array([0.05, 0.5, 0.95])[:, None, None]
    quantiles = scaling.undo({"a": norm(location, scale).ppf(levels)})["a"]
    np.testing.assert_allclose(quantiles, original.ppf(levels), 1e-12)

    x = np.array([[4.2, -7.3]])
    z = (x - scaling.mean["a"]) / scaling.sd["a"]
    nats = norm(location, scale).logpdf(z) - scaling.log_sd["a"]
    np.testing.assert_allclose(nats, original.logpdf(x), 1e-12)
    assert scaling.undo({"a": np.zeros((5, 3, 1, 2))})["a"].shape == (5, 3, 1, 2)


def test_constant_and_unobserved_features_are_warned_of_and_stay_finite():
    values = np.array([[[0.1, 1, NAN, 5], [0.1, 2, NAN, NAN], [0.1, 3, NAN, NAN]]])
    series = series_from_arrays({"a": values, "b": [[[1.0], [2.0], [3.0]]]})
    with pytest.warns(UserWarning) as caught:
        scaling = Standardise.fit(series)
    told = [str(warning.message) for warning in caught]
    assert len(told) == 2 and all("'a'" in line for line in told)
    assert "[2] are never observed" in told[0] and "[0, 3] are constant" in told[1]
    assert {warning.filename for warning in caught} == {__file__}
    np.testing.assert_allclose(scaling.mean["a"], [np.float32(0.1), 2, 0, 5], 1e-15)
    np.testing.assert_allclose(scaling.sd["a"], [1, np.sqrt(2 / 3), 1, 1])
    scaled = scaling.apply(series).values["a"]
    np.testing.assert_array_equal(scaled[..., [0, 2, 3]], np.zeros((1, 3, 3)))
    assert np.isfinite(scaling.log_sd["a"]).all()


@pytest.mark.filterwarnings("error")
def test_json_restores_every_bit():
    scaling = Standardise.fit(measured(), ["table"])
    again = Standardise.from_dict(json.loads(json.dumps(scaling.to_dict())))
    for name in ("mean", "sd"):
        before, after = getattr(scaling, name), getattr(again, name)
        assert after["table"].dtype == np.float64
        assert before["table"].tobytes() == after["table"].tobytes()


BAD = {
    "no dictionary": ([1.0], "use what Standardise.to_dict"),
    "no sd": ({"mean": {"a": [0.0]}}, "use what Standardise.to_dict"),
    "no numbers": ({"mean": {"a": ["x"]}, "sd": {"a": [1.0]}}, "use what Standardise.to_dict"),
    "other modalities": ({"mean": {"a": [0.0]}, "sd": {"b": [1.0]}}, "same modalities"),
    "other features": ({"mean": {"a": [0.0]}, "sd": {"a": [1.0, 2.0]}}, r"\(1,\) and \(2,\)"),
    "sd of 0": ({"mean": {"a": [0.0]}, "sd": {"a": [0.0]}}, "positive sd in modality 'a'"),
    "mean of NaN": ({"mean": {"a": [NAN]}, "sd": {"a": [1.0]}}, "finite mean"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_from_dict_refuses_what_to_dict_never_gives(content, message):
    with pytest.raises(InputError, match=message):
        Standardise.from_dict(content)


def test_wrong_modalities_are_refused():
    series = measured()
    scaling = Standardise.fit(series, ["table"])
    other = series_from_arrays({"b": np.ones((1, 2, 1))})
    with pytest.raises(InputError, match=r"among \['table', 'label'\], got 'tabel'"):
        Standardise.fit(series, ["tabel"])
    with pytest.raises(InputError, match="got the string 'table'"):
        Standardise.fit(series, "table")
    with pytest.raises(InputError, match="expected a Series, got dict"):
        Standardise.fit({"table": np.ones((1, 2, 1))})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"standardised modality 'table', got \['b'\]"):
        scaling.apply(other)
    with pytest.raises(InputError, match="expected a Series, got dict"):
        scaling.apply(series.values)
    for undo in (scaling.undo, scaling.undo_scale):
        for value in (np.ones((4, 1)), 1.0):
            with pytest.raises(InputError, match=r"'table' as \(..., 3\)"):
                undo({"table": value})


def test_unscaled_features_are_warned_of_once_per_modality():
    z = np.tile([-1.0, 1.0], 3)[None, :, None]
    series = series_from_arrays(
        {
            "fine": np.concatenate([99 + z, 99 * z, 0.011 * z, 0 * z], 2),
            "offset": np.concatenate([z, 500 + z], 2),
            "large": 1e4 * z,
            "small": np.concatenate([1e-3 * z, 1e-4 * z], 2),
            "empty": NAN * z,
        }
    )
    with pytest.warns(UserWarning, match="Standardise") as caught:
        warn_unscaled(series)
    told = [str(warning.message) for warning in caught]
    assert [line.split(":")[0] for line in told] == [
        "modality 'offset', feature 1",
        "modality 'large', feature 0",
        "modality 'small', feature 0 (and 1 more)",
    ]
    assert "mean absolute value 500 and sd 1 " in told[0]
    assert "mean absolute value 1e+04 and sd 1e+04 " in told[1]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_unscaled(series, ["fine", "empty"])
        warn_unscaled(series, ["large"], largest=1e5)
        warn_unscaled(Standardise.fit(series, ["offset", "large", "small"]).apply(series))


def test_warn_unscaled_refuses_bad_arguments():
    series = measured()
    with pytest.raises(InputError, match="among"):
        warn_unscaled(series, ["tabel"])
    with pytest.raises(InputError, match="largest > 1, got 0.5"):
        warn_unscaled(series, largest=0.5)
