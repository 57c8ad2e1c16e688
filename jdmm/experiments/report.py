"""The figures and the report of an evaluated run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[attr-defined]  # made at import

from jdmm.data.base import Dataset, Outcome, Split
from jdmm.evaluation import scores
from jdmm.evaluation.prediction import Prediction
from jdmm.experiments.logs import history, read_metrics
from jdmm.experiments.settings import flat
from jdmm.files import write_text
from jdmm.plotting import runs, storyboard, style
from jdmm.series import Series

CHOICE = "candidates.json"
"""The file in a work directory that says among which models its own was chosen."""

Outcomes = Mapping[str, tuple[Prediction, Series]]
"""Task -> prediction, and what the model was shown."""


class Column(NamedTuple):
    """How a score is shown: heading, digits after the point, and meaning."""

    heading: str
    digits: int
    meaning: str


COLUMNS = {
    "mse_truth": Column(
        "MSE, truth", 4, "squared error per step against the truth, summed over the features"
    ),
    "mse": Column(
        "MSE", 4, "squared error per step against the observed values, summed over the features"
    ),
    "accuracy": Column("accuracy", 3, "share of the hidden classes that are predicted"),
    "coverage50": Column("50 %", 3, "coverage of the 50 % interval"),
    "coverage80": Column("80 %", 3, "coverage of the 80 % interval"),
    "coverage95": Column("95 %", 3, "coverage of the 95 % interval"),
    "crps": Column("CRPS", 4, "continuous ranked probability score"),
    "nll": Column("NLL", 3, "negative log-likelihood in nats per value"),
}
"""Score -> its column, in the order of the tables."""

OF_MODALITY = {
    "ssim": Column("SSIM", 3, "structural similarity of {}, 1 for equal images"),
    "hidden_ssim": Column("SSIM, hidden", 3, "structural similarity of the hidden images of {}"),
    "pixel_mse": Column("pixel MSE", 4, "squared error per pixel of {}"),
    "hidden_pixel_mse": Column(
        "pixel MSE, hidden", 4, "squared error per pixel of the hidden images of {}"
    ),
    "crps": Column("CRPS", 4, "continuous ranked probability score of {}"),
    "accuracy": Column("accuracy", 3, "share of the hidden classes of {} that are predicted"),
    "series_accuracy": Column(
        "accuracy by series",
        3,
        "share of the series whose {} is predicted, by probabilities averaged over the steps",
    ),
}
"""Scores of single modalities, "<score>_<modality>"."""

SCORED = (
    "Coverage, CRPS and NLL are those of the hidden values. Where a task hides nothing, they are "
    "those of a second observation, and are left out without one."
)


def draw_figures(
    dataset: Dataset, workdir: Path, suffix: str, split: Split, outcomes: Outcomes
) -> list[str]:
    """Draws figures and animations into `workdir/figures` and TensorBoard.

    Returns:
        The names of the files.
    """
    arrays = {task: _arrays(*each) for task, each in outcomes.items()}
    figures = dataset.draw(split, arrays)
    if pits := _pits(dataset, split, outcomes):
        figures["reliability"] = runs.reliability(pits)
    records = read_metrics(workdir)
    records = [record for record in records if record["start"] == records[-1]["start"]]
    if records:
        figures["learning_curves"] = _learning_curves(records)
    animations = dataset.animate(split, arrays)
    step = records[-1]["step"] if records else 0
    writer = SummaryWriter(str(workdir))
    for name, figure in figures.items():
        style.save(figure, workdir / "figures" / f"{name}{suffix}.png")
        writer.add_figure(f"{name}{suffix}", figure, step, close=False)
    for name, frames in animations.items():
        path = workdir / "figures" / f"{name}{suffix}.gif"
        storyboard.save_animation(frames, path)
        _log_animation(writer, f"{name}{suffix}", path, frames.shape[1:3], step)
    writer.close()
    return [
        *(f"{name}{suffix}.png" for name in figures),
        *(f"{name}{suffix}.gif" for name in animations),
    ]


def _log_animation(
    writer: SummaryWriter, tag: str, path: Path, size: Sequence[int], step: int
) -> None:
    """Adds a GIF as it is: `SummaryWriter.add_video` would need another library to encode it."""
    assert writer.file_writer is not None
    content = path.read_bytes()
    image = Summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=content)
    value = Summary.Value(tag=tag, image=image)
    writer.file_writer.add_summary(Summary(value=[value]), step)


def _arrays(prediction: Prediction, shown: Series) -> Outcome:
    mean, variance = (np.asarray(leaf) for leaf in prediction.states)
    sd = np.sqrt(variance)
    return Outcome(shown, prediction.mean, prediction.sd, mean, sd, prediction.probabilities)


def _pits(dataset: Dataset, split: Split, outcomes: Outcomes) -> dict[str, np.ndarray]:
    """Task -> probability integral transforms of the values whose intervals are scored."""
    numbers = scores.with_intervals(dataset.modalities)
    pits = {
        task: scores.select(prediction.pit, scores.interval_targets(shown, split), numbers)
        for task, (prediction, shown) in outcomes.items()
    }
    return {task: pit for task, pit in pits.items() if pit.size}


def _learning_curves(records: list[dict[str, Any]]) -> Figure:
    validated = [record for record in records if "validation/score" in record]
    best = min(validated, key=lambda record: record["validation/score"], default=None)
    return runs.learning_curves(history(records), None if best is None else best["epoch"])


def write(workdir: Path, suffix: str, results: Mapping[str, Any], figures: list[str]) -> None:
    """Writes `report.md`: scores, figures and settings."""
    lines = [
        f"# {_title(results)}, seed {results['seed']}: {results['split']} series",
        "",
        f"{results['parameters']} parameters; {_trained(results)}; evaluated in "
        f"{results['evaluate_seconds']:.0f} s. Variables {results['params_sha256'][:12]}.",
        "",
        *table(results),
        "",
        "Values in brackets are standard deviations over the series.",
        "",
        *_legend(results),
        *_calibration(results),
        *_log_likelihood(results),
        *_candidates(workdir),
    ]
    for figure in figures:
        title = Path(figure).stem.replace("_", " ")
        lines += ["", f"## {title.capitalize()}", "", f"![{title}](figures/{figure})"]
    lines += _settings(results)
    write_text(workdir / f"report{suffix}.md", "\n".join(lines) + "\n")


def write_over_seeds(
    workdir: Path, suffix: str, results: Mapping[str, Any], directories: Sequence[Path]
) -> None:
    """Writes the `report.md` of several seeds, with links to those of each."""
    seeds = results["seeds"]
    lines = [
        f"# {_title(results)}, seeds {seeds[0]} to {seeds[-1]}: {results['split']} series",
        "",
        f"{results['parameters']} parameters each; trained together in "
        f"{results['train_seconds']:.0f} s ({results['seconds_per_epoch']:.2f} s per epoch).",
        "",
        *table(results),
        "",
        "Values are means over the seeds, with standard deviations in brackets.",
        "",
        *_legend(results),
        *_log_likelihood(results),
        *_candidates(workdir),
        "",
        "| seed | best epoch | report |",
        "|---|---|---|",
    ]
    for seed, epoch, place in zip(seeds, results["best_epoch"], directories, strict=True):
        name = f"{place.name}/report{suffix}.md"
        lines.append(f"| {seed} | {epoch} | [{name}]({name}) |")
    lines += _settings(results)
    write_text(workdir / f"report{suffix}.md", "\n".join(lines) + "\n")


def over_seeds(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The results of several seeds as one: mean and sd over the seeds of each score."""
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
                for name in values
            }
            for task, values in first["tasks"].items()
        },
        "log_likelihood": {
            name: mean_and_sd([results["log_likelihood"][name] for results in each])
            for name in first["log_likelihood"]
        },
    }


def mean_and_sd(values: Sequence[Any]) -> dict[str, float]:
    """Mean and sd over seeds of a score, or of its mean over series; no sd of one seed."""
    numbers = [each["mean"] if isinstance(each, Mapping) else each for each in values]
    sd = {"sd": float(np.std(numbers, ddof=1))} if len(numbers) > 1 else {}
    return {"mean": float(np.mean(numbers)), **sd}


def columns(each: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """The columns of the scores that any task of these results has."""
    found = {name for results in each for values in results["tasks"].values() for name in values}
    every = {}
    for kind, column in OF_MODALITY.items():
        for name in sorted(found - set(COLUMNS)):
            if name.startswith(f"{kind}_"):
                modality = name.removeprefix(f"{kind}_")
                meaning = column.meaning.format(modality)
                every[name] = Column(f"{column.heading}, {modality}", column.digits, meaning)
    every |= COLUMNS
    return {name: column for name, column in every.items() if name in found}


def table(results: Mapping[str, Any]) -> list[str]:
    """The scores as lines of a Markdown table."""
    shown = columns([results])
    lines = [
        f"| task | {' | '.join(column.heading for column in shown.values())} |",
        "|---" * (1 + len(shown)) + "|",
    ]
    for task, values in results["tasks"].items():
        cells = [cell(values.get(name), column.digits) for name, column in shown.items()]
        lines.append(f"| {task.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def cell(value: Any, digits: int) -> str:
    """A score, with its sd in brackets if it has one; a dash for none."""
    if value is None:
        return "-"
    if not isinstance(value, Mapping):
        return f"{value:.{digits}f}"
    sd = f" ({value['sd']:.{digits}f})" if "sd" in value else ""
    return f"{value['mean']:.{digits}f}{sd}"


def _title(results: Mapping[str, Any]) -> str:
    config = results["config"]
    return f"{config['data']['name']}, {config['model']['name']}"


def _trained(results: Mapping[str, Any]) -> str:
    """How the variables came about, in words."""
    if results["best_epoch"] is None:
        return f"fitted in {results['train_seconds']:.1f} s"
    return (
        f"best epoch {results['best_epoch']} of {results['config']['epochs']} on validation; "
        f"trained in {results['train_seconds']:.0f} s "
        f"({results['seconds_per_epoch']:.2f} s per epoch)"
    )


def _legend(results: Mapping[str, Any]) -> list[str]:
    """What the columns mean."""
    shown = columns([results])
    meanings = [f"- {column.heading}: {column.meaning}" for column in shown.values()]
    return [*meanings, *(["", SCORED] if "nll" in shown else [])]


def _calibration(results: Mapping[str, Any]) -> list[str]:
    if not results["config"]["eval"]["calibrate"]:
        return []
    return [
        "",
        "Intervals are calibrated on the validation series: the noise of posterior samples is "
        "multiplied by {posterior:g}, the scale of the emissions by {emission:g}.".format(
            **results["calibration"]
        ),
    ]


def _log_likelihood(results: Mapping[str, Any]) -> list[str]:
    """The log-likelihood, in words."""
    found = dict(results["log_likelihood"])
    if "exact" in found:
        exact = cell(found["exact"], 3)
        return ["", f"Log-likelihood of the complete series in nats per step: {exact}."]
    if not found:
        return []
    effective = cell(found.pop("effective_draws"), 1)
    bounds = ", ".join(
        f"{cell(value, 3)} with {name.removeprefix('bound')}" for name, value in found.items()
    )
    return [
        "",
        "Lower bounds on the log-likelihood of the complete series in nats per step, by importance "
        f"sampling: {bounds} samples. Effective samples: {effective}.",
    ]


def _candidates(workdir: Path) -> list[str]:
    """Among which models this one was chosen, under a heading; nothing without a choice."""
    path = workdir / CHOICE
    if not path.exists():
        return []
    return ["", "## Candidates", "", *candidates(json.loads(path.read_text()))]


def candidates(choice: Mapping[str, Any]) -> list[str]:
    """The content of `candidates.json` as lines of a Markdown table, and which one was chosen."""
    found = choice["candidates"]
    scored = {name: own for name, own in found.items() if "score" in own}
    tasks = list(scored[choice["chosen"]]["tasks"])
    lines = [
        f"| candidate | score | {' | '.join(task.replace('_', ' ') for task in tasks)} | seconds |",
        "|---" * (3 + len(tasks)) + "|",
    ]
    for name, own in sorted(scored.items(), key=lambda item: item[1]["score"]):
        cells = [f"{value:.3f}" for value in (own["score"], *own["tasks"].values())]
        lines.append(f"| {name} | {' | '.join(cells)} | {own['seconds']:.0f} |")
    lines += [
        "",
        f"{choice['chosen']} was chosen: it has the lowest score on the validation series, the "
        "mean over the tasks. That of a task is the mean over the modalities of the log mean CRPS "
        "(of the Brier score for categories) of the hidden values.",
    ]
    left_out = {name: own["left_out"] for name, own in found.items() if "left_out" in own}
    return [*lines, "", *(f"- {name} was left out: {why}" for name, why in left_out.items())]


def _settings(results: Mapping[str, Any]) -> list[str]:
    """All fields as lines of a Markdown table, under a heading."""
    rows = [f"| {name} | {value} |" for name, value in flat(results["config"])]
    return ["", "## Settings", "", "| field | value |", "|---|---|", *rows]
