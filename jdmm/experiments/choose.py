"""Chooses a model: trains several candidates, and uses the one that does best on validation series.

A configuration with a section `candidates`, name -> model, has no section `model`. Each candidate
is trained in `candidates/<name>/`, an ordinary work directory, with the other sections as far as
its model uses them. The chosen one is then copied into the work directory, which is from then on
one of that model alone. `candidates.json` and the report have the scores of all.

A candidate that cannot take the data, or diverges, is left out. One that is finished is not trained
again.
"""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jdmm.data.base import Split
from jdmm.errors import DivergenceError, InputError, UnsuitableDataError
from jdmm.evaluation import scores
from jdmm.evaluation.prediction import UNCALIBRATED
from jdmm.experiments import report, settings
from jdmm.experiments.evaluate import evaluate, predict_tasks
from jdmm.experiments.settings import Config, Experiment
from jdmm.experiments.train import Trained, check_training, claim, train
from jdmm.files import write_text
from jdmm.models import MODELS
from jdmm.models.base import ExactLikelihood, SelfFittingModel
from jdmm.training import parallel
from jdmm.training.parallel import Devices
from jdmm.training.scoring import brier_score

CANDIDATES = "candidates"
"""The section of a configuration, and the folder in a work directory."""

OUTCOME = "outcome.json"
"""In the folder of a candidate: its scores, or why it was left out."""

LEAST_ERROR = 1e-4
"""Smaller errors count as this one; their logarithms would decide the score."""


def choose_and_evaluate(
    config: Config, workdir: Path, devices: Devices | None = None
) -> dict[str, Any]:
    """Trains the candidates that are not finished, and scores the best one on the test series.

    Args:
        config: with the section `candidates`.
        workdir: where everything is written.
        devices: over which each batch is divided; by default all that are found.

    Returns:
        The content of `results.json`; in processes that do not write, nothing.

    Raises:
        InputError: for a configuration that cannot work, or a work directory of another one.
        DivergenceError: if no candidate is left.
        Interrupted: after SIGTERM, once a checkpoint is written.
        PeerLost: if another process of the job is gone.
    """
    devices = devices or Devices.available()
    experiments, outcomes = _build(config, workdir)
    first = next(iter(experiments.values()))
    data = first.load()
    for experiment in experiments.values():
        check_training(experiment, data, devices)
    if parallel.is_primary():
        _claim(replace(first, config=config), workdir)
        for line in first.dataset.describe():
            print(line)
        for name, outcome in outcomes.items():
            print(f"{name}: {_in_words(outcome)}")
    for name, experiment in experiments.items():
        outcomes[name] = _outcome(experiment, workdir / CANDIDATES / name, data, devices)
        if parallel.is_primary():
            print(f"{name}: {_in_words(outcomes[name])}", flush=True)
    scored = {name: own["score"] for name, own in outcomes.items() if "score" in own}
    if not scored:
        name, outcome = next(iter(outcomes.items()))
        raise DivergenceError(f"every candidate was left out; {name}: {outcome['left_out']}")
    chosen = min(scored, key=lambda name: scored[name])
    if parallel.is_primary():
        choice = {
            "chosen": chosen,
            "candidates": {name: outcomes[name] for name in config.candidates},
        }
        write_text(workdir / report.CHOICE, json.dumps(choice, indent=2) + "\n")
        shutil.copytree(
            workdir / CANDIDATES / chosen,
            workdir,
            ignore=shutil.ignore_patterns(OUTCOME),
            dirs_exist_ok=True,
        )
    trained = train(experiments[chosen], workdir, data, devices)  # finds that it is finished
    if not parallel.is_primary():
        return {}
    return evaluate(experiments[chosen], workdir, trained, data, "test")


def candidate_config(config: Config, name: str) -> Config:
    """The configuration of one candidate: the shared sections that its model uses, and the model.

    Raises:
        InputError: for a candidate that is not a section.
    """
    model = config[CANDIDATES][name]
    if not isinstance(model, ConfigDict):
        raise InputError(f"expected candidates.{name} to be a section, got {model!r}")
    own = ConfigDict(config.to_dict())
    del own[CANDIDATES]
    own.model = model
    cls = MODELS.get(str(model.get("name")), object)  # an unknown one is refused later
    unused = []
    if issubclass(cls, SelfFittingModel):  # without random numbers
        kept = (*settings.PROGRAM_FIELDS, settings.MODULES)
        own = ConfigDict({field: own[field] for field in kept if field in own})
        own.update(seed=0, seeds=1)
        unused.append("select")
    if issubclass(cls, ExactLikelihood):
        unused.append("importance")
    for field in unused:
        if field in own.get("eval", {}):
            del own.eval[field]
    return own


def _build(config: Config, workdir: Path) -> tuple[dict[str, Experiment], dict[str, Any]]:
    """The experiments of the candidates, on one data set, and the outcomes of those left out."""
    if not isinstance(config[CANDIDATES], ConfigDict) or not config[CANDIDATES]:
        raise InputError("expected candidates to be a section of at least one model")
    if "model" in config:
        raise InputError("expected no section 'model' beside 'candidates', got one")
    experiments: dict[str, Experiment] = {}
    outcomes: dict[str, Any] = {}
    dataset = None  # which is read once
    for name in config[CANDIDATES]:
        try:
            own = candidate_config(config, name)
            experiments[name] = settings.build(own, workdir, dataset)
        except UnsuitableDataError as error:
            outcomes[name] = {"left_out": str(error)}
            continue
        dataset = experiments[name].dataset
    if not experiments:
        name, outcome = next(iter(outcomes.items()))
        raise InputError(
            f"expected a candidate that takes these data, got none; {name}: {outcome['left_out']}"
        )
    return experiments, outcomes


def _claim(experiment: Experiment, workdir: Path) -> None:
    """Writes the configuration of the choice into a new work directory, or compares it.

    Raises:
        InputError: if the directory is of another choice or of a single model, or cannot be
            written.
    """
    folder = workdir / CANDIDATES
    if (workdir / "config.json").exists() and not folder.exists():
        raise InputError(
            f"expected a work directory of candidates, got {workdir} of a single model: give "
            "another --workdir"
        )
    claim(experiment, folder)
    experiment.dataset.keep(workdir)


def _outcome(
    experiment: Experiment, folder: Path, data: dict[str, Split], devices: Devices
) -> dict[str, Any]:
    """What the folder of a candidate says, or training and scoring it says."""
    path = folder / OUTCOME
    kept = json.loads(path.read_text()) if parallel.is_primary() and path.exists() else None
    if (kept := parallel.broadcast(kept)) is not None:
        return kept
    try:
        trained = train(experiment, folder, data, devices)
        by_task = _scores(experiment, trained, data["validation"])
        score = sum(by_task.values()) / len(by_task)
        outcome = {"score": score, "tasks": by_task, "seconds": trained.seconds}
        if not math.isfinite(score):
            raise DivergenceError(
                "expected finite predictions of the validation series, got others"
            )
    except (UnsuitableDataError, DivergenceError) as error:
        outcome = {"left_out": str(error)}
    if parallel.is_primary():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(outcome, indent=2) + "\n")
    return parallel.broadcast(outcome)


def _scores(experiment: Experiment, trained: Trained, validation: Split) -> dict[str, float]:
    """Task -> score of the predictions of what it hides, by the best seed.

    All candidates are shown the same values. Scores are proper, so that intervals count as well.

    Raises:
        InputError: if the tasks hide nothing.
    """
    variables = trained.of_seed(trained.best_row)
    outcomes = predict_tasks(experiment, variables, UNCALIBRATED, validation)
    found = {}
    for task, (prediction, shown) in outcomes.items():
        errors = []
        for name, mask in scores.hidden(shown, validation.series).items():
            if not mask.any():
                continue
            if name in prediction.crps:
                each = np.asarray(prediction.crps[name])
            else:
                probabilities = prediction.probabilities[name]
                each = np.asarray(brier_score(probabilities, validation.series.values[name]))
            errors.append(max(float(each[mask].mean()), LEAST_ERROR))
        if errors:
            found[task] = float(np.mean(np.log(errors)))
    if not found:
        raise InputError("expected eval.tasks that hide values of the validation series, got none")
    return found


def _in_words(outcome: dict[str, Any]) -> str:
    if "left_out" in outcome:
        return f"left out: {outcome['left_out']}"
    return f"validation score {outcome['score']:.3f}, {outcome['seconds']:.0f} s"
