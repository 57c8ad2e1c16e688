"""Fields of a configuration against types of dataclasses."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from jdmm.errors import InputError
from jdmm.fields import check_section, checked_fields, from_fields


@dataclass(frozen=True)
class Inner:
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    count: int
    name: str
    flag: bool = False
    limit: int | None = None
    span: tuple[float, float] = (0.0, 1.0)
    steps: tuple[int, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    inner: Inner = Inner()


def test_values_arrive_and_lists_become_tuples():
    given = {"count": 3, "name": "a", "limit": 2, "span": [0, 0.5], "steps": [1, 2, 3]}
    found = from_fields(Outer, "outer", {**given, "weights": {"x": 1}, "inner": {"share": 1}})
    expected = Outer(3, "a", False, 2, (0, 0.5), (1, 2, 3), {"x": 1}, Inner(1))
    assert found == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", 1.0, "outer.count to be a whole number, got 1.0"),
        ("count", True, "outer.count to be a whole number, got True"),
        ("count", None, "outer.count to be a whole number, got None"),
        ("name", 3, "outer.name to be text, got 3"),
        ("flag", 1, "outer.flag to be True or False, got 1"),
        ("limit", "2", "outer.limit to be a whole number or None, got '2'"),
        ("span", [0.0], r"outer.span to be a list \(2 values, each a number\), got \[0.0\]"),
        ("span", 0.5, "outer.span to be a list"),
        ("steps", [1, 2.5], r"outer.steps to be a list \(each a whole number\)"),
        ("weights", {"x": "1"}, "outer.weights to be a section"),
        ("inner", 0.5, "outer.inner to be a section, got 0.5"),
        ("inner", {"share": "1"}, "outer.inner.share to be a number, got '1'"),
        ("inner", {"shares": 1}, "outer.inner fields among share, got 'shares'"),
        ("colour", "red", "outer fields among count, flag, .*, got 'colour'"),
    ],
)
def test_mistakes_are_named(name, value, message):
    with pytest.raises(InputError, match=message):
        from_fields(Outer, "outer", {"count": 1, "name": "a", name: value})


def test_missing_and_omitted_fields():
    with pytest.raises(InputError, match="expected the field outer.name, got none"):
        from_fields(Outer, "outer", {"count": 1})
    assert checked_fields(Outer, "outer", {"count": 1}, omit=("name",)) == {"count": 1}
    with pytest.raises(InputError, match="got 'name'"):
        checked_fields(Outer, "outer", {"count": 1, "name": "a"}, omit=("name",))
    with pytest.raises(InputError, match="expected the field count, got none"):
        check_section("", {}, {"count": int})
    assert check_section("", {}, {"count": int}, required=()) == {}
