"""The schema of a table: what its columns are, as JSON that users edit."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jdmm.data.fitted_schema import FittedSchema
from jdmm.data.modality import Modality
from jdmm.data.tables.steps import Step
from jdmm.data.tables.transforms import TRANSFORMS
from jdmm.errors import InputError
from jdmm.likelihoods import (
    Bernoulli,
    Categorical,
    Likelihood,
    Mixed,
    check_size,
    likelihood_from_text,
    likelihood_to_text,
)

INPUTS = "inputs"
"""Columns of this modality are known at all steps, and drive the dynamics."""

CALENDARS = ("hour", "weekday", "month")
CATEGORICAL = "categorical"
NORMAL = "normal"

MISSING_WORDS = ("NA", "N/A", "null")
"""Words that stand for a missing value unless the schema has others; empty cells always do."""

MAX_CATEGORIES = 50


@dataclass(frozen=True)
class Column:
    """What a column is.

    Attributes:
        modality: the modality that it is a feature of; "inputs" for a column of numbers that is
            known at all steps, such as a plan or a forecast from elsewhere: it drives the
            dynamics, and is not predicted.
        likelihood: a text for `jdmm.likelihoods.likelihood_from_text`, such as "normal", "poisson"
            or "normal(sd=0.1)" in the units of the table; "bernoulli" is for 0 and 1, or false and
            true. Of categories it is "categorical": their number follows from `categories`.
        transform: "none", "log" for positive values that spread over orders of magnitude, or
            "root" for values of at least 0, of which many are near it. A model then sees their
            logarithms or square roots. For likelihoods that may be scaled only.
        categories: the values of a categorical column, as text.
        mean: of the training part, after the transform; None before it is fitted, and where the
            likelihood may not be scaled (`Likelihood.scalable`).
        sd: the same for the standard deviation.
        size: a typical value of the training part, for likelihoods with a size that the text does
            not give, such as "poisson"; None before it is fitted, and for others.

    Raises:
        InputError: for an impossible value.
    """

    modality: str = "numbers"
    likelihood: str = "normal"
    transform: str = "none"
    categories: tuple[str, ...] = ()
    mean: float | None = None
    sd: float | None = None
    size: float | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.transform not in TRANSFORMS:
            raise InputError(
                f"expected transform among {', '.join(TRANSFORMS)}, got {self.transform!r}"
            )
        if not self.modality:
            raise InputError("expected the name of a modality, got ''")
        if self.likelihood != CATEGORICAL:
            self._normalise_likelihood()
        if self.modality == INPUTS and self.likelihood != NORMAL:
            raise InputError(
                f"expected likelihood {NORMAL!r} of a column of {INPUTS!r}, which is known and has "
                f"no likelihood, got {self.likelihood!r}: give texts as columns of 0 and 1"
            )
        if (self.likelihood == CATEGORICAL) != bool(self.categories):
            raise InputError(
                f"expected categories of a categorical column and of no other, got "
                f"{len(self.categories)} categories with likelihood {self.likelihood!r}"
            )
        count = len(set(self.categories))
        if self.categories and (count < 2 or count != len(self.categories)):
            raise InputError(
                f"expected at least two different categories, got {list(self.categories)}"
            )
        if self.size is not None:
            if not self.sized:
                raise InputError(f"expected no size with likelihood {self.likelihood!r}")
            check_size(self.size)
        scalable = self.distribution().scalable
        if not scalable and self.transform != "none":
            raise InputError(
                f"expected no transform with likelihood {self.likelihood!r}, got {self.transform!r}"
            )
        if (self.mean is None) != (self.sd is None):
            raise InputError("expected both mean and sd or neither, got one of them")
        if self.mean is not None and self.sd is not None:
            if not scalable:
                raise InputError(f"expected no mean and sd with likelihood {self.likelihood!r}")
            if not (math.isfinite(self.mean) and 0 < self.sd < math.inf):
                raise InputError(
                    f"expected a finite mean and a positive sd, got {self.mean} and {self.sd}"
                )

    def _normalise_likelihood(self) -> None:
        """Writes the text of the likelihood in one way, so that equal ones have equal texts."""
        own = likelihood_from_text(self.likelihood)
        if isinstance(own, Mixed):
            raise InputError(
                f"expected the likelihood of one column, got {self.likelihood!r}: give each column "
                "its own; those of one modality may differ"
            )
        if type(own).probabilities is not Likelihood.probabilities:
            raise InputError(
                f"expected likelihood {CATEGORICAL!r} and categories for a column of categories, "
                f"got {self.likelihood!r}"
            )
        object.__setattr__(self, "likelihood", likelihood_to_text(own))

    @property
    def transformed(self) -> bool:
        """Whether a model sees anything but the values, scaled."""
        return self.transform != "none"

    def forward(self, values: np.ndarray) -> np.ndarray:
        """What a model sees of values, before it is scaled."""
        return TRANSFORMS[self.transform].forward(values)

    def backward(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `forward`."""
        return TRANSFORMS[self.transform].backward(values)

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and sd; 0 and 1 where there are none."""
        return (0.0, 1.0) if self.mean is None or self.sd is None else (self.mean, self.sd)

    def distribution(self) -> Likelihood:
        """The likelihood itself."""
        if self.categorical:
            return Categorical(len(self.categories))
        own: Any = likelihood_from_text(self.likelihood)
        return own if self.size is None else dataclasses.replace(own, size=self.size)

    @property
    def sized(self) -> bool:
        """Whether the likelihood has a size, which its text leaves to the training part."""
        if self.categorical:
            return False
        return getattr(likelihood_from_text(self.likelihood), "size", None) == 1

    @property
    def categorical(self) -> bool:
        """Whether the values are categories."""
        return self.likelihood == CATEGORICAL

    @property
    def binary(self) -> bool:
        """Whether the values are 0 and 1."""
        return isinstance(self.distribution(), Bernoulli)


@dataclass(frozen=True)
class Schema(FittedSchema):
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
        calendar: further inputs, which follow from the time stamps: sine and cosine of "hour" (the
            place in the day), "weekday" (in the week) and "month" (in the year).
        fitted: a mark of the other fields, set when mean, sd and size are fitted.

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
    section: ClassVar[str] = "columns"
    entry: ClassVar[type] = Column
    statistics: ClassVar[str] = "mean, sd, size"

    def __post_init__(self) -> None:
        """Checks the values."""
        if not self.columns:
            raise InputError("expected at least one column in columns, got none")
        if not self.targets:
            raise InputError(
                f"expected at least one column of a modality other than {INPUTS!r}, got none"
            )
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
            several = len({self.columns[column].likelihood for column in columns}) > 1
            for column in columns:
                own = self.columns[column]
                # parts of a Mixed likelihood have no axis of classes
                alone = own.categorical or (several and own.distribution().classes is not None)
                if alone and len(columns) > 1:
                    other = next(each for each in columns if each != column)
                    raise InputError(
                        f"expected a modality of its own for column {column!r}, which is "
                        f"{own.likelihood}, got {name!r}, which {other!r} has too"
                    )
        scaled = {column.mean is not None for column in self.scaled.values()}
        scaled |= {own.size is not None for own in self.columns.values() if own.sized}
        if len(scaled) > 1:
            raise InputError(
                "expected mean and sd in all scaled columns, and size in all that have one, or in "
                "none, got some"
            )
        self.check_mark(True in scaled)

    @property
    def groups(self) -> dict[str, list[str]]:
        """Modality -> its columns, in their order."""
        groups: dict[str, list[str]] = {}
        for name, column in self.columns.items():
            groups.setdefault(column.modality, []).append(name)
        return groups

    @property
    def predicted(self) -> dict[str, list[str]]:
        """`groups` without the inputs."""
        return {name: columns for name, columns in self.groups.items() if name != INPUTS}

    @property
    def targets(self) -> dict[str, Column]:
        """The columns that are predicted: all but those of inputs."""
        return {name: own for name, own in self.columns.items() if own.modality != INPUTS}

    @property
    def inputs(self) -> int:
        """Number of inputs of models of the table: columns, and two for each of the calendar."""
        return len(self.groups.get(INPUTS, ())) + 2 * len(self.calendar)

    @property
    def scaled(self) -> dict[str, Column]:
        """The columns that are scaled: those whose likelihood allows it."""
        return {name: own for name, own in self.columns.items() if own.distribution().scalable}

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities of models of the table.

        That of columns of different likelihoods has a `Mixed` one.
        """
        own = []
        for name, columns in self.predicted.items():
            parts = tuple(self.columns[column].distribution() for column in columns)
            same = all(part == parts[0] for part in parts)
            own.append(Modality(name, len(columns), parts[0] if same else Mixed(parts)))
        return tuple(own)

    def with_scaling(
        self, scaling: Mapping[str, tuple[float, float]], sizes: Mapping[str, float] | None = None
    ) -> "Schema":
        """The schema with mean and sd of every scaled column, and the sizes of those with one."""
        fitted: dict[str, dict[str, float]] = {
            **{name: {"mean": mean, "sd": sd} for name, (mean, sd) in scaling.items()},
            **{name: {"size": size} for name, size in (sizes or {}).items()},
        }
        columns = {
            name: dataclasses.replace(own, **fitted.get(name, {}))
            for name, own in self.columns.items()
        }
        return dataclasses.replace(self, columns=columns, fitted=self.mark)

    def without_fit(self) -> "Schema":
        """The schema before mean, sd and size are fitted."""
        columns = {
            name: dataclasses.replace(own, mean=None, sd=None, size=None)
            for name, own in self.columns.items()
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
