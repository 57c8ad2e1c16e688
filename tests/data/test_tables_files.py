"""The data set of a user's file: splits, scaling by the training part, tasks."""

import jax
import numpy as np
import polars as pl
import pytest

from jdmm.data import tasks
from jdmm.data.tables.dataset import Files
from jdmm.data.tables.schema import Column, Schema
from jdmm.errors import InputError
from jdmm.series import series_from_arrays

rng = np.random.default_rng(0)


@pytest.fixture
def path(tmp_path):
    """100 hours of two columns; the second one changes its mean after the training part."""
    a, b = rng.normal(size=(2, 100))
    stamps = np.datetime64("2024-01-01T00", "us") + np.arange(100) * np.timedelta64(1, "h")
    kind = np.where(a > 0, "up", "down")
    frame = pl.DataFrame({"time": stamps, "a": a, "b": b + 50 * (np.arange(100) >= 70), "k": kind})
    frame.write_csv(tmp_path / "table.csv")
    return str(tmp_path / "table.csv")


def train_hours(splits):
    """The hours of the first training window, from their sine and cosine."""
    sine, cosine = splits["train"].series.inputs[0].T
    return np.rint(np.arctan2(sine, cosine) * 12 / np.pi).astype(int)


def test_splits_follow_the_time_and_share_no_step(path):
    data = Files(path, window=8, train_windows=1)
    frame = pl.read_csv(path)
    splits = data.load()
    lengths = {name: split.series.lengths.tolist() for name, split in splits.items()}
    assert lengths == {"train": [8] * 8 + [6], "validation": [8, 7], "test": [8, 7]}
    mean, sd = data.table.schema.columns["b"].scale
    assert mean == pytest.approx(frame["b"][:70].mean())
    assert sd == pytest.approx(frame["b"][:70].to_numpy().std())
    for name, rows in (("train", range(0, 70)), ("validation", range(70, 85))):
        series = splits[name].series
        own = series.values["numbers"][..., 1][np.asarray(series.valid)]
        np.testing.assert_allclose(mean + sd * own, frame["b"].to_numpy()[rows], rtol=1e-4)
        splits[name].check(data.modalities, data.inputs)
    assert data.class_name("k", 1) == "up"
    assert [m.name for m in data.modalities] == ["numbers", "k"]
    assert data.inputs == 2 and train_hours(splits).tolist() == list(range(8))
    assert data.example_inputs(150).shape == (150, 2)  # beyond the end of the table


def test_columns_of_different_likelihoods(path, tmp_path):
    frame = pl.read_csv(path).with_columns(n=pl.int_range(100) % 7)
    frame.write_csv(path)
    schema = Schema({"a": Column(), "n": Column(likelihood="poisson")}, "time", step="1h")
    schema.save(tmp_path / "schema.json")
    data = Files(path, str(tmp_path / "schema.json"), window=8, train_windows=1)
    assert "  numbers (mixed): a (normal), n (poisson)" in data.describe()
    train = data.load()["train"]
    train.check(data.modalities, data.inputs)
    counts = train.series.values["numbers"][..., 1][np.asarray(train.series.valid)]
    np.testing.assert_array_equal(counts, np.arange(70) % 7)
    (tmp_path / "run").mkdir()
    data.keep(tmp_path / "run")
    kept = Schema.load(tmp_path / "run" / "schema.json")
    assert (
        kept.columns["n"].size == 3.0
        and kept.without_fit() == schema
        and kept.columns["a"].sd is not None
    )


def test_windows_of_a_short_file_overlap(path):
    series = Files(path, window=8, train_windows=30).load()["train"].series
    assert series.batch >= 30 and set(series.lengths.tolist()) == {8}
    first, second = series.values["numbers"][:2]
    np.testing.assert_array_equal(first[2:], second[:-2])


def test_many_series_are_split_as_a_whole(tmp_path):
    frame = pl.DataFrame(
        {
            "id": np.repeat(np.arange(20), 10),
            "time": np.tile(np.arange(10), 20),
            "a": np.repeat(np.arange(20.0), 10),
        }
    )
    frame.write_csv(tmp_path / "many.csv")
    splits = Files(str(tmp_path / "many.csv"), window=16, train_windows=1).load()
    assert [split.series.batch for split in splits.values()] == [14, 3, 3]
    by_time = Files(str(tmp_path / "many.csv"), window=16, split="time").load()
    assert [split.series.batch for split in by_time.values()] == [20, 20, 20]


def test_fewer_windows_are_scored_than_there_are(path):
    splits = Files(path, window=2, scored_windows=3).load()
    assert splits["validation"].series.batch == splits["test"].series.batch == 3


def test_a_work_directory_keeps_the_schema(path, tmp_path):
    data = Files(path, window=8)
    assert data.in_workdir(tmp_path) == data
    data.keep(tmp_path)
    kept = data.in_workdir(tmp_path)
    assert kept.fitted_schema == data.table.schema
    assert not kept.table.grid.account.notes  # the schema is not guessed again
    given = tmp_path / "given.json"
    data.known_schema.save(given)
    assert Files(path, str(given), window=8).in_workdir(tmp_path).fitted_schema.fitted
    other = data.known_schema.to_dict()
    other["columns"].pop("b")
    type(data.known_schema).from_dict(other).save(given)
    with pytest.raises(
        InputError, match="given.json: expected the schema of .*schema.json, got an"
    ):
        Files(path, str(given), window=8).in_workdir(tmp_path)
    data.known_schema.save(tmp_path / "schema.json")
    with pytest.raises(InputError, match="schema.json: expected mean and sd, which training wrote"):
        data.in_workdir(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 1}, "data.window of at least 2 steps, got 1"),
        ({"train_windows": 0}, "data.train_windows of at least 1, got 0"),
        ({"shares": (0.5, 0.5, 0.5)}, "positive data.shares with sum 1, got 0.5, 0.5, 0.5"),
        ({"split": "random"}, "data.split among auto, time, series, got 'random'"),
        ({"scored_windows": -1}, "data.scored_windows of at least 0"),
    ],
)
def test_impossible_fields(fields, message):
    with pytest.raises(InputError, match=message):
        Files(**fields)


def test_a_part_without_values(tmp_path):
    path = tmp_path / "table.csv"
    pl.DataFrame({"a": [1.0, 2.0, 3.0, 4.0] + [None] * 6}).write_csv(path)
    with pytest.raises(InputError, match="observed values in the validation part, got none"):
        Files(str(path), window=4).load()
    with pytest.raises(InputError, match="expected data.path, got none"):
        _ = Files().modalities


def make_series():
    values = rng.normal(size=(4, 40, 3))
    values[rng.random(values.shape) < 0.2] = np.nan
    values[3, 30:] = np.nan
    lengths = [40, 40, 40, 30]
    return series_from_arrays({"x": values, "c": rng.normal(size=(4, 40, 2))}, lengths=lengths)


def test_filling_hides_its_fraction_of_the_values_and_nothing_that_is_known():
    series = make_series()
    keep = tasks.fill_values(0.3, known=("c",))(jax.random.key(0), series)
    shown = series.hide(keep)
    observed, left = (np.asarray(each.observed["x"]).sum((1, 2)) for each in (series, shown))
    np.testing.assert_array_equal(observed - left, np.round(0.3 * observed))
    np.testing.assert_array_equal(shown.observed["c"], series.observed["c"])
    again = tasks.fill_values(0.3, known=("c",))(jax.random.key(0), series.take(np.array([2])))
    np.testing.assert_array_equal(again["x"][0], keep["x"][2])  # whatever the batch


def test_blocks_are_whole_and_of_single_features():
    series = make_series()
    keep = np.asarray(tasks.fill_blocks(0.25, 5)(jax.random.key(0), series)["x"])
    blocks = keep.reshape(4, 8, 5, 3)
    assert (blocks == blocks[:, :, :1]).all()
    np.testing.assert_array_equal((~blocks[:3, :, 0]).sum(1), 2)  # of 8 blocks
    np.testing.assert_array_equal((~blocks[3, :6, 0]).sum(0), 2)  # of 6 within its length
    assert (blocks[..., 0] != blocks[..., 1]).any()


def test_a_forecast_shows_the_first_part_and_what_is_known():
    series = make_series()
    shown = series.hide(tasks.forecast(0.75, known=("c",))(jax.random.key(0), series))
    for row, first in enumerate((30, 30, 30, 22)):
        np.testing.assert_array_equal(
            shown.observed["x"][row, :first], series.observed["x"][row, :first]
        )
        assert not shown.observed["x"][row, first:].any()
    np.testing.assert_array_equal(shown.observed["c"], series.observed["c"])
