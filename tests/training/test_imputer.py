"""Filled tables against linear interpolation, the truth, and what was observed."""

import copy
from functools import partial

import numpy as np
import polars as pl
import pytest

from jdmm import Column, InputError, LinearGaussianSSM, Schema, SigmaPointSSM, TableImputer

STEPS = 600

LINEAR = partial(LinearGaussianSSM, latent=4, iterations=15)
FULL = partial(SigmaPointSSM, latent=3, hidden=8, iterations=0, residual=True)


def waves_and_noise(seed):
    """A sine that all columns share, each with an AR(1) of its own, ``(time, column)``."""
    rng = np.random.default_rng(seed)
    noise = np.zeros((STEPS, 3))
    for step in range(1, STEPS):
        noise[step] = 0.7 * noise[step - 1] + 0.3 * rng.normal(size=3)
    return 50 + 10 * (np.sin(np.arange(STEPS))[:, None] * [1.0, -1.0, 0.5] + noise)


def with_gaps(values, seed=1, share=0.4):
    return np.where(np.random.default_rng(seed).random(values.shape) < share, np.nan, values)


def interpolated(values):
    steps = np.arange(len(values))
    lines = [
        np.interp(steps, steps[~np.isnan(own)], own[~np.isnan(own)]) for own in np.transpose(values)
    ]
    return np.stack(lines, -1)


def frame_of(values):
    """Hourly rows in another order, some of which are lacking, with texts and an unused column."""
    hours = np.datetime64("2024-01-01T00:00:00", "us") + np.arange(len(values)) * np.timedelta64(
        1, "h"
    )
    frame = pl.DataFrame({"time": hours, "a": values[:, 0], "b": values[:, 1]}).fill_nan(None)
    kinds = pl.when(pl.col("a") > 50).then(pl.lit("high")).otherwise(pl.lit("low"))
    frame = frame.with_columns(k=kinds, constant=pl.lit(3))
    frame = frame.with_columns(k=pl.when(pl.int_range(pl.len()) % 7 > 0).then(pl.col("k")))
    frame = frame.filter(pl.int_range(pl.len()) % 50 != 20)
    return frame.sample(fraction=1.0, shuffle=True, seed=0)


@pytest.fixture(scope="module")
def linear():
    """A quick model, fitted to one array."""
    return TableImputer(LINEAR, window=32).fit(with_gaps(waves_and_noise(0)))


def test_a_state_space_model_beats_linear_interpolation():
    truth = waves_and_noise(0)
    given = with_gaps(truth)
    missing = np.isnan(given)
    imputer = TableImputer(FULL, window=32, epochs=30, num_samples=39)
    filled = imputer.fit_transform(given)
    assert filled.shape == given.shape and filled.dtype == given.dtype
    np.testing.assert_array_equal(filled[~missing], given[~missing])

    def error(guess):
        return np.mean((guess - truth)[missing] ** 2)

    assert error(filled) < 0.7 * error(interpolated(given))
    lower, upper = imputer.predict_interval(given, 0.8)
    inside = ((truth > lower) & (truth < upper))[missing].mean()
    assert lower.shape == given.shape and 0.72 < inside < 0.88


def test_another_array_is_transformed_by_the_fitted_model(linear):
    truth = waves_and_noise(3)[:200]
    given = with_gaps(truth, 4).astype(np.float32)
    filled, missing = linear.transform(given), np.isnan(given)
    assert filled.shape == (200, 3) and filled.dtype == np.float32
    np.testing.assert_array_equal(filled[~missing], given[~missing])
    errors = [np.mean((own - truth)[missing] ** 2) for own in (filled, interpolated(given))]
    assert errors[0] < 0.7 * errors[1]
    np.testing.assert_array_equal(filled, linear.transform(given))  # the same seed
    whole = np.round(truth).astype(int)
    np.testing.assert_array_equal(linear.transform(whole), whole)


def test_the_score_is_r_squared_in_units_of_sd(linear):
    truth = waves_and_noise(3)[:200]
    given = with_gaps(truth, 4)
    missing, filled = np.isnan(given), linear.transform(given)
    scales = np.array([own.scale for own in linear.schema_.columns.values()])
    scaled = (truth - scales[:, 0]) / scales[:, 1]
    error = ((filled - truth) / scales[:, 1])[missing]
    expected = 1 - np.sum(error**2) / np.sum(scaled[missing] ** 2)
    np.testing.assert_allclose(linear.score(given, truth), expected, rtol=1e-5)
    assert abs(linear.score(given) - expected) < 0.15  # of hidden values that were observed


def test_frames_of_polars_keep_rows_columns_and_observed_values():
    frame = frame_of(with_gaps(waves_and_noise(0)[:200]))
    imputer = TableImputer(window=16, epochs=2, num_samples=39)
    filled = imputer.fit_transform(frame)
    assert filled.columns == frame.columns and filled.height == frame.height
    assert filled["time"].equals(frame["time"]) and filled["constant"].equals(frame["constant"])
    for name in "abk":
        seen = frame[name].is_not_null()
        assert filled[name].null_count() == 0 and filled[name].dtype == frame[name].dtype
        assert filled[name].filter(seen).equals(frame[name].filter(seen))
    lower, upper = imputer.predict_interval(frame)
    assert lower.columns == upper.columns == ["a", "b"] and lower.height == frame.height
    assert ((upper["a"] > filled["a"]) | frame["a"].is_not_null()).all()
    assert -1 < imputer.score(frame) < 1


def test_frames_of_pandas_keep_index_and_types():
    pandas = pytest.importorskip("pandas")
    given = with_gaps(waves_and_noise(0)[:100])
    stamps = pandas.date_range("2024-01-01", periods=100, freq="h")
    frame = pandas.DataFrame({"a": given[:, 0], "b": given[:, 1], "n": np.arange(100) % 7}, stamps)
    frame["a"] = frame["a"].astype(np.float32)
    schema = Schema({name: Column() for name in "abn"}, time="index", step="1h")
    imputer = TableImputer(LINEAR, schema, window=16)
    filled = imputer.fit_transform(frame)
    assert filled.index.equals(frame.index) and list(filled.columns) == ["a", "b", "n"]
    assert list(filled.dtypes) == list(frame.dtypes) and not filled.isna().any().any()
    for name in "abn":
        seen = frame[name].notna()
        assert (filled[name][seen] == frame[name][seen]).all()
    lower, upper = imputer.predict_interval(frame)
    assert (lower < upper).all().all() and list(lower.columns) == ["a", "b", "n"]


def test_parameters_follow_scikit_learn():
    imputer = TableImputer(LINEAR, window=16)
    params = imputer.get_params()
    assert params["model"] is LINEAR and params["window"] == 16 and params["seed"] == 0
    twin = TableImputer(**params)
    assert all(twin.get_params()[name] is value for name, value in params.items())
    assert imputer.set_params(seed=3, epochs=2) is imputer
    assert (imputer.seed, imputer.epochs, twin.seed) == (3, 2, 0)
    with pytest.raises(InputError, match="expected parameters among model, schema, .*'epoch'"):
        imputer.set_params(epoch=2)


def test_scikit_learn_clones_it_and_has_it_in_pipelines(linear):
    pytest.importorskip("sklearn")
    from sklearn.base import clone  # pyright: ignore[reportMissingImports]
    from sklearn.pipeline import make_pipeline  # pyright: ignore[reportMissingImports]
    from sklearn.preprocessing import StandardScaler  # pyright: ignore[reportMissingImports]

    twin = clone(linear)
    assert not hasattr(twin, "schema_") and twin.window == linear.window
    given = with_gaps(waves_and_noise(0))
    filled = make_pipeline(twin, StandardScaler()).fit_transform(given)
    np.testing.assert_allclose(
        filled, StandardScaler().fit_transform(linear.transform(given)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros(3), r"an array of numbers \(time, column\), got shape \(3,\)"),
        (np.array([["a"]]), "an array of numbers"),
        ([[1.0]], "expected an array or a frame of polars or pandas, got list"),
        (np.array([[1.0, np.nan], [2.0, np.nan]]), "observed value in column 'x1', got none"),
        (np.array([[1.0, np.inf], [2.0, 1.0]]), "finite number in row 1, column 'x1'"),
        (
            pl.DataFrame({"time": [0, 1], "variable": ["a", "a"], "value": [1.0, 2.0]}),
            "a column per variable, got a long one",
        ),
    ],
)
def test_tables_that_cannot_be_fitted(table, message):
    with pytest.raises(InputError, match=message):
        TableImputer(LINEAR).fit(table)


def test_mistakes_after_the_fit(linear):
    table = waves_and_noise(0)[:40]
    for use in (linear.transform, linear.predict_interval, linear.score):
        with pytest.raises(InputError, match="an array of 3 columns, as in fit, got 2"):
            use(table[:, :2])
    with pytest.raises(InputError, match="got a new one: call fit first"):
        TableImputer().transform(table)
    with pytest.raises(InputError, match="levels between 0 and 1"):
        linear.predict_interval(table, 95)
    with pytest.raises(InputError, match="got none: give y with values X lacks"):
        linear.score(table, table)
    with pytest.raises(InputError, match=r"as many rows as X \(40\), got 30"):
        linear.score(table, table[:30])
    with pytest.raises(InputError, match="leave out schema"):
        TableImputer(LINEAR, linear.schema_).fit(table)
    with pytest.raises(InputError, match="window"):
        TableImputer(LINEAR, window=0).fit(table)
    with pytest.raises(InputError, match="epochs"):
        copy.copy(linear).set_params(model=None, epochs=0).fit(table)
