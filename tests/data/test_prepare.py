"""Windows, splits, held-out values and static covariates against loops, counts and partitions."""

import numpy as np
import pytest

from jdmm.data.prepare import (
    drop_modalities,
    hold_out,
    split,
    static_covariates,
    windows,
)
from jdmm.errors import InputError
from jdmm.series import Series, series_from_arrays

NAN = np.nan


def ragged(lengths=(7, 3, 10), missing=0.3, features=2) -> Series:
    """Series of distinct values from 1, some of them missing; "b" has one feature."""
    rng = np.random.default_rng(3)
    size = sum(lengths) * features
    table = np.arange(1.0, size + 1).reshape(-1, features)
    table[rng.random(table.shape) < missing] = NAN
    ends = np.cumsum(lengths)[:-1]
    label = np.arange(1.0, sum(lengths) + 1)
    label[rng.random(label.shape) < missing] = NAN
    inputs = np.split(100.0 + np.arange(sum(lengths)), ends)
    return series_from_arrays(
        {"a": np.split(table, ends), "b": np.split(label, ends)}, inputs=inputs
    )


def assert_partition(series: Series, shown: Series, held_out: Series):
    """`shown` and `held_out` are disjoint, and their union is `series`."""
    for name in series.values:
        assert not (shown.observed[name] & held_out.observed[name]).any()
        np.testing.assert_array_equal(
            shown.observed[name] | held_out.observed[name], series.observed[name]
        )
        np.testing.assert_array_equal(
            shown.values[name] + held_out.values[name], series.values[name]
        )
        for part in (shown, held_out):
            assert part.values[name].dtype == np.float32
            assert not part.values[name][~part.observed[name]].any()
    for part in (shown, held_out):
        np.testing.assert_array_equal(part.lengths, series.lengths)
        np.testing.assert_array_equal(part.index, series.index)
        np.testing.assert_array_equal(part.inputs, series.inputs)


@pytest.mark.parametrize(("length", "step"), [(3, None), (4, 1), (4, 3), (10, 10), (25, 2), (1, 1)])
def test_windows_against_a_loop(length, step):
    series = ragged()
    cut = windows(series, length, step)
    expected = []  # a window begins at every step until one reaches the end
    for row, steps in enumerate(series.lengths):
        start = 0
        expected.append((row, start))
        while start + length < steps:
            start += step or length
            expected.append((row, start))
    assert list(zip(cut.source.tolist(), cut.start.tolist(), strict=True)) == expected
    np.testing.assert_array_equal(cut.series.index, np.arange(len(expected)))

    for number, (row, start) in enumerate(expected):
        stop = min(start + length, series.lengths[row])
        assert cut.series.lengths[number] == stop - start
        for name, value in series.values.items():
            window, mask = cut.series.values[name][number], cut.series.observed[name][number]
            assert window.shape == (length, value.shape[2]) and window.dtype == np.float32
            np.testing.assert_array_equal(window[: stop - start], value[row, start:stop])
            np.testing.assert_array_equal(
                mask[: stop - start], series.observed[name][row, start:stop]
            )
            assert not window[stop - start :].any() and not mask[stop - start :].any()
        inputs = cut.series.inputs[number]
        np.testing.assert_array_equal(inputs[: stop - start], series.inputs[row, start:stop])
        assert not inputs[stop - start :].any() and inputs.shape == (length, 1)


@pytest.mark.parametrize("step", [None, 2])
def test_windows_lose_no_value(step):
    series = ragged()
    cut = windows(series, 5, step).series
    for name, value in series.values.items():
        kept = cut.values[name][cut.observed[name]]
        np.testing.assert_array_equal(np.unique(kept), value[series.observed[name]])
        if step is None:
            assert kept.size == series.observed[name].sum()


def test_only_empty_windows_are_dropped_and_only_on_request():
    a = [[1.0, NAN, NAN, NAN, NAN, NAN, 7.0]]
    series = series_from_arrays({"a": a, "b": [[NAN, NAN, NAN, NAN, 5.0, NAN, NAN]]})
    assert windows(series, 2).start.tolist() == [0, 2, 4, 6]
    cut = windows(series, 2, drop_empty=True)
    assert (cut.start.tolist(), cut.source.tolist()) == ([0, 4, 6], [0, 0, 0])
    assert (cut.series.index.tolist(), cut.series.lengths.tolist()) == ([0, 1, 2], [2, 2, 1])
    np.testing.assert_array_equal(cut.series.values["b"][..., 0], [[0, 0], [5, 0], [0, 0]])


def test_windows_of_a_device_batch_are_the_same():
    """`Series.hide` gives jax arrays."""
    series = ragged()
    hidden = series.hide({name: np.True_ for name in series.values})
    cut, expected = windows(hidden, 4).series, windows(series, 4).series
    assert isinstance(cut.values["a"], np.ndarray)
    np.testing.assert_array_equal(cut.values["a"], expected.values["a"])


def test_split_in_order():
    series = ragged(lengths=(2,) * 10)
    parts = split(series, (0.7, 0.1, 0.2))
    assert [part.index.tolist() for part in parts] == [[0, 1, 2, 3, 4, 5, 6], [7], [8, 9]]
    for part in parts:
        for name in series.values:
            np.testing.assert_array_equal(part.values[name], series.values[name][part.index])
            np.testing.assert_array_equal(part.observed[name], series.observed[name][part.index])


@pytest.mark.parametrize("count", [3, 8, 19, 100])
@pytest.mark.parametrize("fractions", [(1 / 3, 1 / 3, 1 / 3), (0.5, 0.5), (1.0,), (0.6, 0.4)])
def test_a_split_is_a_partition_of_the_right_sizes(count, fractions):
    series = ragged(lengths=(1,) * count)
    parts = split(series, fractions, seed=4)
    sizes = [len(part.index) for part in parts]
    assert sorted(np.concatenate([part.index for part in parts])) == list(range(count))
    assert all(abs(n - share * count) < 1 for n, share in zip(sizes, fractions, strict=True))


def test_a_seed_gives_one_split():
    series = ragged(lengths=(1,) * 30)
    one, again, other = (split(series, (0.5, 0.5), seed)[0].index.tolist() for seed in (1, 1, 2))
    assert one == again and one != other and one != list(range(15))


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.9])
def test_held_out_values_are_exactly_so_many(fraction):
    series = ragged()
    shown, held_out = hold_out(series, fraction, seed=0)
    assert_partition(series, shown, held_out)
    for name, mask in series.observed.items():
        assert held_out.observed[name].sum() == round(fraction * int(mask.sum()))


def test_every_value_is_held_out_equally_often():
    """Counts of 400 seeds within 5 sd of the binomial's mean."""
    series = ragged(lengths=(5, 3), missing=0.2)
    masks = [hold_out(series, 0.5, seed)[1].observed["a"] for seed in range(400)]
    count = int(series.observed["a"].sum())
    share = round(0.5 * count) / count
    often = np.sum(masks, axis=0)[series.observed["a"]]
    assert np.abs(often - 400 * share).max() < 5 * np.sqrt(400 * share * (1 - share))


@pytest.mark.parametrize("fraction", [0.1, 0.45, 0.6])
def test_blocks_are_whole_and_near_the_fraction(fraction):
    series = ragged(lengths=(20, 9, 31, 2), missing=0.0)
    shown, held_out = hold_out(series, fraction, seed=5, blocks=4)
    assert_partition(series, shown, held_out)
    for name, mask in series.observed.items():
        hidden = held_out.observed[name]
        assert abs(hidden.sum() - fraction * mask.sum()) <= 4 / 2 + 0.5
        for row in range(4):
            for feature in range(hidden.shape[2]):
                edges = np.flatnonzero(np.diff(hidden[row, :, feature], prepend=0, append=0))
                runs = edges[1::2] - edges[::2]
                assert (runs % 4 == 0).all()
    assert not held_out.observed["a"][3].any()  # shorter than a block
    assert (held_out.observed["a"][..., 0] != held_out.observed["a"][..., 1]).any()


def test_blocks_begin_at_any_step():
    series = ragged(lengths=(11,), missing=0.0)
    first = {
        int(np.argmax(hold_out(series, 0.36, seed, blocks=4)[1].observed["b"]))
        for seed in range(100)
    }
    assert first == set(range(8))
    all_blocks = [hold_out(series, 0.72, seed, blocks=4)[1].observed["a"] for seed in range(5)]
    assert any((mask[..., 0] != mask[..., 1]).any() for mask in all_blocks)


def test_blocks_count_observed_values_only():
    series = ragged(lengths=(40, 40), missing=0.5)
    shown, held_out = hold_out(series, 0.3, seed=0, blocks=5)
    assert_partition(series, shown, held_out)
    for name, mask in series.observed.items():
        assert abs(held_out.observed[name].sum() - 0.3 * mask.sum()) <= 5 / 2 + 0.5


def test_held_out_values_follow_from_seed_and_modality_alone():
    series = ragged()
    alone = Series(
        {"b": series.values["b"]}, {"b": series.observed["b"]}, series.lengths, series.index
    )
    for blocks in (None, 2):
        held_out = hold_out(series, 0.4, 7, blocks)[1].observed["b"]
        again = hold_out(alone, 0.4, 7, blocks)[1].observed["b"]
        np.testing.assert_array_equal(held_out, again)
        assert (hold_out(series, 0.4, 8, blocks)[1].observed["b"] != held_out).any()


def test_modalities_of_one_shape_lose_different_values():
    series = series_from_arrays({"a": np.ones((2, 50)), "b": np.ones((2, 50))})
    held_out = hold_out(series, 0.5, seed=0)[1]
    assert (held_out.observed["a"] != held_out.observed["b"]).any()


def test_a_modality_that_is_never_observed_stays_so():
    series = drop_modalities(ragged(), ["b"])
    shown, held_out = hold_out(series, 0.5, 0)
    assert_partition(series, shown, held_out)


def test_dropped_modalities_stay_in_the_series():
    series = ragged()
    dropped = drop_modalities(series, ["b"])
    assert not dropped.observed["b"].any() and not dropped.values["b"].any()
    np.testing.assert_array_equal(dropped.values["a"], series.values["a"])
    np.testing.assert_array_equal(dropped.observed["a"], series.observed["a"])
    assert series.observed["b"].any()  # the original is left alone


def test_static_covariates_are_constant_in_time():
    values = [[1, NAN], [3, 4], [5, 6]]
    same = static_covariates(values, 4)
    different = static_covariates(values, np.array([2, 4, 1]))
    assert same.shape == (3, 4, 2)
    assert [row.shape for row in different] == [(2, 2), (4, 2), (1, 2)]
    for row in range(3):
        for step in range(4):
            np.testing.assert_array_equal(same[row, step], values[row])
        for at_step in different[row]:
            np.testing.assert_array_equal(at_step, values[row])
    measured = [np.ones(2), np.ones(4), np.ones(1)]
    series = series_from_arrays({"x": measured, "static": different})
    np.testing.assert_array_equal(series.observed["static"].sum(axis=1), [[2, 0], [4, 4], [1, 1]])


SERIES = ragged()
EMPTY = drop_modalities(SERIES, ["a", "b"])
BAD = {
    "window of no step": (windows, (SERIES, 0), "length as a whole number >= 1, got 0"),
    "window of half a step": (windows, (SERIES, 2.5), "length as a whole number"),
    "step of 0": (windows, (SERIES, 3, 0), "step as a whole number >= 1"),
    "steps between windows": (windows, (SERIES, 3, 4), r"step <= length \(3\).*, got 4"),
    "only empty windows": (windows, (EMPTY, 3, None, True), "window with an observed value"),
    "windows of no series": (windows, ({"a": 1}, 3), "expected a Series, got dict"),
    "sum below 1": (split, (SERIES, (0.5, 0.4)), "sum 1"),
    "negative fraction": (split, (SERIES, (1.5, -0.5)), "positive"),
    "fraction of 0": (split, (SERIES, (1.0, 0.0)), "positive"),
    "no fractions": (split, (SERIES, ()), "positive"),
    "fraction of NaN": (split, (SERIES, (1.0, NAN)), "positive"),
    "one fraction": (split, (SERIES, 1.0), "positive"),
    "no number": (split, (SERIES, ("half", "half")), "positive"),
    "part without series": (split, (SERIES, (0.9, 0.1)), r"parts of \[3, 0\] of 3"),
    "negative seed": (split, (SERIES, (0.5, 0.5), -1), "seed as a whole number >= 0, got -1"),
    "nothing to hold out": (hold_out, (SERIES, 0.0, 0), "0 < fraction < 1"),
    "all held out": (hold_out, (SERIES, 1.0, 0), "0 < fraction < 1"),
    "too small a fraction": (hold_out, (SERIES, 1e-3, 0), "larger fraction"),
    "nothing observed": (hold_out, (EMPTY, 0.5, 0), "values to hold out"),
    "blocks of no step": (hold_out, (SERIES, 0.5, 0, 0), "blocks as a whole number"),
    "blocks too long": (hold_out, (SERIES, 0.5, 0, 11), "shorter blocks"),
    "seed of a half": (hold_out, (SERIES, 0.5, 0.5), "seed as a whole number"),
    "unknown modality": (drop_modalities, (SERIES, ["a", "c"]), r"\['a', 'b'\], got 'c'"),
    "one string": (drop_modalities, (SERIES, "ab"), "got the string 'ab'"),
    "covariates of one axis": (static_covariates, ([1.0, 2.0], 3), r"\(batch, feature\)"),
    "no covariates": (static_covariates, (np.ones((2, 0)), 3), r"\(batch, feature\)"),
    "covariates of words": (static_covariates, ([["x"]], 3), "expected numbers"),
    "no steps": (static_covariates, (np.ones((2, 1)), 0), "num_steps as a whole number"),
    "no steps of one": (static_covariates, (np.ones((2, 1)), [1, 0]), "num_steps as a whole"),
    "steps of too few": (static_covariates, (np.ones((2, 1)), [1]), "of 2 series, got 1"),
}


@pytest.mark.parametrize(("function", "arguments", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_refused_is_told_in_one_line(function, arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
