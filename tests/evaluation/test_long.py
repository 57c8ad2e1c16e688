"""Long series in windows: no step is lost, and no seam shows."""

import jax
import numpy as np
import pytest

import jdmm
from jdmm.evaluation.long import overlapping_windows, predict_long


@pytest.mark.parametrize(
    ("lengths", "window", "context", "ends"),
    [
        ([10], 4, 4, (0, 0)),
        ([1, 7, 30], 5, 3, (0, 0)),
        ([50, 20], 8, 8, (3, 11)),
        ([3], 9, 9, (1, 1)),
    ],
)
def test_every_step_is_predicted_once_with_its_context(lengths, window, context, ends):
    windows = overlapping_windows(np.array(lengths), window, context, ends)
    counts = [np.zeros(length, int) for length in lengths]
    for source, start, length, begin, end in zip(*windows, strict=True):
        counts[source][begin:end] += 1
        assert start == max(begin - context, 0)
        assert start + length == min(end + context, lengths[source])
        assert end - begin <= window + sum(ends)
        observed = np.arange(ends[0], lengths[source] - ends[1])
        assert np.isin(np.arange(start, start + length), observed).any()
    for count in counts:
        np.testing.assert_array_equal(count, 1)


def test_windows_predict_what_the_whole_series_does():
    """Linear interpolation depends on the nearest values alone, which every window is shown."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 100, 2)).cumsum(1)
    values[rng.random(values.shape) < 0.6] = np.nan
    series = jdmm.series_from_arrays({"x": values})
    model = jdmm.ImputationBaseline((jdmm.Modality("x", 2),), "interpolate")
    variables = model.fit(series)
    whole = jdmm.predict(model, variables, series, jax.random.key(0), 50).expected["x"][0]

    def cut(source, start, lengths):
        width = int(lengths.max())
        places = np.minimum(start[:, None] + np.arange(width), 99)
        inside = (np.arange(width) < lengths[:, None])[..., None]
        parts = np.where(inside, values[0][places], np.nan)
        return jdmm.series_from_arrays({"x": parts}, lengths=lengths)

    windows = overlapping_windows(np.array([100]), 16, 16, (0, 4))
    found = np.full((100, 2), np.nan)
    batches = predict_long(model, variables, cut, windows, jax.random.key(0), 50, batch_size=3)
    for rows, sampled in batches:
        assert sampled.samples["x"].shape[:2] == (50, 3)
        for row in range(len(rows.start)):
            own = slice(rows.begin[row] - rows.start[row], rows.end[row] - rows.start[row])
            found[rows.begin[row] : rows.end[row]] = sampled.expected["x"][row, own]
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)
