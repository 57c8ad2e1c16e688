"""From a configuration to the objects it describes; the one place that knows its field names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jdmm.data import corruption
from jdmm.data.corruption import Deletions, Withheld
from jdmm.data.modality import Modality
from jdmm.data.spirals import Split, load_spirals
from jdmm.errors import InputError
from jdmm.evaluation.tasks import TASKS
from jdmm.experiments.logs import replace_text
from jdmm.models import MODELS
from jdmm.models.base import Config, Model, SelfFittingModel, check_at_least
from jdmm.training.schedule import TrainSettings

MODALITIES = {"spirals": (Modality("x"), Modality("y"))}
"""Data set -> the modalities of its series."""

_ELSEWHERE = ("data.dir",)
"""Fields that may differ between two runs of one and the same experiment."""


def build_model(config: Config) -> Model:
    """The model of a configuration.

    Raises:
        InputError: for an unknown name or an impossible value.
    """
    if config.model.name not in MODELS:
        raise InputError(
            f"expected model.name among {', '.join(MODELS)}, got {config.model.name!r}"
        )
    return MODELS[config.model.name].from_config(_modalities(config), config)


def is_trained(config: Config) -> bool:
    """Whether the model is trained step by step, and does not fit itself."""
    return not issubclass(MODELS[config.model.name], SelfFittingModel)


def train_settings(config: Config) -> TrainSettings:
    """How to train, with the top-level fields.

    Raises:
        InputError: for an impossible value.
    """
    fields = config.train.to_dict()
    return TrainSettings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        deletions=Deletions(**fields.pop("deletions")),
        **fields,
    )


def load_data(config: Config) -> dict[str, Split]:
    """The configured data set: "train", "validation" and "test".

    What `data.withheld` says is missing from the first two; the test series are complete.
    """
    _modalities(config)
    splits = load_spirals(config.data.dir or None, config.data.validation, seed=0)
    withheld = Withheld(**config.data.withheld)
    for number, name in enumerate(("train", "validation")):
        series = splits[name].noisy
        kept = corruption.withhold(jax.random.key(number), series, withheld)
        splits[name] = splits[name]._replace(noisy=jax.device_get(series.hide(kept)))
    return splits


def check(config: Config) -> None:
    """Refuses a configuration that cannot work, before anything is written.

    Raises:
        InputError: naming the field, what was expected and what came.
    """
    try:
        build_model(config)
        if is_trained(config):
            train_settings(config)
            for count in config.eval.importance:
                check_at_least("eval.importance", count, 1)
            if config.eval.select not in ("score", "loss"):
                raise InputError(
                    f"expected eval.select 'score' or 'loss', got {config.eval.select!r}"
                )
        elif (config.seed, config.seeds) != (0, 1):
            raise InputError(
                f"expected seed 0 and seeds 1 of {config.model.name!r}, which nothing random goes "
                f"into, got {config.seed} and {config.seeds}"
            )
        Withheld(**config.data.withheld)
        evaluation = config.eval
        check_at_least("seeds", config.seeds, 1)
        last = config.seed + config.seeds - 1
        for name, seed in (("seed", config.seed), ("seed", last), ("eval.seed", evaluation.seed)):
            if not 0 <= seed < 2**32:
                raise InputError(f"expected {name} within 0..{2**32 - 1}, got {seed}")
        check_at_least("eval.draws", evaluation.draws, 2)
        check_at_least("eval.batch_size", evaluation.batch_size, 1)
        if not evaluation.tasks:
            raise InputError("expected at least one of eval.tasks, got none")
        for task in evaluation.tasks:
            if task not in TASKS:
                raise InputError(f"expected eval.tasks among {', '.join(TASKS)}, got {task!r}")
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"expected the fields and types of configs/spirals.py, got: {error}"
        ) from error


def save_config(config: Config, path: Path) -> None:
    """Writes the configuration as JSON."""
    replace_text(path, json.dumps(plain(config), indent=2) + "\n")


def load_config(path: Path) -> Config:
    """Reads what `save_config` wrote.

    Raises:
        InputError: if there is none, or it cannot be read.
    """
    try:
        config = ConfigDict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise InputError(
            f"expected a work directory of a run, got {path.parent} without "
            f"{path.name}: train first, or give another --workdir"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"expected {path} in JSON, got {type(error).__name__}") from None
    check(config)
    return config


def plain(config: Config) -> dict[str, Any]:
    """The configuration as JSON holds it."""
    return json.loads(json.dumps(config.to_dict()))


def difference(ours: Config, theirs: Config) -> str | None:
    """The first field in which two configurations are of different experiments, in words."""
    left, right = (dict(flat(plain(config))) for config in (ours, theirs))
    for name in sorted(set(left) | set(right)):
        if name not in _ELSEWHERE and left.get(name) != right.get(name):
            return f"{name} is {right.get(name)!r} there and {left.get(name)!r} here"
    return None


def _modalities(config: Config) -> tuple[Modality, ...]:
    if config.data.name not in MODALITIES:
        known = ", ".join(MODALITIES)
        raise InputError(f"expected data.name among {known}, got {config.data.name!r}")
    return MODALITIES[config.data.name]


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted field names and values of a nested configuration."""
    items: list[tuple[str, Any]] = []
    for name, value in tree.items():
        nested = isinstance(value, Mapping)
        items += flat(value, f"{prefix}{name}.") if nested else [(prefix + name, value)]
    return items
