"""Reading tables: the same values from every form, and one line for each kind of bad input."""

import datetime

import numpy as np
import polars as pl
import pytest

from jdmm.data.tables.schema import Column, Schema
from jdmm.data.tables.table import read_table, write_table
from jdmm.errors import InputError

HOURS = [f"2024-01-01 {hour:02d}:00" for hour in range(4)]
ROWS = pl.DataFrame({"time": HOURS, "a": [1.5, None, 2.5, 4.0], "kind": ["x", "y", None, "x"]})


def text(frame, **options):
    return frame.write_csv(**options)


def csv_file(tmp_path, content, name="table.csv"):
    path = tmp_path / name
    path.write_text(content)
    return path


def numbers(table, column="a"):
    """The values of a column on the grid."""
    modality = table.schema.columns[column].modality
    place = table.schema.groups[modality].index(column)
    return table.grid.values[modality][:, place] + table.grid.offset.get(column, 0.0)


def test_all_forms_hold_the_same_table(tmp_path):
    expected = [1.5, np.nan, 2.5, 4.0]
    path = csv_file(tmp_path, text(ROWS))
    ROWS.write_parquet(tmp_path / "table.parquet")
    numeric = {"t": np.arange(4), "a": np.array(expected)}
    np.savez(tmp_path / "table.npz", **numeric)
    sources = [
        path,
        str(path),
        csv_file(tmp_path, text(ROWS, separator=";"), "semicolons.csv"),
        csv_file(tmp_path, text(ROWS, separator="\t"), "tabs.csv"),
        csv_file(tmp_path, text(ROWS, separator=";").replace(".", ","), "commas.csv"),
        csv_file(tmp_path, text(ROWS, null_value="NA"), "words.csv"),
        csv_file(tmp_path, text(ROWS, null_value="NaN"), "nan.csv"),
        tmp_path / "table.parquet",
        tmp_path / "table.npz",
        ROWS,
        ROWS.lazy(),
        ROWS.with_columns(pl.col("time").str.to_datetime("%Y-%m-%d %H:%M")),
    ]
    for source in sources:
        np.testing.assert_allclose(numbers(read_table(source)), expected)


def test_a_long_table_is_the_wide_one():
    wide = ROWS.select("time", "a").with_columns(b=pl.lit(1.0) + pl.int_range(4))
    long = wide.unpivot(index="time").drop_nulls().sample(fraction=1.0, shuffle=True, seed=0)
    table = read_table(long)
    assert table.schema.variable == "variable" and list(table.schema.columns) == ["a", "b"]
    for name in ("a", "b"):
        expected = wide[name].cast(pl.Float64).to_numpy()
        np.testing.assert_allclose(numbers(table, name), expected)
    again = read_table(long, table.schema)
    np.testing.assert_allclose(numbers(again), numbers(table))


def test_pandas_frames_with_an_index_of_times():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.5, None, 2.5, 4.0]}, index=pandas.to_datetime(HOURS))
    table = read_table(frame)
    assert table.schema.step == "1h"
    np.testing.assert_allclose(numbers(table), [1.5, np.nan, 2.5, 4.0])


def test_the_guess_names_times_series_categories_and_what_is_left_out():
    frame = pl.DataFrame(
        {
            "station": ["n", "n", "s", "s"] * 2,
            "when": [HOURS[number // 4] for number in range(8)],
            "variant": ["p", "q"] * 4,
            "no2": [1.0, 2.0, -999.0, 3.0, 2.0, 1.0, 2.5, 3.5],
            "raining": [True, False] * 4,
            "empty": pl.Series([None] * 8, dtype=pl.Float64),
            "fixed": [7] * 8,
            "note": [f"text {number}" for number in range(8)],
        }
    ).filter(pl.col("variant") == "p")
    table = read_table(frame)
    schema = table.schema
    assert (schema.time, schema.series, schema.step) == ("when", "station", "1h")
    assert schema.columns["no2"].likelihood == "normal"
    assert schema.missing[-1] == -999.0
    assert "raining" not in schema.columns and "note" in schema.columns  # the filter left one value
    notes = "\n".join(table.account.lines())
    assert "column 'no2': -999 means missing" in notes
    assert "column 'empty' is left out: all of it is missing" in notes
    assert "column 'fixed' is left out: it is always 7" in notes


def test_999_is_a_value_among_others_like_it():
    frame = pl.DataFrame({"a": [-999.0, -998.0, -500.0, 3.0]})
    assert -999.0 not in read_table(frame).schema.missing


def test_many_texts_are_no_categories():
    frame = pl.DataFrame({"a": np.arange(60.0), "name": [f"n{number}" for number in range(60)]})
    table = read_table(frame)
    assert list(table.schema.columns) == ["a"]
    assert "more than 50 categories" in table.account.lines()[2]


@pytest.mark.parametrize(
    ("stamps", "step"),
    [
        (["2024-01-01", "2024-01-02", "2024-01-03"], "1d"),
        (["01.02.2024 10:00", "01.02.2024 10:15", "13.02.2024 10:30"], "15min"),
        (["2024-01-31", "2024-02-29", "2024-03-31"], "1mo"),
        (["2024-01-01", "2024-01-31", "2024-03-01"], "30d"),
        (["2024-01-01T00:00:00.5Z", "2024-01-01T00:00:01Z", "2024-01-01T00:00:01.5Z"], "500ms"),
        ([0, 10, 20], 10),
        ([0.0, 0.25, 0.5], 0.25),
    ],
)
def test_steps_are_the_commonest_difference(stamps, step):
    table = read_table(pl.DataFrame({"time": stamps, "a": [1.0, 2.0, 3.0]}))
    assert table.schema.step == step


def test_stamps_with_offsets_are_the_same_instants_as_in_utc():
    local = ["2024-03-31T01:00:00+01:00", "2024-03-31T03:00:00+02:00", "2024-03-31T04:00:00+02:00"]
    table = read_table(pl.DataFrame({"time": local, "a": [1.0, 2.0, 3.0]}))
    expected = np.arange(3) * 3600 * 10**6 + int(
        datetime.datetime(2024, 3, 31, tzinfo=datetime.UTC).timestamp() * 1e6
    )
    np.testing.assert_array_equal(table.grid.times(np.array(0), np.arange(3)), expected)
    autumn = ["2024-10-27T02:00:00+02:00", "2024-10-27T02:00:00+01:00"]
    table = read_table(pl.DataFrame({"time": autumn, "a": [1.0, 2.0]}))
    assert table.schema.step == "1h" and table.grid.counts.tolist() == [2]


SCHEMA = Schema(
    {"a": Column(), "kind": Column("kind", "categorical", categories=("x", "y"))}, "time", step="1h"
)


@pytest.mark.parametrize(
    ("content", "schema", "message"),
    [
        ("", None, "expected a line of column names, got an empty file"),
        ("time,a\n", None, "expected rows and columns, got 0 rows"),
        ("time,a\n0,1\n1,2,3\n", None, "expected a csv file, got: ComputeError"),
        ("time,a,b\n0,1,2\n1,2,3\n2,3", None, "expected 3 cells in the last row, got 2"),
        (
            "time,a\n0,1\n1,2\n2,oops\n3,4\n",
            None,
            "expected a number in row 3, column 'a', got 'oops'",
        ),
        ("time,a\n0,1\n1,inf\n", None, "expected a finite number in row 2, column 'a', got inf"),
        ("time,a\n0,1\n1,2\n1,3\n", None, "got 1 in rows 2 and 3, column 'time': remove one"),
        (
            "time,a\n2024-10-27 02:00,1\n2024-10-27 02:00,2\n2024-10-27 03:00,3\n",
            None,
            "local time repeats an hour in autumn: write stamps with their offset",
        ),
        ("time,a\n0,1\n,2\n2,3\n", None, "expected a time stamp in every row, got none in row 2"),
        (
            "time,a\n2024-01-01,1\n2024-13-01,2\n",
            SCHEMA,
            "expected a column 'kind', got time, a",
        ),
        (
            "time,a\n2024-01-01,1\n2024-01-02,2\n2024-13-03,3\n",
            None,
            "expected a time stamp such as 2024-01-01 in row 3, column 'time', got '2024-13-03'",
        ),
        (
            "time,a,kind\nmonday,1,x\ntuesday,2,y\n",
            SCHEMA,
            "expected stamps such as 2024-12-31 23:00 in column 'time', got 'monday'",
        ),
        (
            "time,a,kind\n2024-01-01 00:00,1,x\n2024-01-01 01:00,2,z\n",
            SCHEMA,
            "expected a category among x, y in row 2, column 'kind', got 'z'",
        ),
        ("time,a,kind\n2024-01-01 00:00,,\n", SCHEMA, "got none: everything is missing"),
        ("time,a\n0,\n1,\n", None, "expected a column of numbers or categories that vary"),
        ("time,a,kind\n0,1,x\n1,2,y\n", SCHEMA, "expected a step such as '1h' for time stamps"),
        (
            "time,a\n01/02/2024,1\n02/02/2024,2\n",
            None,
            "day and month can be told apart in column 'time'",
        ),
        (
            "time,a\n2024-01-01 00:00,1\n2024-01-01 00:01,2\n2094-01-01 00:00,2\n",
            None,
            "expected stamps without large gaps, got 3 rows on a grid of",
        ),
        (
            "hour,a\n0,1\n1,2\n0,3\n1,oops\n",
            None,
            "expected a number in row 4, column 'a', got 'oops'",
        ),
        (
            "time,variable,value\n0,a,1\n0,b,oops\n1,a,2\n1,b,2\n2,b,2\n",
            None,
            " (made wide): expected a number in row 1, column 'b', got 'oops'",
        ),
        (
            "time,variable,value\n0,a,1\n0,a,2\n1,a,2\n",
            None,
            "expected one value of each variable and time, got another one of 'a' at 0 (row 2)",
        ),
    ],
)
def test_bad_files_give_one_line_that_names_the_place(tmp_path, content, schema, message):
    path = csv_file(tmp_path, content)
    with pytest.raises(InputError) as error:
        read_table(path, schema)
    text = str(error.value)
    assert message in text and text.startswith(str(path)) and "\n" not in text


def test_files_that_are_no_tables(tmp_path):
    ROWS.write_parquet(tmp_path / "whole.parquet")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes((tmp_path / "whole.parquet").read_bytes()[:-20])
    np.savez(tmp_path / "uneven.npz", a=np.zeros(3), b=np.zeros(2))
    for source, message in (
        (cut, "expected a parquet file"),
        (tmp_path / "none.csv", "No such file"),
        (tmp_path / "table.xlsx", "ends with .csv, .parquet, .npz"),
        (tmp_path / "uneven.npz", "columns of one length"),
        (3, "expected a path or a frame of polars or pandas, got int"),
    ):
        with pytest.raises(InputError, match=message):
            read_table(source)


def test_values_outside_of_a_likelihood_or_transform():
    log = Schema({"a": Column(transform="log")})
    with pytest.raises(InputError, match="positive number for its logarithm in row 2, column 'a'"):
        read_table(pl.DataFrame({"a": [1.0, 0.0]}), log)
    root = Schema({"a": Column(transform="root")})
    with pytest.raises(InputError, match="at least 0 for its root in row 3, column 'a', got -1"):
        read_table(pl.DataFrame({"a": [1.0, 0.0, -1.0]}), root)
    binary = Schema({"a": Column("a", "bernoulli")})
    with pytest.raises(InputError, match="values from 0 to 1 in row 2, column 'a', got 2"):
        read_table(pl.DataFrame({"a": [1.0, 2.0]}), binary)


def test_writing(tmp_path):
    for name in ("out.csv", "out.parquet"):
        write_table(tmp_path / name, ROWS)
        np.testing.assert_array_equal(
            numbers(read_table(tmp_path / name)), numbers(read_table(ROWS))
        )
    with pytest.raises(InputError, match="ends with .csv or .parquet"):
        write_table(tmp_path / "out.xlsx", ROWS)
    with pytest.raises(InputError, match="expected a folder that exists"):
        write_table(tmp_path / "none" / "out.csv", ROWS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.parquet"]
