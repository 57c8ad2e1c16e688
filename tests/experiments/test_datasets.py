"""A data set of a user: one class and one configuration, through the whole program.

It has nothing in common with the spirals: a sensor of two features and a label, series of different
lengths, no curve without noise, and no second observation.
"""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from ml_collections import ConfigDict

from jdmm import Categorical, InputError, Modality, series_from_arrays
from jdmm.data import tasks
from jdmm.data.base import Dataset, Split
from jdmm.data.datasets import DATASETS
from jdmm.data.npz import write_npz
from jdmm.experiments import run, settings, study

TASKS = ("reconstruction", "drop_half", "forward_extrapolation", "label_from_sensor")


@dataclass(frozen=True)
class Sensors(Dataset):
    """Circles that turn left, right or not at all, as the label says."""

    count: int
    noise: float = 0.1

    @property
    def modalities(self):
        return Modality("sensor", features=2), Modality("label", likelihood=Categorical(3))

    @property
    def tasks(self):
        generation = tasks.conditional_generation(["sensor"], shown=0.0)
        return {**tasks.STANDARD_TASKS, "label_from_sensor": generation}

    def load(self):
        rng = np.random.default_rng(0)
        return {name: self._split(rng) for name in ("train", "validation", "test")}

    def _split(self, rng):
        sensor, label = [], []
        for number in range(self.count):
            steps = np.arange(rng.integers(5, 9))
            angle = rng.uniform(0, 6) + (number % 3 - 1) * steps
            circle = np.stack([np.cos(angle), np.sin(angle)], -1)
            sensor.append(circle + self.noise * rng.normal(size=circle.shape))
            label.append(np.full(len(steps), number % 3.0))
        return Split(series_from_arrays({"sensor": sensor, "label": label}))


def make_config():
    return ConfigDict(
        {
            "seed": 0,
            "seeds": 1,
            "epochs": 3,
            "batch_size": 4,
            "learning_rate": 0.01,
            "data": {"name": "sensors", "count": 8, "withheld": {"uniform": 0.2}},
            "model": {"name": "mvae", "latent": 2, "hidden": 3},
            "loss": {"unimodal": 0.0},
            "train": {},
            "eval": {
                "tasks": TASKS,
                "select": "score",
                "draws": 3,
                "calibrate": True,
                "importance": (1, 2),
                "batch_size": 8,
                "seed": 0,
            },
        }
    )


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "sensors", Sensors)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, registered):
    """A finished run: its work directory and its results."""
    workdir = tmp_path_factory.mktemp("runs") / "study" / "sensors"
    return workdir, run.train_and_evaluate(make_config(), workdir)


def test_scores_are_those_that_the_data_allow(finished):
    _, results = finished
    points = {"mse", "accuracy", "series_accuracy_label"}
    intervals = {"coverage50", "coverage80", "coverage95", "crps"}
    assert {task: set(values) for task, values in results["tasks"].items()} == {
        "reconstruction": points,
        "drop_half": {*points, "nll"} | intervals,
        "forward_extrapolation": {*points, "nll"} | intervals,
        "label_from_sensor": {*points, "nll"},
    }
    for values in results["tasks"].values():
        assert 0 <= values["accuracy"] <= 1 and values["mse"]["mean"] > 0
    assert set(results["log_likelihood"]) == {"bound1", "bound2", "effective_draws"}
    assert np.isfinite(list(results["log_likelihood"].values())).all()


def test_the_report_and_the_figures(finished):
    workdir, results = finished
    report = (workdir / "report.md").read_text()
    heading, _, first = report.splitlines()[4:7]
    assert heading == (
        "| task | accuracy by series, label | MSE | accuracy | 50 % | 80 % | 95 % | CRPS | NLL |"
    )
    assert first.startswith("| reconstruction |") and first.endswith("| - | - | - | - | - |")
    for name in (*TASKS, "latents", "reliability", "learning_curves"):
        assert (workdir / "figures" / f"{name}.png").stat().st_size > 0
        assert f"figures/{name}.png" in report
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    record = next(each for each in records if each["epoch"] == results["best_epoch"])
    errors = [record[f"validation/{kind}/{t}"] for kind in ("mse", "brier") for t in TASKS]
    assert record["validation/score"] == pytest.approx(np.mean(np.log(errors)), rel=1e-5)
    assert results["validation_score"] == record["validation/score"]


def test_the_same_class_evaluates_another_split_and_is_withheld_from(finished):
    workdir, _ = finished
    data = settings.build(make_config()).load()
    assert data["test"].series.observed["label"].sum() == data["test"].series.lengths.sum()
    assert data["train"].series.observed["label"].sum() < data["train"].series.lengths.sum()
    assert run.evaluate_workdir(workdir, "validation")["split"] == "validation"
    assert (workdir / "report-validation.md").exists()


def test_samples(finished, tmp_path):
    workdir, _ = finished
    arrays = run.sample_workdir(workdir, 3, 5, tmp_path / "samples.npz")
    assert arrays["sensor"].shape == (3, 5, 2) and arrays["label"].shape == (3, 5, 1)
    assert set(np.unique(arrays["label"])) <= {0, 1, 2}
    assert (workdir / "figures" / "samples.png").stat().st_size > 0


def test_inference_from_a_file(finished, tmp_path):
    workdir, _ = finished
    source, output = tmp_path / "in.npz", tmp_path / "out.npz"
    write_npz(source, {"sensor": np.zeros((2, 4, 2)), "lengths": np.array([4, 3])})
    run.infer_file(workdir, source, output, before=2)
    found = np.load(output)
    np.testing.assert_array_equal(found["lengths"], [6, 5])
    assert found["sensor_mean"].shape == (2, 6, 2) and found["label_mean"].shape == (2, 6, 1)
    valid = np.arange(6)[None, :] < found["lengths"][:, None]
    assert (found["sensor_lower"] < found["sensor_upper"])[valid].all()
    np.testing.assert_allclose(found["label_probabilities"].sum(-1)[valid], 1.0, rtol=1e-5)
    assert "label_sd" not in found
    write_npz(source, {"label": np.full((1, 4), 7.0)})
    with pytest.raises(InputError, match=f"{source}: expected whole numbers from 0 to 2 .* got 7"):
        run.infer_file(workdir, source, output)


def test_a_study_summarises_it(finished):
    workdir, results = finished
    study.run_study({"sensors": make_config()}, workdir.parent)
    summary = (workdir.parent / "study.md").read_text()
    row = " | ".join(f"{results['tasks'][task]['accuracy']:.3f}" for task in TASKS)
    assert f"| sensors | {row} |" in summary
    assert "MSE, truth" not in summary


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noises": 1.0}, "expected data fields among count, noise, got 'noises'"),
        ({"count": 2.5}, "expected data.count to be a whole number, got 2.5"),
        (
            {"name": "sensor"},
            "expected data.name among spirals, weizmann, files, arrays, sensors, got 'sensor'",
        ),
    ],
)
def test_mistakes_in_its_section(changes, message):
    config = make_config()
    config.data = ConfigDict({**config.data.to_dict(), **changes})
    with pytest.raises(InputError, match=message):
        settings.build(config)


def test_a_missing_field():
    config = make_config()
    del config.data.count
    with pytest.raises(InputError, match="expected the field data.count, got none"):
        settings.build(config)


def test_a_task_that_the_data_set_does_not_have():
    config = make_config()
    config.eval.tasks = ("conditional_generation",)
    with pytest.raises(InputError, match="label_from_sensor, got 'conditional_generation'"):
        settings.build(config)


def test_values_that_disagree_with_the_modalities(monkeypatch):
    wrong = Split(
        series_from_arrays({"sensor": np.zeros((1, 3, 2)), "label": np.full((1, 3), 5.0)})
    )
    monkeypatch.setattr(Sensors, "_split", lambda *_: wrong)
    with pytest.raises(InputError, match="whole numbers from 0 to 2 in modality 'label'"):
        settings.build(make_config()).load()
    series = series_from_arrays({"sensor": np.zeros((1, 3, 2)), "label": np.zeros((1, 3))})
    truth = Split(series, truth={"sensor": np.zeros((1, 3, 1))})
    monkeypatch.setattr(Sensors, "_split", lambda *_: truth)
    with pytest.raises(InputError, match="truth of modality 'sensor' of shape .*, got "):
        settings.build(make_config()).load()
