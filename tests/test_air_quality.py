"""The air quality benchmarks: the file between the two programs, and the scores of samples."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from jdmm.evaluation.sample_statistics import (
    probability_integral_transform,
    ranked_probability_score,
)

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_spread_scores_are_those_of_jdmm(load):
    rng = np.random.default_rng(0)
    samples, value = rng.normal(size=(40, 500)), 1.5 * rng.normal(size=500)
    crps, covered = load("air_quality_data").spread_scores(samples, value)
    ordered = np.sort(samples, 0)
    np.testing.assert_allclose(crps, ranked_probability_score(ordered, value), atol=1e-5)
    pit = probability_integral_transform(ordered, value)
    np.testing.assert_array_equal(covered, np.abs(pit - 0.5) <= 0.475)
    assert 0 < covered.sum() < covered.size


def test_spread_scores_of_normal_samples(load):
    value = np.linspace(-3, 3, 13)
    samples = np.random.default_rng(0).normal(size=(20_000, 1)) + np.zeros(13)
    crps, covered = load("air_quality_data").spread_scores(samples, value)
    expected = value * (2 * norm.cdf(value) - 1) + 2 * norm.pdf(value) - 1 / np.sqrt(np.pi)
    np.testing.assert_allclose(crps, expected, atol=0.03)
    np.testing.assert_array_equal(covered, np.abs(value) < 1.96)


def test_windows_and_masks_pass_through_the_file(load, tmp_path):
    """From a table with gaps: hidden values are known ones, and windows of a part are in order."""
    rng = np.random.default_rng(0)
    table = rng.normal(3, 2, (2, 1000, 3)).astype(np.float32)
    table[rng.random(table.shape) < 0.1] = np.nan
    np.savez(tmp_path / "data.npz", x=table)
    ours, shared = load("air_quality"), load("air_quality_data")
    argv = ["", str(tmp_path / "data.npz"), "--pattern=block50", "--hours=30"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [*argv, f"--write_masks={tmp_path / 'masks.npz'}"])
        ours.main()
    parts = shared.read(tmp_path / "masks.npz")

    assert [len(part.values) for part in parts.values()] == [20, 7, 7]
    whole = np.concatenate([part.values.reshape(-1, 6) for part in parts.values()])
    columns = np.moveaxis(table, 0, 1).reshape(1000, 6)
    known = columns[:600]
    scaled = (columns - np.nanmean(known, 0)) / np.nanstd(known, 0)
    np.testing.assert_allclose(whole[:1000], scaled, rtol=1e-4, atol=1e-5)
    assert np.isnan(whole[1000:]).all()
    for part in parts.values():
        assert not np.isnan(part.values[part.hidden]).any()
        np.testing.assert_array_equal(np.isnan(part.shown), np.isnan(part.values) | part.hidden)
        assert part.hidden.sum() == pytest.approx(0.5 * (~np.isnan(part.values)).sum(), rel=0.02)
