"""From a user's file to the filled one."""

import json
import runpy
from pathlib import Path

import command_lines
import numpy as np
import polars as pl
import pytest

from configs import files
from jdmm.data.npz import write_npz
from jdmm.data.tables.table import read_table
from jdmm.errors import InputError
from jdmm.experiments import run
from jdmm.experiments.tables import stretches_of

ROOT = Path(__file__).parents[2]

HOURS = 120


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Hourly values with gaps, some of them without a row."""
    rng = np.random.default_rng(0)
    hour = np.arange(HOURS)
    a = 20 + 5 * np.sin(2 * np.pi * hour / 24) + 0.1 * rng.normal(size=HOURS)
    b = np.exp(0.3 * (a - 20) + 0.1 * rng.normal(size=HOURS))
    stamps = np.datetime64("2024-01-01T00:00") + hour.astype("timedelta64[h]")
    frame = pl.DataFrame({"time": np.char.replace(stamps.astype(str), "T", " "), "a": a, "b": b})
    frame = frame.with_columns(k=pl.Series(np.where(a > 20, "high", "low")))
    hidden = {name: pl.Series(rng.random(HOURS) < 0.2) for name in "abk"}
    frame = frame.with_columns(
        pl.when(~hidden[name]).then(pl.col(name)).alias(name) for name in "abk"
    )
    frame = frame.filter((pl.int_range(HOURS) < 50) | (pl.int_range(HOURS) > 54))
    path = tmp_path_factory.mktemp("files") / "table.csv"
    frame.write_csv(path)
    return path


def config_of(source, preset):
    config = files.get_config(preset)
    config.data.path = str(source)
    config.data.window = 16
    return config


@pytest.fixture(scope="module")
def interpolated(source, tmp_path_factory):
    """A finished run of the baseline, on the numbers alone, with a logarithm."""
    folder = tmp_path_factory.mktemp("interpolated")
    schema = {
        "columns": {"a": {}, "b": {"transform": "log"}},
        "time": "time",
        "step": "1h",
    }
    (folder / "schema.json").write_text(json.dumps(schema))
    config = config_of(source, "interpolate")
    config.data.schema = str(folder / "schema.json")
    run.train_and_evaluate(config, folder / "run")
    return folder / "run"


def test_the_best_model_fills_a_table(source, tmp_path, capsys):
    config = config_of(source, "smoke")
    config.eval.tasks = ("fill_10", "forecast")
    results = run.train_and_evaluate(config, tmp_path / "run")
    assert "guessed schema: time 'time', step 1h, calendar hour" in capsys.readouterr().out
    assert set(results["tasks"]) == {"fill_10", "forecast"}
    figures = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"fill_10.png", "forecast.png"} <= figures
    output = tmp_path / "filled.csv"
    run.infer_table(tmp_path / "run", source, output, after=24, levels=(0.5, 0.8))
    found, read = pl.read_csv(output), pl.read_csv(source)
    assert found.height == HOURS + 24
    assert found["time"].to_list()[HOURS - 1 :: 24] == ["2024-01-05 23:00", "2024-01-06 23:00"]
    kept = found.join(read, on="time", suffix="_read")
    assert kept.height == read.height
    for name in "abk":
        known = kept.filter(pl.col(f"{name}_read").is_not_null())
        assert (known[name] == known[f"{name}_read"]).all()
        assert found[name].null_count() == 0
    assert set(found["k"]) == {"high", "low"} and found["k_probability"].is_between(0.5, 1).all()
    for name in "ab":
        inner = found[f"{name}_upper_50"] - found[f"{name}_lower_50"]
        outer = found[f"{name}_upper_80"] - found[f"{name}_lower_80"]
        assert (inner > 0).all() and (outer > inner).all()
    assert (tmp_path / "run" / "figures" / "filled.png").stat().st_size > 0
    samples = run.sample_workdir(tmp_path / "run", 3, HOURS + 8)  # the hours go on after the table
    assert samples["numbers"].shape == (3, HOURS + 8, 2)


def test_a_column_of_inputs_drives_and_is_not_predicted(source, tmp_path):
    columns = {"a": {}, "b": {"modality": "inputs", "transform": "log"}}
    schema = {"columns": columns, "time": "time", "step": "1h", "calendar": ["hour"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    known = pl.read_csv(source).select("time", "a", "b").with_columns(pl.col("b").interpolate())
    known = known.with_columns(pl.col("b").fill_null(strategy="backward")).head(48)
    known.write_csv(tmp_path / "known.csv")
    config = config_of(tmp_path / "known.csv", "linear")
    config.data.schema = str(tmp_path / "schema.json")
    run.train_and_evaluate(config, tmp_path / "run")
    run.infer_table(tmp_path / "run", tmp_path / "known.csv", tmp_path / "filled.csv")
    found = pl.read_csv(tmp_path / "filled.csv")
    assert found["a"].null_count() == 0 and "a_upper_95" in found.columns
    np.testing.assert_allclose(found["b"], known["b"])
    assert not [name for name in found.columns if name.startswith("b_")]
    with pytest.raises(InputError, match="inputs b are not known there"):
        run.infer_table(tmp_path / "run", tmp_path / "known.csv", tmp_path / "o.csv", after=1)
    with pytest.raises(InputError, match="inputs b are not known there"):
        run.sample_workdir(tmp_path / "run", 1, 49)
    gap = known.with_columns(pl.when(pl.int_range(48) != 7).then("b").alias("b"))
    gap.write_csv(tmp_path / "gap.csv")
    with pytest.raises(InputError, match="gap.csv: .* none in column 'b' at 2024-01-01T07:00"):
        run.infer_table(tmp_path / "run", tmp_path / "gap.csv", tmp_path / "o.csv")
    assert not (tmp_path / "o.csv").exists()


def test_the_baseline_interpolates_in_the_units_of_the_table(source, interpolated, tmp_path):
    run.infer_table(interpolated, source, tmp_path / "filled.parquet")
    found, read = pl.read_parquet(tmp_path / "filled.parquet"), pl.read_csv(source)
    whole = found.select("time").join(read, on="time", how="left")
    log = pl.col("b").log()
    # the values in between; beyond the last ones the baseline carries on
    lines = whole.select(
        pl.col("a").interpolate(), log.interpolate().exp().alias("b")
    ).with_row_index()
    inner = lines.drop_nulls()
    rows = inner["index"].to_numpy()
    np.testing.assert_allclose(found["a_mean"].to_numpy()[rows], inner["a"], rtol=1e-3)
    np.testing.assert_allclose(found["b_median"].to_numpy()[rows], inner["b"], rtol=0.2)
    missing = whole["b"].is_null()
    assert (found["b"].filter(missing) == found["b_median"].filter(missing)).all()


def test_the_same_work_directory_goes_on_without_the_schema_it_was_given(source, interpolated):
    config = config_of(source, "interpolate")
    again = run.train_and_evaluate(config, interpolated)
    assert again["config"]["data"]["schema"] == ""
    kept = json.loads((interpolated / "schema.json").read_text())
    assert kept["columns"]["b"]["transform"] == "log" and kept["columns"]["b"]["sd"] > 0


@pytest.mark.parametrize(
    ("rows", "output", "options", "message"),
    [
        ({"time": ["2024-01-01 00:00"], "a": [1.0]}, "o.csv", {}, "expected a column 'b'"),
        (
            {"time": ["2024-01-01 00:00"], "a": [1.0], "b": [-1.0]},
            "o.csv",
            {},
            "positive number for its logarithm in row 1, column 'b'",
        ),
        (
            {"time": ["2024-01-01 00:00"], "a": [1.0], "b": [1.0], "b_mean": [1.0]},
            "o.csv",
            {},
            "expected no column 'b_mean'",
        ),
        ({"a": [1.0]}, "o.csv", {"levels": (95.0,)}, "expected a column 'time'"),
        (
            {"time": ["2024-01-01 00:00"], "a": [1.0], "b": [1.0]},
            "o.csv",
            {"levels": (95.0,)},
            "expected levels between 0 and 1",
        ),
        ({"a": [1.0]}, "o.xlsx", {}, "ends with .csv or .parquet"),
        ({"a": [1.0]}, "none/o.csv", {}, "expected a folder that exists"),
    ],
)
def test_bad_input_writes_nothing(interpolated, tmp_path, rows, output, options, message):
    pl.DataFrame(rows).write_csv(tmp_path / "in.csv")
    with pytest.raises(InputError, match=message):
        run.infer_table(interpolated, tmp_path / "in.csv", tmp_path / output, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_arrays_are_no_table(interpolated, tmp_path):
    write_npz(tmp_path / "in.npz", {"numbers": np.zeros((1, 4, 2))})
    with pytest.raises(InputError, match="an --output that ends with .csv or .parquet"):
        run.infer_file(interpolated, tmp_path / "in.npz", tmp_path / "out.npz")


def test_columns_of_an_npz_file_are_a_table(interpolated, tmp_path):
    stamps = np.array(["2024-01-01 00:00", "2024-01-01 02:00"])
    write_npz(tmp_path / "in.npz", {"time": stamps, "a": np.zeros(2), "b": np.ones(2)})
    run.infer_table(interpolated, tmp_path / "in.npz", tmp_path / "out.csv", before=1)
    assert pl.read_csv(tmp_path / "out.csv")["time"].to_list() == [
        "2023-12-31 23:00",
        "2024-01-01 00:00",
        "2024-01-01 01:00",
        "2024-01-01 02:00",
    ]


AIR = "--config.data.path=docs/data/air.csv"
MISTAKES = [
    (["--mode=infer", "--input=i.csv", "--output=o.csv", "--levels=x"], "--levels such as 0.5"),
    (["--mode=infer", "--input=i.npz", "--output=o.npz", "--levels=0.5"], "a table only"),
    (["--config=configs/files.py"], "expected data.path, got none"),
    (["--config=configs/files.py", "--config.data.path=none.csv"], "none.csv: expected a file"),
    (
        ["--config=configs/files.py", AIR, "--config.data.schema=none.json"],
        "none.json: expected a schema in JSON",
    ),
    (
        ["--config=configs/files.py:linear", AIR],
        "expected a Normal likelihood in modality 'weather'",
    ),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Work directory, exit status and standard error of main.py for each of the mistakes."""
    folder = tmp_path_factory.mktemp("mistakes")
    workdirs = [folder / str(number) for number in range(len(MISTAKES))]
    given = [
        [f"--workdir={workdir}", *options]
        for workdir, (options, _) in zip(workdirs, MISTAKES, strict=True)
    ]
    return list(zip(workdirs, command_lines.outcomes(given), strict=True))


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=lambda n: " ".join(MISTAKES[n][0]))
def test_mistakes_on_the_command_line_print_one_line(outcomes, number):
    workdir, (status, error) = outcomes[number]
    assert status == 2 and MISTAKES[number][1] in error
    assert len(error.splitlines()) == 1 and not workdir.exists()


def test_the_example_is_what_its_script_makes():
    made = runpy.run_path(str(ROOT / "docs" / "data" / "make_air.py"))["make"]()
    path = ROOT / "docs" / "data" / "air.csv"
    assert made == path.read_text().splitlines() and path.stat().st_size < 200_000
    table = read_table(path, ROOT / "docs" / "data" / "air.json")
    assert table.grid.starts[-1] == 2016
    assert {name for name, own in table.schema.columns.items() if own.transform == "log"} == {
        "wind",
        "no2",
    }


def test_figures_of_long_series_show_the_longest_gaps():
    values = np.random.default_rng(0).normal(size=(2000, 2))
    values[rows := np.r_[320:360, 1500:1600], 0] = np.nan
    values[900, 1] = np.nan
    table = read_table(pl.DataFrame({"a": values[:, 0], "b": values[:, 1]})).extend(after=150)
    stretches = stretches_of(table, 0)
    assert len(stretches) == 3
    shown = np.concatenate([np.arange(part.start, part.stop) for part in stretches])
    assert len(set(shown)) == len(shown) == 600 and shown.max() < 2150
    assert set(rows) | set(range(2000, 2150)) <= set(shown)
    short = read_table(pl.DataFrame({"a": values[:100, 1]}))
    assert stretches_of(short, 0) == [slice(0, 100)]
