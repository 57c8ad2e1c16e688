"""Saving and loading a fitted model: one folder, exact, readable, never half written.

    model.json          classes and fields of the model, calibration, scaling, history
    variables.msgpack   the variables in the format of `flax.serialization`
    README.md           a short card of the model

Variables come back as numpy arrays with every bit and dtype, whatever device they were on. Nothing
is pickled. `model.json` names classes and functions as "module:name"; loading imports those modules
and calls those dataclasses, so load models only from people whose code you would run.
"""

import dataclasses
import errno
import hashlib
import importlib
import json
import math
import operator
import os
import shutil
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import serialization
from jax import numpy as jnp

import jdmm
from jdmm.data.scaling import Standardise
from jdmm.errors import InputError
from jdmm.evaluation.prediction import Calibration
from jdmm.models.base import Model
from jdmm.training.fitted import FittedModel

FORMAT = 1
"""Version of the layout of `model.json`; raise it with every change that old readers mistake."""

MODEL, VARIABLES, CARD = "model.json", "variables.msgpack", "README.md"

PUBLIC = ("jax.nn", "jax.numpy", "flax.linen")
"""Modules that export functions under a public name, which outlives the private one."""

DEFAULT = {"default": True}
"""Stands for the default of a field that cannot be written, such as Flax's initializers."""


def save(path: str | os.PathLike[str], fitted: FittedModel) -> None:
    """Saves a fitted model as the folder `path`.

    The folder is written beside `path` and then renamed, so that `path` is never half written. A
    saved model that is already there is replaced; anything else is left alone and refused.

    Args:
        path: the folder. Folders above it are made.
        fitted: the model. Its fields, and those of its likelihoods and networks, may hold numbers,
            text, None, tuples, lists, mappings from text, dataclasses, Flax modules, and functions
            and classes that can be imported.

    Raises:
        InputError: if `path` holds something else than a saved model, or the model holds
            something else than the above (a lambda, an array), naming the field.
    """
    if not isinstance(fitted, FittedModel):
        raise InputError(f"expected a FittedModel to save, got {type(fitted).__name__}")
    target = Path(path).resolve()
    _check_replaceable(target)
    variables = serialization.msgpack_serialize(_plain(fitted.variables, "variables"))
    content = {
        "format": FORMAT,
        "jdmm": jdmm.__version__,
        "model": _describe_checked(fitted.model),
        "calibration": describe(fitted.calibration._asdict(), "calibration"),
        "scaling": None if fitted.scaling is None else fitted.scaling.to_dict(),
        "best_epoch": describe(fitted.best_epoch, "best_epoch"),
        "best_score": describe(fitted.best_score, "best_score"),
        "variables_sha256": hashlib.sha256(variables).hexdigest(),
        "history": describe(tuple(fitted.history), "history"),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    part.mkdir()
    try:
        (part / MODEL).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        (part / VARIABLES).write_bytes(variables)
        (part / CARD).write_text(_card(fitted), encoding="utf-8")
        _put(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load(path: str | os.PathLike[str]) -> FittedModel:
    """Loads a fitted model from the folder that `save` wrote.

    It predicts the same as the saved one, to the bit on the same machine. Own classes and functions
    of the model must be importable under the names that they had.

    Raises:
        InputError: if `path` is no saved model, a file is damaged, the format is newer than this
            version of jdmm, or a class cannot be imported.
    """
    file = Path(path) / MODEL
    try:
        written = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"expected a folder written by jdmm.save, got {path} without {MODEL}"
        ) from None
    try:
        content = json.loads(written)
        version = content["format"]
        if version > FORMAT:
            raise InputError(
                f"expected format {FORMAT} or older, got {version}, written by jdmm "
                f"{content.get('jdmm')}: update jdmm"
            )
        variables = _read_variables(file.with_name(VARIABLES), content["variables_sha256"])
        model = rebuild(content["model"], "model")
        if not isinstance(model, Model):
            raise InputError(f"expected a model, got {type(model).__name__}")
        return FittedModel(
            model=model,
            variables=variables,
            history=rebuild(content["history"], "history"),
            best_epoch=rebuild(content["best_epoch"], "best_epoch"),
            best_score=rebuild(content["best_score"], "best_score"),
            calibration=Calibration(**rebuild(content["calibration"], "calibration")),
            scaling=content["scaling"] and Standardise.from_dict(content["scaling"]),
        )
    except InputError as error:
        raise InputError(f"cannot load {file}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot load {file}: expected the content that jdmm.save writes, got a damaged file "
            f"({type(error).__name__}): save the model again"
        ) from error


def describe(value: Any, where: str, modules: dict[int, str] | None = None) -> Any:
    """A value as JSON from which `rebuild` makes an equal one.

    Args:
        value: of the kinds that `save` allows.
        where: the name of the field, for error messages.
        modules: the Flax modules described so far, by id. A module that occurs twice shares its
            parameters, so that it must be one object again.

    Raises:
        InputError: for a value of another kind, naming the field.
    """
    modules = {} if modules is None else modules
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.generic) and type(value.item()) in (bool, int, float):
        return {"numpy": value.dtype.name, "value": describe(value.item(), where)}
    if type(value) is tuple:
        return [describe(each, f"{where}[{i}]", modules) for i, each in enumerate(value)]
    if type(value) is list:
        return {"list": describe(tuple(value), where, modules)}
    if isinstance(value, Mapping) and all(type(key) is str for key in value):
        return {
            "mapping": {
                key: describe(each, f"{where}[{key!r}]", modules) for key, each in value.items()
            }
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if id(value) in modules:
            return {"same": modules[id(value)]}
        if isinstance(value, nn.Module):
            modules[id(value)] = where
        name = _import_name(type(value), where)
        return {"class": name, "fields": _describe_fields(value, where, modules)}
    return {"import": _import_name(value, where)}


def rebuild(content: Any, where: str, modules: dict[str, Any] | None = None) -> Any:
    """The value that `describe` was given.

    Args:
        content: parsed JSON.
        where: the name of the field, for error messages.
        modules: the values of classes rebuilt so far, by the name of their field.

    Raises:
        InputError: for a class or function that cannot be imported, or fields that a class does
            not take, naming the field.
    """
    modules = {} if modules is None else modules
    match content:
        case list():
            return tuple(rebuild(each, f"{where}[{i}]", modules) for i, each in enumerate(content))
        case {"float": text}:
            return float(text)
        case {"numpy": name, "value": number}:
            return np.dtype(name).type(rebuild(number, where))
        case {"list": items}:
            return list(rebuild(items, where, modules))
        case {"mapping": items}:
            return {key: rebuild(each, f"{where}[{key!r}]", modules) for key, each in items.items()}
        case {"same": first}:
            return modules[first]
        case {"import": name}:
            return _look_up(name, where)
        case {"class": name, "fields": fields}:
            modules[where] = _instance(name, fields, where, modules)
            return modules[where]
        case dict():
            raise InputError(f"expected {where} in the format of jdmm.save, got {sorted(content)}")
    return content


def _describe_checked(model: Model) -> Any:
    """The description of a model, from which the same model can be rebuilt.

    Raises:
        InputError: if the class changes the fields that it is given at every construction.
    """
    description = describe(model, "model")
    if describe(rebuild(description, "model"), "model") != description:
        raise InputError(
            f"expected {type(model).__name__} to keep the fields that it is given, got others "
            "after building it again from its own: make its __post_init__ idempotent"
        )
    return description


def _describe_fields(value: Any, where: str, modules: dict[int, str]) -> dict[str, Any]:
    """The fields of a dataclass; a Flax module's parent is its place in a tree, not a field."""
    described = {}
    for field in dataclasses.fields(value):
        if not field.init or (field.name == "parent" and isinstance(value, nn.Module)):
            continue
        own = getattr(value, field.name)
        try:
            described[field.name] = describe(own, f"{where}.{field.name}", modules)
        except InputError:
            if own is not field.default:
                raise
            described[field.name] = DEFAULT
    return described


def _instance(name: str, fields: dict[str, Any], where: str, modules: dict[str, Any]) -> Any:
    cls = _look_up(name, where)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise InputError(f"expected {where} of a dataclass, got {name}")
    arguments = {
        field: rebuild(each, f"{where}.{field}", modules)
        for field, each in fields.items()
        if each != DEFAULT
    }
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"expected fields of {where} that {name} takes, got an error: {error}"
        ) from error


def _import_name(value: Any, where: str) -> str:
    """The "module:name" under which a class or function is imported.

    Raises:
        InputError: if there is none, naming the field.
    """
    name = getattr(value, "__name__", None)
    if isinstance(name, str) and callable(value):
        own = (getattr(value, "__module__", "") or "", getattr(value, "__qualname__", "") or name)
        for module, qualified in (*((public, name) for public in PUBLIC), own):
            try:
                found = operator.attrgetter(qualified)(importlib.import_module(module))
            except (AttributeError, ImportError, ValueError):
                continue
            if found is not value:
                continue
            if module == "__main__":
                warnings.warn(
                    f"{where} is {qualified} of __main__, so that only a program that defines it "
                    "can load the model: move it to a module",
                    stacklevel=2,
                )
            return f"{module}:{qualified}"
    got = getattr(value, "__qualname__", type(value).__qualname__)
    raise InputError(
        f"expected {where} as a number, text, tuple, mapping, dataclass, or a function or class "
        f"defined at the top of a module, got {got}"
    )


def _look_up(name: str, where: str) -> Any:
    module, _, qualified = name.partition(":")
    try:
        return operator.attrgetter(qualified)(importlib.import_module(module))
    except (AttributeError, ImportError, ValueError) as error:
        raise InputError(
            f"expected {qualified!r} in module {module!r} for {where}, got {error}: install the "
            "module or add its folder to PYTHONPATH"
        ) from error


def _plain(tree: Any, where: str) -> Any:
    """Nested dicts of arrays, the only trees that come back as they were.

    Raises:
        InputError: for another node or leaf, naming it.
    """
    if isinstance(tree, Mapping) and all(type(key) is str for key in tree):
        return {key: _plain(each, f"{where}[{key!r}]") for key, each in tree.items()}
    if isinstance(tree, (np.ndarray, np.generic, jax.Array)):
        array = np.asarray(tree)
        if array.dtype == bool or jnp.issubdtype(array.dtype, np.number):
            return array
    raise InputError(f"expected {where} as an array of numbers, got {type(tree).__name__}")


def _read_variables(file: Path, sha256: str) -> Any:
    try:
        written = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"expected {file.name} beside it, got none") from None
    if hashlib.sha256(written).hexdigest() != sha256:
        raise InputError(
            f"expected {file.name} with the checksum in it, got another: the file is damaged, or "
            "the model was replaced meanwhile"
        )
    return serialization.msgpack_restore(written)


def _check_replaceable(target: Path) -> None:
    """Refuses what is not a saved model, and a saved model among files of another origin.

    Raises:
        InputError: naming the path.
    """
    while True:
        try:
            before = target.stat()
            names = set(os.listdir(target)) if target.is_dir() else None
            if os.path.samestat(before, target.stat()):
                break  # else another process replaced it, and removed files as they were listed
        except FileNotFoundError:
            return
    if names not in (set(), {MODEL, VARIABLES}, {MODEL, VARIABLES, CARD}):
        raise InputError(
            f"expected a new folder or a saved model to replace, got {target}, which holds "
            "something else: choose another path"
        )


def _put(part: Path, target: Path) -> None:
    """Renames the folder `part` to `target`.

    No portable call swaps two folders, so a saved model is moved aside first. For that moment there
    is none at `target`, but never half of one.
    """
    while True:
        try:
            os.rename(part, target)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        _check_replaceable(target)
        aside = part.with_name(f"{part.name}.old")
        try:
            os.rename(target, aside)
        except FileNotFoundError:
            continue  # another process has just moved it
        shutil.rmtree(aside)


def _card(fitted: FittedModel) -> str:
    """A few lines for people who come upon the folder."""
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(fitted.variables))
    modalities = (
        f"  - {m.name}: {m.features} feature(s), {type(m.likelihood).__name__}"
        for m in fitted.model.modalities
    )
    best = [f"- best epoch: {fitted.best_epoch}, score {fitted.best_score}"]
    return "\n".join(
        [
            f"# {type(fitted.model).__name__}",
            "",
            f"A model saved by jdmm {jdmm.__version__}. Load it with `jdmm.load`.",
            "",
            f"- parameters: {count}",
            "- modalities:",
            *modalities,
            *(best if fitted.best_epoch is not None else []),
            "",
        ]
    )
