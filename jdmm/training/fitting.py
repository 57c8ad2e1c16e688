"""`fit`: training in one call, for every model."""

from collections.abc import Callable, Sequence
from typing import Any, overload

import jax
import numpy as np
from tqdm import tqdm

from jdmm.data.corruption import Deletions
from jdmm.data.scaling import Standardise, scalable, warn_unscaled
from jdmm.data.streaming import Scaled, SeriesSource, first_series
from jdmm.errors import InputError
from jdmm.models.base import GradientModel, Model, SelfFittingModel
from jdmm.series import Series
from jdmm.training import parallel
from jdmm.training.fitted import FittedModel
from jdmm.training.loop import check_training, initial_progress, run_epochs
from jdmm.training.parallel import Devices
from jdmm.training.progress import Progress, Scorer, conclude
from jdmm.training.schedule import Schedule, TrainSettings
from jdmm.training.scoring import UserScore, held_out_scorer, user_scorer

Record = dict[str, float]
"""Figures of one epoch of one seed, or of one iteration of a model that fits itself."""

LOOKED_AT = 100
"""Series of a source that are looked at for values that need scaling."""


def fit(
    model: Model,
    series: Series | SeriesSource,
    validation: Series | None = None,
    settings: TrainSettings | None = None,
    *,
    seed: int = 0,
    score: UserScore | None = None,
    on_epoch: Callable[[Record], Any] | None = None,
    progress_bar: bool | None = None,
    devices: Devices | None = None,
    scaling: Standardise | bool | None = None,
) -> FittedModel:
    """Fits a model to series.

    With validation series, the variables are the averaged ones of the epoch with the lowest
    score; without, those of the last epoch. The default score is what training is about: the
    deletions of `settings` are applied to the validation series, the same ones every time, and the
    hidden values are predicted. It is the mean over the modalities of the log mean squared error
    (of the Brier score for categories); see `jdmm.training.scoring.held_out_scorer`.

    Models that fit themselves, such as `LinearGaussianSSM`, take no settings, seed or devices.
    Their iterations count as epochs. With validation series, the result is scored once.

    Args:
        model: any model.
        series: the training series, or a source that they are streamed from, for example a
            `SeriesFile`. Both give the same variables, bit for bit.
        validation: validation series. Early stopping, restarts and `score` need them.
        settings: how to train; by default `TrainSettings()`. `settings.patience` stops early.
        seed: of all random numbers.
        score: ``(variables, validation) -> score`` in place of the default score, to be minimised;
            or a dictionary of figures with "score", which all go into the history. The validation
            series are scaled if `scaling` says so. Called every `settings.validate_every` epochs.
        on_epoch: called after every epoch with its record. Return True to stop training: the
            current variables are then validated too.
        progress_bar: True or False; None shows a progress bar if the output is a terminal.
        devices: the devices that share each batch; by default one.
        scaling: True standardises the features of real numbers (`Likelihood.scalable`) by the
            training series, but images and those of a fixed sd; a `Standardise` is used as it is.
            The fitted model keeps it. A source needs a `Standardise`, for example one that was fit
            to a part of it.

    Returns:
        The fitted model. Its history has one record per epoch: "epoch", "step", "seed", "start"
        (the number of the random start), "train/loss", the terms of the loss, and after a
        validation "validation/score" and the other figures. Losses are in nats per time step.

    Raises:
        InputError: for series that disagree with the model, or arguments that cannot be used,
            before anything is compiled; the series of a source are checked when they are read.
        DivergenceError: if a loss or a score is not finite, naming the step.
    """

    def on_epochs(records: list[Record]) -> Any:
        return on_epoch is not None and on_epoch(records[0])

    return fit_seeds(
        model,
        series,
        validation,
        settings,
        seeds=[seed],
        score=score,
        on_epoch=on_epochs,
        progress_bar=progress_bar,
        devices=devices,
        scaling=scaling,
    )[0]


def fit_seeds(
    model: Model,
    series: Series | SeriesSource,
    validation: Series | None = None,
    settings: TrainSettings | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    score: UserScore | None = None,
    on_epoch: Callable[[list[Record]], Any] | None = None,
    progress_bar: bool | None = None,
    devices: Devices | None = None,
    scaling: Standardise | bool | None = None,
) -> list[FittedModel]:
    """Fits a model with several seeds at once, by one compiled program.

    Args:
        model: as for `fit`.
        series: as for `fit`.
        validation: as for `fit`.
        settings: as for `fit`. Each seed has a best epoch and a patience of its own.
        seeds: of the random numbers of each fitted model.
        score: as for `fit`; called for each seed.
        on_epoch: called after every epoch with one record per seed. Return True to stop all.
        progress_bar: as for `fit`.
        devices: as for `fit`.
        scaling: as for `fit`.

    Returns:
        One fitted model per seed.

    Raises:
        InputError: as `fit` does.
        DivergenceError: as `fit` does.
    """
    seeds = [int(seed) for seed in seeds]
    if not seeds or not all(0 <= seed < 2**32 for seed in seeds):
        raise InputError(f"expected seeds within 0..{2**32 - 1}, got {seeds}")
    if score is not None and validation is None:
        raise InputError("expected validation series for score, got none")
    if not isinstance(series, Series | SeriesSource):
        raise InputError(
            f"expected a Series or a SeriesSource, got {type(series).__name__}: build one with "
            "series_from_arrays"
        )
    model.check(series if isinstance(series, Series) else first_series(series, 1))
    if validation is not None:
        model.check(validation)
    scaling = _scaling(model, series, scaling)
    if scaling is not None:
        series = _scaled(model, series, scaling)
        validation = None if validation is None else _scaled(model, validation, scaling)

    on_epoch = on_epoch or (lambda records: None)
    if isinstance(model, SelfFittingModel):
        if isinstance(series, SeriesSource):
            raise InputError(
                f"expected a Series in memory for {type(model).__name__}, which fits itself, got a "
                f"{type(series).__name__}: take a part of it"
            )
        _refuse_training(model, settings, seeds, devices)
        scorer = _scorer(model, validation, score, Deletions())
        return [_fit_itself(model, series, scorer, on_epoch, progress_bar, scaling)]
    if not isinstance(model, GradientModel):
        raise InputError(
            f"expected a model that can be fitted, got {type(model).__name__}: subclass "
            "GradientModel or SelfFittingModel"
        )
    settings, devices = settings or TrainSettings(), devices or Devices.one()
    check_training(model, series, settings, devices, validation is not None)
    scorer = _scorer(model, validation, score, settings.deletions)
    return _train(model, series, settings, seeds, scorer, on_epoch, progress_bar, devices, scaling)


def _train(
    model: GradientModel,
    series: Series | SeriesSource,
    settings: TrainSettings,
    seeds: list[int],
    scorer: Scorer | None,
    on_epoch: Callable[[list[Record]], Any],
    progress_bar: bool | None,
    devices: Devices,
    scaling: Standardise | None,
) -> list[FittedModel]:
    """Trains all seeds, and returns the best variables of each."""
    schedule = Schedule(settings, series.batch)
    progress = initial_progress(model, series, settings, seeds)
    history: list[list[Record]] = [[] for _ in seeds]
    with _bar(progress_bar, "step", schedule.all_steps) as bar:
        epochs = run_epochs(
            model, series, settings, progress, scorer, on_step=bar.update, devices=devices
        )
        for _ in epochs:
            records = progress.records
            assert records is not None  # nothing interrupts an epoch
            for own, record in zip(history, records, strict=True):
                own.append(record)
            bar.set_postfix(_summary(records))
            if on_epoch([dict(record) for record in records]):
                conclude(progress, scorer, schedule)
                break
    return [_result(model, progress, history[row], row, scaling) for row in range(len(seeds))]


def _result(
    model: Model, progress: Progress, history: list[Record], row: int, scaling: Standardise | None
) -> FittedModel:
    """The fitted model of one seed."""
    best_score = progress.best_score[row]
    return FittedModel(
        model=model,
        variables=jax.tree.map(lambda leaf: leaf[row], progress.best),
        history=tuple(history),
        best_epoch=progress.best_epoch[row],
        best_score=best_score if np.isfinite(best_score) else None,
        scaling=scaling,
    )


def _fit_itself(
    model: SelfFittingModel,
    series: Series,
    scorer: Scorer | None,
    on_epoch: Callable[[list[Record]], Any],
    progress_bar: bool | None,
    scaling: Standardise | None,
) -> FittedModel:
    """Lets a model fit itself, and scores the result."""
    history: list[Record] = []
    with _bar(progress_bar, "iteration") as bar:

        def on_iteration(record: dict[str, float]) -> None:
            history.append(dict(record))
            bar.update()
            bar.set_postfix({k: v for k, v in record.items() if k != "iteration"})
            if on_epoch([dict(record)]):
                raise InputError(
                    f"expected on_epoch not to stop {type(model).__name__}, which fits itself: "
                    "set its own limits instead"
                )

        variables = model.fit(series, on_iteration)
    best_score = None
    if scorer is not None:
        figures = scorer(jax.tree.map(lambda leaf: np.asarray(leaf)[None], variables))
        last = history[-1] if history else {}
        last |= {f"validation/{name}": float(value[0]) for name, value in figures.items()}
        best_score = float(figures["score"][0])
    return FittedModel(
        model=model,
        variables=variables,
        history=tuple(history),
        best_score=best_score,
        scaling=scaling,
    )


def _refuse_training(
    model: SelfFittingModel,
    settings: TrainSettings | None,
    seeds: list[int],
    devices: Devices | None,
) -> None:
    """Refuses what a model that fits itself does not use."""
    for name, given in (("settings", settings), ("devices", devices)):
        if given is not None:
            raise InputError(
                f"expected no {name} for {type(model).__name__}, which fits itself, got some"
            )
    if seeds != [0]:
        raise InputError(
            f"expected the seed 0 alone for {type(model).__name__}, which uses no random numbers, "
            f"got {seeds}"
        )


def _scorer(
    model: Model, validation: Series | None, score: UserScore | None, deletions: Deletions
) -> Scorer | None:
    """The user's score, or the default one; None without validation series."""
    if validation is None:
        return None
    if score is not None:
        return user_scorer(score, validation)
    return held_out_scorer(model, validation, deletions)


def _scaling(
    model: Model, series: Series | SeriesSource, scaling: Standardise | bool | None
) -> Standardise | None:
    """The scaling to use; without one, large or small values give a warning.

    Of a source, the first series are looked at.
    """
    if isinstance(scaling, Standardise):
        return scaling
    if not scaling:
        real = {m.name: mask for m in model.modalities if (mask := scalable(m)).any()}
        part = series if isinstance(series, Series) else first_series(series, LOOKED_AT)
        seen = {name: np.asarray(part.observed[name]) & mask for name, mask in real.items()}
        observed = {**part.observed, **seen}
        warn_unscaled(part.replace(observed=observed), list(real))
        return None
    if isinstance(series, SeriesSource):
        raise InputError(
            "expected a Standardise as scaling of streamed series, got True: give "
            "Standardise.fit(part) of a part that memory holds"
        )
    return Standardise.fit_scalable(series, model.modalities)


@overload
def _scaled(model: Model, series: Series, scaling: Standardise) -> Series: ...
@overload
def _scaled(
    model: Model, series: Series | SeriesSource, scaling: Standardise
) -> Series | SeriesSource: ...
def _scaled(
    model: Model, series: Series | SeriesSource, scaling: Standardise
) -> Series | SeriesSource:
    """Scaled series, those of a source as they are read."""
    if isinstance(series, SeriesSource):
        return Scaled(series, scaling)
    scaled = scaling.apply(series)
    model.check(scaled)  # what is no real number has no business in a scaling
    return scaled


def _bar(shown: bool | None, unit: str, total: int | None = None) -> tqdm:
    """A progress bar, in the first process only; None shows it on a terminal."""
    disable = None if shown is None else not shown
    return tqdm(total=total, unit=unit, disable=disable if parallel.is_primary() else True)


def _summary(records: list[Record]) -> dict[str, Any]:
    """Epoch, and loss and score averaged over the seeds, for a progress bar."""
    summary: dict[str, Any] = {"epoch": int(records[0]["epoch"])}
    for name in ("train/loss", "validation/score"):
        if name in records[0]:
            summary[name] = f"{np.mean([record[name] for record in records]):.3f}"
    return summary
