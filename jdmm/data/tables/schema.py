"""The schema of a table: what its columns are, as JSON that users edit."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdmm.data.modality import Modality
from jdmm.data.tables.steps import Step
from jdmm.errors import InputError, one_line
from jdmm.fields import checked_fields, from_fields
from jdmm.files import write_text
from jdmm.likelihoods import Bernoulli, Categorical, Likelihood, Normal

CALENDAR = "calendar"
"""The modality of the calendar covariates."""

CALENDARS = ("hour", "weekday", "month")
TRANSFORMS = ("none", "log")
LIKELIHOODS = ("normal", "bernoulli", "categorical")

MISSING_WORDS = ("NA", "N/A", "null")
"""Words that stand for a missing value unless the schema has others; empty cells always do."""

MAX_CATEGORIES = 50


@dataclass(frozen=True)
class Column:
    """What a column is.

    Attributes:
        modality: the modality that it is a feature of.
        likelihood: "normal", "bernoulli" (0 and 1, or false and true) or "categorical".
        transform: "none", or "log" for positive values that spread over orders of magnitude. A
            model then sees their logarithms.
        categories: the values of a categorical column, as text.
        mean: of the training part, after the transform; None before it is fitted.
        sd: the same for the standard deviation.

    Raises:
        InputError: for an impossible value.
    """

    modality: str = "numbers"
    likelihood: str = "normal"
    transform: str = "none"
    categories: tuple[str, ...] = ()
    mean: float | None = None
    sd: float | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, known in (("likelihood", LIKELIHOODS), ("transform", TRANSFORMS)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"expected {name} among {', '.join(known)}, got {getattr(self, name)!r}"
                )
        if not self.modality or self.modality == CALENDAR:
            raise InputError(
                f"expected the name of a modality other than {CALENDAR!r}, got {self.modality!r}"
            )
        if (self.likelihood == "categorical") != bool(self.categories):
            raise InputError(
                f"expected categories of a categorical column and of no other, got "
                f"{len(self.categories)} categories with likelihood {self.likelihood!r}"
            )
        count = len(set(self.categories))
        if self.categories and (count < 2 or count != len(self.categories)):
            raise InputError(
                f"expected at least two different categories, got {list(self.categories)}"
            )
        if self.likelihood != "normal" and self.transform != "none":
            raise InputError(
                f"expected no transform with likelihood {self.likelihood!r}, got {self.transform!r}"
            )
        if (self.mean is None) != (self.sd is None):
            raise InputError("expected both mean and sd or neither, got one of them")
        if self.mean is not None and self.sd is not None:
            if self.likelihood != "normal":
                raise InputError(f"expected no mean and sd with likelihood {self.likelihood!r}")
            if not (math.isfinite(self.mean) and 0 < self.sd < math.inf):
                raise InputError(
                    f"expected a finite mean and a positive sd, got {self.mean} and {self.sd}"
                )

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and sd; 0 and 1 where there are none."""
        return (0.0, 1.0) if self.mean is None or self.sd is None else (self.mean, self.sd)

    def distribution(self) -> Likelihood:
        """The likelihood itself."""
        if self.likelihood == "categorical":
            return Categorical(len(self.categories))
        return {"normal": Normal(), "bernoulli": Bernoulli()}[self.likelihood]


@dataclass(frozen=True)
class Schema:
    """What a table holds.

    Attributes:
        columns: column -> what it is. Other columns are left out.
        time: the column of the time stamps; "" for a row per step.
        series: the column that names the series of a row; "" for one series.
        variable: of a long table, the column of the variables' names; "" for a wide one, which
            has a column per variable.
        value: of a long table, the column of the values.
        step: of the grid: "15min", "1h", "1d" or "1mo" of stamps, else a number.
        missing: words and numbers that stand for a missing value. Empty cells and NaN always do.
        calendar: covariates that follow from the time stamps: "hour" (of the day), "weekday" and
            "month" (place in the year). Their sine and cosine are always known.
        fitted: a mark of the other fields, set when mean and sd are fitted.

    Raises:
        InputError: for an impossible value, naming the field.
    """

    columns: Mapping[str, Column]
    time: str = ""
    series: str = ""
    variable: str = ""
    value: str = ""
    step: str | float = 1
    missing: tuple[str | float, ...] = MISSING_WORDS
    calendar: tuple[str, ...] = ()
    fitted: str = ""

    def __post_init__(self) -> None:
        """Checks the values."""
        if not self.columns:
            raise InputError("expected at least one column in columns, got none")
        Step.parse(self.step)
        if bool(self.variable) != bool(self.value):
            raise InputError("expected both variable and value of a long table, or neither")
        if self.variable and not self.time:
            raise InputError("expected the time column of a long table, got ''")
        keys = [name for name in (self.time, self.series, self.variable, self.value) if name]
        for name in [*keys, *self.columns]:
            if (*keys, *self.columns).count(name) > 1:
                raise InputError(f"expected one use of each column, got {name!r} twice")
        for name in self.calendar:
            if name not in CALENDARS or self.calendar.count(name) > 1:
                raise InputError(
                    f"expected calendar of different names among {', '.join(CALENDARS)}, got "
                    f"{name!r}"
                )
        if self.calendar and not Step.parse(self.step).unit:
            raise InputError(
                f"expected a step such as '1h' with calendar, got {self.step!r}: a calendar needs "
                "time stamps"
            )
        for name, columns in self.groups.items():
            kinds = {self.columns[column].distribution() for column in columns}
            if len(kinds) > 1:
                raise InputError(
                    f"expected one likelihood in modality {name!r}, got several: give columns "
                    f"{columns[0]!r} and {columns[-1]!r} different modalities"
                )
            if len(columns) > 1 and isinstance(next(iter(kinds)), Categorical):
                raise InputError(
                    f"expected a modality of its own for each categorical column, got {name!r} for "
                    f"{columns[0]!r} and {columns[1]!r}"
                )
        scaled = {column.mean is not None for column in self.normal.values()}
        if len(scaled) > 1:
            raise InputError("expected mean and sd in all normal columns or in none, got some")
        if (self.fitted or True in scaled) and self.fitted != self.mark:
            raise InputError(
                "expected the schema that its mean and sd were fitted for, got an edited one: "
                "remove mean, sd and fitted from it, give it as --config.data.schema, and train in "
                "another --workdir"
            )

    @property
    def mark(self) -> str:
        """A digest of all that is not fitted."""
        content = json.dumps(self.without_scaling().to_dict(), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Modality -> its columns, in their order."""
        groups: dict[str, list[str]] = {}
        for name, column in self.columns.items():
            groups.setdefault(column.modality, []).append(name)
        return groups

    @property
    def normal(self) -> dict[str, Column]:
        """The columns that are scaled."""
        return {name: own for name, own in self.columns.items() if own.likelihood == "normal"}

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities of models of the table, the calendar last."""
        own = [
            Modality(name, len(columns), self.columns[columns[0]].distribution())
            for name, columns in self.groups.items()
        ]
        calendar = [Modality(CALENDAR, 2 * len(self.calendar))] if self.calendar else []
        return *own, *calendar

    def with_scaling(self, scaling: Mapping[str, tuple[float, float]]) -> "Schema":
        """The schema with mean and sd of every normal column."""
        columns = {
            name: dataclasses.replace(own, mean=scaling[name][0], sd=scaling[name][1])
            if name in scaling
            else own
            for name, own in self.columns.items()
        }
        return dataclasses.replace(self, columns=columns, fitted=self.mark)

    def without_scaling(self) -> "Schema":
        """The schema before mean and sd are fitted."""
        columns = {
            name: dataclasses.replace(own, mean=None, sd=None) for name, own in self.columns.items()
        }
        return dataclasses.replace(self, columns=columns, fitted="")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the defaults of columns are left out."""
        columns = {
            name: {
                key: value
                for key, value in vars(column).items()
                if key in ("modality", "likelihood", "transform") or value not in ((), None)
            }
            for name, column in self.columns.items()
        }
        content = {own.name: getattr(self, own.name) for own in dataclasses.fields(self)}
        return json.loads(json.dumps(content | {"columns": columns}))

    @classmethod
    def from_dict(cls, content: Any) -> "Schema":
        """The inverse of `to_dict`.

        Raises:
            InputError: for an unknown field, one of another type, or an impossible value.
        """
        if not isinstance(content, Mapping) or not isinstance(content.get("columns"), Mapping):
            raise InputError("expected a schema with a section columns, got something else")
        columns = {}
        for name, given in content["columns"].items():
            try:
                columns[name] = from_fields(Column, f"columns.{name}", given)
            except InputError as error:
                raise InputError(f"column {name!r}: {error}") from error
        rest = {name: value for name, value in content.items() if name != "columns"}
        return cls(columns, **checked_fields(cls, "schema", rest, omit=("columns",)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the schema as JSON.

        Raises:
            InputError: if the file cannot be written.
        """
        try:
            write_text(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise InputError(
                f"{os.fspath(path)}: expected a file that can be written, got: {error.strerror}"
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Schema":
        """Reads a schema that `save` or a user wrote.

        Raises:
            InputError: if it cannot be read or is no schema. The message begins with the path.
        """
        try:
            return cls.from_dict(json.loads(Path(path).expanduser().read_text()))
        except InputError as error:
            raise InputError(f"{os.fspath(path)}: {error}") from error
        except (OSError, ValueError) as error:
            raise InputError(
                f"{os.fspath(path)}: expected a schema in JSON, got: {one_line(error)}"
            ) from error
