"""One experiment in one work directory: train, evaluate, sample, infer.

The work directory holds `config.json`, `metrics.jsonl`, `events.*` (TensorBoard), `checkpoints/`,
`calibration.json`, `figures/*.png`, `report.md` and `results.json`. With several seeds, each has
these in `seed-<number>/`, except the configuration and the checkpoints, and `workdir` holds the
report and the results over all seeds. Files are replaced whole or appended to, so that a run that
was killed at any moment continues from its last checkpoint.

In a job of several processes all train, and the first one reads checkpoints and writes files.
"""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdmm.data.base import SPLITS
from jdmm.data.npz import read_npz, write_npz
from jdmm.errors import InputError
from jdmm.evaluation.prediction import Prediction, predict_all
from jdmm.experiments import settings
from jdmm.experiments.evaluate import calibrated, evaluate
from jdmm.experiments.settings import Config, Experiment
from jdmm.experiments.train import Trained, restore, seed_dirs, train
from jdmm.models.base import Model, Variables
from jdmm.plotting import style
from jdmm.training import parallel
from jdmm.training.parallel import Devices

PathLike = str | os.PathLike[str]


def train_and_evaluate(
    config: Config, workdir: PathLike, devices: Devices | None = None
) -> dict[str, Any]:
    """Trains a model, or continues its training, and scores it on the test series.

    Args:
        config: the configuration.
        workdir: where everything is written.
        devices: over which each batch is divided; by default all that are found.

    Returns:
        The content of `results.json`; in processes that do not write, nothing.

    Raises:
        InputError: for a configuration that cannot work, or a work directory of another one.
        DivergenceError: if training is no longer finite; the last checkpoint stays.
        Interrupted: after SIGTERM, once a checkpoint is written.
        PeerLost: if another process of the job is gone.
    """
    experiment = settings.build(config)
    data = experiment.load()
    trained = train(experiment, Path(workdir), data, devices)
    if not parallel.is_primary():
        return {}
    return evaluate(experiment, Path(workdir), trained, data, "test")


def evaluate_workdir(workdir: PathLike, split: str = "test") -> dict[str, Any]:
    """Scores the best variables of a work directory on a split, and writes and draws the results.

    Raises:
        InputError: if the split is unknown, or the directory holds no finished checkpoint.
    """
    if split not in SPLITS:
        raise InputError(f"expected a split among {', '.join(SPLITS)}, got {split!r}")
    experiment = _load_experiment(workdir)
    trained = restore(experiment, Path(workdir))
    return evaluate(experiment, Path(workdir), trained, experiment.load(), split)


def sample_workdir(
    workdir: PathLike,
    count: int,
    num_steps: int,
    output: PathLike | None = None,
    reverse: bool = False,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Samples series from the prior, draws them, and writes them to `output` or `samples.npz`.

    Returns:
        modality -> ``(count, num_steps, feature)`` with emission noise, "<modality>_mean" without.

    Raises:
        InputError: for numbers below 1, `reverse` of a model that cannot, or a directory without a
            finished checkpoint.
    """
    workdir = Path(workdir)
    experiment = _load_experiment(workdir)
    trained = restore(experiment, workdir)
    variables = trained.of_seed(_best_row(trained))
    key = jax.random.key(seed)
    means, samples = jax.device_get(
        _sample(experiment.model, variables, key, count, num_steps, reverse)
    )
    arrays = samples | {f"{name}_mean": mean for name, mean in means.items()}
    write_npz(output or workdir / "samples.npz", arrays)
    title = "Samples from the prior, without emission noise" + ", backward" * reverse
    figure = experiment.dataset.draw_samples(means, title)
    style.save(figure, workdir / "figures" / "samples.png")
    return arrays


def infer_file(
    workdir: PathLike,
    source: PathLike,
    output: PathLike,
    before: int = 0,
    after: int = 0,
    seed: int = 0,
) -> Prediction:
    """Predicts every value of the series of an .npz file, and of the steps before and after.

    Writes "lengths" and, of numeric modalities, "<modality>_mean", "<modality>_sd",
    "<modality>_lower" and "<modality>_upper" (95 % interval), each ``(batch, before + time + after,
    feature)``. Images have no bounds. Of categorical modalities "<modality>_mean" is the most
    probable class, and "<modality>_probabilities" has a last axis of classes.

    Raises:
        InputError: for a bad file, negative numbers, or a directory without a finished checkpoint.
    """
    experiment = _load_experiment(workdir)
    series = read_npz(source, experiment.model.modalities).pad(before, after)
    trained = restore(experiment, Path(workdir))
    row = _best_row(trained)
    variables = trained.of_seed(row)
    directory = seed_dirs(experiment.seeds, Path(workdir))[experiment.seeds[row]]
    validation = experiment.load()["validation"]
    prediction = predict_all(
        experiment.model,
        variables,
        series,
        jax.random.key(seed),
        experiment.evaluation.draws,
        batch_size=experiment.evaluation.batch_size,
        calibration=calibrated(experiment, directory, variables, validation),
    )
    arrays = {
        f"{name}_{kind}": array
        for kind in ("mean", "probabilities", "sd", "lower", "upper")
        for name, array in getattr(prediction, kind).items()
    }
    write_npz(output, arrays | {"lengths": np.asarray(series.lengths)})
    return prediction


def _load_experiment(workdir: PathLike) -> Experiment:
    path = Path(workdir) / "config.json"
    config = settings.load_config(path)
    try:
        return settings.build(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _best_row(trained: Trained) -> int:
    """The place of the seed with the best validation score."""
    return int(np.argmin(trained.best_score)) if trained.best_score else 0


def _sample(
    model: Model, variables: Variables, key: jax.Array, count: int, num_steps: int, reverse: bool
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Expected values and samples of every modality, ``(count, num_steps, feature)``."""

    @jax.jit
    def sample(variables: Variables, key: jax.Array) -> Any:
        state_key, emission_key = jax.random.split(key)
        states = model.prior_samples(variables, state_key, count, num_steps, reverse)
        raw = model.emissions(variables, states)
        means = {name: own.mean(raw[name]) for name, own in model.likelihoods.items()}
        samples = {
            name: own.sample(raw[name], jax.random.fold_in(emission_key, index))
            for index, (name, own) in enumerate(model.likelihoods.items())
        }
        return means, samples

    return sample(variables, key)
