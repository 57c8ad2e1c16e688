"""A whole run, small: the output contract, resuming, and the modes of main.py."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import few_spirals
import jax
import numpy as np
import pytest

from configs import spirals
from jdmm import DivergenceError, InputError, Interrupted, SeriesFile, write_series
from jdmm.data.datasets import DATASETS
from jdmm.data.npz import write_npz
from jdmm.experiments import report, run, settings, train
from jdmm.experiments.evaluate import fingerprint
from jdmm.models.base import unobserved_series

ROOT = Path(__file__).parents[2]
TASKS = (
    "reconstruction",
    "drop_half",
    "forward_extrapolation",
    "backward_extrapolation",
    "conditional_generation",
)


def small_config(data_dir, **changes):
    """The smoke preset on so few series that compiling is most of the work."""
    config = few_spirals.get_config("smoke")
    config.data.dir = str(data_dir)
    config.batch_size = 5
    config.epochs = 3
    config.model.latent = 2
    config.model.hidden = 3
    config.inference.prediction_particles = 2
    config.eval.draws = 3
    config.eval.calibrate = True
    config.update_from_flattened_dict(changes)
    return config


class Bar:
    """A progress bar that calls functions."""

    def __init__(self, on_update=lambda: None, on_postfix=lambda figures: None):
        self.update, self.on_postfix = on_update, on_postfix

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def set_postfix(self, figures=None, refresh=True, **_):
        self.on_postfix(figures)


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "few_spirals", few_spirals.FewSpirals)
        yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """A finished run: its work directory and its results."""
    workdir = tmp_path_factory.mktemp("runs") / "small"
    return workdir, run.train_and_evaluate(small_config(data_dir), workdir)


@pytest.fixture
def without_figures(monkeypatch):
    """They take much of the time of an evaluation, and other tests look at them."""
    monkeypatch.setattr(report, "draw_figures", lambda *_: [])


def main(*arguments, **environment):
    """main.py in a process of its own."""
    return subprocess.run(
        [sys.executable, "main.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def contents(folder):
    """Path -> digest of every file below `folder`."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_output_contract(finished):
    workdir, results = finished
    assert results == json.loads((workdir / "results.json").read_text())
    assert set(results) >= {
        "config",
        "seed",
        "parameters",
        "params_sha256",
        "best_epoch",
        "train_seconds",
        "seconds_per_epoch",
        "tasks",
    }
    assert tuple(results["tasks"]) == TASKS
    for scores in results["tasks"].values():
        for truth in ("mse_truth", "mse"):
            assert scores[truth]["mean"] > 0 and scores[truth]["sd"] > 0
        assert 0 <= scores["coverage50"] <= scores["coverage80"] <= scores["coverage95"] <= 1
        assert scores["crps"] > 0
        assert np.isfinite(scores["nll"])
    assert results["log_likelihood"]["bound1"] < results["log_likelihood"]["bound10"]
    assert 1 <= results["log_likelihood"]["effective_draws"] <= 10
    kept = json.loads((workdir / "calibration.json").read_text())
    assert kept == {**results["calibration"], "params_sha256": results["params_sha256"]}
    figures = [f"figures/{name}.png" for name in ("tasks", "latents", "reliability")]
    for name in ("config.json", "report.md", *figures):
        assert (workdir / name).stat().st_size > 0
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 1, 2, 3]
    assert {"train/loss", "train/beta", "validation/score", "validation/loss"} <= set(records[-1])
    best = min(records[2:], key=lambda record: record["validation/score"])
    assert results["best_epoch"] == best["epoch"]


def test_several_seeds(data_dir, tmp_path, capsys):
    """Each has a directory of its own, and above these are the mean and the sd over them."""
    config = small_config(data_dir, seeds=2, seed=5, epochs=1, **{"train.restarts": 1})
    workdir = tmp_path / "run"
    results = run.train_and_evaluate(config, workdir)
    printed = capsys.readouterr().err
    assert "train step on 1 device(s): compiled in" in printed and "please report" not in printed
    assert results == json.loads((workdir / "results.json").read_text())
    each = [json.loads((workdir / f"seed-{seed}" / "results.json").read_text()) for seed in (5, 6)]
    assert [own["seed"] for own in each] == results["seeds"] == [5, 6]
    assert len(set(results["params_sha256"])) == 2
    for task in TASKS:
        for name, value in results["tasks"][task].items():
            values = [own["tasks"][task][name] for own in each]
            if name.startswith("mse"):
                values = [own["mean"] for own in values]
            assert value["mean"] == pytest.approx(np.mean(values))
            assert value["sd"] == pytest.approx(abs(values[0] - values[1]) / np.sqrt(2))
    for seed in (5, 6):
        assert f"seed-{seed}/report.md" in (workdir / "report.md").read_text()
        records = (workdir / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(record)["seed"] for record in records] == [seed]
        assert (workdir / f"seed-{seed}" / "figures" / "tasks.png").stat().st_size > 0
    run.sample_workdir(workdir, 2, 3)  # of the seed of the best validation


def test_a_model_that_fits_itself(data_dir, tmp_path, monkeypatch):
    """Fitted, evaluated, sampled from and used, without a train step or a checkpoint."""
    config = few_spirals.get_config("linear")
    changes = {"data.dir": str(data_dir), "model.latent": 2, "model.iterations": 2}
    config.update_from_flattened_dict({**changes, "eval.draws": 2, "eval.tasks": TASKS[1:2]})
    workdir = tmp_path / "run"
    shown = []
    with monkeypatch.context() as patch:
        patch.setattr(train, "tqdm", lambda **_: Bar(on_postfix=shown.append))
        results = run.train_and_evaluate(config, workdir)
    assert len(shown) == 2 and shown[0]["log_likelihood"] < shown[1]["log_likelihood"]
    assert np.isfinite(results["log_likelihood"]["exact"]) and results["best_epoch"] is None
    report = (workdir / "report.md").read_text()
    assert "fitted in" in report and "nats per step:" in report
    assert not (workdir / "checkpoints").exists()
    again = run.evaluate_workdir(workdir)
    assert again["tasks"] == results["tasks"]
    drawn = run.sample_workdir(workdir, 3, 7)
    assert drawn["x"].shape == (3, 7, 1) and np.isfinite(drawn["y"]).all()
    given = np.array([[0.1, np.nan, 0.3, np.nan, np.nan]])
    write_npz(tmp_path / "in.npz", {"x": given, "y": 0 * given})
    filled = run.infer_file(workdir, tmp_path / "in.npz", tmp_path / "out.npz", after=2)
    assert filled.mean["x"].shape == (1, 7, 1) and np.isfinite(filled.upper["y"]).all()


def test_published_size():
    config = spirals.get_config("paper")
    model = settings.build_model(config)
    variables = model.init(jax.random.key(0), unobserved_series(model.modalities, 1, 1))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 1854


def test_a_finished_run_is_only_evaluated_again(finished, data_dir, without_figures):
    workdir, results = finished
    again = run.train_and_evaluate(small_config(data_dir), workdir)
    for name in ("params_sha256", "best_epoch", "train_seconds", "tasks"):
        assert again[name] == results[name]


def test_spirals_from_a_file_train_the_same_variables(finished, data_dir, tmp_path):
    experiment = settings.build(small_config(data_dir))
    data = experiment.load()
    write_series(tmp_path / "spirals.jdmm", data["train"].series)
    source = SeriesFile(tmp_path / "spirals.jdmm")
    data["train"] = dataclasses.replace(data["train"], source=source)
    trained = train.train(experiment, tmp_path / "run", data)
    assert fingerprint(trained.of_seed(0)) == finished[1]["params_sha256"]


def test_sigterm_saves_and_the_same_command_resumes(
    finished, data_dir, tmp_path, monkeypatch, without_figures
):
    """Within an epoch, here with a change from series in memory to streamed ones."""
    _, results = finished
    steps = []

    def kill_at_step_3():
        steps.append(None)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train, "tqdm", lambda **_: Bar(kill_at_step_3))
    with pytest.raises(Interrupted, match="step 3"):
        run.train_and_evaluate(small_config(data_dir), tmp_path / "run")
    streamed = small_config(data_dir, **{"train.streamed": True})
    resumed = run.train_and_evaluate(streamed, tmp_path / "run")
    assert resumed["params_sha256"] == results["params_sha256"]
    assert resumed["tasks"] == results["tasks"]
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "run", finished[0])
    )
    assert ours == theirs


def test_killed_at_any_moment_ends_with_the_same_variables(finished, data_dir, tmp_path):
    """SIGKILL at three moments of main.py, the last of them while it writes checkpoints."""
    _, results = finished
    config = small_config(data_dir)
    arguments = [f"--workdir={tmp_path / 'run'}", "--config=tests/few_spirals.py:smoke"]
    arguments += [
        f"--config.{name}={value}"
        for name, value in settings.flat(config.to_dict())
        if name != "eval.tasks"
    ]
    for epoch in (0, 1, 3):
        process = subprocess.Popen(
            [sys.executable, "main.py", *arguments],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        metrics = tmp_path / "run" / "metrics.jsonl"
        while process.poll() is None:
            if metrics.exists() and len(metrics.read_text().splitlines()) > epoch:
                process.kill()
                break
            time.sleep(0.002)
        process.wait()
        assert process.returncode in (0, -signal.SIGKILL), process.stderr.read()
    final = main(*arguments)
    assert final.returncode == 0, final.stderr
    assert "reconstruction" in final.stdout
    outcome = json.loads((tmp_path / "run" / "results.json").read_text())
    assert outcome["params_sha256"] == results["params_sha256"]


def test_work_directory_of_another_config_is_refused(finished, data_dir):
    workdir, _ = finished
    before = contents(workdir)
    with pytest.raises(InputError, match="learning_rate is 0.02 there and 0.5 here"):
        run.train_and_evaluate(small_config(data_dir, learning_rate=0.5), workdir)
    assert contents(workdir) == before


def test_a_work_directory_of_an_older_version_is_named(finished, tmp_path):
    config = json.loads((finished[0] / "config.json").read_text())
    config["inference"]["moments"] = "sigma_points"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"^{tmp_path}/config.json: .* got 'moments'$"):
        run.evaluate_workdir(tmp_path)


def test_corrupt_checkpoint_is_refused(finished, data_dir, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    for path in workdir.glob("checkpoints/*/arrays/**/*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    before = contents(workdir)
    with pytest.raises(InputError, match="readable checkpoint"):
        run.train_and_evaluate(small_config(data_dir), workdir)
    with pytest.raises(InputError, match="readable checkpoint"):
        run.evaluate_workdir(workdir)
    assert contents(workdir) == before


def test_divergence_keeps_the_last_checkpoint(data_dir, tmp_path):
    config = small_config(data_dir, **{"learning_rate": 1e18, "train.clip_norm": 0.0})
    config.train.schedule = "constant"
    config.train.warmup = 2 / 3
    with pytest.raises(DivergenceError, match="at step"):
        run.train_and_evaluate(config, tmp_path / "run")


def test_evaluate_another_split(finished):
    workdir, _ = finished
    before = (workdir / "results.json").read_bytes()
    results = run.evaluate_workdir(workdir, "train")
    assert results["split"] == "train"
    assert (workdir / "results.json").read_bytes() == before
    assert json.loads((workdir / "results-train.json").read_text()) == results


def test_sample(finished, tmp_path):
    arrays = run.sample_workdir(finished[0], 4, 7, tmp_path / "s.npz")
    saved = np.load(tmp_path / "s.npz")
    assert set(saved) == {"x", "y", "x_mean", "y_mean"}
    for name in saved:
        assert saved[name].shape == (4, 7, 1)
        np.testing.assert_array_equal(saved[name], arrays[name])
    assert np.std(saved["x"] - saved["x_mean"]) > 0
    assert (finished[0] / "figures" / "samples.png").exists()
    with pytest.raises(InputError, match="no backward transition"):
        run.sample_workdir(finished[0], 4, 7, tmp_path / "r.npz", True)


def test_infer_fills_in_and_extrapolates(finished, tmp_path):
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 12))
    x[0, 4:6] = np.nan
    write_npz(tmp_path / "in.npz", {"x": x})  # y is wholly missing
    run.infer_file(finished[0], tmp_path / "in.npz", tmp_path / "out.npz", 2, 5)
    out = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(out["lengths"], [19, 19, 19])
    for name in ("x", "y"):
        assert out[f"{name}_mean"].shape == (3, 19, 1)
        assert np.isfinite(out[f"{name}_mean"]).all()
        assert (out[f"{name}_sd"] > 0).all()
        assert (out[f"{name}_lower"] < out[f"{name}_upper"]).all()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((2, 3)), "smell": np.zeros((2, 3))}, "smell"),
        ({"x": np.zeros((2, 3, 4))}, "x"),
        ({"x": np.full((2, 3), np.nan)}, "observed"),
        ({"x": np.zeros((2, 0))}, "one step or more"),
        ({"x": np.array([[0.0, np.inf]])}, "infinity"),
    ],
)
def test_bad_npz_is_refused(finished, tmp_path, arrays, words):
    write_npz(tmp_path / "in.npz", arrays)
    with pytest.raises(InputError, match=words) as caught:
        run.infer_file(finished[0], tmp_path / "in.npz", tmp_path / "out.npz")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("field", "value"), [("epochs", 0), ("data.validation", 600), ("batch_size", 11)]
)
def test_impossible_values_are_refused_before_anything_is_written(data_dir, tmp_path, field, value):
    with pytest.raises(InputError, match=f"{field} .*{value}"):
        run.train_and_evaluate(small_config(data_dir, **{field: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
