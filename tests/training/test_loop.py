"""The train step and the loop over epochs."""

import re

import chex
import jax
import numpy as np
import pytest
from jax import numpy as jnp
from toy_models import NUM_STEPS, Constant, Counts, Scripted, settings, waves

from jdmm import (
    MDMM,
    Deletions,
    DivergenceError,
    InputError,
    LossWeights,
    Modality,
    series_from_arrays,
)
from jdmm.training.loop import initial_progress, run_epochs
from jdmm.training.schedule import Schedule
from jdmm.training.scoring import loss_scorer
from jdmm.training.step import batch_of, initialiser, make_train_step, over_seeds


def tiny_mdmm() -> MDMM:
    weights = LossWeights(prior_matching_particles=4)
    return MDMM((Modality("x"), Modality("y")), latent=1, hidden=2, weights=weights)


def run(model, series, how, progress=None, **options):
    """The progress at the end, and the records of the first seed."""
    progress = progress or initial_progress(model, series, how, [1])
    records = []
    for _ in run_epochs(model, series, how, progress, **options):
        records.append(progress.records and progress.records[0])
    return progress, records


def scripted_scores(*scores):
    """A scorer that gives these scores in turn, and the variables that it was given."""
    scores, seen = iter(scores), []

    def score(variables):
        seen.append(variables)
        return {"score": next(scores)}

    return score, seen


def test_gaps_begin_after_their_part_of_the_training():
    gaps = {"gap_all_modalities_range": (0.5, 0.5), "gap_all_modalities_from": 0.5}
    deletions = Deletions(
        burst=0, gap_one_modality=0, gap_all_modalities=1, scattered_steps=0, **gaps
    )
    _, records = run(Counts(), waves(6), settings(epochs=4, deletions=deletions))
    assert [record["train/hidden_nll"] for record in records] == [0.0, 0.0, 0.5, 0.5]


def test_empty_rows_of_a_batch_count_for_nothing():
    """The terms of a batch are the sum of those of its parts, each filled up with empty rows."""
    model, series = tiny_mdmm(), jax.tree.map(jnp.asarray, waves(3))
    variables = jax.jit(model.init)(jax.random.key(0), series)

    @jax.jit
    def loss(rows):
        batch = batch_of(series, rows)
        return model.loss(variables, batch, batch, jax.random.key(3))

    whole, first, second = (
        loss(jnp.array(rows)) for rows in ([0, 1, 2, -1], [0, 1, -1, -1], [2, -1, -1, -1])
    )
    assert int(whole.count) == 3 * NUM_STEPS and int(second.count) == NUM_STEPS
    summed = jax.tree.map(jnp.add, first.terms, second.terms)
    chex.assert_trees_all_close(whole.terms, summed, rtol=1e-5)


def test_train_step_is_traced_once():
    model, series, how = Constant(), waves(10), settings()
    schedule = Schedule(how, 10)
    step = jax.jit(over_seeds(chex.assert_max_traces(make_train_step(model, schedule), n=1)))
    state = initial_progress(model, series, how, [0]).state
    for epoch in range(2):
        for rows in schedule.rows(0, 0, epoch):
            state, metrics = step(state, series, rows[None])
    assert int(state.step) == 6
    assert all(np.isfinite(value) for value in metrics.values())


def test_vectorised_seeds_equal_seeds_in_turns():
    model, series, how = Constant(), waves(8), settings()
    schedule, seeds = Schedule(how, 8), [1, 2, 3]
    rows = np.stack([schedule.rows(seed, 0, 0)[0] for seed in seeds])
    found = []
    for vectorised in (False, True):
        step = jax.jit(over_seeds(make_train_step(model, schedule), vectorised))
        state = initial_progress(model, series, how, seeds).state
        for _ in range(3):
            state, metrics = step(state, series, rows)
        assert state.step.shape == ()
        found.append((state, metrics))
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-5)


def test_the_train_step_of_an_mdmm_can_be_vectorised():
    model, series, how = tiny_mdmm(), waves(8), settings()
    state = initial_progress(model, series, how, [1, 2]).state
    rows = np.zeros((2, 4), np.int32)
    in_turns, vectorised = (
        jax.eval_shape(
            over_seeds(make_train_step(model, Schedule(how, 8)), kind), state, series, rows
        )
        for kind in (False, True)
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(in_turns, vectorised)


@pytest.mark.parametrize(
    ("precision", "named"),
    [("float32", "HIGHEST"), ("tensorfloat32", "HIGH"), ("bfloat16", "DEFAULT")],
)
def test_matrix_products_have_the_precision_of_the_settings(precision, named):
    """All of them, also in the gradient. Nothing else is in less than float32."""
    model, series, how = tiny_mdmm(), waves(8), settings(precision=precision)
    step = over_seeds(make_train_step(model, Schedule(how, 8)))
    state = initial_progress(model, series, how, [0]).state
    lines = str(jax.make_jaxpr(step)(state, series, np.arange(4)[None])).replace("\n", " ")
    found = re.findall(r"dot_general\[.*?precision=\(?(?:Precision\.)?(\w+)", lines)
    assert len(found) > 20 and set(found) == {named}, set(found)
    assert "bf16" not in lines and "f16" not in lines


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_interrupted_and_resumed_run_is_bit_identical(stop_after, restarts):
    model, series = Constant(), waves(10)
    how = settings(restarts=restarts, restart_rungs=(1 / 3,))
    score = loss_scorer(model, waves(4, seed=1), 0)
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
    score, seen = scripted_scores(3.0, 1.0, 2.0)
    progress, records = run(Constant(), waves(8), settings(), score=score)
    assert progress.best_epoch == [2]
    assert progress.best_score == [1.0]
    chex.assert_trees_all_equal(progress.best, seen[1])
    assert [record["validation/score"] for record in records] == [3.0, 1.0, 2.0]


def test_the_best_of_several_starts_goes_on():
    score, _ = scripted_scores(3.0, 1.0, 2.0, 0.9, 0.8)
    how = settings(restarts=3, restart_rungs=(1 / 3,))
    progress, records = run(Constant(), waves(8), how, score=score)
    assert [(r["start"], r["epoch"]) for r in records] == [(0, 1), (1, 1), (2, 1), (1, 2), (1, 3)]
    assert [r["step"] for r in records] == [2, 4, 6, 8, 10]
    assert (progress.best_epoch, progress.best_score) == ([3], [0.8])
    alone = [r["train/loss"] for r in records[:3]]
    assert len(set(alone)) == 3  # each start has variables and noise of its own


def test_the_better_half_of_the_starts_goes_on():
    """Successive halving: five starts, then three, then two, then the best, each from its state."""
    model, series = Constant(), waves(8)
    how = settings(epochs=5, restarts=5, restart_rungs=(0.2, 0.4, 0.6))
    score, _ = scripted_scores(5.0, 4.0, 3.0, 2.0, 1.0, 0.9, 0.7, 0.8, 0.6, 0.5, 0.4, 0.3)
    progress, records = run(model, series, how, score=score)
    halving = [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (4, 2), (3, 2), (2, 2), (3, 3), (2, 3)]
    assert [(r["start"], r["epoch"]) for r in records] == [*halving, (2, 4), (2, 5)]
    assert len(records) * 2 == Schedule(how, 8).all_steps == progress.steps
    # start 2 went on from its own state: its epochs are those of a run of start 2 alone
    single = initial_progress(model, series, how, [1])
    single.state = initialiser(model, series, how)(np.array([1]), 2)
    single.finished_trials = 10
    run(model, series, how, single, score=lambda _: {"score": 0.0})
    chex.assert_trees_all_equal(single.state, progress.state)


@pytest.mark.parametrize("needs", [{"restarts": 2}, {"patience": 1}])
def test_what_needs_validation_is_refused_without(needs):
    with pytest.raises(InputError, match=f"validation series for {next(iter(needs))}="):
        run(Constant(), waves(8), settings(**needs))


def test_patience_stops_early():
    score, _ = scripted_scores(1.0, 2.0, 3.0, 4.0, 5.0)
    _, records = run(Constant(), waves(8), settings(epochs=5, patience=2), score=score)
    assert len(records) == 3


def test_each_of_several_seeds_equals_the_same_alone():
    """Starts, the best epoch and the patience of each seed are its own."""
    model, series = Constant(), waves(10)
    how = settings(epochs=6, restarts=2, restart_rungs=(1 / 6,), patience=2)
    seeds = [4, 5, 6]
    # scores after the two trials, then after each epoch: chosen, best and stopped at other times
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

        progress = initial_progress(model, series, how, chosen)
        return run(model, series, how, progress, score=score)[0]

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
    progress = initial_progress(Scripted(), waves(8), settings(), [0, 7])
    progress.state.variables["x"] = jnp.array([0.0, 0.5])
    with pytest.raises(DivergenceError, match="fit_nll of seed 7 is nan at step 0"):
        run(Scripted(), waves(8), settings(), progress)


def test_divergence_names_quantity_and_step_and_keeps_the_last_state():
    how = settings(epochs=50, schedule="constant", warmup=0, learning_rate=0.1)
    progress = initial_progress(Scripted(), waves(8), how, [0])
    with pytest.raises(DivergenceError, match="fit_nll is nan at step 5"):
        run(Scripted(), waves(8), how, progress)
    assert progress.steps == 4  # two whole epochs of two steps
    chex.assert_tree_all_finite(progress.state.variables)


def test_a_score_that_is_no_number_is_refused():
    score, _ = scripted_scores(1.0, float("nan"))
    with pytest.raises(DivergenceError, match=r"score is nan at step \d+ \(epoch 2\)"):
        run(Constant(), waves(8), settings(), score=score)


def test_series_are_checked_before_training():
    with pytest.raises(InputError, match="batch_size of at most the 3 training series, got 4"):
        run(Constant(), waves(3), settings())
    one = series_from_arrays({"x": np.zeros((4, NUM_STEPS))})
    with pytest.raises(InputError, match="expected modality 'y'"):
        run(Constant(), one, settings())
    unknown = settings(deletions=Deletions(modality_dropout={"label": 0.5}))
    with pytest.raises(InputError, match="modality_dropout of x, y, got 'label'"):
        run(Constant(), waves(4), unknown)
