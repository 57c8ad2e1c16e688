"""Weizmann human actions: videos, silhouettes and labels of nine persons, Tan et al. (AAAI 2020).

    python main.py --config=configs/weizmann.py --config.data.path=FOLDER      # as published
    python main.py --config=configs/weizmann.py:rgb64 --config.data.path=CLIPS.npz
    python main.py --config=configs/weizmann.py:silhouettes --config.data.path=MASKS.mat

FOLDER holds the original archives, bend.zip to wave2.zip, and classification_masks.mat, which MASKS
stands for; CLIPS is a file of clips of 64x64 pixels (jdmm/data/weizmann/clips.py). The presets
:rgb64 and :silhouettes train within minutes on a CPU; each also has the form :rgb64_METHOD, with
METHOD one of sigma_point, bfvi, b_skip, nearest. :smoke is :rgb64_sigma_point, tiny. Expected times
and scores are in docs/weizmann.md.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from configs import sections
from jdmm import MDMM, Deletions, LossWeights, SigmaPointSSM, TrainSettings
from jdmm.data.weizmann.dataset import Weizmann

SOURCES = {
    "rgb64": ("video", "silhouette", "person", "action"),
    "silhouettes": ("silhouette", "action"),
}
"""Preset -> modalities."""

BACKGROUNDS = {"rgb64": "recalled", "silhouettes": "mean"}
"""Preset -> background of the images that the tasks show."""

METHODS = ("sigma_point", "bfvi", "b_skip", "nearest")

PRESETS = (
    "paper",
    "smoke",
    *SOURCES,
    *(f"{source}_{method}" for source in SOURCES for method in METHODS),
)


def get_config(preset: str = "paper") -> ConfigDict:
    """The configuration; `preset` is one of `PRESETS`."""
    if preset not in PRESETS:
        raise ValueError(f"expected a preset among {', '.join(PRESETS)}, got {preset!r}")
    config: Any = sections.start("weizmann", **dataclasses.asdict(Weizmann()))

    config.eval = ConfigDict()
    config.eval.tasks = tuple(Weizmann().tasks)
    config.eval.select = "loss"  # of the validation person's videos
    config.eval.draws = 10
    config.eval.calibrate = False
    config.eval.importance = ()
    config.eval.batch_size = 2  # whole videos
    config.eval.seed = 0  # of what the tasks hide, and of all samples

    if preset in ("paper", "smoke"):
        source, method = "rgb64", "bfvi" if preset == "paper" else "sigma_point"
    else:
        source = next(name for name in SOURCES if preset.startswith(name))
        method = preset.removeprefix(source).removeprefix("_") or "sigma_point"
    config.data.include = SOURCES[source]
    if method == "nearest":
        config.model = ConfigDict({"name": "nearest"})
        del config.eval.select
        return config

    {"sigma_point": _sigma_point, "bfvi": _bfvi, "b_skip": _b_skip}[method](config)
    _train(config)
    if preset == "paper":
        _paper(config)
        return config
    config.data.normalisation = "group"
    config.data.channels = (8, 16, 32)
    config.data.likelihood = "normal"
    config.data.background = "" if method == "b_skip" else BACKGROUNDS[source]
    if source == "silhouettes":
        config.data.aligned = True  # a few persons only, and many places in the frame
        config.data.copies = 8
        config.data.shift = 3
        config.epochs = 3
        config.train.validate_every = 1
    if preset == "smoke":
        _smoke(config)
    return config


SETTINGS = TrainSettings(
    epochs=60,
    batch_size=10,
    learning_rate=3e-3,
    weight_decay=0.0,
    beta_rise=0.2,
    beta_peak=1.0,
    beta_final=1.0,
    validate_every=10,
)
"""How all models are trained on a CPU; `DELETIONS` are what they are not shown."""

DELETIONS = Deletions(
    burst=0.2,
    gap_one_modality=0.0,
    gap_all_modalities=0.3,
    gap_all_modalities_range=(0.2, 0.5),
    scattered_steps=0.3,
)


def _train(config: Any) -> None:
    """The fields of training, and the weights of the modalities in the loss."""
    # the labels and silhouettes of new videos are not known
    dropout = {"video": 0.0, "silhouette": 0.5, "person": 0.8, "action": 0.8}
    # the pixels of a video weigh thousands of nats
    weights = {"video": 1.0, "silhouette": 10.0, "person": 100.0, "action": 1000.0}
    if "video" not in config.data.include:
        dropout["silhouette"] = 0.0
        weights = {"silhouette": 1.0, "action": 100.0}
    given = {name: dropout[name] for name in config.data.include}
    deletions = dataclasses.replace(DELETIONS, modality_dropout=given)
    sections.training(config, dataclasses.replace(SETTINGS, deletions=deletions))
    config.loss.multipliers = {name: weights[name] for name in config.data.include}


def _sigma_point(config: Any) -> None:
    """The model with full covariance, its observations encoded; learned by the filtering bound."""
    model = SigmaPointSSM
    config.model = ConfigDict({"name": "sigma_point", "latent": 32, "hidden": 64})
    config.model.emission = "mlp"
    config.model.updates = {name: "encoder" for name in config.data.include}
    config.inference = ConfigDict()
    sections.quadratures(config, model)
    config.inference.iterations = 0
    config.inference.tolerance = model.tolerance
    config.loss = ConfigDict({"objective": "bound", "decoded_samples": 1})


def _bfvi(config: Any) -> None:
    """Backward-forward variational inference, at a size for a CPU."""
    config.model = ConfigDict({"name": "mdmm", "latent": 32, "hidden": 64})
    config.inference = ConfigDict({"covariance": MDMM.covariance})
    sections.quadratures(config, MDMM)
    weights = LossWeights(filter=0.0, smoother=1.0, time_reversal=0.0)
    config.loss = ConfigDict({**dataclasses.asdict(weights), "multipliers": {}})


def _b_skip(config: Any) -> None:
    """A structured inference network: backward recurrent networks that skip what is missing."""
    config.model = ConfigDict({"name": "structured_inference", "latent": 32, "hidden": 64})
    config.model.direction = "backward"
    config.model.missing = "skip"
    config.model.features_to_combiner = True
    config.loss = ConfigDict({"unimodal": 0.0})


def _paper(config: Any) -> None:
    """The published settings: table S2 of Tan et al."""
    config.model.latent = config.model.hidden = 256
    config.inference.rule = config.inference.prediction_rule = "particles"
    config.loss.filter = config.loss.smoother = 0.5
    config.loss.filter_fade = (1.0, 1.0)
    config.loss.filter_unimodal = config.loss.smoother_unimodal = 1.0
    config.epochs = 400
    config.batch_size = 25
    config.learning_rate = 5e-4
    config.loss.multipliers = {
        name: 10.0 if name in ("person", "action") else 1.0 for name in config.data.include
    }
    config.train.weight_decay = 1e-4
    config.train.schedule = "constant"
    config.train.warmup = 0.0
    config.train.clip_norm = 0.0
    config.train.ema_decay = 0.0
    config.train.beta_rise = 0.625  # 250 epochs
    config.train.deletions.gap_all_modalities = 0.0
    config.train.deletions.scattered_steps = 0.0
    config.train.deletions.modality_dropout = {name: 0.0 for name in config.data.include}


def _smoke(config: Any) -> None:
    """Everything, small."""
    config.data.channels = (2, 2, 2)
    config.model.latent = 2
    config.model.hidden = 4
    config.epochs = 2
    config.train.validate_every = 1
    config.eval.tasks = ("reconstruction", "forward_extrapolation")
    config.eval.draws = 2
