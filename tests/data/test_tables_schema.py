"""Schemas as JSON: every field is honoured or refused."""

import dataclasses
import json

import numpy as np
import pytest

from jdmm.data.tables.schema import Column, Schema
from jdmm.data.tables.steps import Step
from jdmm.errors import InputError
from jdmm.likelihoods import Bernoulli, Categorical, Normal

SCHEMA = Schema(
    {
        "a": Column(transform="log"),
        "b": Column(),
        "open": Column("open", "bernoulli"),
        "kind": Column("kind", "categorical", categories=("x", "y", "z")),
    },
    time="time",
    series="station",
    step="1h",
    missing=("NA", -99),
    calendar=("hour", "month"),
)
SCALING = {"a": (1 / 3, 0.1), "b": (-5.0, 2.0)}


@pytest.mark.parametrize("schema", [SCHEMA, SCHEMA.with_scaling(SCALING)])
def test_json_restores_every_bit(tmp_path, schema):
    schema.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == schema
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_modalities_follow_from_the_columns():
    likelihoods = {m.name: (m.features, m.likelihood) for m in SCHEMA.modalities}
    assert likelihoods == {
        "numbers": (2, Normal()),
        "open": (1, Bernoulli()),
        "kind": (1, Categorical(3)),
    }
    assert SCHEMA.inputs == 4


def test_an_edited_schema_does_not_keep_its_scaling(tmp_path):
    path = tmp_path / "schema.json"
    SCHEMA.with_scaling(SCALING).save(path)
    content = json.loads(path.read_text())
    content["columns"]["a"]["transform"] = "none"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="got an edited one: remove mean, sd, size and fitted"):
        Schema.load(path)
    for column in content["columns"].values():
        column.pop("mean", None), column.pop("sd", None)
    content.pop("fitted")
    path.write_text(json.dumps(content))
    assert Schema.load(path).columns["a"] == Column()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepp": 1}, "expected schema fields among .*, got 'stepp'"),
        ({"columns": {}}, "at least one column"),
        ({"columns": {"a": {"kind": 1}}}, "'a' in columns: .*columns.a fields among .* 'kind'"),
        (
            {"columns": {"a": {"likelihood": "posson"}}},
            "'a' in columns: expected a likelihood among .*, got 'posson': did you mean 'poisson'",
        ),
        ({"columns": {"a": {"likelihood": "normal(sd=-1)"}}}, "'a' in columns: .* positive sd"),
        ({"columns": {"a": {"likelihood": "mixed(normal)"}}}, "the likelihood of one column"),
        (
            {"columns": {"a": {"likelihood": "categorical(classes=2)"}}},
            "expected likelihood 'categorical' and categories",
        ),
        ({"columns": {"a": {"transform": "sqrt"}}}, "expected transform among none, log"),
        ({"columns": {"a": {"modality": ""}}}, "expected the name of a modality"),
        ({"columns": {"a": {"modality": "inputs"}}}, "a modality other than 'inputs', got none"),
        (
            {"columns": {"a": {}, "b": {"modality": "inputs", "likelihood": "poisson"}}},
            "expected likelihood 'normal' of a column of 'inputs'",
        ),
        ({"columns": {"a": {"likelihood": "categorical"}}}, "expected categories"),
        ({"columns": {"a": {"categories": ["x", "y"]}}}, "expected categories"),
        (
            {"columns": {"a": {"likelihood": "categorical", "categories": ["x", "x"]}}},
            "two different categories",
        ),
        (
            {"columns": {"a": {"likelihood": "bernoulli", "transform": "log"}}},
            "expected no transform with likelihood 'bernoulli'",
        ),
        (
            {"columns": {"a": {"likelihood": "log_normal", "transform": "log"}}},
            "expected no transform with likelihood 'log_normal'",
        ),
        (
            {"columns": {"a": {"likelihood": "normal(sd=0.1)", "mean": 0.0, "sd": 1.0}}},
            r"expected no mean and sd with likelihood 'normal\(sd=0.1\)'",
        ),
        ({"columns": {"a": {"mean": 0.0}}}, "both mean and sd or neither"),
        ({"columns": {"a": {"size": 2.0}}}, "expected no size with likelihood 'normal'"),
        (
            {"columns": {"a": {"likelihood": "poisson(size=3)", "size": 2.0}}},
            r"expected no size with likelihood 'poisson\(size=3",
        ),
        ({"columns": {"a": {"mean": 0.0, "sd": 0.0}}}, "a positive sd"),
        (
            {"columns": {"a": {}, "b": {"likelihood": "normal_mixture(classes=2)"}}},
            r"its own for column 'b', which is normal_mixture\(classes=2\), got 'numbers'",
        ),
        (
            {
                "columns": {
                    name: {"modality": "m", "likelihood": "categorical", "categories": ["x", "y"]}
                    for name in "ab"
                }
            },
            "a modality of its own for column 'a', which is categorical, got 'm', which 'b' has",
        ),
        ({"step": "1 fortnight"}, "expected a step such as '15min'"),
        ({"step": 0}, "expected a positive step"),
        ({"step": 1}, "a calendar needs time stamps"),
        ({"calendar": ["second"]}, "among hour, weekday, month, got 'second'"),
        ({"variable": "v"}, "both variable and value"),
        ({"series": "time"}, "one use of each column, got 'time' twice"),
        ({"missing": "NA"}, "expected schema.missing to be a list"),
    ],
)
def test_mistakes(tmp_path, changes, message):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps({**SCHEMA.to_dict(), **changes}))
    with pytest.raises(InputError, match=message) as error:
        Schema.load(path)
    assert str(error.value).startswith(f"{path}: ")


def test_files_that_hold_no_schema(tmp_path):
    path = tmp_path / "schema.json"
    for content in ("[1]", "{", '{"columns": 3}'):
        path.write_text(content)
        with pytest.raises(InputError, match=f"{path}: expected a schema"):
            Schema.load(path)
    with pytest.raises(InputError, match="FileNotFoundError"):
        Schema.load(tmp_path / "none.json")


def test_defaults_are_those_of_the_class():
    content = {"columns": {"a": {}}}
    assert Schema.from_dict(content) == Schema({"a": Column()})
    assert dataclasses.asdict(Column())["likelihood"] == "normal"


@pytest.mark.parametrize("text", ["250ms", "15min", "1h", "7d", "1mo", "3mo", 0.5, 4])
def test_cells_of_the_times_of_cells(text):
    step, cells = Step.parse(text), np.arange(-30, 30)
    assert step.text == text
    phase = 0 if step.unit == "mo" else 0.125 if not step.unit else 123456
    np.testing.assert_array_equal(step.cells(step.times(cells, phase), phase), cells)


def test_months_begin_on_their_first_day():
    times = Step.parse("1mo").times(np.array([0, 13]), 0).astype("datetime64[us]")
    assert times.astype("datetime64[D]").astype(str).tolist() == ["1970-01-01", "1971-02-01"]
