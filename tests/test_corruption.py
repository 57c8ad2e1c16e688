"""Deletions against what their docstrings promise: exact counts, places, and independence."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jdmm import corruption
from jdmm.corruption import segment
from jdmm.series import series_from_arrays

LENGTHS = np.array([1, 2, 7, 10, 40, 100], np.int32)
TIME = 100
FRACTIONS = [0.0, 0.1, 0.25, 0.5, 0.75, 1.0]
burst = jax.jit(corruption.burst, static_argnums=2)
scattered = jax.jit(corruption.scattered, static_argnums=2)
RANDOM = pytest.mark.parametrize("delete", [burst, scattered])


def hidden(keep: jax.Array) -> np.ndarray:
    """``(batch, time)``: the deleted steps."""
    assert keep.shape[2:] == (1,)
    return ~np.array(keep)[..., 0]


@RANDOM
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_hides_the_exact_count_within_each_length(delete, fraction):
    """round(fraction * length) steps, none of them in the padding."""
    gone = hidden(delete(jax.random.key(0), jnp.array(LENGTHS), TIME, fraction))
    assert gone.shape == (len(LENGTHS), TIME)
    assert not (gone & (np.arange(TIME) >= LENGTHS[:, None])).any()
    assert gone.sum(1).tolist() == [round(fraction * int(n)) for n in LENGTHS]


def test_burst_takes_a_fraction_per_series():
    """Each row is the row of the same burst with its fraction for all."""
    found = burst(jax.random.key(0), jnp.array(LENGTHS), TIME, jnp.array(FRACTIONS))
    for row, fraction in enumerate(FRACTIONS):
        same = burst(jax.random.key(0), jnp.array(LENGTHS), TIME, fraction)
        np.testing.assert_array_equal(found[row], same[row])


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_burst_is_contiguous(fraction):
    for row in hidden(burst(jax.random.key(1), jnp.array(LENGTHS), TIME, fraction)):
        steps = np.flatnonzero(row)
        assert (np.diff(steps) == 1).all()


@RANDOM
@pytest.mark.parametrize("fraction, starts", [(0.2, 5), (0.6, 3)])
def test_every_place_is_equally_likely(delete, fraction, starts):
    """Frequencies over 5000 series of 5 steps within 5 standard errors of the uniform law."""
    count, length = 5000, 5
    gone = hidden(delete(jax.random.key(2), jnp.full(count, length), 8, fraction))[:, :length]
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
    lengths = jnp.array(LENGTHS)
    once = delete(jax.random.key(3), lengths, TIME, 0.5)
    np.testing.assert_array_equal(once, delete(jax.random.key(3), lengths, TIME, 0.5))
    assert (once != delete(jax.random.key(4), lengths, TIME, 0.5)).any()


@RANDOM
def test_rows_differ(delete):
    gone = hidden(delete(jax.random.key(5), jnp.full(20, TIME), TIME, 0.5))
    assert len({row.tobytes() for row in gone}) > 10


@RANDOM
@pytest.mark.parametrize("time, batch", [(TIME + 31, 6), (TIME, 4)])
def test_a_row_does_not_depend_on_padding_or_neighbours(delete, time, batch):
    """The same series in a batch padded further, or cut to fewer series."""
    key = jax.random.key(6)
    whole = hidden(delete(key, jnp.array(LENGTHS), TIME, 0.5))
    other = hidden(delete(key, jnp.array(LENGTHS[:batch]), time, 0.5))
    np.testing.assert_array_equal(other[:, :TIME], whole[:batch])
    neighbours = np.array([50, 60, 70, 80, 90, LENGTHS[-1]])
    np.testing.assert_array_equal(
        hidden(delete(key, jnp.array(neighbours), TIME, 0.5))[-1], whole[-1]
    )


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
    keep = np.array(segment(jnp.array([40]), TIME, start, stop))
    assert np.flatnonzero(keep[0, :, 0]).tolist() == list(expected)


@pytest.mark.parametrize("edge", [0.1, 0.25, 1 / 3, 0.5, 0.9])
def test_two_segments_share_no_step_and_miss_none(edge):
    lengths = jnp.arange(1, TIME + 1)
    first, second = (segment(lengths, TIME, *ends) for ends in ((0.0, edge), (edge, 1.0)))
    valid = np.arange(TIME) < np.arange(1, TIME + 1)[:, None]
    np.testing.assert_array_equal(np.array(first) ^ np.array(second), valid[..., None])
    assert not (np.array(first) & np.array(second)).any()


@RANDOM
def test_hiding_never_reveals(delete):
    """`Series.hide` leaves exactly what was observed and is kept."""
    rng = np.random.default_rng(0)
    value = rng.normal(size=(6, TIME, 2))
    value[rng.uniform(size=value.shape) < 0.3] = np.nan
    series = series_from_arrays({"x": value}, lengths=LENGTHS)
    keep = np.array(delete(jax.random.key(8), jnp.array(LENGTHS), TIME, 0.5))
    found = series.hide({"x": keep})
    inside = (np.arange(TIME) < LENGTHS[:, None])[..., None]
    expected = ~np.isnan(value) & keep & inside
    np.testing.assert_array_equal(found.observed["x"], expected)
    np.testing.assert_array_equal(
        found.values["x"], np.where(expected, value, 0).astype(np.float32)
    )
