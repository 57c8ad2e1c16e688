"""Multimodal deep Markov models in JAX and Flax.

One folder per concept, each importing only from those below it:

    experiments   work directories: settings, runs, evaluation, studies, reports
    training      the train step, schedules, checkpoints, devices; fitting and saving models
    evaluation    predictions, scores, calibration, likelihood bounds
    models        one file per method over one protocol
    data          data sets, modalities, tasks, deletions, scaling, windows, files
    plotting      arrays to figures
    networks      Flax modules: encoders, decoders, transitions
    inference     pure recursions: filters, smoothers, posterior paths
    likelihoods   emission distributions p(x | z)

docs/notation.md ties symbols, names and shapes together.
"""

from jdmm.compiling import enable_compilation_cache
from jdmm.data.corruption import Deletions
from jdmm.data.modality import Modality
from jdmm.data.prepare import (
    Windows,
    drop_modalities,
    hold_out,
    split,
    static_covariates,
    windows,
)
from jdmm.data.scaling import Standardise
from jdmm.data.streaming import SeriesFile, SeriesSource, write_series
from jdmm.data.tables.schema import Column, Schema
from jdmm.data.tables.table import Table, read_table, write_table
from jdmm.errors import DivergenceError, InputError, Interrupted
from jdmm.evaluation.calibration import calibrate
from jdmm.evaluation.importance import log_likelihood_bounds
from jdmm.evaluation.prediction import Calibration, Prediction, predict, predict_all
from jdmm.inference.posterior import (
    filter_backward,
    filter_forward,
    posterior_mean_path,
    posterior_sample_paths,
    prior_sample_paths,
    smooth_marginals,
)
from jdmm.inference.quadrature import Quadrature
from jdmm.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    Likelihood,
    LogNormal,
    Mixed,
    NegativeBinomial,
    Normal,
    NormalMixture,
    Poisson,
    StudentT,
    likelihood_from_text,
    likelihood_to_text,
    register_likelihood,
)
from jdmm.models import (
    MDMM,
    MVAE,
    VRNN,
    ImputationBaseline,
    LinearGaussianSSM,
    NearestValue,
    SigmaPointSSM,
    StructuredInference,
)
from jdmm.models.base import ExactLikelihood, GradientModel, Model, SelfFittingModel
from jdmm.models.dynamical_vae import DynamicalVAE
from jdmm.models.objectives import LossWeights
from jdmm.networks import Image
from jdmm.series import Series, series_from_arrays
from jdmm.training.fitted import FittedModel
from jdmm.training.fitting import fit, fit_seeds
from jdmm.training.imputer import TableImputer
from jdmm.training.parallel import Devices
from jdmm.training.schedule import TrainSettings
from jdmm.training.serialise import load, save

__version__ = "0.1.0"

__all__ = [
    "LIKELIHOODS",
    "MDMM",
    "MVAE",
    "VRNN",
    "Bernoulli",
    "Calibration",
    "Categorical",
    "Column",
    "Deletions",
    "Devices",
    "DivergenceError",
    "DynamicalVAE",
    "ExactLikelihood",
    "FittedModel",
    "GradientModel",
    "Image",
    "ImputationBaseline",
    "InputError",
    "Interrupted",
    "Likelihood",
    "LinearGaussianSSM",
    "LogNormal",
    "LossWeights",
    "Mixed",
    "Modality",
    "Model",
    "NearestValue",
    "NegativeBinomial",
    "Normal",
    "NormalMixture",
    "Poisson",
    "Prediction",
    "Quadrature",
    "Schema",
    "SelfFittingModel",
    "Series",
    "SeriesFile",
    "SeriesSource",
    "SigmaPointSSM",
    "Standardise",
    "StructuredInference",
    "StudentT",
    "Table",
    "TableImputer",
    "TrainSettings",
    "Windows",
    "calibrate",
    "drop_modalities",
    "enable_compilation_cache",
    "filter_backward",
    "filter_forward",
    "fit",
    "fit_seeds",
    "hold_out",
    "likelihood_from_text",
    "likelihood_to_text",
    "load",
    "log_likelihood_bounds",
    "posterior_mean_path",
    "posterior_sample_paths",
    "predict",
    "predict_all",
    "prior_sample_paths",
    "register_likelihood",
    "read_table",
    "save",
    "series_from_arrays",
    "smooth_marginals",
    "split",
    "static_covariates",
    "windows",
    "write_series",
    "write_table",
]
