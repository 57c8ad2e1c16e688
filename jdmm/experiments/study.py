"""Many runs as one study: each in its own work directory, together one table and one figure.

    python -m jdmm.experiments.study configs/studies/spirals_methods.py \
        [--run=N] [--trials=N] [--set=FIELD=VALUE]

A study file has `get_study() -> dict[str, ConfigDict]`, name -> configuration, which also holds
the seeds. Runs that were stopped are continued, and finished runs are not repeated. With `--run=N`
only the run of that number is done, as in the tasks of a job array. `--set` sets a field of every
run, such as data.path. `results.jsonl` has a line per run and seed; `study.md` and `figures/`
summarise it. Runs that are named "method@number" are drawn as curves over the numbers.

A study file with `suggest(trial) -> ConfigDict` is a search: `--trials=N` adds N trials of Optuna
to those in the work directory, and looks for the lowest validation score. A trial that diverges is
left out. The test series are not used. Several processes may search at once.
"""

import ast
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from jdmm import compiling
from jdmm.errors import DivergenceError, InputError
from jdmm.experiments import command, report, run, settings
from jdmm.experiments.settings import Config
from jdmm.experiments.train import seed_dirs, train
from jdmm.files import write_text
from jdmm.plotting import runs, style
from jdmm.training import parallel

Study = dict[str, Config]
Record = dict[str, Any]


def load_study(path: str) -> Any:
    """The module of a study file.

    Raises:
        InputError: if it cannot be loaded, or has neither `get_study` nor `suggest`.
    """
    try:
        spec = importlib.util.spec_from_file_location("study", path)
        if spec is None or spec.loader is None:
            raise ImportError("not a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:  # a study file is a program and can raise any exception
        raise InputError(
            f"expected a study file, got {path} ({type(error).__name__}: {error})"
        ) from error
    if not hasattr(module, "get_study") and not hasattr(module, "suggest"):
        raise InputError(f"expected get_study or suggest in {path}, got neither")
    return module


def run_study(study: Study, workdir: Path, only: int | None = None) -> None:
    """Does the runs that are not finished, or the one numbered `only`, and summarises all.

    Raises:
        InputError: for a bad configuration, or a number out of range, before anything is run.
    """
    for config in study.values():
        settings.build(config)
    names = list(study)
    if only is not None and not 0 <= only < len(names):
        raise InputError(f"expected --run within 0..{len(names) - 1}, got {only}")
    for name in names if only is None else [names[only]]:
        if len(finished(study[name], workdir / name)) < study[name].seeds:
            run.train_and_evaluate(study[name], workdir / name)
    if parallel.is_primary():
        summarise(study, workdir)


def assigned(study: Study, assignments: Sequence[str]) -> Study:
    """The study with fields of every configuration set, such as "data.path=clips.npz".

    Raises:
        InputError: for an assignment without "=", a field that a configuration lacks, or a value of
            another type.
    """
    for each in assignments:
        field, equals, text = each.partition("=")
        for name, config in study.items():
            fields = dict(settings.flat(config.to_dict()))
            if not equals or field not in fields:
                raise InputError(
                    f"expected --set=FIELD=VALUE with a field of {name}, such as data.name, got "
                    f"{each!r}"
                )
            try:
                value = text if isinstance(fields[field], str) else ast.literal_eval(text)
                config.update_from_flattened_dict({field: value})
            except (ValueError, SyntaxError, TypeError) as error:
                raise InputError(
                    f"expected --set={field} of the type of {fields[field]!r}, got {text!r}"
                ) from error
    return study


def finished(config: Config, directory: Path) -> list[Record]:
    """The results of the seeds of a run that have been evaluated.

    Raises:
        InputError: if the directory is of another experiment.
    """
    if not (directory / "config.json").exists():
        return []
    experiment = settings.build(config)
    kept = settings.load_config(directory / "config.json")
    if other := settings.difference(experiment, kept):
        raise InputError(
            f"expected a run of this study in {directory}, but {other}: give another --workdir"
        )
    paths = [own / "results.json" for own in seed_dirs(experiment.seeds, directory).values()]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def summarise(study: Study, workdir: Path) -> list[Record]:
    """Writes `results.jsonl`, `study.md` and the figure of all finished runs."""
    records = [
        {"name": name} | {key: value for key, value in results.items() if key != "config"}
        for name, config in study.items()
        for results in finished(config, workdir / name)
    ]
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(workdir / "results.jsonl", "".join(json.dumps(each) + "\n" for each in records))
    if records:
        lines = [f"# {workdir.name}", "", *tables(records), "", "![](figures/scores.png)"]
        write_text(workdir / "study.md", "\n".join(lines) + "\n")
        columns = report.columns(records)
        drawn = "mse" if "mse" in columns else next(iter(columns))
        figure = runs.scores(scores_by_task(records, drawn), columns[drawn].heading)
        style.save(figure, workdir / "figures" / "scores.png")
    return records


def scores_by_task(records: list[Record], score: str) -> dict[str, dict[str, dict[str, float]]]:
    """Task -> run -> mean of a score over the seeds and, of several, sd."""
    found: dict[str, dict[str, list[Any]]] = {}
    for record in records:
        for task, values in record["tasks"].items():
            if score in values:
                found.setdefault(task, {}).setdefault(record["name"], []).append(values[score])
    return {
        task: {name: report.mean_and_sd(each) for name, each in own.items()}
        for task, own in found.items()
    }


def tables(records: list[Record]) -> list[str]:
    """One Markdown table per score, runs as rows and tasks as columns, mean (sd) over seeds."""
    names = list(dict.fromkeys(record["name"] for record in records))
    lines: list[str] = []
    for score, column in report.columns(records).items():
        by_task = scores_by_task(records, score)
        headings = [task.replace("_", " ") for task in by_task]
        lines += [
            f"| {column.heading} | {' | '.join(headings)} |",
            "|---" * (1 + len(by_task)) + "|",
        ]
        for name in names:
            cells = [report.cell(own.get(name), column.digits) for own in by_task.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    lines.append("| run | seeds | parameters | best epochs | train s | log-likelihood per step |")
    lines.append("|---|---|---|---|---|---|")
    return lines + [_facts([each for each in records if each["name"] == name]) for name in names]


def _facts(records: list[Record]) -> str:
    """The line of one run in the last table."""
    first = records[0]
    likelihoods = ", ".join(
        f"{key.removeprefix('bound')}: "
        f"{np.mean([each['log_likelihood'][key] for each in records]):.3f}"
        for key in first["log_likelihood"]
        if key != "effective_draws"
    )
    epochs = ", ".join(str(each["best_epoch"] or "-") for each in records)
    return (
        f"| {first['name']} | {len(records)} | {first['parameters']} | {epochs} | "
        f"{first['train_seconds']:.0f} | {likelihoods} |"
    )


def search(suggest: Any, workdir: Path, trials: int) -> None:
    """Searches for the configuration of the lowest validation score with Optuna.

    Raises:
        InputError: if Optuna is not installed, or a model has no validation score.
        DivergenceError: if every trial diverged.
    """
    try:
        import optuna  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "expected Optuna for a search, got none: pip install 'jdmm[search]'"
        ) from error

    def objective(trial: Any) -> float:
        experiment = settings.build(suggest(trial))
        if experiment.training is None:
            name = type(experiment.model).__name__
            raise InputError(f"expected a model that is trained step by step, got {name}")
        trained = train(experiment, workdir / f"trial-{trial.number}", experiment.load())
        assert trained.best_score is not None
        return float(np.mean(trained.best_score))

    workdir.mkdir(parents=True, exist_ok=True)
    found = optuna.create_study(
        study_name=workdir.name, storage=f"sqlite:///{workdir}/search.db", load_if_exists=True
    )
    found.optimize(objective, n_trials=trials, catch=DivergenceError)
    if not found.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        raise DivergenceError("every trial diverged: suggest lower learning rates")
    best = {"trial": found.best_trial.number, "score": found.best_value, **found.best_params}
    write_text(workdir / "best.json", json.dumps(best, indent=2) + "\n")
    print(json.dumps(best))


def main(arguments: list[str]) -> None:
    """Runs the study file that is the one positional argument."""
    options: Any = flags.FLAGS
    if len(arguments) != 2:
        raise InputError(f"expected one study file, got {arguments[1:]}")
    module = load_study(arguments[1])
    workdir = Path(options.workdir or Path("runs", Path(arguments[1]).stem))
    parallel.initialise()
    compiling.enable_compilation_cache(options.compilation_cache)
    if options.trials:
        if not hasattr(module, "suggest"):
            raise InputError(f"expected suggest in {arguments[1]} for --trials, got none")
        search(module.suggest, workdir, options.trials)
        return
    if not hasattr(module, "get_study"):
        raise InputError(f"expected --trials=N for the search of {arguments[1]}, got none")
    run_study(assigned(module.get_study(), options.set), workdir, options.run)
    if parallel.is_primary():
        print((workdir / "study.md").read_text() if (workdir / "study.md").exists() else "")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Work directory [runs/<study name>].")
    flags.DEFINE_integer("run", None, "Only the run of this number, from 0, as in job arrays.")
    flags.DEFINE_integer("trials", 0, "Trials to add to a search by Optuna.", lower_bound=0)
    flags.DEFINE_multi_string(
        "set", [], "FIELD=VALUE of every run of a study, such as data.path=clips.npz."
    )
    flags.DEFINE_string(
        "compilation_cache", None, "Where compiled programs are kept [~/.cache/jdmm/compiled]."
    )
    command.run(main)
