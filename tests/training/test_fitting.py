"""`fit` for every kind of model, against optima in closed form."""

import warnings
from dataclasses import dataclass, replace

import chex
import numpy as np
import pytest
from toy_models import NUM_STEPS, Constant, settings, waves

import jdmm
from jdmm import (
    MDMM,
    Categorical,
    Deletions,
    Devices,
    InputError,
    Modality,
    TrainSettings,
    series_from_arrays,
)
from jdmm.compiling import Compilations
from jdmm.data.scaling import Standardise
from jdmm.models import LinearGaussianSSM
from jdmm.models.baselines import ImputationBaseline
from jdmm.training.fitting import fit, fit_seeds

MODEL, SERIES, VALIDATION = Constant(), waves(16), waves(8, seed=1)


def scripted(*scores):
    """A user's score that gives these numbers in turn."""
    following = iter(scores)
    return lambda variables, validation: next(following)


def observed_mean(series, name):
    return np.mean(np.asarray(series.values[name])[np.asarray(series.observed[name])])


def test_fit_finds_the_optimum():
    """Without noise, decay and divergences it is the mean of the observed training values."""
    how = TrainSettings(
        epochs=200,
        batch_size=16,
        learning_rate=0.1,
        weight_decay=0.0,
        beta_peak=0.0,
        beta_final=0.0,
        ema_decay=0.0,
    )
    fitted = fit(Constant(noise=0.0), SERIES, settings=how)
    assert fitted.model == Constant(noise=0.0)
    for name in ("x", "y"):
        assert float(fitted.variables[name]) == pytest.approx(observed_mean(SERIES, name), abs=1e-3)
    assert (fitted.best_epoch, fitted.best_score, fitted.scaling) == (200, None, None)
    losses = [record["train/loss"] for record in fitted.history]
    assert len(losses) == 200 and losses[-1] < losses[0]


def test_history_and_best_epoch_are_those_of_the_lowest_score():
    how = settings(epochs=5, validate_every=2)
    seen = []

    def score(variables, validation):
        assert validation is VALIDATION
        seen.append(variables)
        return {"score": [3.0, 1.0, 2.0][len(seen) - 1], "accuracy": 0.5}

    fitted = fit(MODEL, SERIES, VALIDATION, how, score=score)
    assert [record["epoch"] for record in fitted.history] == [1, 2, 3, 4, 5]
    validated = [record.get("validation/score") for record in fitted.history]
    assert validated == [None, 3.0, None, 1.0, 2.0]
    assert fitted.history[1]["validation/accuracy"] == 0.5
    assert {"step", "seed", "start", "train/loss", "train/error_nll", "train/beta"} <= set(
        fitted.history[0]
    )
    assert (fitted.best_epoch, fitted.best_score) == (4, 1.0)
    chex.assert_trees_all_equal(fitted.variables, seen[1])


def test_the_default_score_is_the_error_of_values_hidden_by_the_deletions():
    """A modality that is always hidden is scored alone: the last record has its error."""
    deletions = replace(Deletions.none(), modality_dropout={"y": 1.0})
    fitted = fit(MODEL, SERIES, VALIDATION, settings(deletions=deletions))
    best = fitted.history[fitted.best_epoch - 1]
    error = np.mean((np.asarray(VALIDATION.values["y"]) - float(fitted.variables["y"])) ** 2)
    assert best["validation/error/y"] == pytest.approx(error, rel=1e-5)
    assert fitted.best_score == pytest.approx(np.log(error), rel=1e-4)
    assert fitted.best_score == min(record["validation/score"] for record in fitted.history)


def test_a_callback_gets_every_record_and_stops_the_training():
    records = []

    def on_epoch(record):
        records.append(record)
        return record["epoch"] == 3

    how = settings(epochs=10, validate_every=2)
    fitted = fit(MODEL, SERIES, VALIDATION, how, score=scripted(2.0, 1.0), on_epoch=on_epoch)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    # the last epoch is validated too, after the callback
    assert fitted.history[:2] == tuple(records[:2])
    assert fitted.history[2] == records[2] | {"validation/score": 1.0}
    assert (fitted.best_epoch, fitted.best_score) == (3, 1.0)
    without = fit(MODEL, SERIES, settings=how, on_epoch=lambda record: record["epoch"] == 3)
    assert (without.best_epoch, without.best_score) == (3, None)
    chex.assert_trees_all_equal(without.variables, fitted.variables)


@pytest.mark.parametrize(
    ("stop_after", "scores", "chosen", "epoch"),
    [
        (1, [5.0], 0, 1),  # within the first trial: its variables are validated
        (3, [3.0], 0, 2),  # within the second trial: the result of the first is taken
        (4, [3.0, 2.0, 2.0], 1, 2),  # after both: the better one is validated once more
    ],
)
def test_stopped_among_several_starts_the_best_so_far_is_taken(stop_after, scores, chosen, epoch):
    how = settings(epochs=10, restarts=2, restart_rungs=(0.2,), validate_every=10)
    records, seen, following = [], [], iter(scores)

    def score(variables, validation):
        seen.append(variables)
        return next(following)

    def on_epoch(record):
        records.append(record)
        return len(records) == stop_after

    fitted = fit(MODEL, SERIES, VALIDATION, how, score=score, on_epoch=on_epoch)
    assert len(seen) == len(scores) and len(fitted.history) == stop_after
    assert (fitted.best_epoch, fitted.best_score) == (epoch, scores[chosen])
    chex.assert_trees_all_equal(fitted.variables, seen[chosen])


def test_patience_stops_early():
    how = settings(epochs=9, patience=2)
    fitted = fit(MODEL, SERIES, VALIDATION, how, score=scripted(1.0, 2.0, 3.0))
    assert len(fitted.history) == 3 and fitted.best_epoch == 1


@pytest.mark.parametrize("epochs", [1, 2])
def test_defaults_train_for_one_or_two_epochs(epochs):
    fitted = fit(MODEL, waves(30), VALIDATION, TrainSettings(epochs=epochs))
    assert len(fitted.history) == fitted.best_epoch == epochs
    assert np.isfinite(fitted.best_score)


def test_several_seeds_are_compiled_once_and_equal_each_alone():
    compilations = Compilations()
    together = fit_seeds(MODEL, SERIES, VALIDATION, settings(), seeds=[3, 4])
    assert compilations.of("train_step", "held_out_errors") == {
        "train_step": 1,
        "held_out_errors": 1,
    }
    assert [fitted.history[0]["seed"] for fitted in together] == [3, 4]
    alone = fit(MODEL, SERIES, VALIDATION, settings(), seed=4)
    chex.assert_trees_all_close(together[1].variables, alone.variables, rtol=1e-5)
    assert together[1].best_score == pytest.approx(alone.best_score, rel=1e-4)
    assert float(together[0].variables["x"]) != float(alone.variables["x"])
    seen = []
    fit_seeds(MODEL, SERIES, settings=settings(), seeds=[3, 4], on_epoch=seen.append)
    assert [[record["seed"] for record in records] for records in seen] == [[3, 4]] * 3


def test_scaling_is_fitted_on_the_training_series_applied_and_kept():
    def shifted(series, by):
        values = {name: 1000 * np.asarray(value) + by for name, value in series.values.items()}
        return series_from_arrays(values, series.observed)

    series, validation = shifted(SERIES, 5000), shifted(VALIDATION, 7000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = fit(MODEL, series, validation, settings(), scaling=True)
    expected = Standardise.fit(series)
    chex.assert_trees_all_equal(fitted.scaling.mean, expected.mean)
    chex.assert_trees_all_equal(fitted.scaling.sd, expected.sd)
    own = fit(MODEL, expected.apply(series), expected.apply(validation), settings())
    chex.assert_trees_all_equal(fitted.variables, own.variables)
    assert fitted.best_score == own.best_score
    given = fit(MODEL, series, validation, settings(), scaling=expected)
    chex.assert_trees_all_equal(given.variables, own.variables)
    assert given.scaling is expected
    with pytest.warns(UserWarning, match="feature 0.*Standardise") as warned:
        fit(MODEL, series, settings=settings(epochs=1))
    assert len(warned) == 2  # one per modality


@pytest.mark.parametrize("kind", [LinearGaussianSSM, ImputationBaseline])
def test_models_that_fit_themselves_take_the_same_call(kind):
    model = kind((Modality("x"), Modality("y")))
    records = []
    fitted = fit(model, SERIES, VALIDATION, on_epoch=records.append)
    chex.assert_trees_all_equal(fitted.variables, model.fit(SERIES))
    assert len(records) == len(fitted.history) >= 1
    assert fitted.history[:-1] == tuple(records[:-1])
    assert fitted.best_epoch is None
    assert fitted.best_score == fitted.history[-1]["validation/score"]
    scored = fit(model, SERIES, VALIDATION, score=lambda variables, series: series.batch)
    assert scored.best_score == VALIDATION.batch
    assert fit(model, SERIES).best_score is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"settings": TrainSettings()}, "no settings for ImputationBaseline"),
        ({"devices": Devices.one()}, "no devices for ImputationBaseline"),
        ({"seed": 1}, r"seed 0 alone for ImputationBaseline.*got \[1\]"),
        ({"on_epoch": lambda record: True}, "on_epoch not to stop ImputationBaseline"),
    ],
)
def test_what_models_that_fit_themselves_do_not_use_is_refused(options, named):
    model = ImputationBaseline((Modality("x"), Modality("y")))
    with pytest.raises(InputError, match=named):
        fit(model, SERIES, **options)


@dataclass(frozen=True)
class Unfitted(jdmm.models.base.Model):
    posterior_mean = posterior_samples = emissions = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": -1}, r"seeds within 0\.\."),
        ({"score": scripted(1.0)}, "validation series for score"),
        ({"settings": settings(patience=1)}, "validation series for patience=1"),
        ({"settings": settings(batch_size=17)}, "batch_size of at most the 16"),
        ({"validation": waves(3).select(["x"])}, "expected modality 'y'"),
        ({"model": Unfitted(MODEL.modalities)}, "a model that can be fitted, got Unfitted"),
    ],
)
def test_what_cannot_be_used_is_refused(options, named):
    with pytest.raises(InputError, match=named):
        fit(**({"model": MODEL, "series": SERIES} | options))


def test_a_label_out_of_range_is_refused_before_anything_is_compiled():
    series = series_from_arrays({"label": np.full((30, NUM_STEPS), 7.0)})
    model = MDMM((Modality("label", likelihood=Categorical(3)),))
    compilations = Compilations()
    with pytest.raises(InputError, match="'label' of .* got 7") as refused:
        fit(model, series)
    assert "learning_rate" not in str(refused.value)
    assert compilations.of("make", "train_step") == {"make": 0, "train_step": 0}


def test_progress_bar(capsys):
    how = settings(epochs=2)
    for shown in (None, False):
        fit(MODEL, SERIES, VALIDATION, how, progress_bar=shown)
    assert capsys.readouterr().err == ""  # a pipe is no terminal
    fit(MODEL, SERIES, VALIDATION, how, progress_bar=True)
    told = capsys.readouterr().err
    assert "8/8" in told and "epoch=2" in told and "validation/score=" in told


def test_an_mdmm_learns_to_reconstruct():
    model = MDMM((Modality("x"), Modality("y")), latent=2, hidden=8)
    how = TrainSettings(
        epochs=100,
        batch_size=8,
        learning_rate=0.05,
        beta_peak=0.1,
        beta_final=0.1,
        deletions=Deletions.none(),
        validate_every=100,
    )
    fitted = fit(model, SERIES, VALIDATION, how)
    # nothing is hidden, so all values are scored
    assert fitted.history[-1]["validation/error/y"] < 0.2 * np.var(VALIDATION.values["y"])
