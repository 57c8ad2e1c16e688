"""The annotations of the recursions are checked in the tests: a wrong shape or type is an error."""

import jaxtyping
import numpy as np
import pytest

from jdmm.inference import filtering, kalman


def test_wrong_shapes_and_types_are_errors():
    with pytest.raises(jaxtyping.TypeCheckError):
        filtering.repeat_points(np.zeros(3, np.float32), 2)
    with pytest.raises(jaxtyping.TypeCheckError):
        filtering.unflatten_batch(np.zeros((2, 3, 4), np.int32), [4])
    with pytest.raises(jaxtyping.TypeCheckError):  # values and masks of different lengths
        kalman.kalman_filter(None, np.zeros((3, 2), np.float32), np.ones((4, 2), bool))
