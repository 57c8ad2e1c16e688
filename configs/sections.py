"""Sections that the configurations of this folder share."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from jdmm import TrainSettings


def start(data: str, **fields: Any) -> ConfigDict:
    """A configuration of a data set, without model, training and evaluation.

    Args:
        data: the name of the data set.
        **fields: of the data set.
    """
    config: Any = ConfigDict()
    config.modules = ()  # of your own, imported first: they register likelihoods or data sets
    config.seed = 0
    config.seeds = 1  # so many models at once, of seeds from `seed` on
    config.data = ConfigDict({"name": data, **fields})
    config.data.withheld = ConfigDict()  # what training and validation series never show
    config.data.withheld.uniform = 0.0  # fraction of the steps of each modality
    config.data.withheld.burst = 0.0  # the same in one stretch
    config.data.withheld.modality = 0.0  # share of the series without one of the modalities
    return config


def quadratures(config: Any, model: Any) -> None:
    """How moments are computed, in training and in prediction."""
    for prefix in ("", "prediction_"):
        quadrature = getattr(model, f"{prefix}quadrature")
        for name in ("rule", "particles", "order"):
            config.inference[f"{prefix}{name}"] = getattr(quadrature, name)


def training(config: Any, settings: TrainSettings) -> None:
    """The fields of training."""
    train = dataclasses.asdict(settings)
    for name in ("epochs", "batch_size", "learning_rate"):
        config[name] = train.pop(name)
    config.train = ConfigDict(train)
