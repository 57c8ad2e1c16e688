"""From a user's arrays to the filled ones, from memory and from a file of series."""

import json

import command_lines
import numpy as np
import pytest

from configs import arrays
from jdmm import InputError, write_series
from jdmm.data.arrays.dataset import Arrays
from jdmm.data.npz import load_arrays, read_npz
from jdmm.experiments import choose, run, settings

COUNT, STEPS = 20, 16


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Straight lines far from 0, with gaps, so that lines between the values are exact."""
    rng = np.random.default_rng(0)
    start, slope = rng.normal(size=(2, COUNT, 1, 2))
    sensor = 1000 + 100 * (start + slope * np.arange(STEPS)[None, :, None] / STEPS)
    hidden = rng.random(sensor.shape) < 0.3
    hidden[:, [0, -1]] = False
    path = tmp_path_factory.mktemp("arrays") / "series.npz"
    np.savez(path, sensor=np.where(hidden, np.nan, sensor), truth=sensor)
    values = load_arrays(path)
    np.savez(path, sensor=values["sensor"])
    np.save(path.with_suffix(".npy"), values["truth"])
    return path


def config_of(source, preset):
    config = arrays.get_config(preset)
    config.data.path = str(source)
    return config


@pytest.mark.parametrize("preset", [p for p in arrays.PRESETS if p != "choose"])
def test_every_preset_is_an_experiment(source, preset):
    experiment = settings.build(config_of(source, preset))
    assert [m.name for m in experiment.model.modalities] == ["sensor"]


def test_all_candidates_take_numbers(source, tmp_path):
    config = config_of(source, "choose")
    experiments, left_out = choose._build(config, tmp_path / "run")
    assert set(experiments) == set(config.candidates) and not left_out
    assert len({id(experiment.dataset) for experiment in experiments.values()}) == 1  # read once


def test_predictions_are_in_the_units_of_the_file(source, tmp_path):
    config = config_of(source, "interpolate")
    config.eval.tasks = ("fill_10",)
    results = run.train_and_evaluate(config, tmp_path / "run")
    assert results["tasks"]["fill_10"]["mse"]["mean"] < 1e-2  # scaled; both ends may be hidden
    # the file of the training may be gone
    moved = tmp_path / "new.npz"
    np.savez(moved, sensor=load_arrays(source)["sensor"][:3])
    run.infer_file(tmp_path / "run", moved, tmp_path / "filled.npz")
    filled = load_arrays(tmp_path / "filled.npz")
    truth = np.load(source.with_suffix(".npy"))[:3]
    np.testing.assert_allclose(filled["sensor_mean"], truth, rtol=1e-5)
    assert (filled["sensor_lower"] <= filled["sensor_mean"]).all()
    kept = json.loads((tmp_path / "run" / "schema.json").read_text())
    assert 900 < kept["modalities"]["sensor"]["mean"][0] < 1100


@pytest.fixture(scope="module")
def in_memory(source, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "memory"
    config = config_of(source, "smoke")
    config.eval.tasks = ("without_sensor",)
    return run.train_and_evaluate(config, workdir), workdir


def test_a_file_of_series_trains_the_same_variables(source, in_memory, tmp_path):
    dataset = Arrays(str(source))
    write_series(tmp_path / "series.jdmm", read_npz(source, dataset.modalities))
    config = config_of(tmp_path / "series.jdmm", "smoke")
    config.eval.tasks = ("without_sensor",)
    results = run.train_and_evaluate(config, tmp_path / "run")
    assert results["params_sha256"] == in_memory[0]["params_sha256"]
    assert results["tasks"] == in_memory[0]["tasks"]
    scores = run.evaluate_workdir(tmp_path / "run", "train")
    assert set(scores["tasks"]) == {"without_sensor"}
    run.infer_file(tmp_path / "run", tmp_path / "series.jdmm", tmp_path / "filled.npz", after=2)
    filled = load_arrays(tmp_path / "filled.npz")
    run.infer_file(tmp_path / "run", source, tmp_path / "from_npz.npz", after=2)
    np.testing.assert_array_equal(
        filled["sensor_mean"], load_arrays(tmp_path / "from_npz.npz")["sensor_mean"]
    )
    assert filled["sensor_mean"].shape == (COUNT, STEPS + 2, 2)


def test_samples_are_in_the_units_of_the_file(in_memory, tmp_path):
    samples = run.sample_workdir(in_memory[1], 5, 7, tmp_path / "samples.npz")
    assert samples["sensor"].shape == (5, 7, 2)
    assert 500 < samples["sensor"].mean() < 1500
    assert 500 < samples["sensor_mean"].mean() < 1500


def test_a_file_of_series_is_not_for_models_that_fit_themselves(source, tmp_path):
    write_series(tmp_path / "series.jdmm", read_npz(source, Arrays(str(source)).modalities))
    config = config_of(tmp_path / "series.jdmm", "linear")
    with pytest.raises(InputError, match="expected series in memory for LinearGaussianSSM"):
        run.train_and_evaluate(config, tmp_path / "run")


def test_nothing_is_withheld_from_a_file_of_series(source, tmp_path):
    write_series(tmp_path / "series.jdmm", read_npz(source, Arrays(str(source)).modalities))
    config = config_of(tmp_path / "series.jdmm", "smoke")
    config.data.withheld.uniform = 0.5
    with pytest.raises(InputError, match="expected data.withheld of zeros"):
        run.train_and_evaluate(config, tmp_path / "run")


MODULE = """
from dataclasses import dataclass

import jdmm


@dataclass(frozen=True)
class Robust(jdmm.StudentT):
    pass


jdmm.register_likelihood("robust_of_a_module", Robust)
"""


def test_a_module_of_the_user_registers_a_likelihood(source, tmp_path, monkeypatch):
    (tmp_path / "my_likelihoods.py").write_text(MODULE)
    schema = {"modalities": {"sensor": {"features": 2, "likelihood": "robust_of_a_module"}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    config = config_of(source, "best")
    config.data.schema = str(tmp_path / "schema.json")
    with pytest.raises(InputError, match="expected a likelihood among"):
        settings.build(config)
    config.modules = ("my_likelihoods",)
    with pytest.raises(InputError, match="modules that can be imported, got 'my_likelihoods'"):
        settings.build(config)
    monkeypatch.syspath_prepend(tmp_path)
    experiment = settings.build(config)
    assert type(experiment.model.modalities[0].likelihood).__name__ == "Robust"
    settings.save_config(config, tmp_path / "config.json")  # what --mode=infer reads
    assert settings.build(settings.load_config(tmp_path / "config.json")).model == experiment.model


def test_mistakes_end_with_one_line(source, tmp_path):
    start = ["--config=configs/arrays.py:best", f"--workdir={tmp_path / 'run'}"]
    lines = {
        "expected data.path, got none": [],
        "expected an .npz file that can be read": ["--config.data.path=nothing.npz"],
        "expected eval.tasks among": [
            f"--config.data.path={source}",
            "--config.eval.tasks=('without_sound',)",
        ],
        "expected positive data.shares": [
            f"--config.data.path={source}",
            "--config.data.shares=(1.0, 1.0, 1.0)",
        ],
        "expected modules that can be imported": ["--config.modules=('nothing',)"],
    }
    found = command_lines.outcomes([[*start, *rest] for rest in lines.values()])
    for message, (status, errors) in zip(lines, found, strict=True):
        assert status == 2 and message in errors, errors
        assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
