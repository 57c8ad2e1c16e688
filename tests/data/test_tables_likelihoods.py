"""Tables of counts, outliers and positive numbers: scaling, support, and output in their units."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from jdmm import MDMM, Deletions, SigmaPointSSM, TrainSettings, fit
from jdmm.data.tables.schema import Column, Schema
from jdmm.data.tables.table import read_table
from jdmm.errors import InputError
from jdmm.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    LogNormal,
    Mixed,
    Normal,
    NormalMixture,
    Poisson,
    StudentT,
    register_likelihood,
)

SCHEMA = Schema(
    {
        "level": Column(),
        "visits": Column(likelihood="poisson"),
        "error": Column(likelihood="student_t"),
        "amount": Column(likelihood="log_normal"),
    }
)
STEPS = 60


def incomplete_frame(seed=0):
    """Columns that depend on one curve, with a fifth of the values missing."""
    rng = np.random.default_rng(seed)
    curve = np.sin(np.arange(STEPS) / 4)
    frame = pl.DataFrame(
        {
            "level": 1e4 + 50 * curve + rng.normal(size=STEPS),
            "visits": rng.poisson(np.exp(1 + curve)),
            "error": 200 + 10 * curve + rng.standard_t(3, STEPS),
            "amount": np.exp(curve + 0.3 * rng.normal(size=STEPS)),
        }
    )
    lost = {name: pl.Series(rng.random(STEPS) < 0.2) for name in frame.columns}
    return frame.with_columns(
        pl.when(~mask).then(pl.col(name)).alias(name) for name, mask in lost.items()
    )


def test_sizes_are_those_of_the_table():
    """The mean of counts and the geometric mean of positive numbers; given ones stay."""
    frame = incomplete_frame()
    fitted = read_table(frame, SCHEMA).schema
    visits, amount = (frame[name].drop_nulls().to_numpy() for name in ("visits", "amount"))
    assert fitted.columns["visits"].size == pytest.approx(visits.mean())
    assert fitted.columns["amount"].size == pytest.approx(np.exp(np.log(amount).mean()), rel=1e-6)
    parts = fitted.modalities[0].likelihood.parts
    assert parts[1] == Poisson(size=fitted.columns["visits"].size)
    assert fitted.without_fit() == SCHEMA
    given = Schema({"visits": Column(likelihood="poisson(size=30.0)")})
    assert read_table(frame, given).schema.modalities[0].likelihood == Poisson(size=30)
    nothing = pl.DataFrame({"visits": [0, 0, 0]})
    size = read_table(nothing, Schema({"visits": Column(likelihood="poisson")})).schema
    assert size.columns["visits"].size == 0.1


def test_columns_of_different_likelihoods_make_a_mixed_modality():
    (modality,) = SCHEMA.modalities
    assert modality.features == 4
    assert modality.likelihood == Mixed((Normal(), Poisson(), StudentT(), LogNormal()))
    others = Schema(
        {
            "a": Column("one", "normal_mixture(classes=2)"),
            "b": Column("one", "normal_mixture(classes=2)"),
            "open": Column("two", "bernoulli"),
            "gauge": Column("two", "normal(sd=0.1)"),
            "kind": Column("kind", "categorical", categories=("x", "y")),
        }
    )
    likelihoods = {m.name: (m.features, m.likelihood) for m in others.modalities}
    assert likelihoods["one"] == (2, NormalMixture(2))
    assert likelihoods["two"] == (2, Mixed((Bernoulli(), Normal(sd=0.1))))
    assert list(others.scaled) == ["a", "b"]


def test_json_keeps_every_likelihood(tmp_path):
    table = read_table(incomplete_frame(), SCHEMA)
    table.schema.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == table.schema
    content = json.loads((tmp_path / "schema.json").read_text())["columns"]
    assert {name for name, column in content.items() if "sd" in column} == {"level", "error"}
    # one way to write each likelihood
    assert Column(likelihood=" normal( sd = 1e-1 ) ") == Column(likelihood="normal(sd=0.1)")
    assert Column(likelihood="bernoulli()").binary


@dataclass(frozen=True)
class Skewed(LogNormal):
    """A likelihood of a user."""


def test_a_registered_likelihood(monkeypatch, tmp_path):
    monkeypatch.setattr("jdmm.likelihoods.registry.LIKELIHOODS", dict(LIKELIHOODS))
    register_likelihood("skewed", Skewed)
    schema = Schema({"a": Column(likelihood="skewed")})
    schema.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json").modalities[0].likelihood == Skewed()
    monkeypatch.undo()
    with pytest.raises(InputError, match="'a' in columns: .* 'skewed': see register_likelihood"):
        Schema.load(tmp_path / "schema.json")


def test_only_real_numbers_are_scaled():
    frame = incomplete_frame()
    table = read_table(frame, SCHEMA)
    values, seen = (tree["numbers"][0] for tree in (table.series.values, table.series.observed))
    for place, name in enumerate(SCHEMA.columns):
        own = frame[name].drop_nulls().to_numpy().astype(float)
        if name in ("level", "error"):
            np.testing.assert_allclose(table.schema.columns[name].scale, [own.mean(), own.std()])
            own = (own - own.mean()) / own.std()
        np.testing.assert_allclose(values[seen[:, place], place], own, rtol=1e-6, atol=1e-5)
    (modality,) = table.schema.modalities
    assert modality.likelihood.in_support(np.asarray(values))[np.asarray(seen)].all()


def test_values_outside_the_support_are_named():
    for likelihood, values, message in (
        ("poisson", [1.0, None, 2.5], "whole numbers from 0 in row 3, column 'a', got 2.5"),
        ("negative_binomial", [-1.0, 2.0], "whole numbers from 0 in row 1, column 'a', got -1"),
        ("log_normal", [1.0, 0.0], "positive numbers in row 2, column 'a', got 0"),
        ("log_normal", [1.0, 1e-50], "positive numbers in row 2, column 'a', got 1e-50"),
        ("normal(sd=0.1)", [1.0, 1e40], r"finite numbers in row 2, column 'a', got 1e\+40"),
    ):
        frame = pl.DataFrame({"a": values})
        with pytest.raises(InputError, match=f"^table: expected {message}$"):
            read_table(frame, Schema({"a": Column(likelihood=likelihood)}))


def test_counts_of_one_step_stay_counts():
    frame = pl.DataFrame({"time": [0.0, 1.0, 1.25, 2.0], "n": [1, 2, 5, 7]})
    table = read_table(frame, Schema({"n": Column(likelihood="poisson")}, "time", step=1))
    np.testing.assert_array_equal(table.grid.values["numbers"][:, 0], [1, 4, 7])  # of 3.5


@pytest.mark.parametrize("draws", [39, 40])
def test_output_is_in_the_units_of_the_table(draws):
    rng = np.random.default_rng(1)
    frame = incomplete_frame()
    table = read_table(frame, SCHEMA)
    shape = (draws, 1, STEPS)
    samples = [
        rng.normal(size=shape),
        rng.poisson(3, shape),
        rng.standard_t(3, shape),
        np.exp(rng.normal(size=shape)),
    ]
    samples = np.stack(samples, -1).astype(np.float32)
    expected = {"numbers": samples.mean(0)}
    prediction = SimpleNamespace(expected=expected, samples={"numbers": samples}, probabilities={})
    found = table.to_frame(prediction, (0.95,))
    fills = {"level": "mean", "visits": "median", "error": "mean", "amount": "median"}
    for place, (name, fill) in enumerate(fills.items()):
        mean, sd = table.schema.columns[name].scale
        own = mean + sd * samples[:, 0, :, place].astype(float)
        np.testing.assert_allclose(found[f"{name}_mean"], own.mean(0), rtol=1e-5)
        for suffix, level in (("median", 0.5), ("lower_95", 0.025), ("upper_95", 0.975)):
            quantile = np.quantile(own, level, 0, method="weibull")
            if name == "visits":
                # the smallest of the samples whose number is at least level (n + 1)
                number = int(np.ceil(np.round(level * (draws + 1), 6)))
                quantile = np.sort(own, 0)[min(number, draws) - 1]
            np.testing.assert_allclose(found[f"{name}_{suffix}"], quantile, rtol=1e-5)
        known = frame[name].is_not_null()
        assert (found[name].filter(known) == frame[name].filter(known)).all()
        np.testing.assert_array_equal(
            found[name].filter(~known), found[f"{name}_{fill}"].filter(~known)
        )
    assert found["visits"].dtype == pl.Int64 and found["level"].dtype == pl.Float64


@pytest.mark.parametrize(
    ("dtype", "filled"),
    [(pl.UInt8, pl.Int64), (pl.UInt16, pl.UInt16), (pl.Float32, pl.Float32)],
)
def test_counts_are_filled_in_their_own_type_if_it_holds_them(dtype, filled):
    frame = pl.DataFrame({"n": pl.Series([250, None, 200], dtype=dtype)})
    table = read_table(frame, Schema({"n": Column(likelihood="negative_binomial")}))
    samples = np.full((40, 1, 3, 1), 300, np.float32)
    prediction = SimpleNamespace(
        expected={"numbers": samples[0]}, samples={"numbers": samples}, probabilities={}
    )
    found = table.to_frame(prediction)["n"]
    assert found.dtype == filled and found.to_list() == [250, 300, 200]


@pytest.mark.filterwarnings("error")
def test_heavy_tails_of_logs_have_quantiles_but_no_mean():
    table = read_table(
        pl.DataFrame({"a": [1.0, 2.0, None]}),
        Schema({"a": Column(likelihood="student_t", transform="log")}),
    )
    samples = np.zeros((40, 1, 3, 1), np.float32)
    samples[-1] = 1e6
    prediction = SimpleNamespace(
        expected={"numbers": samples.mean(0)}, samples={"numbers": samples}, probabilities={}
    )
    found = table.to_frame(prediction)
    np.testing.assert_allclose(found["a_median"], np.sqrt(2))  # the geometric mean
    assert found["a"][2] == found["a_median"][2] and np.isinf(found["a_mean"].to_numpy()).all()


@pytest.mark.parametrize("model", [MDMM, SigmaPointSSM])
def test_a_table_of_several_likelihoods_is_learned_and_filled(model):
    frame = incomplete_frame()
    table = read_table(frame, SCHEMA).extend(after=3)
    settings = TrainSettings(epochs=3, batch_size=1, deletions=Deletions.none())
    fitted = fit(model(table.schema.modalities, 2, 4), table.series, settings=settings)
    prediction = fitted.predict(table.series, num_samples=40, return_samples=True)
    found = table.to_frame(prediction)
    assert found.height == STEPS + 3 and sum(found.null_count().row(0)) == 0
    for name, column in SCHEMA.columns.items():
        known = frame[name].is_not_null()
        assert (found[name][:STEPS].filter(known) == frame[name].filter(known)).all()
        for suffix in ("", "_median", "_lower_95", "_upper_95"):
            values = found[name + suffix].cast(pl.Float64).to_numpy()
            assert column.distribution().in_support(values).all(), name + suffix
        assert (found[f"{name}_lower_95"] <= found[f"{name}_upper_95"]).all()
    assert found["visits"].dtype == pl.Int64
    assert (found["visits_mean"] > 0).all() and (found["amount_mean"] > 0).all()
