"""Many runs as one study: each in its own work directory, together one table and one figure.

    python -m jdmm.experiments.study configs/studies/spirals_methods.py [--run=N] [--trials=N]

A study file has `get_study() -> dict[str, ConfigDict]`, name -> configuration; seeds are those of
the configuration. Runs go on where they were stopped, and what is finished is not run again. With
`--run=N` only the N-th is run, as the tasks of a job array do. `results.jsonl` has a line per run
and seed, and `study.md` and `figures/` are made from it.

Where the names are "method@number", curves over the numbers are drawn, else dots.

A study file with `suggest(trial) -> ConfigDict` is a search: `--trials=N` more trials of Optuna,
kept in the work directory, look for the lowest validation score; one that diverges is left out. The
test series are not touched. Any number of processes may search at once.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from jdmm import compiling
from jdmm.errors import DivergenceError, InputError
from jdmm.experiments import command, plotting, report, run, settings
from jdmm.experiments.evaluate import seed_dirs
from jdmm.experiments.logs import replace_text
from jdmm.experiments.settings import Config
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
    except Exception as error:  # a study file is a program: it can raise anything
        raise InputError(
            f"expected a study file, got {path} ({type(error).__name__}: {error})"
        ) from error
    if not hasattr(module, "get_study") and not hasattr(module, "suggest"):
        raise InputError(f"expected get_study or suggest in {path}, got neither")
    return module


def run_study(study: Study, workdir: Path, only: int | None = None) -> None:
    """Runs what is not finished, or the one numbered `only`, and summarises what is.

    Raises:
        InputError: for a number that there is not, before anything is run.
    """
    for config in study.values():
        settings.check(config)
    names = list(study)
    if only is not None and not 0 <= only < len(names):
        raise InputError(f"expected --run within 0..{len(names) - 1}, got {only}")
    for name in names if only is None else [names[only]]:
        if len(finished(study[name], workdir / name)) < study[name].seeds:
            run.train_and_evaluate(study[name], workdir / name)
    if parallel.is_primary():
        summarise(study, workdir)


def finished(config: Config, directory: Path) -> list[Record]:
    """The results of each seed that has been evaluated."""
    if not (directory / "config.json").exists():
        return []
    if other := settings.difference(config, settings.load_config(directory / "config.json")):
        raise InputError(
            f"expected a run of this study in {directory}, but {other}: give another --workdir"
        )
    paths = [own / "results.json" for own in seed_dirs(config, directory).values()]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def summarise(study: Study, workdir: Path) -> list[Record]:
    """Writes `results.jsonl`, `study.md` and the figure of all finished runs."""
    records = [
        {"name": name} | {key: value for key, value in results.items() if key != "config"}
        for name, config in study.items()
        for results in finished(config, workdir / name)
    ]
    workdir.mkdir(parents=True, exist_ok=True)
    replace_text(workdir / "results.jsonl", "".join(json.dumps(each) + "\n" for each in records))
    if records:
        lines = [f"# {workdir.name}", "", *tables(records), "", "![](figures/scores.png)"]
        replace_text(workdir / "study.md", "\n".join(lines) + "\n")
        plotting.save(
            plotting.scores(scores_by_task(records, "mse_noisy"), "MSE, noisy"),
            workdir / "figures/scores.png",
        )
    return records


def scores_by_task(records: list[Record], score: str) -> dict[str, dict[str, dict[str, float]]]:
    """Task -> run -> mean and sd over its seeds; 0 with one."""
    found: dict[str, dict[str, list[Any]]] = {}
    for record in records:
        for task, scores in record["tasks"].items():
            found.setdefault(task, {}).setdefault(record["name"], []).append(scores[score])
    return {
        task: {name: report.mean_and_sd(each) for name, each in runs.items()}
        for task, runs in found.items()
    }


def tables(records: list[Record]) -> list[str]:
    """One Markdown table per score, runs as rows and tasks as columns, mean (sd) over seeds."""
    lines: list[str] = []
    for score, (heading, digits) in report.COLUMNS.items():
        by_task = scores_by_task(records, score)
        lines += ["", f"| {heading} | {' | '.join(task.replace('_', ' ') for task in by_task)} |"]
        lines.append("|---" * (1 + len(by_task)) + "|")
        for name in dict.fromkeys(record["name"] for record in records):
            cells = [report.cell(runs[name], digits) for runs in by_task.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| run | seeds | parameters | best epochs | train s | log-likelihood, nats per step |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for name in dict.fromkeys(record["name"] for record in records):
        own = [record for record in records if record["name"] == name]
        bounds = ", ".join(
            f"{key.removeprefix('bound')}: {np.mean([each['evidence'][key] for each in own]):.3f}"
            for key in own[0]["log_likelihood"]
            if key != "effective_draws"
        )
        epochs = ", ".join(str(record["best_epoch"] or "-") for record in own)
        lines.append(
            f"| {name} | {len(own)} | {own[0]['parameters']} | {epochs} | "
            f"{own[0]['train_seconds']:.0f} | {bounds} |"
        )
    return lines[1:]


def search(suggest: Any, workdir: Path, trials: int) -> None:
    """Optuna's search for the configuration of the lowest validation score.

    Raises:
        InputError: if Optuna is not installed.
    """
    try:
        import optuna  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "expected Optuna for a search, got none: pip install 'jdmm[search]'"
        ) from error

    def objective(trial: Any) -> float:
        config = suggest(trial)
        if not settings.is_trained(config):
            raise InputError(f"expected a model that is trained, got {config.model.name!r}")
        _, _, progress = run.train(config, workdir / f"trial-{trial.number}")
        return float(np.mean(progress.best_score))

    workdir.mkdir(parents=True, exist_ok=True)
    found = optuna.create_study(
        study_name=workdir.name, storage=f"sqlite:///{workdir}/search.db", load_if_exists=True
    )
    found.optimize(objective, n_trials=trials, catch=DivergenceError)
    if not found.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        raise DivergenceError("every trial diverged: suggest lower learning rates")
    best = {"trial": found.best_trial.number, "score": found.best_value, **found.best_params}
    replace_text(workdir / "best.json", json.dumps(best, indent=2) + "\n")
    print(json.dumps(best))


def main(arguments: list[str]) -> None:
    """Runs the study of the one positional argument."""
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
    run_study(module.get_study(), workdir, options.run)
    if parallel.is_primary():
        print((workdir / "study.md").read_text() if (workdir / "study.md").exists() else "")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Work directory [runs/<study name>].")
    flags.DEFINE_integer("run", None, "Only the run of this number, from 0, for job arrays.")
    flags.DEFINE_integer("trials", 0, "Of a search by Optuna.", lower_bound=0)
    flags.DEFINE_string(
        "compilation_cache", None, "Where compiled programs are kept [~/.cache/jdmm/compiled]."
    )
    command.run(main)
