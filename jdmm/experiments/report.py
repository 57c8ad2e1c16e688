"""The figures and the report of an evaluated run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tensorboardX import SummaryWriter

from jdmm.evaluation.prediction import Prediction
from jdmm.evaluation.tasks import held_out, squared_error
from jdmm.experiments import plotting
from jdmm.experiments.logs import history, read_metrics, replace_text
from jdmm.experiments.plotting import Panel
from jdmm.experiments.settings import flat
from jdmm.series import Series

RANKS = ("best", "median", "worst")
Outcomes = Mapping[str, tuple[Prediction, Series]]
"""Task -> prediction and what was shown."""


def draw_figures(
    workdir: Path, suffix: str, outcomes: Outcomes, targets: Series, clean: Mapping[str, Any]
) -> list[str]:
    """Draws what the data allow into `workdir/figures` and TensorBoard; returns the file names."""
    figures: dict[str, Figure] = {"tasks": task_grid(outcomes, targets, clean)}
    prediction, _ = next(iter(outcomes.values()))
    mean, variance = (np.asarray(leaf) for leaf in prediction.states)
    # counterclockwise spirals sweep a positive area
    turn = np.sum(clean["x"][:, :-1] * np.diff(clean["y"], axis=1), (1, 2)) - np.sum(
        clean["y"][:, :-1] * np.diff(clean["x"], axis=1), (1, 2)
    )
    if mean.shape[-1]:
        figures["latents"] = plotting.latent_trajectories(
            mean, np.sqrt(variance), (turn > 0).astype(int), ("clockwise", "counterclockwise")
        )
    figures["reliability"] = plotting.reliability(
        {task: held_out(told.pit, shown, targets) for task, (told, shown) in outcomes.items()}
    )
    records = read_metrics(workdir)
    records = [record for record in records if record["start"] == records[-1]["start"]]
    best = [r for r in records if "validation/score" in r]
    if records:
        epoch = min(best, key=lambda r: r["validation/score"])["epoch"] if best else None
        figures["learning_curves"] = plotting.learning_curves(history(records), epoch)
    step = records[-1]["step"] if records else 0
    writer = SummaryWriter(str(workdir))
    for name, figure in figures.items():
        plotting.save(figure, workdir / "figures" / f"{name}{suffix}.png")
        writer.add_figure(f"{name}{suffix}", figure, step, close=False)
    writer.close()
    return [f"{name}{suffix}.png" for name in figures]


def task_grid(outcomes: Outcomes, targets: Series, clean: Mapping[str, Any]) -> Figure:
    """Best, median and worst series of each task, by error against the clean truth."""
    names = list(targets.values)

    def pair(arrays: Mapping[str, Any], row: int) -> np.ndarray:
        return np.concatenate([np.asarray(arrays[name][row]) for name in names], -1)

    panels = {}
    for task, (prediction, shown) in outcomes.items():
        errors = np.asarray(squared_error(prediction.mean, clean, targets.observed))
        order = np.argsort(errors)
        panels[task] = [
            Panel(
                clean=pair(clean, row),
                noisy=pair(targets.values, row),
                seen=pair(shown.observed, row),
                mean=pair(prediction.mean, row),
                sd=pair(prediction.sd, row),
                score=float(errors[row]),
            )
            for row in (order[0], order[len(order) // 2], order[-1])
        ]
    return plotting.task_grid(panels, RANKS)


def write(workdir: Path, suffix: str, results: Mapping[str, Any], figures: list[str]) -> None:
    """Writes `report.md`: settings, scores, figures and seconds."""
    config = results["config"]
    lines = [
        f"# {config['data']['name']}, {config['model']['name']}, seed {results['seed']}: "
        f"{results['split']} series",
        "",
        f"{results['parameters']} parameters; {_trained(results)}, evaluated in "
        f"{results['evaluate_seconds']:.0f} s. Variables {results['params_sha256'][:12]}.",
        "",
        "Squared error per step summed over the coordinates, mean over series (sd), against the "
        "clean and the noisy truth. Of the hidden values, or of a second observation where none "
        "was hidden: coverage of the 50, 80 and 95 % intervals, continuous ranked probability "
        "score and negative log-likelihood (nats).",
        "",
        *table(results),
        "",
        "Chosen on validation series: posterior draws with {posterior:g} times their noise, "
        "emissions with {emission:g} times their mean_and_sd.".format(**results["calibration"]),
        *_log_likelihood(results),
    ]
    for figure in figures:
        title = figure.removesuffix(".png").replace("_", " ")
        lines += ["", f"## {title.capitalize()}", "", f"![{title}](figures/{figure})"]
    replace_text(workdir / f"report{suffix}.md", "\n".join([*lines, *_settings(config)]) + "\n")


def _trained(results: Mapping[str, Any]) -> str:
    """How the variables came about, in words."""
    if results["best_epoch"] is None:
        return f"fitted in {results['train_seconds']:.1f} s"
    return (
        f"best epoch {results['best_epoch']} of {results['config']['epochs']} on validation; "
        f"trained in {results['train_seconds']:.0f} s "
        f"({results['seconds_per_epoch']:.2f} s per epoch)"
    )


def over_seeds(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Results of several seeds as one: each task's figures as mean and sd over the seeds."""
    first = each[0]
    return {
        "config": first["config"],
        "seeds": [results["seed"] for results in each],
        "split": first["split"],
        "parameters": first["parameters"],
        "params_sha256": [results["params_sha256"] for results in each],
        "best_epoch": [results["best_epoch"] for results in each],
        "train_seconds": first["train_seconds"],
        "seconds_per_epoch": first["seconds_per_epoch"],
        "evaluate_seconds": sum(results["evaluate_seconds"] for results in each),
        "validation_score": [results["validation_score"] for results in each],
        "tasks": {
            task: {
                name: mean_and_sd([results["tasks"][task][name] for results in each])
                for name in scores
            }
            for task, scores in first["tasks"].items()
        },
        "log_likelihood": {
            name: mean_and_sd([results["log_likelihood"][name] for results in each])
            for name in first["log_likelihood"]
        },
    }


def mean_and_sd(figures: Sequence[Any]) -> dict[str, float]:
    """Mean and sd of the seeds' figures, or of their means over series; no sd of one seed."""
    values = [each["mean"] if isinstance(each, Mapping) else each for each in figures]
    sd = {"sd": float(np.std(values, ddof=1))} if len(values) > 1 else {}
    return {"mean": float(np.mean(values)), **sd}


def write_over_seeds(
    workdir: Path, suffix: str, results: Mapping[str, Any], directories: Sequence[Path]
) -> None:
    """Writes the `report.md` of several seeds, which leads to those of each."""
    config = results["config"]
    lines = [
        f"# {config['data']['name']}, {config['model']['name']}, seeds {results['seeds'][0]} to "
        f"{results['seeds'][-1]}: {results['split']} series",
        "",
        f"{results['parameters']} parameters each; trained together in "
        f"{results['train_seconds']:.0f} s ({results['seconds_per_epoch']:.2f} s per epoch).",
        "",
        "Squared error per step summed over the coordinates, against the clean and the noisy "
        "truth; of the hidden values, or of a second observation where none was hidden, coverage "
        "of the 50, 80 and 95 % intervals, continuous ranked probability score and negative "
        "log-likelihood (nats): mean over seeds (sd).",
        "",
        *table(results),
        *_log_likelihood(results),
        "",
        "| seed | best epoch | report |",
        "|---|---|---|",
    ]
    for seed, epoch, place in zip(
        results["seeds"], results["best_epoch"], directories, strict=True
    ):
        name = f"{place.name}/report{suffix}.md"
        lines.append(f"| {seed} | {epoch} | [{name}]({name}) |")
    replace_text(workdir / f"report{suffix}.md", "\n".join([*lines, *_settings(config)]) + "\n")


def _settings(config: Mapping[str, Any]) -> list[str]:
    """All fields as lines of a Markdown table, under a heading."""
    rows = [f"| {name} | {value} |" for name, value in flat(config)]
    return ["", "## Settings", "", "| field | value |", "|---|---|", *rows]


COLUMNS = {
    "mse_clean": ("MSE, clean", 4),
    "mse_noisy": ("MSE, noisy", 4),
    "coverage50": ("50 %", 3),
    "coverage80": ("80 %", 3),
    "coverage95": ("95 %", 3),
    "crps": ("CRPS", 4),
    "nll": ("NLL", 3),
}
"""Score -> its column's heading and digits."""


def table(results: Mapping[str, Any]) -> list[str]:
    """The scores as lines of a Markdown table."""
    headings = [heading for heading, _ in COLUMNS.values()]
    lines = [f"| task | {' | '.join(headings)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for task, scores in results["tasks"].items():
        cells = [cell(scores[name], digits) for name, (_, digits) in COLUMNS.items()]
        lines.append(f"| {task.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def _log_likelihood(results: Mapping[str, Any]) -> list[str]:
    """The log-likelihood, in words."""
    found = dict(results["log_likelihood"])
    if "exact" in found:
        exact = cell(found["exact"], 3)
        return ["", f"Log-likelihood of the complete series in nats per step: {exact}."]
    if not found:
        return []
    effective = cell(found.pop("effective_draws"), 1)
    told = ", ".join(f"{name.removeprefix('bound')}: {cell(v, 3)}" for name, v in found.items())
    return [
        "",
        "Log-likelihood of the complete series in nats per step, bounded by importance sampling "
        f"with so many draws: {told}. Effective draws: {effective}.",
    ]


def cell(figure: Any, digits: int) -> str:
    """A figure or mean, with its sd in brackets if it has one."""
    if not isinstance(figure, Mapping):
        return f"{figure:.{digits}f}"
    sd = f" ({figure['sd']:.{digits}f})" if "sd" in figure else ""
    return f"{figure['mean']:.{digits}f}{sd}"
