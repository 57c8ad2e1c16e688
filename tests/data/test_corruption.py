"""Deletions against what their docstrings promise: exact counts, places, and independence."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jdmm import InputError
from jdmm.data import corruption
from jdmm.data.corruption import Deletions, segment
from jdmm.series import Series, series_from_arrays

LENGTHS = np.array([1, 2, 7, 10, 40, 100], np.int32)
TIME = 100
FRACTIONS = [0.0, 0.1, 0.25, 0.5, 0.75, 1.0]


@jax.jit
def burst(key, series, fraction):
    return corruption.burst(corruption.uniform(key, series, 1)[:, 0], series, fraction)


@jax.jit
def scattered(key, series, fraction):
    order = corruption.uniform(key, series, series.num_steps)
    return corruption.scattered(order, series, fraction)


RANDOM = pytest.mark.parametrize("delete", [burst, scattered])


def batch_of(lengths, time: int = TIME) -> Series:
    """Series of these lengths, padded to `time`."""
    return series_from_arrays({"x": np.zeros((len(lengths), time))}, lengths=np.array(lengths))


def hidden(keep: jax.Array) -> np.ndarray:
    """``(batch, time)``: the deleted steps."""
    assert keep.shape[2:] == (1,)
    return ~np.array(keep)[..., 0]


@RANDOM
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_hides_the_exact_count_within_each_length(delete, fraction):
    """round(fraction * length) steps, none of them in the padding."""
    gone = hidden(delete(jax.random.key(0), batch_of(LENGTHS), fraction))
    assert gone.shape == (len(LENGTHS), TIME)
    assert not (gone & (np.arange(TIME) >= LENGTHS[:, None])).any()
    assert gone.sum(1).tolist() == [round(fraction * int(n)) for n in LENGTHS]


def test_burst_takes_a_fraction_per_series():
    """Each row is the row of the same burst with its fraction for all."""
    found = burst(jax.random.key(0), batch_of(LENGTHS), jnp.array(FRACTIONS))
    for row, fraction in enumerate(FRACTIONS):
        same = burst(jax.random.key(0), batch_of(LENGTHS), fraction)
        np.testing.assert_array_equal(found[row], same[row])


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_burst_is_contiguous(fraction):
    for row in hidden(burst(jax.random.key(1), batch_of(LENGTHS), fraction)):
        steps = np.flatnonzero(row)
        assert (np.diff(steps) == 1).all()


@RANDOM
@pytest.mark.parametrize("fraction, starts", [(0.2, 5), (0.6, 3)])
def test_every_place_is_equally_likely(delete, fraction, starts):
    """Frequencies over 5000 series of 5 steps within 5 standard errors of the uniform law."""
    count, length = 5000, 5
    gone = hidden(delete(jax.random.key(2), batch_of([length] * count, 8), fraction))[:, :length]
    width = round(fraction * length)
    if delete is burst:
        found = np.bincount(gone.argmax(1), minlength=starts)
        p = 1 / starts
    else:
        found = gone.sum(0)
        p = width / length
    assert len(found) == (starts if delete is burst else length)
    assert (np.abs(found / count - p) < 5 * np.sqrt(p * (1 - p) / count)).all()


@RANDOM
def test_depends_on_the_key_alone(delete):
    series = batch_of(LENGTHS)
    once = delete(jax.random.key(3), series, 0.5)
    np.testing.assert_array_equal(once, delete(jax.random.key(3), series, 0.5))
    assert (once != delete(jax.random.key(4), series, 0.5)).any()


@RANDOM
def test_rows_differ(delete):
    gone = hidden(delete(jax.random.key(5), batch_of([TIME] * 20), 0.5))
    assert len({row.tobytes() for row in gone}) > 10


@RANDOM
@pytest.mark.parametrize("time, batch", [(TIME + 31, 6), (TIME, 4)])
def test_a_row_does_not_depend_on_padding_or_neighbours(delete, time, batch):
    """The same series in a batch padded further, or cut to fewer series."""
    key = jax.random.key(6)
    whole = hidden(delete(key, batch_of(LENGTHS), 0.5))
    other = hidden(delete(key, batch_of(LENGTHS[:batch], time), 0.5))
    np.testing.assert_array_equal(other[:, :TIME], whole[:batch])
    neighbours = np.array([50, 60, 70, 80, 90, LENGTHS[-1]])
    np.testing.assert_array_equal(hidden(delete(key, batch_of(neighbours), 0.5))[-1], whole[-1])


@RANDOM
def test_a_row_follows_its_index_wherever_it_lies(delete):
    """Taken in another order, or a part of them, series lose what they lost before."""
    key, series = jax.random.key(7), batch_of(LENGTHS)
    order = np.array([4, 0, 5])
    whole = np.array(delete(key, series, 0.5))
    np.testing.assert_array_equal(delete(key, series.take(order), 0.5), whole[order])


@pytest.mark.parametrize(
    "start, stop, expected",
    [
        (0.0, 1.0, range(0, 40)),
        (0.0, 0.75, range(0, 30)),
        (0.25, 1.0, range(10, 40)),
        (0.25, 0.75, range(10, 30)),
        (0.5, 0.5, range(0)),
        (0.0, 0.0, range(0)),
    ],
)
def test_segment(start, stop, expected):
    """40 steps in a batch padded to 100: the edges are fractions of the series' own length."""
    keep = np.array(segment(batch_of([40]), start, stop))
    assert np.flatnonzero(keep[0, :, 0]).tolist() == list(expected)


@pytest.mark.parametrize("edge", [0.1, 0.25, 1 / 3, 0.5, 0.9])
def test_two_segments_share_no_step_and_miss_none(edge):
    series = batch_of(range(1, TIME + 1))
    first, second = (segment(series, *ends) for ends in ((0.0, edge), (edge, 1.0)))
    valid = np.array(series.valid)
    np.testing.assert_array_equal(np.array(first) ^ np.array(second), valid[..., None])
    assert not (np.array(first) & np.array(second)).any()


@RANDOM
def test_hiding_never_reveals(delete):
    """`Series.hide` leaves exactly what was observed and is kept."""
    rng = np.random.default_rng(0)
    value = rng.normal(size=(6, TIME, 2))
    value[rng.uniform(size=value.shape) < 0.3] = np.nan
    series = series_from_arrays({"x": value}, lengths=LENGTHS)
    keep = np.array(delete(jax.random.key(8), batch_of(LENGTHS), 0.5))
    found = series.hide({"x": keep})
    inside = (np.arange(TIME) < LENGTHS[:, None])[..., None]
    expected = ~np.isnan(value) & keep & inside
    np.testing.assert_array_equal(found.observed["x"], expected)
    np.testing.assert_array_equal(
        found.values["x"], np.where(expected, value, 0).astype(np.float32)
    )


def missing_steps(kept) -> dict[str, np.ndarray]:
    """Steps that each series lacks of each modality."""
    return {name: hidden(mask).sum(1) for name, mask in kept.items()}


def only(**fields) -> Deletions:
    """Deletions of nothing but these."""
    return replace(Deletions.none(), **fields)


def delete(key, series, deletions, fraction_done):
    """Compiled as a whole, it takes a fraction of the time."""
    sample = jax.jit(lambda key, series: corruption.delete(key, series, deletions, fraction_done))
    return sample(key, series)


def test_delete():
    """As many series as their share have a gap in one modality, or the same gap in all."""
    count, time = 4000, 50
    series = series_from_arrays({name: np.zeros((count, time)) for name in "xy"})
    deletions = only(
        burst=0.1,
        gap_one_modality=0.3,
        gap_one_modality_range=(0.4, 0.6),
        gap_all_modalities=0.2,
        gap_all_modalities_range=(0.2, 0.3),
    )
    kept = delete(jax.random.key(0), series, deletions, 0.0)
    lost = missing_steps(kept)
    alike = (np.array(kept["x"]) == np.array(kept["y"])).all((1, 2)) & (lost["x"] >= 10)
    assert set(lost["x"][alike]) == set(range(10, 16))
    assert abs(alike.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / count)
    alone = [lost[a] >= 20 for a in "xy"]
    assert not (alone[0] & alone[1]).any() and not (alike & (alone[0] | alone[1])).any()
    for own in alone:
        assert abs(own.mean() - 0.15) < 4 * np.sqrt(0.15 * 0.85 / count)
    brief = ~alike & ~alone[0]
    np.testing.assert_array_equal(lost["x"][brief], 5)


def test_scattered_steps():
    series = series_from_arrays({name: np.zeros((1000, 50)) for name in "xy"})
    deletions = only(scattered_steps=0.4, scattered_steps_range=(0.5, 0.7))
    lost = missing_steps(delete(jax.random.key(0), series, deletions, 0.0))
    np.testing.assert_array_equal(lost["x"], lost["y"])
    loses = lost["x"] > 0
    assert lost["x"][loses].min() >= 25 and lost["x"].max() <= 35
    assert abs(loses.mean() - 0.4) < 4 * np.sqrt(0.4 * 0.6 / 1000)


def test_gaps_of_all_modalities_begin_when_they_are_told_to():
    series = series_from_arrays({name: np.zeros((200, 50)) for name in "xy"})
    every = only(
        burst=0.1,
        gap_one_modality=0.3,
        gap_one_modality_range=(0.4, 0.6),
        gap_all_modalities=0.7,
    )
    key, later = jax.random.key(0), replace(every, gap_all_modalities_from=0.5)
    before = delete(key, series, later, 0.499)
    none = delete(key, series, replace(every, gap_all_modalities=0.0), 0.499)
    after = delete(key, series, later, 0.5)
    always = delete(key, series, every, 0.499)
    for name in "xy":
        np.testing.assert_array_equal(before[name], none[name])
        np.testing.assert_array_equal(after[name], always[name])
        assert (before[name] != after[name]).any()


def sparse_table(count: int = 300, time: int = 12) -> Series:
    """Two modalities with several features, of which cells are missing, and different lengths."""
    rng = np.random.default_rng(0)
    table, more = rng.normal(size=(count, time, 4)), rng.normal(size=(count, time, 2))
    table[rng.uniform(size=table.shape) < 0.6] = np.nan
    return series_from_arrays({"table": table, "more": more}, lengths=rng.integers(1, 13, count))


def test_scattered_features_hide_exact_counts_of_the_observed_values():
    series = sparse_table()
    deletions = only(scattered_features=1.0, scattered_features_range=(0.25, 0.25))
    kept = delete(jax.random.key(0), series, deletions, 0.0)
    for name, observed in series.observed.items():
        assert kept[name].shape == observed.shape
        hidden = observed & ~np.asarray(kept[name])
        expected = np.round(0.25 * observed.sum((1, 2)))
        np.testing.assert_array_equal(hidden.sum((1, 2)), expected)
        np.testing.assert_array_equal(series.hide(kept).observed[name], observed & ~hidden)
    table = np.asarray(kept["table"])
    partly = table.any(-1) & ~table.all(-1)
    assert partly.any()  # single features, not whole steps
    # every observed cell is equally likely
    full = only(scattered_features=1.0, scattered_features_range=(0.5, 0.5))
    cells = series_from_arrays({"x": np.zeros((4000, 3, 2))})
    share = 1 - np.mean(delete(jax.random.key(1), cells, full, 0.0)["x"], 0)
    assert (np.abs(share - 0.5) < 5 * np.sqrt(0.25 / 4000)).all()


def test_share_and_range_of_scattered_features():
    series = series_from_arrays({"x": np.zeros((2000, 10, 5))})
    deletions = only(scattered_features=0.3, scattered_features_range=(0.4, 0.6))
    kept = np.asarray(delete(jax.random.key(0), series, deletions, 0.0)["x"])
    lost = (~kept).sum((1, 2))
    loses = lost > 0
    assert set(lost[loses]) == set(range(20, 31))
    assert abs(loses.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 2000)


def test_scattered_features_follow_the_series_and_ignore_padding():
    series = sparse_table(20)
    deletions = only(scattered_features=0.8)
    longer = jax.tree.map(
        lambda leaf: leaf if leaf.ndim == 1 else np.pad(leaf, ((0, 0), (0, 5), (0, 0))), series
    )
    rows = np.array([7, 3])
    key = jax.random.key(0)
    whole, padded, part = (
        delete(key, each, deletions, 0.0) for each in (series, longer, series.take(rows))
    )
    for name, mask in whole.items():
        np.testing.assert_array_equal(mask, padded[name][:, :12])
        np.testing.assert_array_equal(mask[rows], part[name])


def test_modality_dropout():
    """It hides a share of the series wholly, each modality on its own, whatever else is hidden."""
    series = series_from_arrays({name: np.zeros((4000, 10)) for name in "xyz"})
    deletions = only(burst=0.2, modality_dropout={"x": 0.9, "y": 0.5})
    kept = delete(jax.random.key(0), series, deletions, 0.0)
    gone = {name: ~np.asarray(mask).any((1, 2)) for name, mask in kept.items()}
    for name, share in (("x", 0.9), ("y", 0.5)):
        assert abs(gone[name].mean() - share) < 4 * np.sqrt(share * (1 - share) / 4000)
    both = (gone["x"] & gone["y"]).mean()
    assert abs(both - 0.45) < 4 * np.sqrt(0.45 * 0.55 / 4000)
    assert not gone["z"].any()
    burst_alone = delete(jax.random.key(0), series, only(burst=0.2), 0.0)
    for name in "xyz":
        expected = np.asarray(burst_alone[name]) & ~gone[name][:, None, None]
        np.testing.assert_array_equal(kept[name], expected)


def test_new_deletions_leave_the_others_alone():
    """Their numbers come from keys of their own."""
    series = sparse_table(50)
    key = jax.random.key(3)
    before = delete(key, series, Deletions(), 0.5)
    both = Deletions(scattered_features=1.0, modality_dropout={"more": 0.4})
    after = delete(key, series, both, 0.5)
    fresh = delete(key, series, replace(Deletions.none(), scattered_features=1.0), 0.5)
    for name in series.values:
        assert not (np.asarray(after[name]) & ~np.asarray(before[name])).any()
    np.testing.assert_array_equal(after["table"], before["table"] & fresh["table"])


def test_unknown_modalities_cannot_be_dropped():
    series = batch_of(LENGTHS)
    with pytest.raises(InputError, match="modality_dropout of x, got 'label'"):
        delete(jax.random.key(0), series, only(modality_dropout={"label": 0.0}), 0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("burst", 1.1),
        ("gap_all_modalities", -0.1),
        ("gap_all_modalities_from", 2.0),
        ("gap_one_modality_range", (0.5, 0.4)),
        ("gap_one_modality", 0.9),  # more than all with the 0.3 of all modalities
        ("scattered_features", 1.5),
        ("scattered_features_range", (0.5,)),
        ("modality_dropout", {"x": 1.5}),
    ],
)
def test_impossible_deletions(name, value):
    with pytest.raises(InputError, match=f"expected {name}"):
        Deletions(**{name: value})


def test_nothing_is_deleted_with_none():
    series = sparse_table(20)
    kept = delete(jax.random.key(0), series, Deletions.none(), 1.0)
    assert all(np.asarray(mask).all() for mask in kept.values())


def test_withhold():
    """Exact fractions of the steps, one stretch, and whole modalities of a share of the series."""
    series = series_from_arrays({"x": np.zeros((40, 50)), "y": np.zeros((40, 50))})
    key = jax.random.key(0)
    uniform = corruption.withhold(key, series, corruption.Withheld(uniform=0.7))
    for kept in uniform.values():
        np.testing.assert_array_equal(kept[..., 0].sum(1), 15)
    assert (uniform["x"] != uniform["y"]).any()
    for kept in corruption.withhold(key, series, corruption.Withheld(burst=0.4)).values():
        edges = np.abs(
            np.diff(np.pad(kept[..., 0].astype(int), ((0, 0), (1, 1)), constant_values=1))
        )
        np.testing.assert_array_equal(kept[..., 0].sum(1), 30)
        np.testing.assert_array_equal(edges.sum(1), 2)
    lost = {
        name: ~np.array(kept).any((1, 2))
        for name, kept in corruption.withhold(
            key, series, corruption.Withheld(modality=0.6)
        ).items()
    }
    assert lost["x"].sum() == lost["y"].sum() == 12 and not (lost["x"] & lost["y"]).any()
    whole = corruption.withhold(key, series, corruption.Withheld())
    assert all(kept.all() for kept in whole.values())


@pytest.mark.parametrize("name", ["uniform", "burst", "modality"])
def test_impossible_withheld(name):
    with pytest.raises(InputError, match=f"data.withheld.{name} within"):
        corruption.Withheld(**{name: 1.1})
