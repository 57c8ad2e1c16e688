"""Tables on their grid and back: hand-made grids, numpy means, and round trips."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from jdmm.data.tables.schema import Column, Schema
from jdmm.data.tables.table import read_table
from jdmm.errors import InputError

DAY = ["2024-05-01 00:00", "2024-05-01 01:00", "2024-05-01 02:00", "2024-05-01 03:00"]


def fake_prediction(table, draws=400, seed=0):
    """Samples of scaled values, and probabilities, of every modality of the schema."""
    rng = np.random.default_rng(seed)
    shape = table.series.batch, table.series.num_steps
    samples, probabilities = {}, {}
    for name, columns in table.schema.groups.items():
        first = table.schema.columns[columns[0]]
        if first.likelihood == "categorical":
            raw = rng.random((*shape, 1, len(first.categories)))
            probabilities[name] = raw / raw.sum(-1, keepdims=True)
        elif first.likelihood == "bernoulli":
            samples[name] = rng.integers(0, 2, (draws, *shape, len(columns))).astype(np.float32)
        else:
            samples[name] = rng.normal(size=(draws, *shape, len(columns))).astype(np.float32)
    expected = {name: values.mean(0) for name, values in samples.items()}
    return SimpleNamespace(expected=expected, samples=samples, probabilities=probabilities)


def test_the_grid_of_irregular_stamps_and_rates():
    frame = pl.DataFrame(
        {
            "time": [0.0, 1.1, 0.9, 3.0, 2.9, 6.0],
            "fast": [1.0, 2.0, 4.0, 5.0, None, 7.0],
            "kind": ["x", "y", "x", "y", "x", None],
        }
    )
    schema = Schema(
        {"fast": Column(), "kind": Column("kind", "categorical", categories=("x", "y"))},
        time="time",
        step=1,
    )
    table = read_table(frame, schema)
    nan = np.nan
    fast = table.grid.values["numbers"][:, 0] + table.grid.offset["fast"]
    np.testing.assert_allclose(fast, [1, 3, nan, 5, nan, nan, 7])  # 3 is the mean of 4 and 2
    np.testing.assert_array_equal(table.grid.values["kind"][:, 0], [0, 1, nan, 1, nan, nan, nan])
    account = table.account
    assert (account.rows, account.cells, account.averaged, account.unsorted) == (6, 7, 4, 2)
    assert account.missing == {"fast": 3, "kind": 4}


def test_scaled_series_have_mean_0_and_sd_1():
    rng = np.random.default_rng(0)
    raw = {"a": 1e6 + rng.normal(size=200), "b": np.exp(3 + 2 * rng.normal(size=200))}
    raw["c"] = rng.normal(size=200) ** 2
    schema = Schema({"a": Column(), "b": Column(transform="log"), "c": Column(transform="root")})
    table = read_table(pl.DataFrame(raw), schema)
    values = table.series.values["numbers"][0]
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(0), 1, rtol=1e-5)
    column = table.schema.columns["b"]
    np.testing.assert_allclose(column.scale, [np.log(raw["b"]).mean(), np.log(raw["b"]).std()])
    column = table.schema.columns["c"]
    np.testing.assert_allclose(column.scale, [np.sqrt(raw["c"]).mean(), np.sqrt(raw["c"]).std()])
    expected = (raw["a"] - raw["a"].mean()) / raw["a"].std()
    np.testing.assert_allclose(values[:, 0], expected, atol=2e-5)  # also far from 0


def test_series_of_different_lengths_in_one_table():
    frame = pl.DataFrame(
        {
            "id": ["p", "q", "q", "p", "q"],
            "time": [0, 5, 6, 1, 8],
            "a": [1.0, 2.0, 3.0, 4.0, 5.0],
        }
    )
    table = read_table(frame)
    assert table.names == ["p", "q"] and table.lengths.tolist() == [2, 4]
    observed = table.series.observed["numbers"][..., 0]
    np.testing.assert_array_equal(observed, [[True, True, False, False], [True, True, False, True]])
    assert table.extend(1, 2).times(1).to_list() == [4, 5, 6, 7, 8, 9, 10]


def test_windows_are_parts_of_the_series():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"time": np.arange(50), "a": rng.normal(size=50), "b": rng.random(50)})
    table = read_table(frame).extend(2, 3)
    whole = table.series.values["numbers"][0]
    start, lengths = np.array([0, 10, 47]), np.array([8, 8, 8])
    parts = table.cut(np.zeros(3, int), start, lengths)
    for row, first in enumerate(start):
        np.testing.assert_array_equal(parts.values["numbers"][row], whole[first : first + 8])
    assert not parts.observed["numbers"][0, :2].any() and not parts.observed["numbers"][2, 5:].any()
    assert parts.lengths.tolist() == [8, 8, 8]


def test_the_calendar_is_known_everywhere():
    frame = pl.DataFrame({"time": DAY, "a": [1.0, None, 2.0, 3.0]})
    schema = Schema({"a": Column()}, "time", step="1h", calendar=("hour", "weekday", "month"))
    table = read_table(frame, schema).extend(after=21)
    assert list(table.series.values) == ["numbers"]
    calendar = table.series.inputs[0]
    assert calendar.shape == (25, 6)
    hour = 2 * np.pi * np.arange(25) / 24
    np.testing.assert_allclose(calendar[:, 0], np.sin(hour), atol=1e-6)
    np.testing.assert_allclose(calendar[:, 1], np.cos(hour), atol=1e-6)
    week = 2 * np.pi * (2 + np.arange(25) / 24) / 7  # 1 May 2024 is a Wednesday
    np.testing.assert_allclose(calendar[:, 2], np.sin(week), atol=1e-6)
    year = 2 * np.pi * (121 + np.arange(25) / 24) / 366
    np.testing.assert_allclose(calendar[:, 5], np.cos(year), atol=1e-6)


def test_columns_of_inputs_are_scaled_beside_the_calendar():
    plan = [3.0, 5.0, 4.0, 8.0]
    frame = pl.DataFrame({"time": DAY, "a": [1.0, None, 2.0, 3.0], "plan": plan})
    columns = {"plan": Column("inputs"), "a": Column()}
    table = read_table(frame, Schema(columns, "time", step="1h", calendar=("hour",)))
    assert [m.name for m in table.schema.modalities] == ["numbers"] and table.schema.inputs == 3
    np.testing.assert_allclose(table.series.inputs[0, :, 0], (np.array(plan) - 5) / np.std(plan))
    cut = table.cut(np.zeros(2, int), np.array([0, 2]), np.array([3, 2]))
    np.testing.assert_array_equal(cut.inputs[1, :2], table.series.inputs[0, 2:])
    assert not cut.inputs[1, 2:].any()
    with pytest.raises(InputError, match="inputs plan are not known there, got before=0, after=2"):
        table.extend(after=2)
    late = frame.with_columns(plan=pl.Series([3.0, 5.0, None, 8.0]))
    with pytest.raises(InputError, match="column 'plan' at 2024-05-01T02:00.*1 of 4 steps"):
        read_table(late, table.schema)


@pytest.mark.parametrize(
    ("transform", "backward"), [("log", np.exp), ("root", lambda x: np.maximum(x, 0) ** 2)]
)
def test_predictions_are_in_the_units_of_the_table(transform, backward):
    rng = np.random.default_rng(1)
    frame = pl.DataFrame({"a": 50 + 3 * rng.normal(size=30), "b": np.exp(rng.normal(size=30))})
    frame = frame.with_columns(pl.when(pl.int_range(30) % 3 > 0).then(pl.all()))
    schema = Schema({"a": Column(), "b": Column(transform=transform)})
    table = read_table(frame, schema)
    prediction = fake_prediction(table)
    found = table.to_frame(prediction, (0.5, 0.95))
    for place, name in enumerate("ab"):
        mean, sd = table.schema.columns[name].scale
        own = mean + sd * prediction.samples["numbers"][:, 0, :, place].astype(float)
        if name == "b":
            # quantiles pass through the transform; between two samples it is not linear
            seen, own = own, backward(own)
            median = backward(np.median(seen, 0))
            np.testing.assert_allclose(found["b_median"], median, rtol=1e-5)
        np.testing.assert_allclose(found[f"{name}_mean"], own.mean(0), rtol=1e-5)
        for level in (0.5, 0.95):
            tails = np.quantile(own, [(1 - level) / 2, (1 + level) / 2], 0, method="weibull")
            for end, bound in zip(("lower", "upper"), tails, strict=True):
                column = found[f"{name}_{end}_{100 * level:g}"]
                np.testing.assert_allclose(
                    column,
                    bound,
                    **({"rtol": 1e-2, "atol": 1e-3} if name == "b" else {"rtol": 1e-5}),
                )
        known = frame[name].is_not_null()
        assert (found[name].filter(known) == frame[name].filter(known)).all()
        fill = found[f"{name}_{'median' if name == 'b' else 'mean'}"]
        assert (found[name].filter(~known) == fill.filter(~known)).all()


def test_observed_values_and_stamps_stay_as_they_were_read(tmp_path):
    rng = np.random.default_rng(2)
    frame = pl.DataFrame(
        {
            "station": ["n"] * 5 + ["s"] * 3,
            "time": [
                f"2024-03-31T{hour:02d}:00:00+0{1 + (hour > 2)}:00" for hour in (0, 1, 3, 5, 9)
            ]
            + [f"2024-03-31T{hour:02d}:30:00+02:00" for hour in (3, 4, 6)],
            "a": [None, *rng.random(6).tolist(), -999.0],
            "open": [True, None, False, True, None, False, True, True],
            "kind": ["x", None, "y", "x", "y", None, "x", "x"],
            "count": [1, 2, None, 4, 5, 6, 7, 8],
            "note": [f"remark {number}" for number in range(8)],
        }
    )
    schema = Schema(
        {
            "a": Column(),
            "count": Column(),
            "open": Column("open", "bernoulli"),
            "kind": Column("kind", "categorical", categories=("x", "y")),
        },
        "time",
        "station",
        step="1h",
        missing=(-999.0,),
    )
    table = read_table(frame.sample(fraction=1.0, shuffle=True, seed=1), schema).extend(1, 2)
    prediction = fake_prediction(table)
    found = table.to_frame(prediction)
    kept = found.join(frame, on=["station", "time"], how="inner", suffix="_read")
    assert kept.height == 8
    for name in ("open", "kind", "count", "note"):
        known = kept[f"{name}_read"].is_not_null()
        assert (kept[name].filter(known) == kept[f"{name}_read"].filter(known)).all()
    known = kept["a_read"].is_not_null() & (kept["a_read"] != -999.0)
    assert known.sum() == 6
    assert (kept["a"].filter(known) == kept["a_read"].filter(known)).all()
    assert (kept["a"].filter(~known) == kept["a_mean"].filter(~known)).all()
    assert found.select("a", "count", "open", "kind").null_count().sum_horizontal().item() == 0
    assert found["open"].dtype == pl.Boolean and found["count"].dtype == pl.Float64
    # before: one hour earlier; gaps: summer time begins at 2; after: two more hours
    north = found.filter(station=table.names[0] if table.names[0] == "n" else "n")["time"].to_list()
    assert north == [
        "2024-03-30T23:00:00+01:00",
        "2024-03-31T00:00:00+01:00",
        "2024-03-31T01:00:00+01:00",
        "2024-03-31T03:00:00+02:00",
        "2024-03-31T04:00:00+02:00",
        "2024-03-31T05:00:00+02:00",
        "2024-03-31T06:00:00+02:00",
        "2024-03-31T07:00:00+02:00",
        "2024-03-31T08:00:00+02:00",
        "2024-03-31T09:00:00+02:00",
        "2024-03-31T10:00:00+02:00",
        "2024-03-31T11:00:00+02:00",
    ]
    mode = prediction.probabilities["kind"][table.names.index("n"), 0, 0].argmax()
    first = found.filter(station="n").row(0, named=True)
    assert first["kind"] == first["kind_mode"] == "xy"[mode] and first["note"] is None
    assert (
        first["kind_probability"]
        == prediction.probabilities["kind"][table.names.index("n"), 0, 0, mode]
    )


@pytest.mark.parametrize(
    ("times", "new"),
    [
        (pl.Series(["2024-01-01", "2024-01-03"]).str.to_date(), "2024-01-02"),
        (pl.Series(["01.01.2024", "03.01.2024"]), "02.01.2024"),
        (pl.Series([2, 4]), "3"),
        (pl.Series([0.5, 1.5]), "1.0"),
        (
            pl.Series(["2024-01-01", "2024-01-03"])
            .str.to_datetime()
            .dt.replace_time_zone("Europe/Berlin"),
            "2024-01-02 00:00:00+01:00",
        ),
    ],
)
def test_new_stamps_are_written_as_the_others_are(times, new):
    step = {"2024-01-02": "1d", "3": 1, "1.0": 0.5}.get(new, "1d")
    frame = pl.DataFrame({"time": times, "a": [1.0, 2.0]})
    table = read_table(frame, Schema({"a": Column()}, "time", step=step))
    found = table.to_frame(fake_prediction(table))
    assert found["time"].dtype == times.dtype and str(found["time"][1]) == new


def test_several_rows_of_one_step_keep_their_stamps():
    frame = pl.DataFrame({"time": [0.0, 1.0, 1.25, 2.0], "a": [1.0, 2.0, None, 4.0]})
    table = read_table(frame, Schema({"a": Column()}, "time", step=1))
    found = table.to_frame(fake_prediction(table))
    assert found["time"].to_list() == frame["time"].to_list()
    assert found["a_mean"][1] == found["a_mean"][2] == found["a"][2] and found["a"][1] == 2.0


def test_columns_whose_names_begin_alike():
    frame = pl.DataFrame({"a": [1.0, 2.0, None], "a_lower": [3.0, None, 4.0]})
    table = read_table(frame)
    found = table.to_frame(fake_prediction(table))
    assert found.columns[2:6] == ["a_mean", "a_median", "a_lower_95", "a_upper_95"]
    assert found.columns[6:] == [
        f"a_lower_{end}" for end in ("mean", "median", "lower_95", "upper_95")
    ]


def test_predictions_that_do_not_fit():
    table = read_table(pl.DataFrame({"a": [1.0, 2.0, None]}))
    prediction = fake_prediction(table)
    with pytest.raises(InputError, match=r"\(series, step\) \(1, 5\), got \(1, 3\)"):
        table.extend(after=2).to_frame(prediction)
    with pytest.raises(InputError, match="levels between 0 and 1, such as 0.95, got 95"):
        table.to_frame(prediction, (95,))
    with pytest.raises(InputError, match="expected different levels, got 0.5 twice"):
        table.to_frame(prediction, (0.5, 0.5))
    prediction.samples = {}
    with pytest.raises(InputError, match="predict with return_samples=True"):
        table.to_frame(prediction)
    with pytest.raises(InputError, match="at least 0, got before=-1"):
        table.extend(before=-1)
    taken = read_table(pl.DataFrame({"a": [1.0, 2.0], "a_mean": [0.0, 1.0]}))
    with pytest.raises(InputError, match="expected no column 'a_mean', the name of predictions"):
        taken.check_output()
    hours = Schema({"a": Column()}, "time", step="12h")
    frame = pl.DataFrame({"time": ["2024-01-01", "2024-01-02"], "a": [1.0, 2.0]})
    dates = read_table(frame.with_columns(pl.col("time").str.to_date()), hours)
    with pytest.raises(InputError, match="a step of whole days"):
        dates.to_frame(fake_prediction(dates))


def test_a_given_scaling_is_used():
    schema = Schema({"a": Column()}).with_scaling({"a": (10.0, 2.0)})
    table = read_table(pl.DataFrame({"a": [10.0, 12.0, 8.0]}), schema)
    np.testing.assert_allclose(table.series.values["numbers"][0, :, 0], [0, 1, -1], atol=1e-6)
    assert table.schema == dataclasses.replace(schema)
