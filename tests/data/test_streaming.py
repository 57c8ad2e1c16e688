"""Files of series: what is written arrives, in any order, and bad files are refused."""

import json

import chex
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from jdmm import InputError, Series, SeriesFile, Standardise, series_from_arrays, write_series
from jdmm.data import streaming
from jdmm.data.streaming import Scaled


@pytest.fixture
def path(tmp_path):
    return tmp_path / "series.jdmm"


def mixed(count=7, num_steps=5, seed=0):
    """Series of different lengths with gaps, images as bytes, and an index in no order."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, num_steps, 2))
    x[random.random(x.shape) < 0.3] = np.nan
    video = random.integers(0, 256, (count, num_steps, 4))
    lengths = random.integers(1, num_steps + 1, count)
    lengths[0] = num_steps
    series = series_from_arrays({"x, y": x, "video": video}, lengths=lengths)
    values = {**series.values, "video": series.values["video"].astype(np.uint8)}
    index = random.permutation(1000)[:count].astype(np.int32)
    inputs = random.normal(size=(count, num_steps, 3)).astype(np.float32)
    return Series(values, series.observed, series.lengths, index, inputs)


def everything(source):
    return source.take(range(source.batch))


def test_what_is_written_arrives(path):
    """Values, bytes, masks, lengths and index, with their types, whatever the order."""
    series = mixed()
    write_series(path, series)
    source = SeriesFile(path)
    assert source.batch == 7
    chex.assert_trees_all_equal(everything(source), series)
    chex.assert_trees_all_equal_dtypes(everything(source), series)
    rows = np.array([5, 0, -1, 5])
    chex.assert_trees_all_equal(source.take(rows), series.take(rows))
    with pytest.raises(IndexError):
        source.take([7])


def test_batches_are_numbered_and_padded(path):
    """As if all series had been built at once."""
    values = [np.random.default_rng(n).normal(size=(3 + n, 2)) for n in range(3)]
    whole = series_from_arrays({"x": values})
    write_series(path, (series_from_arrays({"x": [value]}) for value in values), num_steps=5)
    chex.assert_trees_all_equal(everything(SeriesFile(path)), whole)


def test_scaled_series_are_those_of_the_scaling(path):
    series = mixed()
    scaling = Standardise.fit(series, ["x, y"])
    write_series(path, series)
    source = Scaled(SeriesFile(path), scaling)
    assert source.batch == 7
    rows = np.array([3, 1])
    chex.assert_trees_all_equal(source.take(rows), scaling.apply(series).take(rows))


def test_a_failed_write_leaves_the_old_file(path):
    write_series(path, mixed())
    with pytest.raises(InputError, match=r"at most num_steps=5, got a batch of 6: give num_steps"):
        write_series(path, iter([mixed(), mixed(num_steps=6)]))
    chex.assert_trees_all_equal(everything(SeriesFile(path)), mixed())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_batches_that_disagree_are_refused(path):
    other = mixed().select(["video"])
    with pytest.raises(InputError, match="expected the modalities of the first batch, .* got"):
        write_series(path, [mixed(), other])
    with pytest.raises(InputError, match="expected at least one series to write, got none"):
        write_series(path, [])
    with pytest.raises(InputError, match="at most num_steps=4, got a batch of 5"):
        write_series(path, mixed(), num_steps=4)


def test_a_folder_that_cannot_be_written_is_refused(path):
    with pytest.raises(InputError, match=r"jdmm/a: expected a file that can be written, got: No s"):
        write_series(path / "a", mixed())


def test_a_full_disk_is_refused(path, monkeypatch):
    def on_full_disk(_, options):
        return ArrayRecordWriter("/dev/full", options)

    monkeypatch.setattr(streaming, "ArrayRecordWriter", on_full_disk)
    with pytest.raises(InputError, match="can be written, got: .*No space left on device"):
        write_series(path, mixed())
    assert not list(path.parent.iterdir())


def refuse(path, words):
    with pytest.raises(InputError, match=words) as caught:
        everything(SeriesFile(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: expected a") and "\n" not in message


def test_files_that_cannot_be_read_are_refused(path):
    refuse(path, "can be read, got: No such file")
    refuse(path.parent, "can be read, got: Is a directory")


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
def test_a_file_that_is_cut_short_is_refused(path, kept):
    write_series(path, mixed(count=300, num_steps=100))
    content = path.read_bytes()
    assert len(content) > 100_000
    path.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else kept])
    refuse(path, "expected a whole file of jdmm.write_series, got RuntimeError: .* write it again")


@pytest.mark.parametrize("place", [100, 600, 2000])
def test_damage_is_noticed(path, place):
    """In the header and in a record."""
    write_series(path, mixed(count=20))
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    refuse(path, "expected a whole file of jdmm.write_series, got RuntimeError")


@pytest.mark.parametrize(
    "records",
    [
        [],
        [b"\x00\xff"],
        [b"{}"],
        [b"[1]"],
        [json.dumps({"format": "jdmm series 0"}).encode()],
    ],
)
def test_files_of_other_programs_are_refused(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    refuse(path, "expected a whole file of jdmm.write_series, got")
    path.write_text("x,y\n1,2\n" * 20_000)
    refuse(path, "expected a whole file of jdmm.write_series, got")
