"""Emission distributions p(x | z), one file per family."""

from jdmm.likelihoods.base import (
    SD_FLOOR,
    Likelihood,
    Raw,
    check_size,
    constrain_sd,
    mixture_log_prob,
    unconstrain_sd,
)
from jdmm.likelihoods.bernoulli import Bernoulli
from jdmm.likelihoods.categorical import Categorical
from jdmm.likelihoods.log_normal import LogNormal
from jdmm.likelihoods.mixed import Mixed
from jdmm.likelihoods.mixture import NormalMixture
from jdmm.likelihoods.negative_binomial import NegativeBinomial
from jdmm.likelihoods.normal import Normal
from jdmm.likelihoods.poisson import Poisson
from jdmm.likelihoods.registry import (
    LIKELIHOODS,
    likelihood_from_text,
    likelihood_to_text,
    register_likelihood,
)
from jdmm.likelihoods.student_t import StudentT

__all__ = [
    "LIKELIHOODS",
    "SD_FLOOR",
    "Bernoulli",
    "Categorical",
    "Likelihood",
    "LogNormal",
    "Mixed",
    "NegativeBinomial",
    "Normal",
    "NormalMixture",
    "Poisson",
    "Raw",
    "StudentT",
    "check_size",
    "constrain_sd",
    "likelihood_from_text",
    "likelihood_to_text",
    "mixture_log_prob",
    "register_likelihood",
    "unconstrain_sd",
]
