"""What each task shows."""

import jax
import numpy as np
import pytest

from jdmm import InputError, series_from_arrays
from jdmm.data import tasks
from jdmm.data.spirals.dataset import Spirals
from jdmm.data.tasks import STANDARD_TASKS, conditional_generation

SERIES = series_from_arrays({"x": np.ones((30, 40)), "y": np.ones((30, 40))})
TASKS = {**STANDARD_TASKS, "y_from_x": conditional_generation(["x"])}
SHOWN = {  # steps that may be shown, and how many are, per modality
    "reconstruction": ((0, 40), {"x": 40, "y": 40}),
    "drop_half": ((0, 40), {"x": 20, "y": 20}),
    "forward_extrapolation": ((0, 30), {"x": 30, "y": 30}),
    "backward_extrapolation": ((10, 40), {"x": 30, "y": 30}),
    "y_from_x": ((0, 40), {"x": 40, "y": 10}),
    "weak_supervision": ((10, 30), {"x": 10, "y": 10}),
}


@pytest.mark.parametrize("task", TASKS)
def test_shown(task):
    shown = tasks.show(TASKS, (task,), SERIES, jax.random.key(0))
    (first, last), counts = SHOWN[task]
    for name, mask in shown.observed.items():
        mask = np.array(mask)[..., 0]
        np.testing.assert_array_equal(mask.sum(1), counts[name])
        assert not mask[:, :first].any() and not mask[:, last:].any()
    if task in ("drop_half", "weak_supervision"):  # at random, for each modality by itself
        assert (shown.observed["x"] != shown.observed["y"]).any()
        assert len(np.unique(np.array(shown.observed["x"])[..., 0], axis=0)) == 30


def test_fractions_are_those_of_each_length():
    series = series_from_arrays(
        {"x": [np.ones(n) for n in (8, 20)], "y": [np.ones(n) for n in (8, 20)]}
    )
    task = {"y_from_nothing": conditional_generation([], shown=0.5)}
    shown = tasks.show(task, list(task), series, jax.random.key(0))
    np.testing.assert_array_equal(np.sum(shown.observed["x"], (1, 2)), [4, 10])


def test_tasks_are_stacked_and_do_not_depend_on_each_other():
    names = ("reconstruction", "drop_half")
    both = tasks.show(TASKS, names, SERIES, jax.random.key(0))
    alone = tasks.show(TASKS, names[1:], SERIES, jax.random.key(0))
    np.testing.assert_array_equal(both.observed["x"][30:], alone.observed["x"])
    np.testing.assert_array_equal(both.values["y"][:30], SERIES.values["y"])


def test_a_given_modality_that_the_series_lack():
    with pytest.raises(InputError, match="given modalities among .*'x', 'y'.*, got 'z'"):
        tasks.show({"task": conditional_generation(["z"])}, ["task"], SERIES, jax.random.key(0))


def test_the_spirals_have_the_tasks_of_the_paper():
    spirals = Spirals().tasks
    assert set(spirals) == {*STANDARD_TASKS, "conditional_generation"}
    shown = tasks.show(spirals, ("conditional_generation",), SERIES, jax.random.key(0))
    np.testing.assert_array_equal(shown.observed["x"].sum((1, 2)), 40)
    np.testing.assert_array_equal(shown.observed["y"].sum((1, 2)), 10)
