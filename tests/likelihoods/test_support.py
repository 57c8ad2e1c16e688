"""Values that a likelihood can have produced, and how series with others are refused."""

import numpy as np
import pytest

from jdmm import (
    Bernoulli,
    Categorical,
    InputError,
    LogNormal,
    Modality,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    series_from_arrays,
)
from jdmm.data.modality import check_series
from jdmm.likelihoods import NormalMixture

VALUES = np.array([-np.inf, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0, np.inf, np.nan])
REAL = [False, True, True, True, True, True, True, False, False]


@pytest.mark.parametrize(
    ("likelihood", "expected"),
    [
        (Normal(), REAL),
        (Normal(sd=0.1), REAL),
        (NormalMixture(2), REAL),
        (StudentT(), REAL),
        (LogNormal(), [False, False, False, True, True, True, True, False, False]),
        (Poisson(), [False, False, True, False, True, True, True, False, False]),
        (NegativeBinomial(), [False, False, True, False, True, True, True, False, False]),
        (Bernoulli(), [False, False, True, True, True, False, False, False, False]),
        (Categorical(3), [False, False, True, False, True, True, False, False, False]),
    ],
    ids=str,
)
def test_in_support(likelihood, expected):
    assert likelihood.in_support(VALUES).tolist() == expected
    assert likelihood.in_support(VALUES.reshape(3, 3)).shape == (3, 3)


@pytest.mark.parametrize(
    ("modality", "value", "words"),
    [
        (Modality("p", likelihood=Categorical(3)), 7, "whole numbers from 0 to 2"),
        (Modality("p", likelihood=Categorical(3)), 0.5, "whole numbers from 0 to 2"),
        (Modality("p", likelihood=Bernoulli()), -1, "values from 0 to 1"),
        (Modality("p", likelihood=Bernoulli()), 3, "values from 0 to 1"),
        (Modality("p", likelihood=Poisson()), 2.5, "whole numbers from 0"),
    ],
)
def test_values_outside_the_support(modality, value, words):
    """The message names the modality, its support, the value and its place."""
    series = series_from_arrays({"p": np.array([[0.0, 1.0], [1.0, value]])})
    with pytest.raises(InputError) as refused:
        check_series([modality], series)
    for part in (f"expected {words} in modality 'p'", f"got {value:g} at", "(1, 1, 0)"):
        assert part in str(refused.value)
    missing = series.hide({"p": series.values["p"] != np.float32(value)})
    check_series([modality], missing)


def test_two_features_for_a_modality_of_one():
    series = series_from_arrays({"p": np.zeros((1, 3, 2))})
    with pytest.raises(InputError, match=r"features=1, got series with 2: .*'p', features=2"):
        check_series([Modality("p")], series)
    check_series([Modality("p", features=2)], series)
