"""What each task shows, and how it is scored."""

import jax
import numpy as np
import pytest

from jdmm import InputError, series_from_arrays
from jdmm.evaluation import tasks

SERIES = series_from_arrays({"x": np.ones((30, 40)), "y": np.ones((30, 40))})
SHOWN = {  # steps that may be shown, and how many are, per modality
    "reconstruction": ((0, 40), {"x": 40, "y": 40}),
    "drop_half": ((0, 40), {"x": 20, "y": 20}),
    "forward_extrapolation": ((0, 30), {"x": 30, "y": 30}),
    "backward_extrapolation": ((10, 40), {"x": 30, "y": 30}),
    "conditional_generation": ((0, 40), {"x": 40, "y": 10}),
    "weak_supervision": ((10, 30), {"x": 10, "y": 10}),
}


@pytest.mark.parametrize("task", tasks.TASKS)
def test_shown(task):
    shown = tasks.show((task,), SERIES, jax.random.key(0))
    (first, last), counts = SHOWN[task]
    for name, mask in shown.observed.items():
        mask = np.array(mask)[..., 0]
        np.testing.assert_array_equal(mask.sum(1), counts[name])
        assert not mask[:, :first].any() and not mask[:, last:].any()
    if task in ("drop_half", "weak_supervision"):  # at random, for each modality its own
        assert (shown.observed["x"] != shown.observed["y"]).any()
        assert len(np.unique(np.array(shown.observed["x"])[..., 0], axis=0)) == 30


def test_held_out_is_what_was_hidden_or_all():
    figure = {name: np.arange(1200.0).reshape(30, 40, 1) for name in ("x", "y")}
    targets = SERIES.hide({"x": np.arange(40)[None, :, None] < 39, "y": np.array(True)})
    some = targets.hide({name: np.arange(40)[None, :, None] < 38 for name in ("x", "y")})
    found = tasks.held_out(figure, some, targets)
    rows = 40.0 * np.arange(30)
    expected = np.concatenate([rows + 38, rows + 38, rows + 39])
    np.testing.assert_array_equal(np.sort(found), np.sort(expected))
    assert tasks.held_out(figure, targets, targets).size == 30 * 79


def test_unknown_task():
    with pytest.raises(InputError, match="expected tasks among"):
        tasks.show(("guess",), SERIES, jax.random.key(0))
