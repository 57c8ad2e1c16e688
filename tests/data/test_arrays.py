"""Series of several modalities in a user's files: guessed, split and scaled."""

import json

import chex
import jax
import numpy as np
import pytest

from jdmm import Bernoulli, Categorical, InputError, Mixed, Normal, Poisson, write_series
from jdmm.data.arrays.dataset import Arrays
from jdmm.data.arrays.guessing import guess_modality
from jdmm.data.arrays.schema import ArrayModality, ArraySchema
from jdmm.data.npz import read_npz
from jdmm.networks import Image

RANDOM = np.random.default_rng(0)
COUNT, STEPS = 40, 12


def arrays(count=COUNT, steps=STEPS):
    """Numbers far from 1 with gaps, counts, labels, inputs and small images with their mask."""
    random = np.random.default_rng(1)
    sensor = 1000 + 200 * random.normal(size=(count, steps, 2))
    sensor[random.random(sensor.shape) < 0.2] = np.nan
    return {
        "sensor": sensor,
        "visits": random.poisson(500, (count, steps)).astype(float),
        "label": np.repeat(random.integers(0, 3, (count, 1)), steps, 1),
        "video": random.integers(0, 256, (count, steps, 8, 8, 1)).astype(np.uint8),
        "video_observed": random.random((count, steps)) < 0.5,
        "inputs": random.normal(size=(count, steps, 3)),
    }


SCHEMA = {
    "modalities": {
        "sensor": {"features": 2},
        "visits": {"likelihood": "poisson"},
        "label": {"likelihood": "categorical(classes=3)"},
        "video": {"image": [8, 8, 1]},
    },
    "inputs": 3,
}


@pytest.fixture
def schema(tmp_path):
    path = tmp_path / "my_schema.json"
    path.write_text(json.dumps(SCHEMA))
    return str(path)


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "series.npz", **arrays())
    return str(tmp_path / "series.npz")


GUESSES = {
    "numbers": (np.array([[0.5, np.nan]]), ArrayModality()),
    "several features": (np.zeros((1, 2, 3)) + 0.5, ArrayModality(features=3)),
    "truth values": (np.array([[True, False]]), ArrayModality("bernoulli")),
    "zeros and ones": (np.array([[0.0, 1.0, np.nan]]), ArrayModality("bernoulli")),
    "two classes": (np.array([[0, 1]]), ArrayModality("categorical(classes=2)")),
    "one class": (np.array([[0, 0]]), ArrayModality("categorical(classes=2)")),
    "binary features": (np.array([[[0, 1]]]), ArrayModality("bernoulli", 2)),
    "classes": (np.array([[0, 4, 2]]), ArrayModality("categorical(classes=5)")),
    "large whole numbers": (np.array([[0, 70]]), ArrayModality()),
    "negative whole numbers": (np.array([[-1, 3]]), ArrayModality()),
    "whole numbers of several features": (np.array([[[0, 2]]]), ArrayModality(features=2)),
    "nothing observed": (np.array([[np.nan]]), ArrayModality()),
    "bytes": (np.full((1, 1, 8, 8, 3), 7, np.uint8), ArrayModality("normal", image=(8, 8, 3))),
    "black and white": (
        np.full((1, 1, 8, 8, 1), 255, np.uint8),
        ArrayModality("bernoulli", image=(8, 8, 1)),
    ),
}


@pytest.mark.parametrize(("values", "wanted"), GUESSES.values(), ids=GUESSES.keys())
def test_an_array_says_what_it_holds(values, wanted):
    assert guess_modality(values, np.ones(values.shape, bool)) == wanted


def test_what_is_masked_has_no_part_in_the_guess():
    values = np.array([[0, 99]])
    found = guess_modality(values, np.array([[True, False]]))
    assert found == ArrayModality("categorical(classes=2)")


def test_a_file_says_what_its_arrays_are(path):
    dataset = Arrays(path)
    assert dataset.known_schema == ArraySchema(
        {
            "sensor": ArrayModality(features=2),
            "visits": ArrayModality(),
            "label": ArrayModality("categorical(classes=3)"),
            "video": ArrayModality(image=(8, 8, 1)),
        },
        inputs=3,
    )
    assert dataset.inputs == 3
    assert [line.strip() for line in dataset.describe()][-2:] == [
        "3 inputs, which drive the dynamics",
        "series: train 28, validation 6, test 6",
    ]


def test_the_schema_makes_the_modalities(path, schema):
    dataset = Arrays(path, schema, channels=(2, 4), normalisation="group", background="mean")
    own = {m.name: m for m in dataset.modalities}
    train = dataset.load()["train"].series
    size = own["visits"].likelihood.size
    assert size == pytest.approx(np.asarray(train.values["visits"]).mean(), rel=1e-6)
    assert own["sensor"].likelihood == Normal() and own["sensor"].features == 2
    assert own["visits"].likelihood == Poisson(size=size)
    assert own["label"].likelihood == Categorical(3)
    assert own["video"].image == Image((8, 8, 1), (2, 4), "group", "mean")


def test_numbers_are_scaled_by_the_training_series_alone(path, schema):
    dataset = Arrays(path, schema)
    splits = dataset.load()
    train = splits["train"].series
    for feature in range(2):
        known = train.values["sensor"][..., feature][train.observed["sensor"][..., feature]]
        np.testing.assert_allclose([known.mean(), known.std()], [0, 1], atol=1e-5)
    raw = read_npz(path, dataset.modalities, 3)
    assert sum(split.series.batch for split in splits.values()) == COUNT
    for split in splits.values():
        own = raw.take(split.series.index)  # each series keeps its number
        undone = dataset.scaling.undo(split.series.values)
        mask = own.observed["sensor"]
        np.testing.assert_allclose(undone["sensor"][mask], own.values["sensor"][mask], rtol=1e-6)
        np.testing.assert_array_equal(split.series.values["visits"], own.values["visits"])
        np.testing.assert_array_equal(split.series.inputs, own.inputs)
        split.check(dataset.modalities, dataset.inputs)
    numbers = np.concatenate([split.series.index for split in splits.values()])
    assert sorted(numbers) == list(range(COUNT))


def test_a_file_of_series_gives_the_same_splits(tmp_path, path, schema):
    """Its training series stay in it; images are bytes there."""
    dataset = Arrays(path, schema)
    series = read_npz(path, dataset.modalities, 3)
    pixels = np.rint(255 * np.asarray(series.values["video"])).astype(np.uint8)
    write_series(tmp_path / "all.jdmm", series.replace(values={**series.values, "video": pixels}))
    streamed = Arrays(str(tmp_path / "all.jdmm"), schema)
    assert streamed.fitted_schema == dataset.fitted_schema
    memory, disk = dataset.load(), streamed.load()
    for name in memory:
        chex.assert_trees_all_equal(memory[name].series, disk[name].series)
    assert memory["train"].source is None and disk["validation"].source is None
    source = disk["train"].training
    assert source.batch == memory["train"].series.batch
    rows = np.array([5, 0, 3])
    chex.assert_trees_all_equal(source.take(rows).as_float(), memory["train"].series.take(rows))


def test_validation_and_test_may_have_files_of_their_own(tmp_path, path, schema):
    dataset = Arrays(path, schema, validation=path, scored_series=7)
    splits = dataset.load()
    assert splits["validation"].series.batch == 7  # the first ones
    np.testing.assert_array_equal(splits["validation"].series.index, np.arange(7))
    # 0.7 of 0.85 of the series
    assert [splits["train"].series.batch, splits["test"].series.batch] == [33, 7]
    assert Arrays(path, schema, validation=path, test=path).load()["train"].series.batch == COUNT


def test_windows_of_one_series_are_split_by_time(tmp_path):
    values = np.arange(100.0)[None]
    np.savez(tmp_path / "long.npz", x=values)
    dataset = Arrays(str(tmp_path / "long.npz"), window=8)
    splits = dataset.load()
    seen = {}
    for name, split in splits.items():
        undone = dataset.scaling.undo(split.series.values)["x"]
        seen[name] = undone[split.series.observed["x"]].round(3)
    np.testing.assert_array_equal(
        np.concatenate([np.sort(each) for each in seen.values()]), np.arange(100.0)
    )
    assert len(seen["train"]) == 72 and len(seen["validation"]) == 16
    assert "windows of 8 steps: train 9, validation 2, test 2" in dataset.describe()[-1]


def test_windows_of_many_series_are_split_by_series(path, schema):
    dataset = Arrays(path, schema, window=4)
    splits = dataset.load()
    raw = read_npz(path, dataset.modalities, 3)
    owners = {}
    for name, split in splits.items():
        visits = np.asarray(split.series.values["visits"])[:, :, 0]
        whole = raw.values["visits"].reshape(-1, 4)
        places = [np.flatnonzero((whole == row).all(1)) for row in visits]
        owners[name] = {int(each) // 3 for place in places for each in place}
    assert not owners["train"] & owners["validation"] and not owners["train"] & owners["test"]
    assert sum(map(len, owners.values())) == COUNT


def test_tasks_generate_each_modality_from_the_others(path, schema):
    dataset = Arrays(path, schema)
    series = dataset.load()["test"].series
    keep = dataset.tasks["without_label"](None, series)
    shown = series.hide(keep)
    assert not np.asarray(shown.observed["label"]).any()
    np.testing.assert_array_equal(shown.observed["sensor"], series.observed["sensor"])


def test_blocks_of_single_features_are_hidden(path, schema):
    """A quarter of the blocks of an eighth of the steps, at least two: two of the six blocks."""
    dataset = Arrays(path, schema)
    series = dataset.load()["test"].series
    kept = np.asarray(dataset.tasks["fill_blocks"](jax.random.key(0), series)["sensor"])
    blocks = kept.reshape(series.batch, STEPS // 2, 2, 2)
    assert (blocks[:, :, 0] == blocks[:, :, 1]).all()
    np.testing.assert_array_equal((~blocks[:, :, 0]).sum(1), 2)


def test_inputs_of_samples_are_those_of_the_first_training_series(path, schema):
    dataset = Arrays(path, schema)
    train = dataset.load()["train"].series
    np.testing.assert_array_equal(dataset.example_inputs(5), train.inputs[0, :5])
    with pytest.raises(InputError, match="expected at most the 12 steps"):
        dataset.example_inputs(13)


MIXED = ArraySchema(
    {
        "parts": ArrayModality("mixed(normal, poisson, log_normal(size=3.0))"),
        "flags": ArrayModality("bernoulli", 2),
    }
)


def test_parts_of_a_modality_have_sizes_of_their_own(tmp_path):
    values = np.abs(RANDOM.normal(size=(10, 5, 3)))
    values[..., 1] = RANDOM.poisson(300, (10, 5))
    np.savez(tmp_path / "m.npz", parts=values, flags=RANDOM.integers(0, 2, (10, 5, 2)))
    MIXED.save(tmp_path / "schema.json")
    dataset = Arrays(str(tmp_path / "m.npz"), str(tmp_path / "schema.json"))
    likelihood = dataset.modalities[0].likelihood
    assert isinstance(likelihood, Mixed) and dataset.modalities[1].likelihood == Bernoulli()
    assert 280 < likelihood.parts[1].size < 320 and likelihood.parts[2].size == 3
    assert list(dataset.scaling.mean) == ["parts"]
    np.testing.assert_array_equal(dataset.scaling.mean["parts"][1:], 0)
    np.testing.assert_array_equal(dataset.scaling.sd["parts"][1:], 1)
    fitted = dataset.fitted_schema
    fitted.save(tmp_path / "fitted.json")
    assert ArraySchema.load(tmp_path / "fitted.json") == fitted
    assert fitted.without_fit() == MIXED


def test_a_work_directory_keeps_the_schema(tmp_path, path, schema):
    """In use the model needs no training file."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    dataset = Arrays(path, schema)
    assert dataset.in_workdir(workdir) == dataset
    dataset.keep(workdir)
    kept = Arrays("/nowhere.npz").in_workdir(workdir)
    assert kept.modalities == dataset.modalities
    chex.assert_trees_all_equal(kept.scaling.to_dict(), dataset.scaling.to_dict())
    assert Arrays(path, schema).in_workdir(workdir).modalities == dataset.modalities
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**SCHEMA, "inputs": 2}))
    with pytest.raises(InputError, match="got another one: give it as --config.data.schema"):
        Arrays(path, str(other)).in_workdir(workdir)
    content = json.loads((workdir / "schema.json").read_text())
    content["modalities"]["visits"]["likelihood"] = "negative_binomial"
    (workdir / "schema.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="got an edited one: remove mean, sd, sizes and fitted"):
        Arrays(path).in_workdir(workdir)


BAD_SCHEMAS = {
    "no modalities": ({}, "section modalities"),
    "none": ({"modalities": {}}, "at least one modality"),
    "unknown field": ({"modalities": {"x": {"feature": 2}}}, "'x' in modalities: .*got 'feature'"),
    "unknown likelihood": ({"modalities": {"x": {"likelihood": "norm"}}}, "did you mean 'normal'"),
    "image": ({"modalities": {"x": {"image": [8, 8]}}}, "height, width and number of channels"),
    "features of an image": (
        {"modalities": {"x": {"image": [8, 8, 1], "features": 3}}},
        "features=64",
    ),
    "odd image": ({"modalities": {"x": {"image": [9, 9, 1]}}}, "multiples of 8"),
    "inputs": ({"modalities": {"x": {}}, "inputs": -1}, "inputs of at least 0"),
    "fits without a mark": ({"modalities": {"x": {"mean": [1.0], "sd": [1.0]}}}, "edited one"),
}


@pytest.mark.parametrize(("content", "message"), BAD_SCHEMAS.values(), ids=BAD_SCHEMAS.keys())
def test_bad_schemas_are_refused(tmp_path, content, message):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        ArraySchema.load(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


BAD_FILES = {
    "no path": ({}, {"path": ""}, "expected data.path, got none"),
    "no file": ({}, {"path": "nothing.npz"}, "nothing.npz: expected an .npz file that can be read"),
    "no series file": ({}, {"path": "nothing.jdmm"}, "nothing.jdmm: expected a file that can"),
    "texts": ({"x": np.array([["a", "b"]])}, {}, "expected numbers of shape"),
    "one axis": ({"x": np.zeros(3)}, {}, "expected numbers of shape"),
    "few series": ({"x": RANDOM.normal(size=(2, 9))}, {}, "at least one series for"),
    "mask": (
        {"x": np.zeros((9, 9)), "x_observed": np.zeros((9, 8), bool)},
        {},
        r"'x_observed' of shape \(9, 9\)",
    ),
    "lengths": (
        {"x": RANDOM.normal(size=(9, 9)), "lengths": np.array(3)},
        {},
        "expected 9 whole numbers as lengths",
    ),
    "inputs": (
        {"x": RANDOM.normal(size=(9, 9)), "inputs": np.array(3.0)},
        {},
        r"'inputs' of shape \(batch, time, input\), got \(\)",
    ),
    "no series": ({"x": np.zeros((0, 4))}, {}, "expected series of one step or more"),
    "no features": ({"x": np.zeros((4, 4, 0))}, {}, "at least 1 feature"),
    "an empty series": (
        {"x": np.where(np.arange(9)[:, None], RANDOM.normal(size=(9, 9)), np.nan)},
        {},
        "every series to have an observed value",
    ),
    "schema": ({"y": RANDOM.normal(size=(9, 9))}, {"schema": True}, "got 'y'"),
    "shares": ({}, {"shares": (0.5, 0.5, 0.5)}, "positive data.shares with sum 1"),
    "window": ({}, {"window": 1}, "data.window of 0"),
    "scored": ({}, {"scored_series": -1}, "data.scored_series of at least 0"),
}


@pytest.mark.parametrize(("own", "fields", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_files_and_fields_are_refused(tmp_path, monkeypatch, own, fields, message):
    monkeypatch.chdir(tmp_path)
    np.savez("series.npz", **own)
    ArraySchema({"x": ArrayModality()}).save("schema.json")
    if "schema" in fields:
        fields = {**fields, "schema": "schema.json"}
    with pytest.raises(InputError, match=message) as caught:
        Arrays(**{"path": "series.npz", **fields}).load()
    assert "\n" not in str(caught.value)


def test_a_file_of_series_needs_a_schema_for_bytes_and_takes_no_window(tmp_path, path, schema):
    dataset = Arrays(path, schema)
    series = read_npz(path, dataset.modalities, 3)
    pixels = np.zeros(np.shape(series.values["video"]), np.uint8)
    where = str(tmp_path / "all.jdmm")
    write_series(where, series.replace(values={**series.values, "video": pixels}))
    with pytest.raises(InputError, match="expected a schema for modality 'video', whose bytes"):
        Arrays(where).load()
    with pytest.raises(InputError, match="expected data.window=0 for the file of series"):
        Arrays(where, schema, window=4).load()
    ArraySchema({"sensor": ArrayModality(features=2)}, 3).save(tmp_path / "part.json")
    with pytest.raises(InputError, match="all.jdmm: .*got another modality"):
        Arrays(where, str(tmp_path / "part.json")).load()
