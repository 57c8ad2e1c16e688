"""The train step and the loop over epochs."""

import re

import chex
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jdmm import (
    MDMM,
    Deletions,
    DivergenceError,
    InputError,
    LossWeights,
    Modality,
    Quadrature,
    TrainSettings,
    fit,
    series_from_arrays,
)
from jdmm.models.objectives import Loss
from jdmm.training import loop
from jdmm.training.schedule import Schedule

TIME = 6


def tiny_model() -> MDMM:
    weights = LossWeights(prior_matching_particles=4)
    return MDMM(
        (Modality("x"), Modality("y")),
        2,
        3,
        Quadrature("particles", 2),
        Quadrature("particles", 3),
        weights,
    )


def waves(count: int, seed: int = 0):
    """Noisy sines of random phase, with gaps."""
    random = np.random.default_rng(seed)
    angle = np.arange(TIME) + random.uniform(0, 6, (count, 1))
    x = np.sin(angle) + 0.1 * random.normal(size=(count, TIME))
    x[0, 2] = np.nan
    return series_from_arrays({"x": x, "y": np.cos(angle)})


def settings(**changes) -> TrainSettings:
    return TrainSettings(
        **{"epochs": 3, "batch_size": 4, "warmup_epochs": 1, "validate_every": 1, **changes}
    )


class Scripted:
    """A model of one number whose loss is NaN once the number reaches `limit`."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def init(self, key, series):
        del key, series
        return {"params": {"number": jnp.zeros(())}}

    def loss(self, variables, series, targets, key, progress):
        del series, key, progress
        number = variables["params"]["number"]
        value = jnp.where(number > self.limit, jnp.nan, -number)
        count = jnp.sum(targets.valid)
        return Loss({"fit_nll": value * count}, count)


class Counts(Scripted):
    """Its loss is the share of the steps of "y" that it is not shown."""

    def loss(self, variables, series, targets, key, progress):
        del key, progress
        number = variables["params"]["number"]
        hidden = jnp.sum(targets.observed["y"] & ~series.observed["y"])
        return Loss({"hidden_nll": hidden + 0 * number}, jnp.sum(targets.valid))


def run(model, series, how, progress=None, **options):
    progress = progress or loop.start(model, series, how, [1])
    records = []
    for _ in loop.run_epochs(model, series, how, progress, **options):
        records.append(progress.records and progress.records[0])
    return progress, records


def test_schedules():
    schedule = Schedule(
        settings(epochs=10, learning_rate=0.5, warmup_epochs=2, beta_epochs=4), series=8
    )
    assert schedule.steps_per_epoch == 2
    rates = [float(schedule.learning_rate(step)) for step in (0, 2, 4, 12, 20)]
    np.testing.assert_allclose(rates, [0.0, 0.25, 0.5, 0.25, 0.0], atol=1e-7)
    betas = [float(schedule.beta(step)) for step in (0, 2, 8, 10, 14, 18, 20)]
    np.testing.assert_allclose(betas, [0.0, 0.5, 2.0, 2.0, 1.5, 1.0, 1.0])  # falls from 10 to 18
    published = Schedule(settings(epochs=10, beta_epochs=4, beta_peak=1.0), series=8)
    betas = [float(published.beta(step)) for step in (0, 2, 8, 20)]
    np.testing.assert_allclose(betas, [0.0, 0.25, 1.0, 1.0])
    constant = Schedule(settings(schedule="constant", warmup_epochs=0), series=8)
    assert float(constant.learning_rate(0)) == pytest.approx(0.02)
    assert float(Schedule(settings(beta_epochs=0), 8).beta(0)) == 2.0


def test_gaps_begin_after_their_part_of_the_training():
    gaps = Deletions(burst=0.0, all=1.0, all_range=(0.5, 0.5), all_from=0.5)
    how = settings(epochs=4, deletions=gaps)
    _, records = run(Counts(1.0), waves(6), how)
    assert [record["train/hidden_nll"] for record in records] == [0.0, 0.0, 0.5, 0.5]


def test_every_series_comes_once_per_epoch_in_new_order():
    schedule = Schedule(settings(batch_size=4), series=10)
    first, second = schedule.rows(0, 0, 0), schedule.rows(0, 0, 1)
    assert first.shape == (3, 4)
    for rows in (first, second):
        assert sorted(rows[rows >= 0]) == list(range(10))
    assert (first != second).any()
    np.testing.assert_array_equal(first, schedule.rows(0, 0, 0))


def test_rows_that_fill_a_batch_count_for_nothing():
    model, series = tiny_model(), waves(3)
    variables = jax.jit(model.init)(jax.random.key(0), series)
    whole = loop._batch(jax.tree.map(jnp.asarray, series), jnp.array([0, 1, 2]))
    filled = loop._batch(jax.tree.map(jnp.asarray, series), jnp.array([0, 1, 2, -1, -1]))
    loss = jax.jit(model.loss)
    a, b = (loss(variables, batch, batch, jax.random.key(3)) for batch in (whole, filled))
    assert int(a.count) == int(b.count) == 3 * TIME
    chex.assert_trees_all_close(a.terms, b.terms, rtol=1e-5)


def test_train_step_is_traced_once():
    model, series, how = tiny_model(), waves(10), settings()
    schedule = Schedule(how, 10)
    step = chex.assert_max_traces(loop.make_train_step(model, schedule), n=1)
    step = jax.jit(loop.over_seeds(step))
    state = loop.start(model, series, how, [0]).state
    for epoch in range(2):
        for rows in schedule.rows(0, 0, epoch):
            state, metrics = step(state, series, rows[None])
    assert int(state.step) == 6
    assert all(np.isfinite(value) for value in metrics.values())


def test_seeds_together_and_one_by_one_are_the_same():
    model, series, how = tiny_model(), waves(8), settings()
    schedule, seeds = Schedule(how, 8), [1, 2, 3]
    rows = np.stack([schedule.rows(seed, 0, 0)[0] for seed in seeds])
    found = []
    for together in (False, True):
        step = jax.jit(loop.over_seeds(loop.make_train_step(model, schedule), together))
        state = loop.start(model, series, how, seeds).state
        for _ in range(3):
            state, metrics = step(state, series, rows)
        assert state.step.shape == ()
        found.append((state, metrics))
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "named"),
    [("float32", "HIGHEST"), ("tensorfloat32", "HIGH"), ("bfloat16", "DEFAULT")],
)
def test_matrix_products_have_the_precision_of_the_settings(precision, named):
    """All of them, those of the gradient too; nothing else is in less than float32."""
    model, series, how = tiny_model(), waves(8), settings(precision=precision)
    step = loop.over_seeds(loop.make_train_step(model, Schedule(how, 8)))
    state = loop.start(model, series, how, [0]).state
    lines = str(jax.make_jaxpr(step)(state, series, np.arange(4)[None])).replace("\n", " ")
    found = re.findall(r"dot_general\[.*?precision=\(?(?:Precision\.)?(\w+)", lines)
    assert len(found) > 20 and set(found) == {named}, set(found)
    assert "bf16" not in lines and "f16" not in lines


def test_gradients_are_finite_where_nothing_is_observed():
    model = tiny_model()
    empty = series_from_arrays({"x": np.full((2, 1), np.nan), "y": np.full((2, 1), np.nan)})
    variables = jax.jit(model.init)(jax.random.key(0), empty)

    @jax.jit
    @jax.grad
    def gradient_of(variables):
        return model.loss(variables, empty, empty, jax.random.key(1)).total(1.0)

    gradient = gradient_of(variables)
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_interrupted_and_resumed_run_is_bit_identical(stop_after, restarts):
    model, series, how = tiny_model(), waves(10), settings(restarts=restarts, restart_epochs=(1,))
    score = loop.loss_scorer(model, waves(4, seed=1), 0)
    straight, records = run(model, series, how, score=score)
    asked = []

    def interrupted(steps):
        asked.append(steps)
        return steps == stop_after

    halfway, before = run(model, series, how, score=score, interrupted=interrupted)
    assert halfway.steps == stop_after
    assert asked == list(range(1, stop_after + 1))
    resumed, after = run(model, series, how, halfway, score=score)
    chex.assert_trees_all_equal(straight.state, resumed.state)
    chex.assert_trees_all_equal(straight.best, resumed.best)
    assert records == [record for record in before + after if record]
    assert (straight.best_epoch, straight.best_score) == (resumed.best_epoch, resumed.best_score)


def test_best_variables_are_those_of_the_best_validation():
    scores = iter([3.0, 1.0, 2.0])
    seen = []

    def score(variables):
        seen.append(variables)
        return {"score": next(scores)}

    progress, records = run(tiny_model(), waves(8), settings(), score=score)
    assert progress.best_epoch == [2]
    assert progress.best_score == [1.0]
    chex.assert_trees_all_equal(progress.best, seen[1])
    assert [record["validation/score"] for record in records] == [3.0, 1.0, 2.0]


def test_the_best_of_several_starts_goes_on():
    scores = iter([3.0, 1.0, 2.0, 0.9, 0.8])
    how = settings(restarts=3, restart_epochs=(1,))
    progress, records = run(tiny_model(), waves(8), how, score=lambda _: {"score": next(scores)})
    assert [(r["start"], r["epoch"]) for r in records] == [(0, 1), (1, 1), (2, 1), (1, 2), (1, 3)]
    assert [r["step"] for r in records] == [2, 4, 6, 8, 10]
    assert (progress.best_epoch, progress.best_score) == ([3], [0.8])
    alone = [r["train/loss"] for r in records[:3]]
    assert len(set(alone)) == 3  # each start has variables and noise of its own


def test_the_better_half_of_the_starts_goes_on():
    """Successive halving: five starts, then three, then two, then the best, each from its state."""
    scores = iter([5.0, 4.0, 3.0, 2.0, 1.0] + [0.9, 0.7, 0.8] + [0.6, 0.5] + [0.4, 0.3])
    how = settings(epochs=5, restarts=5, restart_epochs=(1, 2, 3))
    seen = []

    def score(variables):
        seen.append(variables)
        return {"score": next(scores)}

    progress, records = run(tiny_model(), waves(8), how, score=score)
    raced = [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (4, 2), (3, 2), (2, 2), (3, 3), (2, 3)]
    assert [(r["start"], r["epoch"]) for r in records] == [*raced, (2, 4), (2, 5)]
    assert len(records) * 2 == Schedule(how, 8).all_steps == progress.steps
    alone = run(tiny_model(), waves(8), settings(epochs=5), score=lambda _: {"score": 0.0})[1]
    first = [r["train/loss"] for r in records if r["start"] == 0]
    assert first == [r["train/loss"] for r in alone][:1]
    # start 2 went on where it was: its epochs are those of a run of it alone
    single = loop.start(tiny_model(), waves(8), how, [1])
    single.state = loop._initialiser(tiny_model(), waves(8), how)(np.array([1]), 2)
    single.trials = 10
    for _ in loop.run_epochs(tiny_model(), waves(8), how, single, lambda _: {"score": 0.0}):
        pass
    chex.assert_trees_all_equal(single.state, progress.state)


def test_restarts_need_validation():
    with pytest.raises(InputError, match="validation"):
        run(tiny_model(), waves(8), settings(restarts=2, restart_epochs=(1,)))


def test_patience_stops_early():
    scores = iter([1.0, 2.0, 3.0, 4.0, 5.0])
    how = settings(epochs=5, patience=2)
    _, records = run(tiny_model(), waves(8), how, score=lambda _: {"score": next(scores)})
    assert len(records) == 3


def test_each_of_several_seeds_equals_the_same_alone():
    """Starts, the best epoch and the patience of each seed are its own."""
    model, series = tiny_model(), waves(10)
    how = settings(epochs=6, restarts=2, restart_epochs=(1,), validate_every=1, patience=2)
    seeds = [4, 5, 6]
    # score after the trials, and after each epoch: the seeds lead, are best and stop at other times
    scripts = {
        4: [1.0, 2.0, 5.0, 4.0, 6.0, 6.0, 1.0],
        5: [2.0, 1.0, 1.0, 2.0, 3.0, 0.0, 0.0],
        6: [2.0, 1.0, 5.0, 4.0, 3.0, 2.0, 1.0],
    }

    def train(chosen):
        calls = iter(range(7))

        def score(variables):
            call = next(calls)
            return {"score": [scripts[seed][call] for seed in chosen]}

        progress = loop.start(model, series, how, chosen)
        for _ in loop.run_epochs(model, series, how, progress, score):
            pass
        return progress

    together = train(seeds)
    assert together.best_epoch == [3, 2, 6]
    assert together.best_score == [4.0, 1.0, 1.0]
    assert np.asarray(together.state.start).tolist() == [0, 1, 1]
    for row, seed in enumerate(seeds):
        alone = train([seed])
        assert alone.best_epoch == together.best_epoch[row : row + 1]
        best = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], together.best)
        chex.assert_trees_all_close(alone.best, best, rtol=2e-4, atol=2e-5)


def test_divergence_of_one_seed_names_it():
    progress = loop.start(Scripted(0.45), waves(8), settings(), [0, 7])
    progress.state.variables["params"]["number"] = jnp.array([0.0, 0.5])
    with pytest.raises(DivergenceError, match="fit_nll of seed 7 is nan at step 0"):
        run(Scripted(0.45), waves(8), settings(), progress)


def test_divergence_names_quantity_and_step_and_keeps_the_last_state():
    how = settings(epochs=50, schedule="constant", warmup_epochs=0, learning_rate=0.1, average=0)
    series = waves(8)
    progress = loop.start(Scripted(0.45), series, how, [0])
    with pytest.raises(DivergenceError, match="fit_nll is nan at step 5"):
        run(Scripted(0.45), series, how, progress)
    assert progress.steps == 4  # two whole epochs of two steps
    chex.assert_tree_all_finite(progress.state.variables)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"schedule": "exotic"},
        {"beta_fall": (0.9, 0.5)},
        {"ema_decay": 1.0},
        {"patience": -1},
        {"restarts": 0},
        {"restarts": 2, "restart_epochs": (3,)},
        {"restarts": 2, "restart_epochs": (2, 2)},
        {"restarts": 2, "restart_epochs": ()},
        {"precision": "float8"},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(InputError, match=list(change)[-1]):
        settings(**change)


def test_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(InputError, match="batch_size of at most the 3 training series, got 4"):
        run(tiny_model(), waves(3), settings())


def test_fit_learns():
    model, series, validation = tiny_model(), waves(16), waves(8, seed=1)
    how = settings(epochs=40, validate_every=10, beta_epochs=5)
    score = loop.loss_scorer(model, validation, 0)
    both = (model.init(jax.random.key(0), series), fit(model, series, validation, how))
    before, after = score(jax.tree.map(lambda *leaves: jnp.stack(leaves), *both))["loss"]
    assert after < before - 0.5
