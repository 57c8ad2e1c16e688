"""Streamed training equals training from memory, bit for bit."""

import os
import re
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from toy_models import NUM_STEPS, Constant, settings, waves

from jdmm import (
    MDMM,
    Devices,
    Image,
    InputError,
    LinearGaussianSSM,
    LossWeights,
    Modality,
    Normal,
    Poisson,
    Series,
    SeriesFile,
    SeriesSource,
    Standardise,
    fit,
    fit_seeds,
    series_from_arrays,
    write_series,
)
from jdmm.training.batches import stream
from jdmm.training.loop import initial_progress, run_epochs
from jdmm.training.schedule import Schedule
from jdmm.training.scoring import loss_scorer

WEIGHTS = LossWeights(prior_matching_particles=4)
VIDEO = MDMM(
    (Modality("x"), Modality("video", likelihood=Normal(), image=Image((2, 2, 1), (2,)))),
    latent=1,
    hidden=2,
    weights=WEIGHTS,
)


def films(count):
    """Series of different lengths in no order, with gaps and images as bytes."""
    random = np.random.default_rng(2)
    frames = random.integers(0, 256, (count, NUM_STEPS, 4))
    x = random.normal(size=(count, NUM_STEPS, 1))
    x[random.random(x.shape) < 0.3] = np.nan
    lengths = random.integers(1, NUM_STEPS + 1, count)
    series = series_from_arrays({"x": x, "video": frames}, lengths=lengths)
    values = {**series.values, "video": series.values["video"].astype(np.uint8)}
    return Series(values, series.observed, series.lengths, series.index[::-1].copy())


@pytest.fixture
def on_disk(tmp_path):
    def write(series):
        write_series(tmp_path / "series.jdmm", series)
        return SeriesFile(tmp_path / "series.jdmm")

    return write


class Recorded(SeriesSource):
    """Series in memory as a source that remembers what was read."""

    def __init__(self, series):
        self.series, self.read = series, []

    @property
    def batch(self):
        return self.series.batch

    def take(self, rows):
        self.read.append(rows.tolist())
        return self.series.take(rows)


def train(model, series, how, seeds=(1,), progress=None, **options):
    progress = progress or initial_progress(model, series, how, seeds)
    for _ in run_epochs(model, series, how, progress, **options):
        pass
    return progress


def test_a_file_gives_the_variables_of_training_from_memory(on_disk):
    """With two seeds, a last batch that is not full, bytes and statistics of the batch."""
    series, how, seeds = films(10), settings(), (1, 2)
    kept = train(VIDEO, series, how, seeds)
    streamed = train(VIDEO, on_disk(series), how, seeds)
    chex.assert_trees_all_equal(kept.state, streamed.state)
    chex.assert_trees_all_equal(kept.best, streamed.best)
    assert kept.records == streamed.records


def test_series_in_memory_can_be_streamed_too():
    series = waves(10)
    kept = train(Constant(), series, settings())
    streamed = train(Constant(), series, settings(streamed=True))
    chex.assert_trees_all_equal(kept.state, streamed.state)


def test_seeds_of_one_program_on_an_accelerator(on_disk, monkeypatch):
    monkeypatch.setattr(Devices, "vectorised", True)
    series, seeds = waves(10), (1, 2, 3)
    kept = train(Constant(), series, settings(), seeds)
    streamed = train(Constant(), on_disk(series), settings(), seeds)
    chex.assert_trees_all_equal(kept.state, streamed.state)


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_an_interrupted_stream_resumes_bit_identically(on_disk, stop_after, restarts):
    """Within an epoch; from memory too, since the step is all that a stream depends on."""
    model, series = Constant(), waves(10)
    how = settings(restarts=restarts, restart_rungs=(1 / 3,))
    score = loss_scorer(model, waves(4, seed=1), 0)
    straight = train(model, series, how, score=score)
    source = on_disk(series)
    stop = {"interrupted": lambda steps: steps == stop_after}
    halfway = train(model, source, how, score=score, **stop)
    assert halfway.steps == stop_after
    resumed = train(model, source, how, progress=halfway, score=score)
    chex.assert_trees_all_equal(straight.state, resumed.state)
    chex.assert_trees_all_equal(straight.best, resumed.best)
    assert straight.records == resumed.records


def test_a_stream_begins_at_the_step_of_the_resume():
    how, source = settings(), Recorded(waves(12))
    progress = train(Constant(), source, how, interrupted=lambda steps: steps == 2)
    source.read.clear()
    next(run_epochs(Constant(), source, how, progress))
    read = [rows for rows in source.read if rows != [0]]  # an example gives the shapes
    assert read == [Schedule(how, 12).rows(1, 0, 0)[2].tolist()]


def test_a_process_reads_the_series_of_its_devices_only(monkeypatch):
    """The second of two processes of two devices each, with two seeds."""

    class Remote(Devices):
        def place(self, tree):
            return tree

    monkeypatch.setattr(jax, "process_index", lambda: 1)
    schedule, source = Schedule(settings(batch_size=8), 21), Recorded(waves(21))
    rows = np.stack([schedule.rows(seed, 0, 0) for seed in (1, 2)], 1)  # (step, seed, batch)
    feed = stream(Constant(), source, Remote((None, None), 4))
    source.read.clear()
    found = list(feed(rows))
    assert len(found) == len(rows) == 3
    assert sorted(source.read) == sorted(
        [*step[:, 4:6].ravel(), *step[:, 6:].ravel()] for step in rows
    )
    for step, (batch, places) in zip(rows, found, strict=True):
        for device, own in enumerate((step[:, 4:6], step[:, 6:])):
            assert places[device].shape == own.shape
            np.testing.assert_array_equal(places[device] < 0, own < 0)
            real = own >= 0
            np.testing.assert_array_equal(batch.index[device][places[device]][real], own[real])


def test_fit_streams_and_scales(on_disk):
    series, validation = waves(16), waves(8, seed=1)
    scaling = Standardise.fit(series)
    source = on_disk(series)
    for options in ({}, {"scaling": scaling}):
        kept = fit(Constant(), series, validation, settings(), **options)
        streamed = fit(Constant(), source, validation, settings(), **options)
        chex.assert_trees_all_equal(kept.variables, streamed.variables)
        assert kept.history == streamed.history
        assert kept.best_score == streamed.best_score
    several = fit_seeds(Constant(), source, validation, settings(), seeds=[3, 4])
    alone = fit_seeds(Constant(), series, validation, settings(), seeds=[3, 4])
    for one, other in zip(several, alone, strict=True):
        chex.assert_trees_all_equal(one.variables, other.variables)


def test_values_that_need_scaling_give_a_warning(on_disk):
    values = np.random.default_rng(0).normal(1000, 10, (8, NUM_STEPS))
    source = on_disk(series_from_arrays({"x": values, "y": (values - 1000) / 10}))
    with pytest.warns(UserWarning, match="modality 'x', feature 0: mean"):
        fit(Constant(), source, settings=settings(epochs=1))


def test_what_a_source_cannot_do_is_refused(on_disk):
    source = on_disk(waves(8))
    with pytest.raises(InputError, match="expected a Standardise as scaling of streamed series"):
        fit(Constant(), source, scaling=True)
    linear = LinearGaussianSSM((Modality("x"), Modality("y")), latent=1)
    with pytest.raises(InputError, match="in memory for LinearGaussianSSM, .* got a SeriesFile"):
        fit(linear, source)
    with pytest.raises(InputError, match="a Series or a SeriesSource, got dict"):
        fit(Constant(), {"x": 1})
    with pytest.raises(InputError, match="batch_size of at most the 8 training series, got 9"):
        fit(Constant(), source, settings=settings(batch_size=9))
    with pytest.raises(InputError, match="expected modality 'y'"):
        fit(Constant(), on_disk(waves(8).select(["x"])))


def test_values_outside_of_the_support_are_refused_when_they_are_read(on_disk):
    counts = np.ones((8, NUM_STEPS))
    counts[5, 2] = -1
    source = on_disk(series_from_arrays({"x": counts, "y": counts + 1}))
    model = Constant((Modality("x", likelihood=Poisson()), Modality("y")))
    with pytest.raises(InputError, match=r"training series 5: expected .* \(0, 2, 0\)"):
        fit(model, source, settings=settings())


def test_series_of_other_shapes_are_refused_when_they_are_read():
    class Ragged(Recorded):
        def take(self, rows):
            series = super().take(rows)
            return series if len(rows) == 1 else series.until(NUM_STEPS - 1)

    wanted = re.escape("expected 4 series of the form of the first one, {'x': 'float32[6, 1]'")
    with pytest.raises(InputError, match=wanted):
        fit(Constant(), Ragged(waves(8)), settings=settings())


def test_a_damaged_record_ends_training_with_one_line(on_disk):
    source = on_disk(waves(8))
    content = bytearray(source.path.read_bytes())
    content[600] ^= 255
    source.path.write_bytes(content)
    with pytest.raises(InputError, match=r"series\.jdmm: expected a whole file") as caught:
        train(Constant(), SeriesFile(source.path), settings())
    assert "\n" not in str(caught.value)


MEMORY = """
import resource, sys
import numpy as np
from toy_models import Constant, settings
from jdmm import Modality, Series, SeriesFile, fit, write_series

model = Constant((Modality("x", 4), Modality("y", 4)))

def batches(count):
    index = np.arange(16)
    for number in range(count):
        x = np.full((16, 1000, 4), number / count, np.float32)
        yield Series({"x": x, "y": -x}, {"x": x >= 0, "y": x >= 0}, 0 * index + 1000, index)

def peak(count):
    write_series(sys.argv[1], batches(count))
    fit(model, SeriesFile(sys.argv[1]), settings=settings(epochs=1, batch_size=16))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

print(peak(100), peak(400))
"""


def test_memory_does_not_grow_with_the_number_of_series(tmp_path):
    """300 batches more, of 640 kB each, take a quarter of their size at most: fragments."""
    folders = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    output = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path / "series.jdmm"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders), "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    few, many = map(int, output.split())
    assert many - few < 0.25 * 300 * 640e3
