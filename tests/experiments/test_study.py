"""A study of two small runs: resumed, summarised, drawn; and what is refused."""

import json
from pathlib import Path

import pytest

from configs import spirals
from configs.studies import spirals_methods
from jdmm import InputError
from jdmm.experiments import report, run, settings, study


def small(data_dir, hidden):
    config = spirals.get_config("mvae")
    config.update_from_flattened_dict(
        {
            "data.dir": str(data_dir),
            "data.validation": 590,
            "batch_size": 10,
            "epochs": 3,
            "seeds": 2,
            "train.restarts": 1,
            "model.hidden": hidden,
            "eval.draws": 2,
            "eval.batch_size": 400,
            "eval.tasks": ("drop_half",),
            "eval.importance": (),
            "eval.calibrate": False,
        }
    )
    return config


@pytest.fixture(scope="module", autouse=True)
def without_the_figures_of_each_run():
    """They take most of the time, and the tests of runs look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw_figures", lambda *_: [])
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study whose second run was done first, by its number, and then the rest."""
    data_dir, workdir = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("runs") / "small"
    methods = {"narrow": small(data_dir, 2), "wide": small(data_dir, 4)}
    study.run_study(methods, workdir, only=1)
    first = (workdir / "results.jsonl").read_text()
    study.run_study(methods, workdir)
    return methods, workdir, first


def test_each_run_and_seed_has_a_line(done):
    methods, workdir, first = done
    records = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
    assert [(each["name"], each["seed"]) for each in records] == [
        (name, seed) for name in methods for seed in (0, 1)
    ]
    assert [json.loads(line) for line in first.splitlines()] == records[2:]
    summary = (workdir / "study.md").read_text()
    values = [each["tasks"]["drop_half"]["mse"]["mean"] for each in records[:2]]
    mean, sd = sum(values) / 2, abs(values[0] - values[1]) / 2**0.5
    assert f"{mean:.4f} ({sd:.4f})" in summary and "| wide | 2 |" in summary
    assert (workdir / "figures" / "scores.png").stat().st_size > 0


def test_finished_runs_are_not_repeated(done, monkeypatch):
    methods, workdir, _ = done
    monkeypatch.setattr(run, "train_and_evaluate", None)
    before = (workdir / "study.md").read_text()
    study.run_study(methods, workdir)
    assert (workdir / "study.md").read_text() == before


def test_another_study_in_the_same_place_is_refused(done):
    methods, workdir, _ = done
    other = {name: config.copy_and_resolve_references() for name, config in methods.items()}
    other["narrow"].epochs = 7
    with pytest.raises(InputError, match="epochs is 3 there and 7 here"):
        study.run_study(other, workdir)


@pytest.mark.parametrize("number", [-1, 2])
def test_a_run_that_there_is_not(done, number):
    methods, workdir, _ = done
    with pytest.raises(InputError, match=r"--run within 0\.\.1"):
        study.run_study(methods, workdir, only=number)


@pytest.mark.parametrize(
    ("text", "named"),
    [(None, "FileNotFoundError"), ("nothing = 1", "neither"), ("raise KeyError('gone')", "gone")],
)
def test_files_that_are_no_studies(tmp_path, text, named):
    path = tmp_path / "study.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=named):
        study.load_study(str(path))


def test_the_studies_of_the_project_are_valid():
    for path in sorted(Path("configs/studies").glob("*.py")):
        module = study.load_study(str(path))
        for config in module.get_study().values() if hasattr(module, "get_study") else []:
            settings.build(config)
    assert {"bfvi", "f_mask", "f_skip", "b_mask", "b_skip"} <= set(spirals_methods.get_study())


def test_a_search_uses_the_validation_score(tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rates = []

    def suggest(trial):
        config = small(tmp_path / "data", 2)
        config.seeds = 1
        config.learning_rate = trial.suggest_float("learning_rate", 0.001, 0.1, log=True)
        rates.append(config.learning_rate)
        return config

    study.search(suggest, tmp_path / "search", 1)
    study.search(suggest, tmp_path / "search", 1)
    best = json.loads((tmp_path / "search" / "best.json").read_text())
    metrics = [tmp_path / "search" / f"trial-{n}" / "metrics.jsonl" for n in (0, 1)]
    assert not list((tmp_path / "search").glob("*/results.json"))  # the test series are left alone
    scores = [json.loads(path.read_text().splitlines()[-1])["validation/score"] for path in metrics]
    assert best["score"] == min(scores) and best["trial"] == scores.index(min(scores))
    assert best["learning_rate"] == rates[best["trial"]]


def test_fields_of_every_run_are_set_or_refused(tmp_path):
    methods = {"a": small(tmp_path, 2), "b": small(tmp_path, 4)}
    found = study.assigned(methods, ["data.dir=elsewhere", "epochs=7", "eval.tasks=('drop_half',)"])
    assert {each.data.dir for each in found.values()} == {"elsewhere"}
    assert {each.epochs for each in found.values()} == {7}
    for wrong, message in (
        ("epochs", "expected --set=FIELD=VALUE with a field of a"),
        ("data.path=x", "expected --set=FIELD=VALUE with a field of a"),
        ("epochs=many", "expected --set=epochs of the type of 7, got 'many'"),
    ):
        with pytest.raises(InputError, match=message):
            study.assigned(methods, [wrong])
