"""Settings and the values that follow from the step."""

import dataclasses

import numpy as np
import pytest
from toy_models import settings

from configs import spirals
from jdmm import Deletions, InputError, TrainSettings
from jdmm.training.schedule import Schedule


def test_schedules():
    schedule = Schedule(
        settings(epochs=10, learning_rate=0.5, warmup=0.2, beta_rise=0.4, beta_fall=(0.5, 0.9)), 8
    )
    assert schedule.steps_per_epoch == 2
    rates = [float(schedule.learning_rate(step)) for step in (0, 2, 4, 12, 20)]
    np.testing.assert_allclose(rates, [0.0, 0.25, 0.5, 0.25, 0.0], atol=1e-7)
    betas = [float(schedule.beta(step)) for step in (0, 2, 8, 10, 14, 18, 20)]
    np.testing.assert_allclose(betas, [0.0, 0.5, 2.0, 2.0, 1.1, 0.2, 0.2], rtol=1e-6)
    published = Schedule(settings(epochs=10, beta_rise=0.4, beta_peak=1.0, beta_final=1.0), 8)
    betas = [float(published.beta(step)) for step in (0, 2, 8, 20)]
    np.testing.assert_allclose(betas, [0.0, 0.25, 1.0, 1.0])
    constant = Schedule(settings(schedule="constant", warmup=0), 8)
    assert float(constant.learning_rate(0)) == pytest.approx(0.02)
    assert float(Schedule(settings(beta_rise=0), 8).beta(0)) == 2.0


@pytest.mark.parametrize("restarts", [1, 8])
@pytest.mark.parametrize("epochs", [1, 2, 3, 100])
def test_defaults_suit_every_number_of_epochs(epochs, restarts):
    if epochs == 1 and restarts > 1:
        with pytest.raises(InputError, match="at least 2 epochs .* restarts=8, got 1"):
            TrainSettings(epochs=epochs, restarts=restarts)
        return
    schedule = Schedule(TrainSettings(epochs=epochs, restarts=restarts), series=60)
    rates = np.array([float(schedule.learning_rate(step)) for step in range(schedule.steps)])
    assert (rates >= 0).all() and rates.max() > 0.8 * schedule.settings.learning_rate
    assert float(schedule.learning_rate(schedule.steps)) == pytest.approx(0, abs=1e-7)
    assert float(schedule.beta(0)) == 0
    assert float(schedule.beta(schedule.steps)) == pytest.approx(0.2, rel=1e-5)
    rungs = schedule.rungs
    assert (
        rungs
        == {
            1: [],
            8: {2: [(8, 1)], 3: [(8, 1)], 100: [(8, 8), (4, 11), (2, 19)]}.get(epochs),
        }[restarts]
    )
    trained, before = epochs, 0
    for candidates, last in rungs:
        trained += (candidates - 1) * (last - before)
        before = last
    assert schedule.all_steps == 3 * trained


def test_every_series_comes_once_per_epoch_in_new_order():
    schedule = Schedule(settings(batch_size=4), series=10)
    first, second = schedule.rows(0, 0, 0), schedule.rows(0, 0, 1)
    assert first.shape == (3, 4)
    for rows in (first, second):
        assert sorted(rows[rows >= 0]) == list(range(10))
    assert (first != second).any()
    np.testing.assert_array_equal(first, schedule.rows(0, 0, 0))


def test_the_spirals_differ_from_the_defaults_where_they_say_so():
    """Class defaults and configuration cannot drift apart."""
    config = spirals.get_config("bfvi").to_dict()
    defaults = dataclasses.asdict(TrainSettings())
    ours = {name: config[name] for name in ("epochs", "batch_size", "learning_rate")}
    ours |= config["train"]
    differing = {name for name in defaults if ours[name] != defaults[name]}
    assert differing == {
        "epochs",
        "restarts",
        "warmup",
        "beta_rise",
        "validate_every",
        "deletions",
    }
    assert ours["deletions"] == dataclasses.asdict(Deletions(modality_dropout={"x": 0.0, "y": 0.0}))


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"schedule": "exotic"},
        {"warmup": 1.5},
        {"beta_rise": -0.1},
        {"beta_fall": (0.9, 0.5)},
        {"ema_decay": 1.0},
        {"patience": -1},
        {"restarts": 0},
        {"restart_rungs": (1.0,)},
        {"restart_rungs": (0.2, 0.2)},
        {"restart_rungs": ()},
        {"precision": "float8"},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        settings(**change)
