"""The best of several models, on tables where it is known which one that is."""

import json

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from configs import files
from jdmm.errors import InputError
from jdmm.experiments import choose, report, run, settings

STEPS = 400

BASELINES = {kind: {"name": "baseline", "kind": kind} for kind in ("mean", "interpolate")}
LINEAR = {"linear": {"name": "linear_gaussian", "latent": 2, "iterations": 20}}
FULL = {"name": "sigma_point", "latent": 1, "hidden": 2, "emission": "linear"}


@pytest.fixture(scope="module", autouse=True)
def without_the_figures_of_each_run():
    """They take much of the time, and the tests of tables look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw_figures", lambda *_: [])
        yield


def walk():
    """Random walks without noise: lines between the values are the best prediction."""
    steps = np.random.default_rng(0).normal(size=(STEPS, 2))
    return {"a": steps[:, 0].cumsum(), "b": steps[:, 1].cumsum()}


def oscillation():
    """Noisy views of one fast oscillator: neighbours say little, the dynamics much."""
    rng, angle = np.random.default_rng(0), 2.0 * np.arange(STEPS)
    return {
        name: np.sin(angle + phase) + 0.3 * rng.normal(size=STEPS)
        for phase, name in enumerate("abc")
    }


def config_of(path, columns, candidates, tasks=("fill_10", "forecast")):
    pl.DataFrame(columns).write_csv(path)
    config = files.get_config("choose")
    config.data.path = str(path)
    config.data.window = 16
    config.eval.tasks = tasks
    config.eval.draws = 39
    config.epochs = 1
    del config.candidates
    config.candidates = candidates
    return config


@pytest.mark.parametrize(
    ("columns", "candidates", "winner"),
    [(walk(), BASELINES, "interpolate"), (oscillation(), BASELINES | LINEAR, "linear")],
)
def test_the_best_candidate_is_used(tmp_path, columns, candidates, winner):
    config = config_of(tmp_path / "table.csv", columns, candidates)
    results = run.train_and_evaluate(config, tmp_path / "run")
    choice = json.loads((tmp_path / "run" / "candidates.json").read_text())
    assert choice["chosen"] == winner
    scores = {name: own["score"] for name, own in choice["candidates"].items()}
    assert set(scores) == set(candidates)
    assert scores[winner] == min(scores.values()) < scores["mean"] - 0.5
    assert results["config"]["model"] == config.candidates[winner].to_dict()
    assert f"{winner} was chosen" in (tmp_path / "run" / "report.md").read_text()

    single = settings.load_config(tmp_path / "run" / "config.json")
    alone = run.train_and_evaluate(single, tmp_path / "alone")
    assert alone["params_sha256"] == results["params_sha256"]
    assert alone["tasks"] == results["tasks"]
    output = tmp_path / "filled.csv"
    run.infer_table(tmp_path / "run", tmp_path / "table.csv", output, after=3)
    assert pl.read_csv(output).height == STEPS + 3
    run.evaluate_workdir(tmp_path / "run")
    assert f"{winner} was chosen" in (tmp_path / "run" / "report.md").read_text()


def test_scores_are_log_errors_of_what_is_hidden(tmp_path):
    """Of the mean, on a table of ones and minus ones: the CRPS of a normal distribution at them."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], STEPS)
    config = config_of(tmp_path / "table.csv", {"a": signs}, {"mean": BASELINES["mean"]})
    run.train_and_evaluate(config, tmp_path / "run")
    (own,) = json.loads((tmp_path / "run" / "candidates.json").read_text())["candidates"].values()
    validation = settings.build(choose.candidate_config(config, "mean")).load()["validation"]
    hidden = np.asarray(validation.series.values["numbers"])[:, 12:, 0]
    hidden = hidden[np.asarray(validation.series.observed["numbers"])[:, 12:, 0]]
    crps = hidden * (2 * norm.cdf(hidden) - 1) + 2 * norm.pdf(hidden) - 1 / np.sqrt(np.pi)
    np.testing.assert_allclose(own["tasks"]["forecast"], np.log(np.mean(crps)), atol=0.05)
    np.testing.assert_allclose(own["score"], np.mean(list(own["tasks"].values())))


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    models = {**BASELINES, "full": FULL, "residual": FULL | {"residual": True}}
    config = config_of(tmp_path / "table.csv", walk(), models, ("fill_10",))
    whole = run.train_and_evaluate(config, tmp_path / "whole")
    trained = []

    def killed(experiment, folder, *rest):
        if folder.name == "residual" and "residual" not in trained:
            trained.append("residual")
            raise KeyboardInterrupt
        trained.append(folder.name)
        return train(experiment, folder, *rest)

    train = choose.train
    monkeypatch.setattr(choose, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        run.train_and_evaluate(config, tmp_path / "killed")
    assert trained == ["full", "interpolate", "mean", "residual"]
    again = run.train_and_evaluate(config, tmp_path / "killed")
    assert trained[4:] == ["residual", "killed"]
    assert again["params_sha256"] == whole["params_sha256"] and again["tasks"] == whole["tasks"]
    choices = [
        json.loads((tmp_path / name / "candidates.json").read_text())
        for name in ("whole", "killed")
    ]
    for choice in choices:
        for own in choice["candidates"].values():
            del own["seconds"]
    assert choices[0] == choices[1]


def test_candidates_that_cannot_take_the_table_are_left_out(tmp_path):
    columns = {"a": walk()["a"], "k": np.where(walk()["a"] > 0, "high", "low")}
    config = config_of(tmp_path / "table.csv", columns, BASELINES | LINEAR | {"full": FULL})
    config.candidates.full.residual = True
    experiments, outcomes = choose._build(config, tmp_path / "run")
    assert list(experiments) == ["full"] and set(outcomes) == {"mean", "interpolate", "linear"}
    scored = {"score": -1.0, "tasks": {"fill_10": -1.0}, "seconds": 3.0}
    lines = report.candidates({"chosen": "full", "candidates": {**outcomes, "full": scored}})
    assert "| full | -1.000 | -1.000 | 3 |" in lines
    assert any("linear was left out: expected a Normal likelihood in" in line for line in lines)


def test_all_candidates_of_the_preset_take_numbers(tmp_path):
    numbers = config_of(tmp_path / "numbers.csv", walk(), files.CANDIDATES)
    assert list(choose._build(numbers, tmp_path / "run")[0]) == sorted(files.CANDIDATES)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ({"full": FULL | {"latnt": 3}}, "latnt"),
        ({"full": {"name": "none"}}, "expected model.name among"),
        ({"full": 3}, "expected candidates.full to be a section, got 3"),
        ({}, "expected candidates to be a section of at least one model"),
    ],
)
def test_mistakes_are_no_reason_to_leave_a_candidate_out(tmp_path, candidates, message):
    config = config_of(tmp_path / "table.csv", walk(), candidates)
    with pytest.raises(InputError, match=message):
        run.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_candidate_takes_the_table(tmp_path):
    texts = {"k": np.where(walk()["a"] > 0, "high", "low")}
    config = config_of(tmp_path / "table.csv", texts, BASELINES)
    with pytest.raises(InputError, match="expected a candidate that takes these data, got none"):
        run.train_and_evaluate(config, tmp_path / "run")


def test_a_work_directory_is_of_one_choice(tmp_path):
    config = config_of(tmp_path / "table.csv", walk(), {"mean": BASELINES["mean"]})
    run.train_and_evaluate(choose.candidate_config(config, "mean"), tmp_path / "single")
    with pytest.raises(InputError, match="single of a single model: give another --workdir"):
        run.train_and_evaluate(config, tmp_path / "single")
    run.train_and_evaluate(config, tmp_path / "run")
    config.candidates.mean.kind = "carry"
    with pytest.raises(InputError, match=r"candidates.mean.kind is 'mean' there and 'carry' here"):
        run.train_and_evaluate(config, tmp_path / "run")
