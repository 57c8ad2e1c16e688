"""`Series`: missing values, lengths, and the errors for invalid input."""

import numpy as np
import pytest

from jdmm.errors import InputError
from jdmm.series import Series, series_from_arrays

NAN = np.nan


def ragged() -> Series:
    """Two series of 3 and 2 steps; "a" has one feature, "b" two, one of them missing once."""
    return series_from_arrays(
        {
            "a": [[1.0, NAN, 3.0], [4.0, 5.0]],
            "b": [[[1, 2], [3, 4], [5, 6]], [[7, NAN], [9, 10]]],
        }
    )


def test_nan_is_missing_per_feature_and_reads_as_zero():
    series = ragged()
    assert series.values["a"].dtype == series.values["b"].dtype == np.float32
    np.testing.assert_array_equal(series.values["a"][..., 0], [[1, 0, 3], [4, 5, 0]])
    np.testing.assert_array_equal(series.observed["a"][..., 0], [[1, 0, 1], [1, 1, 0]])
    np.testing.assert_array_equal(series.values["b"][1], [[7, 0], [9, 10], [0, 0]])
    np.testing.assert_array_equal(series.observed["b"][1], [[1, 0], [1, 1], [0, 0]])


def test_ragged_lists_are_padded_behind():
    series = ragged()
    assert (series.batch, series.num_steps) == (2, 3)
    np.testing.assert_array_equal(series.lengths, [3, 2])
    np.testing.assert_array_equal(series.valid, [[1, 1, 1], [1, 1, 0]])


def test_masks_hide_values_but_do_not_reveal_nan():
    value = np.array([[[1.0], [2.0], [NAN]]])
    series = series_from_arrays({"a": value}, {"a": np.array([[[True], [False], [True]]])})
    np.testing.assert_array_equal(series.values["a"].ravel(), [1, 0, 0])
    np.testing.assert_array_equal(series.observed["a"].ravel(), [True, False, False])


def test_a_hidden_infinity_is_no_error():
    series = series_from_arrays({"a": [[1.0, np.inf]]}, {"a": [[True, False]]})
    np.testing.assert_array_equal(series.values["a"].ravel(), [1, 0])


def test_given_lengths_cut_what_lies_behind():
    series = series_from_arrays({"a": np.ones((2, 4))}, lengths=[4, 1])
    np.testing.assert_array_equal(series.observed["a"].sum(axis=(1, 2)), [4, 1])
    np.testing.assert_array_equal(series.values["a"].sum(axis=(1, 2)), [4, 1])


def test_take_selects_series():
    taken = ragged().take(np.array([1, 0, 1]))
    np.testing.assert_array_equal(taken.lengths, [2, 3, 2])
    np.testing.assert_array_equal(taken.values["b"][0], ragged().values["b"][1])
    np.testing.assert_array_equal(taken.observed["a"][1], ragged().observed["a"][0])
    assert ragged().take(slice(0, 1)).batch == 1


def test_hide_only_ever_removes():
    series = ragged()
    keep = {
        "a": np.array([[1, 1, 0], [1, 1, 1]], bool)[..., None],
        "b": np.zeros((2, 3, 2), bool),
    }
    hidden = series.hide(keep)
    np.testing.assert_array_equal(hidden.observed["a"][..., 0], [[1, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(hidden.values["a"][..., 0], [[1, 0, 0], [4, 5, 0]])
    assert not hidden.observed["b"].any() and not hidden.values["b"].any()
    np.testing.assert_array_equal(hidden.lengths, series.lengths)
    assert series.observed["b"].any()  # the original is left alone


def test_pad_adds_unobserved_steps():
    series = series_from_arrays({"a": [[1.0, 2.0]]}).pad(before=1, after=2)
    np.testing.assert_array_equal(series.values["a"].ravel(), [0, 1, 2, 0, 0])
    np.testing.assert_array_equal(series.observed["a"].ravel(), [0, 1, 1, 0, 0])
    np.testing.assert_array_equal(series.lengths, [5])
    assert series.valid.all()


def test_inputs_are_cut_and_selected_with_the_series():
    inputs = [np.arange(6.0).reshape(3, 2), np.ones((1, 2))]
    series = series_from_arrays({"x": [np.zeros(3), np.zeros(1)]}, inputs=inputs)
    assert series.inputs.shape == (2, 3, 2) and series.num_inputs == 2
    assert not series.inputs[1, 1:].any()
    np.testing.assert_array_equal(series.take(np.array([1])).inputs, series.inputs[1:])
    np.testing.assert_array_equal(series.until(2).inputs, series.inputs[:, :2])
    hidden = series.hide({"x": np.zeros((2, 3, 1), bool)})
    np.testing.assert_array_equal(hidden.inputs, series.inputs)
    with pytest.raises(InputError, match="expected series without inputs to pad"):
        series.pad(before=1)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((1, 4, 1)), r"inputs of the series' \(batch, time\) \(1, 3\)"),
        ([np.zeros((2, 1))], "with the same lengths"),
        ([[0.0, np.nan, 0.0]], r"finite inputs, .* got nan at .* \(0, 1, 0\): fill them"),
        ([["a", "b", "c"]], "expected numbers for inputs"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, message):
    with pytest.raises(InputError, match=message):
        series_from_arrays({"x": np.zeros((1, 3))}, inputs=inputs)


def test_pad_before_shifts_ragged_series():
    series = ragged().pad(before=2)
    np.testing.assert_array_equal(series.lengths, [5, 4])
    np.testing.assert_array_equal(series.values["a"][1].ravel(), [0, 0, 4, 5, 0])


@pytest.mark.parametrize("steps", [{"before": -1}, {"after": -1}, {"after": 1}])
def test_pad_refuses_negative_steps_and_steps_behind_ragged_series(steps):
    with pytest.raises(InputError, match="pad"):
        ragged().pad(**steps)


ONES = np.ones((2, 3, 1))
BAD = {
    "no modality": (({},), "at least one modality"),
    "no series": (({"a": np.ones((0, 3, 1))},), r"as \(batch, time, feature\)"),
    "no steps": (({"a": np.ones((2, 0, 1))},), "lengths between 1"),
    "one empty series": (({"a": [[1.0], []]},), "lengths between 1"),
    "no features": (({"a": np.ones((2, 3, 0))},), r"as \(batch, time, feature\)"),
    "too few axes": (({"a": np.ones(3)},), r"as \(batch, time, feature\)"),
    "too many axes": (({"a": np.ones((2, 3, 1, 1))},), r"as \(batch, time, feature\)"),
    "features differ": (({"a": [np.ones((2, 1)), np.ones((2, 2))]},), r"shapes \[\(2, 1\), \(2, 2"),
    "not numbers": (({"a": [["one", "two"]]},), "numbers for modality 'a'"),
    "not a sequence": (({"a": 1.0},), "numbers for modality 'a'"),
    "infinity": (({"a": [[1.0, -np.inf]]},), r"infinity at .* \(0, 1, 0\)"),
    "beyond float32": (({"a": [[1.0, 1e300]]},), r"infinity at .* \(0, 1, 0\)"),
    "batches differ": (({"a": ONES, "b": ONES[:1]},), "same series and lengths"),
    "times differ": (({"a": ONES, "b": ONES[:, :2]},), "same series and lengths"),
    "ragged lengths differ": (
        ({"a": [[1.0], [1.0, 2.0]], "b": [[1.0, 2.0], [1.0]]},),
        "same series and lengths",
    ),
    "mask of no modality": (({"a": ONES}, {"b": ONES > 0}), "got one for 'b'"),
    "mask of another shape": (({"a": ONES}, {"a": ONES[:, :2] > 0}), r"mask of shape \(2, 3, 1\)"),
    "mask of other lengths": (
        ({"a": [[1.0], [1.0, 2.0]]}, {"a": [[True, True], [True]]}),
        "with the same lengths",
    ),
    "too few lengths": (({"a": ONES}, None, [3]), "2 whole numbers"),
    "fractional lengths": (({"a": ONES}, None, [3.0, 2.5]), "2 whole numbers"),
    "length 0": (({"a": ONES}, None, [3, 0]), "between 1 and 3"),
    "length beyond the end": (({"a": ONES}, None, [3, 4]), "between 1 and 3"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_invalid_input_raises_a_one_line_error(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        series_from_arrays(*arguments)
    assert "\n" not in str(caught.value)
