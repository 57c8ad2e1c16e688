"""Multimodal deep Markov models in JAX and Flax.

From data to figures, each file importing only from those above it:

    errors        the mistakes of users
    compiling     compiled programs, kept and counted; the cache directory
    series        Series: values, masks and lengths; the glossary of axes
    gaussian      diagonal Gaussians in natural parameters
    likelihoods   Normal, Bernoulli, Categorical
    corruption    random deletions
    networks      encoders, decoders, gated transitions
    filtering     backward and forward filters: lax.scan over a transition
    smoothing     conditional and marginal smoothers
    inference     the recursions wired for a whole model
    objectives    the training loss as sums over a count
    models/       MDMM, structured inference networks, MVAE, VRNN: networks, wired to a loss
    schedule      training settings, learning rate, beta, batches
    parallel      devices and processes
    progress      where a training run stands; validation; the race of several starts
    training      train step, the loop over epochs
    prediction    means, intervals, densities and scores in observation space
    calibration   scales of the uncertainty, chosen on validation series
    importance    bounds on the log-likelihood
    tasks         the inference tasks of the paper and their scores
    data/         sources of series: the noisy spirals, .npz files
    checkpoints, logs, plotting, report, settings
    evaluation    scores on validation series and on a split
    experiment    one run in one work directory: what `main.py` calls
    study         many runs, their tables and figures; searches over settings
"""

from jdmm.data.corruption import Deletions
from jdmm.data.modality import Modality
from jdmm.errors import DivergenceError, InputError, Interrupted
from jdmm.evaluation.calibration import calibrate
from jdmm.evaluation.prediction import Calibration, Prediction, predict, predict_all
from jdmm.inference.posterior import (
    Quadrature,
    filter_backward,
    filter_forward,
    posterior_mean_path,
    posterior_sample_paths,
    prior_sample_paths,
    smooth_marginals,
)
from jdmm.likelihoods import Bernoulli, Categorical, Normal, NormalMixture
from jdmm.models import MDMM, MVAE, VRNN, StructuredInference
from jdmm.models.dynamical_vae import DynamicalVAE
from jdmm.models.objectives import LossWeights
from jdmm.series import Series, series_from_arrays
from jdmm.training.fitting import fit
from jdmm.training.parallel import Devices
from jdmm.training.schedule import TrainSettings

__version__ = "0.1.0"

__all__ = [
    "MDMM",
    "MVAE",
    "VRNN",
    "Bernoulli",
    "Calibration",
    "Categorical",
    "DynamicalVAE",
    "Deletions",
    "Devices",
    "DivergenceError",
    "InputError",
    "Interrupted",
    "LossWeights",
    "Modality",
    "Normal",
    "NormalMixture",
    "Quadrature",
    "Prediction",
    "Series",
    "StructuredInference",
    "TrainSettings",
    "calibrate",
    "posterior_sample_paths",
    "filter_backward",
    "filter_forward",
    "fit",
    "posterior_mean_path",
    "predict",
    "predict_all",
    "prior_sample_paths",
    "series_from_arrays",
    "smooth_marginals",
]
