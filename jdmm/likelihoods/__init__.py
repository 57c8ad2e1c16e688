"""Emission distributions p(x | z), one file per family."""

from jdmm.likelihoods.base import (
    SD_FLOOR,
    Likelihood,
    Raw,
    constrain_sd,
    mixture_log_prob,
    unconstrain_sd,
)
from jdmm.likelihoods.bernoulli import Bernoulli
from jdmm.likelihoods.categorical import Categorical
from jdmm.likelihoods.mixture import NormalMixture
from jdmm.likelihoods.normal import Normal

__all__ = [
    "SD_FLOOR",
    "Bernoulli",
    "Categorical",
    "Likelihood",
    "Normal",
    "NormalMixture",
    "Raw",
    "mixture_log_prob",
    "constrain_sd",
    "unconstrain_sd",
]
