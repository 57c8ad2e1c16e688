"""One experiment in one work directory: train, evaluate, sample, infer.

The work directory holds `config.json`, `metrics.jsonl`, `events.*` (TensorBoard), `checkpoints/`,
`calibration.json`, `figures/*.png`, `report.md` and `results.json`. With several seeds, each has
these in `seed-<number>/`, except the configuration and the checkpoints, and `workdir` holds the
report and the results over all seeds. Files are replaced whole or appended to, so that a run that
was killed at any moment continues from its last checkpoint.

In a job of several processes all train, and the first one reads checkpoints and writes files.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdmm.data.arrays.reading import read_series
from jdmm.data.base import SPLITS
from jdmm.data.npz import write_npz
from jdmm.data.streaming import first_series
from jdmm.data.tables.dataset import Files
from jdmm.data.tables.table import Table, check_output, read_table, write_table
from jdmm.data.tables.units import LEVELS
from jdmm.errors import InputError
from jdmm.evaluation.prediction import UNCALIBRATED, Calibration, Prediction
from jdmm.evaluation.tables import predicted_columns
from jdmm.experiments import settings
from jdmm.experiments.choose import CANDIDATES, choose_and_evaluate
from jdmm.experiments.evaluate import calibrated, evaluate
from jdmm.experiments.settings import Config, Experiment
from jdmm.experiments.tables import MAX_FIGURES, figure_of
from jdmm.experiments.train import restore, seed_dirs, train
from jdmm.models.base import Variables
from jdmm.plotting import style
from jdmm.training import parallel
from jdmm.training.fitted import FittedModel
from jdmm.training.parallel import Devices

PathLike = str | os.PathLike[str]


def train_and_evaluate(
    config: Config, workdir: PathLike, devices: Devices | None = None
) -> dict[str, Any]:
    """Trains a model, or continues its training, and scores it on the test series.

    Args:
        config: the configuration. With a section `candidates`, `jdmm.experiments.choose` chooses
            the model.
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
    if CANDIDATES in config:
        return choose_and_evaluate(config, Path(workdir), devices)
    experiment = settings.build(config, Path(workdir))
    data = experiment.load()
    if parallel.is_primary():
        for line in experiment.dataset.describe():
            print(line)
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
    variables = trained.of_seed(trained.best_row)
    key = jax.random.key(seed)
    means, samples = jax.device_get(_sample(experiment, variables, key, count, num_steps, reverse))
    if (scaling := experiment.dataset.scaling) is not None:
        means, samples = scaling.undo(means), scaling.undo(samples)
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
    """Predicts every value of the series of a file, and of the steps before and after.

    The file is an .npz file, or one of `jdmm.write_series`. Memory holds its series.

    Writes "lengths" and, of numeric modalities, "<modality>_mean", "<modality>_sd",
    "<modality>_lower" and "<modality>_upper" (95 % interval), each ``(batch, before + time + after,
    feature)``. Images have no bounds. Of categorical modalities "<modality>_mean" is the most
    probable class, and "<modality>_probabilities" has a last axis of classes.

    Raises:
        InputError: for a bad file, negative numbers, or a directory without a finished checkpoint.
    """
    experiment = _load_experiment(workdir)
    if isinstance(experiment.dataset, Files):
        raise InputError(
            f"expected an --output that ends with .csv or .parquet for a model of a table, got "
            f"{os.fspath(output)}"
        )
    given = read_series(source, experiment.model.modalities, experiment.model.inputs)
    series = first_series(given, given.batch).as_float().pad(before, after)
    variables, calibration = _best(experiment, Path(workdir))
    fitted = FittedModel(
        experiment.model, variables, calibration=calibration, scaling=experiment.dataset.scaling
    )
    evaluation = experiment.evaluation
    prediction = fitted.predict(
        series, seed=seed, num_samples=evaluation.draws, batch_size=evaluation.batch_size
    )
    arrays = {
        f"{name}_{kind}": array
        for kind in ("mean", "probabilities", "sd", "lower", "upper")
        for name, array in getattr(prediction, kind).items()
    }
    write_npz(output, arrays | {"lengths": np.asarray(series.lengths)})
    return prediction


def infer_table(
    workdir: PathLike,
    source: PathLike,
    output: PathLike,
    before: int = 0,
    after: int = 0,
    seed: int = 0,
    levels: Sequence[float] = LEVELS,
) -> Table:
    """Fills a table, and writes it with predictions of every value as CSV or Parquet.

    `Table.to_frame` says what the output holds. Long series are predicted in windows of the data
    set's length, each shown one more window on both sides. Figures of the first 12 series go to
    `figures/` in the work directory.

    Args:
        workdir: of a run with the data set "files".
        source: the table, with the columns of the one that the model was trained on.
        output: the file to write.
        before: steps to extrapolate before the first one of each series.
        after: steps to extrapolate after the last one.
        seed: of all random numbers.
        levels: of the intervals.

    Returns:
        The table that was read.

    Raises:
        InputError: for a bad file, negative numbers, impossible levels, or a directory without a
            finished checkpoint.
    """
    workdir = Path(workdir)
    experiment = _load_experiment(workdir)
    dataset = experiment.dataset
    if not isinstance(dataset, Files):
        raise InputError(
            f"expected a work directory of a table to write {os.fspath(output)}, got one of "
            "another data set: give an --output that ends with .npz"
        )
    check_output(output)
    table = read_table(source, dataset.fitted_schema).extend(before, after)
    table.check_output(levels)
    variables, calibration = _best(experiment, workdir)
    found = predicted_columns(
        experiment.model,
        variables,
        table,
        dataset.window,
        jax.random.key(seed),
        experiment.evaluation.draws,
        calibration,
        levels,
    )
    figures = [
        figure_of(table, row, found, levels) for row in range(min(len(table.names), MAX_FIGURES))
    ]
    write_table(output, table.fill(found, levels))
    for row, figure in enumerate(figures):
        name = "filled" if len(table.names) == 1 else f"filled-{row}"
        style.save(figure, workdir / "figures" / f"{name}.png")
    return table


def _best(experiment: Experiment, workdir: Path) -> tuple[Variables, Calibration]:
    """The variables of the best seed, and the scales of their intervals."""
    trained = restore(experiment, workdir)
    row = trained.best_row
    variables = trained.of_seed(row)
    directory = seed_dirs(experiment.seeds, workdir)[experiment.seeds[row]]
    if not experiment.evaluation.calibrate:
        return variables, UNCALIBRATED
    return variables, calibrated(
        experiment, directory, variables, lambda: experiment.load()["validation"]
    )


def _load_experiment(workdir: PathLike) -> Experiment:
    path = Path(workdir) / "config.json"
    config = settings.load_config(path)
    try:
        return settings.build(config, Path(workdir))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _sample(
    experiment: Experiment,
    variables: Variables,
    key: jax.Array,
    count: int,
    num_steps: int,
    reverse: bool,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Expected values and samples of every modality, ``(count, num_steps, feature)``."""
    model, inputs = experiment.model, experiment.dataset.example_inputs(num_steps)

    @jax.jit
    def sample(variables: Variables, key: jax.Array) -> Any:
        state_key, emission_key = jax.random.split(key)
        states = model.prior_samples(variables, state_key, count, num_steps, reverse, inputs)
        raw = model.emissions(variables, states)
        means = {name: own.mean(raw[name]) for name, own in model.likelihoods.items()}
        samples = {
            name: own.sample(raw[name], jax.random.fold_in(emission_key, index))
            for index, (name, own) in enumerate(model.likelihoods.items())
        }
        return means, samples

    return sample(variables, key)
