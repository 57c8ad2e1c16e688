"""Noisy spirals: multimodal deep Markov models of two coordinates, Tan et al. (AAAI 2020).

    python main.py --config=configs/spirals.py            # best known settings; also :best
    python main.py --config=configs/spirals.py:smoke      # the same, small, under a minute
    python main.py --config=configs/spirals.py:bfvi       # backward-forward variational inference
    python main.py --config=configs/spirals.py:bfvi_full  # the same with full covariance
    python main.py --config=configs/spirals.py:paper      # the same as published, table S2
    python main.py --config=configs/spirals.py:large      # the same with D = 8 and H = 64
    python main.py --config=configs/spirals.py:b_mask     # another method, trained alike: f_mask,
        # f_skip, b_mask, b_skip (Krishnan et al. 2017), mvae, vrnn, vrnn_gmm, rnn_gmm

Expected time and scores are in docs/spirals.md.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from configs import sections
from jdmm import MDMM, Deletions, LossWeights, SigmaPointSSM, TrainSettings

METHODS = {
    "f_mask": {"name": "structured_inference", "direction": "forward", "missing": "mask"},
    "f_skip": {"name": "structured_inference", "direction": "forward", "missing": "skip"},
    "b_mask": {"name": "structured_inference", "direction": "backward", "missing": "mask"},
    "b_skip": {"name": "structured_inference", "direction": "backward", "missing": "skip"},
    "mvae": {"name": "mvae"},
    "vrnn": {"name": "vrnn", "components": 1},
    "vrnn_gmm": {"name": "vrnn", "components": 5},
    "rnn_gmm": {"name": "vrnn", "components": 5, "latent": 0},
}
"""Preset -> what its model is made of, beside the size."""

FITTED = {
    "linear": {"name": "linear_gaussian", "latent": 5, "iterations": 150},
    "mean": {"name": "baseline", "kind": "mean"},
    "carry": {"name": "baseline", "kind": "carry"},
    "interpolate": {"name": "baseline", "kind": "interpolate"},
}
"""Preset -> all of its model."""

SIGMA_POINT = ("best", "smoke")
"""Presets of the model with full covariance that is learned by its likelihood."""

BFVI = ("bfvi", "bfvi_full", "paper", "large")
"""Presets of `MDMM`."""

PRESETS = (*SIGMA_POINT, *BFVI, *METHODS, *FITTED)


def get_config(preset: str = "best") -> ConfigDict:
    """The configuration; `preset` is one of `PRESETS`."""
    if preset not in PRESETS:
        raise ValueError(f"expected a preset among {', '.join(PRESETS)}, got {preset!r}")
    config: Any = sections.start("spirals")
    config.data.dir = ""  # folder of the data set; "" for the user's cache directory
    config.data.validation = 60  # series cut from the 600 training series

    config.eval = ConfigDict()
    config.eval.tasks = (
        "reconstruction",
        "drop_half",
        "forward_extrapolation",
        "backward_extrapolation",
        "conditional_generation",
    )
    config.eval.select = "score"  # epochs by the mean log error over the tasks; or by the "loss"
    config.eval.draws = 100
    config.eval.calibrate = True  # intervals, on the validation series
    config.eval.importance = (1, 10, 100)  # samples of the log-likelihood bounds; () for none
    config.eval.batch_size = 100
    config.eval.seed = 0  # of what the tasks hide, and of all samples

    if preset in SIGMA_POINT:
        _sigma_point(config)
    elif preset not in FITTED:
        _bfvi(config)

    if preset == "smoke":
        _smoke(config)
    elif preset == "bfvi_full":
        config.inference.covariance = "full"
    elif preset == "paper":
        _paper(config)
    elif preset == "large":
        config.model.latent = 8
        config.model.hidden = 64
        config.learning_rate = 0.01
    elif preset in METHODS:
        config.model.update(METHODS[preset])
        unimodal = 1.0 if preset == "mvae" else 0.0  # weight of the bounds of single modalities
        config.loss = ConfigDict({"unimodal": unimodal, "multipliers": config.loss.multipliers})
        config.learning_rate = 0.01
        config.train.restarts = 1
        del config.inference
        if config.model.name == "structured_inference":
            _structured(config)
        else:
            _stepwise(config)
    elif preset in FITTED:
        config.model = ConfigDict(FITTED[preset])
        for field in ("importance", "select"):
            del config.eval[field]
    return config


def _sigma_point(config: Any) -> None:
    """The model with full covariance, learned by its likelihood.

    The dimensions of the state beyond the five numbers that make a spiral let more starts learn.
    Nothing is hidden in training, and the intervals need no calibration.
    """
    model = SigmaPointSSM
    config.model = ConfigDict({"name": "sigma_point", "latent": 7, "hidden": model.hidden})
    config.model.emission = model.emission  # "linear" or "mlp"
    config.model.residual = model.residual  # of each feature, beside the state

    config.inference = ConfigDict()
    sections.quadratures(config, model)
    config.inference.iterations = model.iterations  # of posterior linearisation
    config.inference.tolerance = model.tolerance

    config.loss = ConfigDict({"objective": model.objective})
    config.loss.decoded_samples = model.decoded_samples
    config.loss.multipliers = {"x": 1.0, "y": 1.0}

    sections.training(
        config,
        TrainSettings(
            epochs=100,
            learning_rate=0.02,
            weight_decay=0.0,
            beta_rise=0.0,
            beta_peak=1.0,
            beta_final=1.0,
            validate_every=10,
            deletions=dataclasses.replace(Deletions.none(), modality_dropout={"x": 0.0, "y": 0.0}),
        ),
    )
    config.eval.select = "loss"  # the likelihood of the validation series
    config.eval.calibrate = False
    config.eval.batch_size = 50


def _bfvi(config: Any) -> None:
    """The multimodal deep Markov model of Tan et al., with our best settings."""
    config.model = ConfigDict({"name": "mdmm", "latent": MDMM.latent, "hidden": MDMM.hidden})

    config.inference = ConfigDict()
    config.inference.covariance = MDMM.covariance  # of the messages, "diagonal" or "full"
    sections.quadratures(config, MDMM)

    # lambda_m of each modality, for the command line
    weights = LossWeights(multipliers={"x": 1.0, "y": 1.0})
    config.loss = ConfigDict(
        {**dataclasses.asdict(weights), "multipliers": dict(weights.multipliers)}
    )

    sections.training(
        config,
        TrainSettings(
            epochs=400,  # the dynamics keep improving for so long
            restarts=8,  # not every start learns the dynamics
            warmup=0.0075,  # 3 epochs
            beta_rise=0.025,  # 10 epochs
            validate_every=10,  # a checkpoint each time
            # share of the series that lose the modality, for the command line
            deletions=Deletions(modality_dropout={"x": 0.0, "y": 0.0}),
        ),
    )


def _paper(config: Any) -> None:
    """The published settings."""
    config.epochs = 500
    config.batch_size = 100
    config.inference.rule = "particles"
    config.inference.prediction_rule = "particles"
    config.loss.filter_fade = (1.0, 1.0)
    config.loss.time_reversal = 0.0
    config.loss.filter_unimodal = 1.0
    config.loss.smoother_unimodal = 1.0
    config.train.restarts = 1
    config.train.schedule = "constant"
    config.train.warmup = 0.0
    config.train.clip_norm = 0.0
    config.train.ema_decay = 0.0
    config.train.beta_rise = 0.2  # 100 epochs
    config.train.beta_peak = 1.0
    config.train.beta_final = 1.0
    config.train.deletions.gap_one_modality = 0.0
    config.train.deletions.gap_all_modalities = 0.0
    config.train.deletions.scattered_steps = 0.0
    config.train.patience = 20


def _smoke(config: Any) -> None:
    """Everything, small."""
    config.epochs = 3
    config.batch_size = 100
    config.train.restarts = 2
    config.train.restart_rungs = (1 / 3,)  # one epoch each
    config.train.warmup = 1 / 3
    config.train.validate_every = 1
    config.inference.iterations = 1
    config.eval.draws = 10
    config.eval.importance = (1, 10)


def _stepwise(config: Any) -> None:
    """Settings for MVAE and the VRNNs, chosen on validation series with seed 0.

    They do better without deletions: a filter that has to predict values it was not shown becomes
    uncertain everywhere. For the MVAE, encoding a step costs as many nats as it explains, so with
    beta = 1 it encodes nothing.
    """
    config.epochs = 200
    config.train.warmup = 0.015  # 3 epochs
    config.train.beta_rise = 0.05  # 10 epochs
    config.train.deletions.update(dataclasses.asdict(Deletions.none()))
    config.train.beta_peak = config.train.beta_final = 0.7 if config.model.name == "mvae" else 1.0


def _structured(config: Any) -> None:
    """Settings for structured inference networks, chosen on validation series with seeds 0 to 5.

    Their transitions learn only from the divergences, so beta is larger once the encoders can
    locate a spiral. Before the transitions know the dynamics, long gaps teach them only to guess.
    Not every start learns the dynamics, and it takes half of the training to see which do.

    A network that skips missing values does not tell the combiner how old its state is. Forward
    networks learn only if the combiner also gets the features, with zeros where nothing is
    observed. Backward networks learn without, but bridge gaps better if some are shown to them late
    in the training.
    """
    skip = config.model.missing == "skip"
    backward = config.model.direction == "backward"
    f_skip, b_skip = skip and not backward, skip and backward
    config.model.features_to_combiner = f_skip
    config.train.restarts = 3 if backward else 5 if skip else 8
    config.train.restart_rungs = (0.5,)
    config.learning_rate = TrainSettings.learning_rate
    config.train.beta_rise = 0.5  # 200 epochs
    config.train.beta_peak = 3.0
    config.train.beta_fall = (0.6, 0.9)
    config.train.beta_final = 0.5
    config.train.deletions.gap_all_modalities = 0.15 if b_skip else 0.0
    config.train.deletions.gap_all_modalities_from = 0.5
    config.train.deletions.gap_one_modality = 0.0 if b_skip else 0.15
    config.train.deletions.scattered_steps = 0.1 if b_skip else 0.2
