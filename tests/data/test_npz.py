"""Users' `.npz` files: what is read, what is refused, and that writing is all or nothing."""

import errno
import os

import numpy as np
import pytest

from jdmm import Bernoulli, Image, Modality
from jdmm.data.npz import read_npz, write_npz
from jdmm.errors import InputError

MODEL = (Modality("x"), Modality("y", features=2))
X, Y = np.ones((3, 4, 1)), np.ones((3, 4, 2))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.npz"


def read(path, **arrays):
    np.savez(path, **arrays)
    return read_npz(path, MODEL)


def test_arrays_masks_and_lengths_arrive(path):
    x, mask = X.copy(), np.ones(Y.shape, bool)
    x[0, 1], mask[1, 0, 1] = np.nan, False
    series = read(path, y=3 * Y, x=x, y_observed=mask, lengths=np.array([4, 2, 1]))
    assert list(series.values) == ["x", "y"]  # the model's order, not the file's
    np.testing.assert_array_equal(series.lengths, [4, 2, 1])
    np.testing.assert_array_equal(series.observed["x"].sum(axis=(1, 2)), [3, 2, 1])
    np.testing.assert_array_equal(series.observed["y"].sum(axis=(1, 2)), [8, 3, 2])
    np.testing.assert_array_equal(series.values["y"], 3 * series.observed["y"])


def test_inputs_arrive_where_the_model_has_some(path):
    inputs = np.arange(12.0).reshape(3, 4, 1)
    np.savez(path, x=X, inputs=inputs)
    np.testing.assert_array_equal(read_npz(path, MODEL, 1).inputs, inputs)
    with pytest.raises(InputError, match=r"'inputs' of shape \(batch, time, 2\), got \(3, 4, 1\)"):
        read_npz(path, MODEL, 2)
    with pytest.raises(InputError, match="expected arrays among .* got 'inputs'"):
        read_npz(path, MODEL)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, bool])
def test_one_feature_needs_no_axis_and_any_real_dtype_will_do(path, dtype):
    series = read(path, x=np.ones((3, 4), dtype))
    assert series.values["x"].shape == (3, 4, 1)
    assert series.values["x"].dtype == np.float32 and series.values["x"].all()


def test_a_modality_that_the_file_lacks_is_missing(path):
    series = read(path, y=Y)
    assert series.values["x"].shape == (3, 4, 1)
    assert not series.observed["x"].any() and series.observed["y"].all()


def unobserved(array, index):
    array = array.copy()
    array[index] = np.nan
    return array


BAD = {
    "nothing": ({}, r"at least one of \['x', 'y'\], got \[\]"),
    "lengths alone": ({"lengths": np.array([1])}, "at least one of"),
    "unknown name": ({"x": X, "speed": X}, "got 'speed'$"),
    "mistyped name": ({"x": X, "x_observd": X > 0}, "did you mean 'x_observed'"),
    "object array": ({"x": np.array([{}, []], object)}, "plain arrays, got: ValueError"),
    "text": ({"x": np.full((3, 4, 1), "1")}, "expected numbers in 'x', got <U1"),
    "complex": ({"x": X * 1j}, "expected numbers in 'x', got complex128"),
    "dates": ({"x": X.astype("M8[s]")}, "expected numbers in 'x'"),
    "too few axes": ({"x": np.ones(3)}, r"\(batch, time, 1\) or \(batch, time\), got \(3,\)"),
    "a number": ({"x": np.float32(1)}, r"got \(\)"),
    "no feature axis": ({"y": np.ones((3, 4))}, r"\(batch, time, 2\), got \(3, 4\)"),
    "wrong features": ({"x": Y}, r"\(batch, time, 1\) or .*, got \(3, 4, 2\)"),
    "no series": ({"x": X[:0]}, r"one step or more in 'x', got \(0, 4, 1\)"),
    "no steps": ({"x": X[:, :0]}, r"one step or more in 'x', got \(3, 0, 1\)"),
    "batches differ": ({"x": X, "y": Y[:2]}, "same series"),
    "times differ": ({"x": X, "y": Y[:, :2]}, "same series"),
    "infinity": ({"x": X * np.inf}, "infinity at"),
    "mask of numbers": ({"x": X, "x_observed": X}, "booleans in 'x_observed', got float64"),
    "mask of another shape": (
        {"x": X, "x_observed": X[:2] > 0},
        r"'x_observed' of shape \(3, 4, 1\)",
    ),
    "mask alone": ({"x": X, "y_observed": Y > 0}, "expected 'y' beside 'y_observed'"),
    "fractional lengths": ({"x": X, "lengths": np.array([1.0, 2.5, 3.0])}, "whole numbers"),
    "too few lengths": ({"x": X, "lengths": np.array([1, 2])}, "3 whole numbers"),
    "length 0": ({"x": X, "lengths": np.array([1, 0, 4])}, "between 1 and 4"),
    "length beyond the end": ({"x": X, "lengths": np.array([1, 5, 4])}, "between 1 and 4"),
    "unobserved series": ({"x": unobserved(X, 1)}, "in 1 of 3, first in series 1 "),
    "nothing before its end": (
        {"x": unobserved(X, (2, 0)), "lengths": np.array([4, 4, 1])},
        "in 1 of 3, first in series 2 ",
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("arrays", "message"), BAD.values(), ids=BAD.keys())
def test_bad_arrays_are_named_in_one_line(path, arrays, message):
    with pytest.raises(InputError, match=message) as caught:
        read(path, **arrays)
    assert str(caught.value).startswith(f"{path}: expected")
    assert "\n" not in str(caught.value)


def test_values_outside_the_support_of_a_likelihood(path):
    np.savez(path, x=np.array([[0.0, 3.0]]))
    with pytest.raises(InputError, match=r"values from 0 to 1 in modality 'x'.* got 3") as caught:
        read_npz(path, [Modality("x", likelihood=Bernoulli())])
    assert str(caught.value).startswith(f"{path}: ")


def whole(path) -> bytes:
    np.savez(path, x=np.arange(3000.0).reshape(10, 300))
    return path.read_bytes()


def changed(path) -> bytes:
    content = bytearray(whole(path))
    content[len(content) // 2] ^= 255
    return bytes(content)


def bare(path) -> bytes:
    with path.open("wb") as file:
        np.save(file, X)
    return path.read_bytes()


DAMAGED = {
    "empty": lambda path: b"",
    "text": lambda path: b"x,y\n1,2\n",
    "npy": bare,
    "pickle": lambda path: b"\x80\x04N.",
    "cut in the middle": lambda path: whole(path)[:9000],
    "cut at the end": lambda path: whole(path)[:-1],
    "cut at the start": lambda path: whole(path)[50:],
    "one byte changed": changed,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_or_foreign_file_is_named_in_one_line(path, content):
    path.write_bytes(content(path))
    with pytest.raises(InputError, match="expected an .npz file") as caught:
        read_npz(path, MODEL)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_no_file_and_a_directory(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}/none.npz: .*No such file"):
        read_npz(tmp_path / "none.npz", MODEL)
    with pytest.raises(InputError, match=f"{tmp_path}: .*directory"):
        read_npz(str(tmp_path), MODEL)


def test_written_arrays_are_read_back_and_replace_what_was_there(path):
    write_npz(path, {"x": X})
    write_npz(str(path), {"x": 2 * X, "y": Y})
    np.testing.assert_array_equal(read_npz(path, MODEL).values["x"], 2 * X)
    assert os.listdir(path.parent) == [path.name]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    write_npz(path, {"x": X})
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match=f"{path}: .*No space left on device"):
        write_npz(path, {"x": 2 * X})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_where_no_file_can_be_written(path):
    path.mkdir()
    (path / "file").touch()
    for target in (path, path / "file" / "out.npz", path / "none" / "out.npz"):
        with pytest.raises(InputError, match=f"{target}: expected a file that can be written"):
            write_npz(target, {"x": X})
    assert os.listdir(path.parent) == [path.name]


def test_images_may_have_their_own_shape_and_be_bytes(tmp_path):
    modality = Modality("v", likelihood=Bernoulli(), image=Image((4, 4, 1), (2,)))
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 1)).astype(np.uint8)
    np.savez(tmp_path / "v.npz", v=images)
    found = read_npz(tmp_path / "v.npz", [modality]).values["v"]
    np.testing.assert_allclose(found, images.reshape(2, 3, 16) / 255, rtol=1e-6)
    np.savez(tmp_path / "v.npz", v=images.reshape(2, 3, 2, 8, 1))
    with pytest.raises(InputError, match=r"expected 'v' of shape \(batch, time, 16\)"):
        read_npz(tmp_path / "v.npz", [modality])
