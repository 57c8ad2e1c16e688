"""Checks the fields of a configuration against the dataclass that they describe."""

import dataclasses
import numbers
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from jdmm.errors import InputError

T = TypeVar("T")

Hints = Mapping[str, Any]
"""Field -> its type: int, float, str, bool, a dataclass, Mapping, or tuples and unions of these."""

WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    type(None): "None",
    Mapping: "a section",
}
"""Type -> what messages call it."""


def from_fields(cls: type[T], section: str, given: Mapping[str, Any]) -> T:
    """An instance of a dataclass from a section of a configuration.

    Raises:
        InputError: as `checked_fields` and the class itself do.
    """
    return cls(**checked_fields(cls, section, given))


def checked_fields(
    cls: type, section: str, given: Mapping[str, Any], omit: Collection[str] = ()
) -> dict[str, Any]:
    """A section of a configuration as keyword arguments of a dataclass.

    Args:
        cls: the dataclass; a field whose type is a dataclass too is a section of its own.
        section: the name of the section, for messages; "" at the top level.
        given: field -> value.
        omit: fields of the class that do not come from the configuration.

    Raises:
        InputError: for an unknown field, one of another type, or a missing one without a default.
    """
    hints = typing.get_type_hints(cls)
    fields: Any = [field for field in dataclasses.fields(cls) if field.name not in omit]
    required = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    known = {field.name: hints[field.name] for field in fields}
    return check_section(section, given, known, required)


def check_section(
    section: str, given: Mapping[str, Any], hints: Hints, required: Collection[str] | None = None
) -> dict[str, Any]:
    """The fields of a section by name; lists, as JSON has them, become tuples.

    Args:
        section: its name, for messages; "" at the top level.
        given: field -> value.
        hints: the known fields.
        required: those that must be given; by default all.

    Raises:
        InputError: for an unknown or missing field, or one of another type.
    """
    if not isinstance(given, Mapping):
        raise InputError(f"expected {section} to be a section, got {given!r}")
    prefix = f"{section}." if section else ""
    if unknown := sorted(set(given) - set(hints)):
        known = ", ".join(sorted(hints)) or "none"
        raise InputError(f"expected {section} fields among {known}, got {unknown[0]!r}")
    for name in hints if required is None else required:
        if name not in given:
            raise InputError(f"expected the field {prefix}{name}, got none")
    return {name: _converted(prefix + name, given[name], hints[name]) for name in given}


def _converted(name: str, value: Any, hint: Any) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_fields(hint, name, value)
    if not _conforms(value, hint):
        raise InputError(f"expected {name} to be {_describe(hint)}, got {value!r}")
    return tuple(value) if isinstance(value, list) else value


def _conforms(value: Any, hint: Any) -> bool:
    """Whether a value has a type. A whole number is a number too; a truth value is neither."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_conforms(value, argument) for argument in arguments)
    if origin is tuple:
        of_any_length = arguments[-1] is Ellipsis
        if not isinstance(value, list | tuple):
            return False
        each = arguments[:1] * len(value) if of_any_length else arguments
        return len(value) == len(each) and all(map(_conforms, value, each))
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _conforms(item, arguments[1]) for item in value.values()
        )
    if hint in (int, float):
        number = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin is tuple:
        length = "" if arguments[-1] is Ellipsis else f"{len(arguments)} values, "
        return f"a list ({length}each {_describe(arguments[0])})"
    return WORDS.get(origin or hint, str(hint))
