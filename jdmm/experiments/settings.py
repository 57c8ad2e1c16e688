"""From a configuration to the objects that it describes, checked field by field.

Only mistakes in the configuration become an `InputError`. Any other exception is a bug.
"""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jdmm.data import corruption
from jdmm.data.base import SPLITS, Dataset, Split
from jdmm.data.corruption import Withheld
from jdmm.data.datasets import DATASETS
from jdmm.errors import InputError, one_line
from jdmm.fields import check_section, checked_fields, from_fields
from jdmm.files import write_text
from jdmm.models import MODELS
from jdmm.models.base import Config, ExactLikelihood, Model, SelfFittingModel, check_at_least
from jdmm.training.schedule import TrainSettings

PROGRAM_FIELDS = ("seed", "seeds", "data", "model", "eval")
MODULES = "modules"
"""A field that may lack: names of Python modules that are imported first."""

TOP_LEVEL_TRAINING = {"epochs": int, "batch_size": int, "learning_rate": float}
TRAINING_FIELDS = (*TOP_LEVEL_TRAINING, "train")

MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class EvalSettings:
    """How models are scored; the section `eval` of a configuration.

    Attributes:
        tasks: names of tasks of the data set.
        draws: posterior samples of each prediction.
        calibrate: whether intervals are calibrated on the validation series.
        batch_size: series at a time.
        seed: of the tasks' random numbers and of all samples.
        select: what selects the best epoch, "score" (mean log error over the tasks) or "loss"; only
            for models that are trained step by step.
        importance: numbers of samples of the likelihood bounds; not for models that know their
            likelihood.
    """

    tasks: tuple[str, ...]
    draws: int
    calibrate: bool
    batch_size: int
    seed: int
    select: str | None = None
    importance: tuple[int, ...] | None = None

    def check(self, dataset: Dataset, model: Model) -> None:
        """Checks the values against the data set and the model.

        Raises:
            InputError: naming the field.
        """
        if not self.tasks:
            raise InputError("expected at least one of eval.tasks, got none")
        for task in self.tasks:
            if task not in dataset.tasks:
                known = ", ".join(dataset.tasks)
                raise InputError(f"expected eval.tasks among {known}, got {task!r}")
        check_at_least("eval.draws", self.draws, 2)
        check_at_least("eval.batch_size", self.batch_size, 1)
        _check_seed("eval.seed", self.seed)
        name = type(model).__name__
        if isinstance(model, SelfFittingModel):
            if self.select is not None:
                raise InputError(f"expected no eval.select for {name}, which fits itself")
        elif self.select not in ("score", "loss"):
            raise InputError(f"expected eval.select 'score' or 'loss', got {self.select!r}")
        if isinstance(model, ExactLikelihood):
            if self.importance is not None:
                raise InputError(
                    f"expected no eval.importance for {name}, which knows its likelihood"
                )
        elif self.importance is None:
            raise InputError("expected the field eval.importance, got none; () computes no bounds")
        for count in self.importance or ():
            check_at_least("eval.importance", count, 1)


@dataclass(frozen=True)
class Experiment:
    """The objects that a configuration describes.

    Attributes:
        config: the configuration itself.
        dataset: the data set.
        withheld: what is missing from its training and validation series for good.
        model: the model.
        training: how it is trained; None for a model that fits itself.
        evaluation: how it is scored.
        seeds: one model is trained with each.
    """

    config: Config
    dataset: Dataset
    withheld: Withheld
    model: Model
    training: TrainSettings | None
    evaluation: EvalSettings
    seeds: list[int]

    def load(self) -> dict[str, Split]:
        """The splits of the data set, without what is withheld.

        Raises:
            InputError: if the data cannot be read, or disagree with the modalities, or something is
                to be withheld from series that memory does not hold.
        """
        splits = self.dataset.load()
        for split in splits.values():
            split.check(self.dataset.modalities, self.dataset.inputs)
        for number, name in enumerate(("train", "validation")):
            split = splits[name]
            if split.source is not None and self.withheld != Withheld():
                raise InputError(
                    "expected data.withheld of zeros for training series that are read from a "
                    "file when they are needed, got others: hide the values when you write it"
                )
            kept: dict[str, Any] = dict.fromkeys(split.series.values, np.array(True))
            if self.withheld != Withheld():  # otherwise the masks take a second to compile
                kept = corruption.withhold(jax.random.key(number), split.series, self.withheld)
            series = jax.device_get(split.series.hide(kept))
            splits[name] = dataclasses.replace(split, series=series)
        return {name: splits[name] for name in SPLITS}


def build(
    config: Config, workdir: Path | None = None, dataset: Dataset | None = None
) -> Experiment:
    """Checks a configuration and makes what it describes. Writes nothing.

    It reads data only where they decide the modalities.

    Args:
        config: the configuration.
        workdir: where an earlier run may have kept what it knows of the data.
        dataset: that of another experiment with the same section `data`, which is not read again.

    Raises:
        InputError: for a missing, unknown or unused field, one of another type, or an impossible
            value, naming the field.
    """
    _require(config, PROGRAM_FIELDS)
    _import_modules(config)
    own, withheld = _build_dataset(config)
    if dataset is None:
        dataset = own if workdir is None else own.in_workdir(workdir)
    model, sections = _build_model(config, dataset)
    evaluation = from_fields(EvalSettings, "eval", _section(config, "eval"))
    evaluation.check(dataset, model)
    training = None if isinstance(model, SelfFittingModel) else train_settings(config)
    used = {*PROGRAM_FIELDS, MODULES, *sections, *(TRAINING_FIELDS if training else ())}
    for name in config:
        if name not in used:
            raise InputError(
                f"expected no field {name!r} for model {config.model.name!r}, which does not use it"
            )
    seeds = _seeds(config, model)
    return Experiment(config, dataset, withheld, model, training, evaluation, seeds)


def build_model(config: Config) -> Model:
    """The model of a configuration.

    Raises:
        InputError: for an unknown name or an impossible value.
    """
    dataset, _ = _build_dataset(config)
    return _build_model(config, dataset)[0]


def train_settings(config: Config) -> TrainSettings:
    """How to train: the section `train` and the fields of training at the top level.

    Raises:
        InputError: for a missing or unknown field, one of another type, or an impossible value.
    """
    _require(config, TRAINING_FIELDS)
    given = {name: config[name] for name in TOP_LEVEL_TRAINING}
    section = checked_fields(
        TrainSettings, "train", _section(config, "train"), omit=TOP_LEVEL_TRAINING
    )
    return TrainSettings(**section, **check_section("", given, TOP_LEVEL_TRAINING))


def save_config(config: Config, path: Path) -> None:
    """Writes the configuration as JSON."""
    write_text(path, json.dumps(plain(config), indent=2) + "\n")


def load_config(path: Path) -> Config:
    """Reads a configuration that `save_config` wrote.

    Raises:
        InputError: if there is none, or it is not JSON.
    """
    try:
        fields = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(
            f"expected a work directory of a run, got {path.parent} without "
            f"{path.name}: train first, or give another --workdir"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"expected {path} in JSON, got {type(error).__name__}") from None
    if not isinstance(fields, dict):
        raise InputError(f"expected fields of a configuration in {path}, got {fields!r}")
    return ConfigDict(fields)


def plain(config: Config) -> dict[str, Any]:
    """The configuration as JSON holds it."""
    return json.loads(json.dumps(config.to_dict()))


def difference(ours: Experiment, theirs: Config) -> str | None:
    """The first field in which another configuration is not of the same experiment, in words."""
    left, right = (dict(flat(plain(config))) for config in (ours.config, theirs))
    # streaming changes no bit of the results
    ignored = {"train.streamed", *(f"data.{name}" for name in ours.dataset.locations)}
    for name in sorted(set(left) | set(right)):
        if name not in ignored and left.get(name) != right.get(name):
            return f"{name} is {right.get(name)!r} there and {left.get(name)!r} here"
    return None


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted field names and values of a nested configuration."""
    items: list[tuple[str, Any]] = []
    for name, value in tree.items():
        nested = isinstance(value, Mapping)
        items += flat(value, f"{prefix}{name}.") if nested else [(prefix + name, value)]
    return items


def _import_modules(config: Config) -> None:
    """Imports the modules of a user, which register likelihoods or data sets.

    Raises:
        InputError: for one that cannot be imported.
    """
    given = {MODULES: config.get(MODULES, ())}
    for name in check_section("", given, {MODULES: tuple[str, ...]})[MODULES]:
        try:
            importlib.import_module(name)
        except Exception as error:  # a module is a program and can raise any exception
            raise InputError(
                f"expected modules that can be imported, got {name!r} ({one_line(error)}): put it "
                "beside main.py, or its folder on PYTHONPATH"
            ) from error


def _build_dataset(config: Config) -> tuple[Dataset, Withheld]:
    fields = _section(config, "data")
    cls = _named(DATASETS, "data.name", fields.pop("name", None))
    withheld = from_fields(Withheld, "data.withheld", fields.pop("withheld", {}))
    return from_fields(cls, "data", fields), withheld


def _build_model(config: Config, dataset: Dataset) -> tuple[Model, set[str]]:
    """The model, and the sections of the configuration that it is made of."""
    cls = _named(MODELS, "model.name", _section(config, "model").get("name"))
    sections = _Sections(config)
    model = cls.from_config(dataset.modalities, sections)
    return dataclasses.replace(model, inputs=dataset.inputs), sections.read


class _Sections:
    """The sections of a configuration as attributes; remembers which were read."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        _section(self._config, name)
        return self._config[name]


def _named(registry: Mapping[str, Any], field: str, name: Any) -> Any:
    if not isinstance(name, str) or name not in registry:
        raise InputError(f"expected {field} among {', '.join(registry)}, got {name!r}")
    return registry[name]


def _require(config: Config, names: tuple[str, ...]) -> None:
    for name in names:
        if name not in config:
            raise InputError(f"expected the field {name!r} in the configuration, got none")


def _section(config: Config, name: str) -> dict[str, Any]:
    """A section as a dictionary of its own."""
    _require(config, (name,))
    if not isinstance(config[name], ConfigDict):
        raise InputError(f"expected {name} to be a section, got {config[name]!r}")
    return config[name].to_dict()


def _seeds(config: Config, model: Model) -> list[int]:
    given = {"seed": config.seed, "seeds": config.seeds}
    fields = check_section("", given, {"seed": int, "seeds": int})
    first, count = fields["seed"], fields["seeds"]
    if isinstance(model, SelfFittingModel) and (first, count) != (0, 1):
        raise InputError(
            f"expected seed 0 and seeds 1 for {type(model).__name__}, which uses no random "
            f"numbers, got {first} and {count}"
        )
    check_at_least("seeds", count, 1)
    for seed in (first, first + count - 1):
        _check_seed("seed", seed)
    return list(range(first, first + count))


def _check_seed(name: str, seed: int) -> None:
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"expected {name} within 0..{MAX_SEED}, got {seed}")
