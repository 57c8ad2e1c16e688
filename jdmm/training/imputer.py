"""Fills tables in the manner of scikit-learn's transformers."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Self

import jax
import numpy as np
import polars as pl

from jdmm.data.corruption import Deletions
from jdmm.data.modality import Modality
from jdmm.data.prepare import windows
from jdmm.data.tables.dataset import Files, training_stride
from jdmm.data.tables.filling import known
from jdmm.data.tables.reading import need_columns, numbers, read_frame
from jdmm.data.tables.schema import Column, Schema
from jdmm.data.tables.table import Table, read_table
from jdmm.data.tables.units import LEVELS, fill_suffix
from jdmm.errors import InputError
from jdmm.evaluation.tables import predicted_columns
from jdmm.models import SigmaPointSSM
from jdmm.models.base import Model, SelfFittingModel
from jdmm.training.fitted import FittedModel
from jdmm.training.fitting import fit
from jdmm.training.schedule import TrainSettings

SETTINGS = TrainSettings(
    epochs=60,  # of a table of 10,000 rows; fewer do for more rows
    batch_size=10,
    learning_rate=0.02,
    weight_decay=0.0,
    beta_rise=0.0,
    beta_peak=1.0,
    beta_final=1.0,
    validate_every=5,
    deletions=Deletions.none(),  # the likelihood needs no hidden values to learn from
)
"""How state space models learn from tables."""

HIDDEN_SHARE = 0.1
"""Of the observed values, which `TableImputer.score` hides if it is given no others."""

ROW = "row of the input"

NAME = "table"
"""What messages call the input."""


class TableImputer:
    """Fills the missing values of a table of time series by a model that it fits to a table.

    It follows the conventions of scikit-learn, and works in its pipelines, without needing it. The
    input X is an array of real numbers ``(time, column)`` with NaN, whose rows are regular steps of
    one series, or a frame of polars or pandas. What the columns of a frame are is guessed, as
    `read_table` does: it may have columns of time stamps, of series and of categories. What comes
    out is of the same kind, with the same rows; observed values stay as they are.

    Args:
        model: makes the model from the modalities of the table, such as
            ``functools.partial(jdmm.LinearGaussianSSM, latent=4)``. By default a `SigmaPointSSM` of
            8 states.
        schema: what the columns of a frame are; None guesses it. Not for arrays.
        window: steps of a training series. What lies farther away than a window has no influence
            on a missing value.
        epochs: passes over the table; not used by models that fit themselves.
        num_samples: posterior samples behind medians and intervals; 95 % intervals need 39.
        seed: of all random numbers.

    Attributes:
        schema_: what the columns are, with mean and sd; after `fit`.
        fitted_: the fitted model of their scaled values; after `fit`.
    """

    def __init__(
        self,
        model: Callable[[tuple[Modality, ...]], Model] | None = None,
        schema: Schema | None = None,
        window: int = 64,
        epochs: int = SETTINGS.epochs,
        num_samples: int = 100,
        seed: int = 0,
    ) -> None:
        """Keeps the parameters as they are; `fit` checks them."""
        self.model = model
        self.schema = schema
        self.window = window
        self.epochs = epochs
        self.num_samples = num_samples
        self.seed = seed

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks the members of its pipelines; nobody else calls it."""
        from sklearn.base import BaseEstimator  # pyright: ignore[reportMissingImports]

        tags = BaseEstimator().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters of the constructor; `deep` changes nothing."""
        del deep
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> Self:
        """Sets parameters of the constructor.

        Raises:
            InputError: for an unknown one.
        """
        names = self.get_params()
        for name, value in params.items():
            if name not in names:
                raise InputError(f"expected parameters among {', '.join(names)}, got {name!r}")
            setattr(self, name, value)
        return self

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Fits the model to a table.

        Args:
            X: the table.
            y: not used.

        Raises:
            InputError: for a table that cannot be read, a column without an observed value, or an
                impossible parameter.
            DivergenceError: if the training is not finite.
        """
        del y
        schema = self.schema
        if isinstance(X, np.ndarray):
            if schema is not None:
                raise InputError("expected a frame with a schema, got an array: leave out schema")
            schema = Schema({name: Column() for name in _frame(X).columns})
        table = read_table(_frame(X), schema)
        if table.schema.variable:
            raise InputError(
                "expected a frame with a column per variable, got a long one: pivot it"
            )
        for name, count in table.account.missing.items():
            if count == table.account.cells:
                raise InputError(f"expected an observed value in column {name!r}, got none")
        if self.window < 2:
            raise InputError(f"expected window of at least 2 steps, got {self.window}")
        stride = training_stride(int(np.sum(table.lengths)), self.window, Files.train_windows)
        series = windows(table.series, self.window, stride, drop_empty=True).series
        model = (self.model or default_model)(table.schema.modalities)
        model = dataclasses.replace(model, inputs=table.schema.inputs)
        if isinstance(model, SelfFittingModel):
            self.fitted_ = fit(model, series)
        else:
            size = min(SETTINGS.batch_size, series.batch)
            settings = dataclasses.replace(SETTINGS, epochs=self.epochs, batch_size=size)
            self.fitted_ = fit(model, series, settings=settings, seed=self.seed)
        self.schema_ = table.schema
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        """The table with all missing values filled, of the same kind as X.

        Numbers are filled by the mean of the predictive distribution (by its median where the
        schema has a logarithm), categories by the most probable one. Integers become real numbers
        in columns that are filled. Columns that are not in `schema_` stay as they are.

        Args:
            X: a table with the columns of the one that was fitted.

        Raises:
            InputError: before `fit`, or for a table that does not fit `schema_`.
        """
        table, rows = self._predict(X, LEVELS)
        if isinstance(X, np.ndarray):
            missing = np.isnan(X) if X.dtype.kind == "f" else np.zeros(X.shape, bool)
            filled = rows.select(list(self.schema_.columns)).to_numpy()
            return np.where(missing, filled, X).astype(X.dtype if X.dtype.kind == "f" else float)
        filled = [rows[name] for name in self.schema_.columns if not _complete(table, name)]
        return _with_columns(X, filled)

    def fit_transform(self, X: Any, y: Any = None) -> Any:  # noqa: N803
        """`fit` and `transform` of the same table."""
        return self.fit(X, y).transform(X)

    def predict_interval(self, X: Any, level: float = LEVELS[0]) -> tuple[Any, Any]:  # noqa: N803
        """Lower and upper bounds of the central predictive intervals, each of the kind of X.

        They have the rows of X and its columns of real numbers. At an observed value they are those
        of the model's prediction, which has seen the value.

        Args:
            X: as for `transform`.
            level: the probability that a value lies within.

        Raises:
            InputError: as `transform` does, or for a level that is not between 0 and 1.
        """
        _, rows = self._predict(X, (level,))
        bounds = []
        for end in ("lower", "upper"):
            named = {name: f"{name}_{end}_{100 * level:g}" for name in self._numeric}
            frame = rows.select(pl.col(column).alias(name) for name, column in named.items())
            if isinstance(X, np.ndarray):
                bounds.append(frame.to_numpy())
            else:
                bounds.append(_with_columns(X[list(named)], frame.get_columns()))
        return tuple(bounds)

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """R squared of predictions of real numbers; 1 is perfect, 0 is as good as the fitted means.

        It is ``1 - sum (x - predicted)^2 / sum (x - mean)^2`` of the values after the transform of
        their columns, in units of sd.

        Args:
            X: as for `transform`.
            y: the same table with values that X lacks, which are predicted. Without it, a tenth of
                the observed values is hidden and predicted, the same ones every time.

        Raises:
            InputError: as `transform` does, or if there is no value to predict.
        """
        given, schema = self._numbers(X), self.schema_
        if y is None:
            truth = given
            hide = np.random.default_rng(self.seed).random(given.shape) < HIDDEN_SHARE
            shown = self._frame(X).with_columns(
                pl.when(~pl.Series(hide[:, place])).then(pl.col(name)).alias(name)
                for place, name in enumerate(self._numeric)
            )
        else:
            truth, shown, hide = self._numbers(y), X, np.isnan(given)
        if truth.shape != given.shape:
            raise InputError(f"expected y with as many rows as X ({len(given)}), got {len(truth)}")
        hide = hide & ~np.isnan(truth)
        if not hide.any():
            raise InputError("expected values to predict, got none: give y with values X lacks")
        _, rows = self._predict(shown, LEVELS)
        errors, distances = 0.0, 0.0
        for place, name in enumerate(self._numeric):
            column = schema.columns[name]
            mean, sd = column.scale
            own = hide[:, place]
            values, found = truth[own, place], rows[name + fill_suffix(column)].to_numpy()[own]
            values, found = column.forward(values), column.forward(found)
            errors += float(np.sum(((values - found) / sd) ** 2))
            distances += float(np.sum(((values - mean) / sd) ** 2))
        return 1 - errors / distances

    def _frame(self, X: Any) -> pl.DataFrame:  # noqa: N803
        """A frame with as many columns as the fitted one, if it is of an array."""
        if not hasattr(self, "schema_"):
            raise InputError("expected a fitted TableImputer, got a new one: call fit first")
        frame, count = _frame(X), len(self.schema_.columns)
        if isinstance(X, np.ndarray) and frame.width != count:
            raise InputError(f"expected an array of {count} columns, as in fit, got {frame.width}")
        return frame

    @property
    def _numeric(self) -> list[str]:
        """The columns of real numbers that are predicted."""
        return [name for name in self.schema_.scaled if name in self.schema_.targets]

    def _numbers(self, X: Any) -> np.ndarray:  # noqa: N803
        """The columns of real numbers, ``(row, column)`` float64, NaN where missing."""
        frame, schema = read_frame(self._frame(X), NAME, self.schema_), self.schema_
        if not self._numeric:
            raise InputError("expected columns of real numbers to score, got none")
        need_columns(frame, self._numeric, NAME)
        return np.stack([numbers(frame, name, schema, NAME) for name in self._numeric], -1)

    def _predict(self, X: Any, levels: tuple[float, ...]) -> tuple[Table, pl.DataFrame]:  # noqa: N803
        """The table, and its rows in the order of X, filled and with columns of predictions."""
        table = read_table(self._frame(X).with_row_index(ROW), self.schema_)
        table.check_output(levels)
        fitted: FittedModel = self.fitted_
        found = predicted_columns(
            fitted.model,
            fitted.variables,
            table,
            self.window,
            jax.random.key(self.seed),
            self.num_samples,
            fitted.calibration,
            levels,
        )
        rows = table.fill(found, levels)
        return table, rows.filter(pl.col(ROW).is_not_null()).sort(ROW)


def default_model(modalities: tuple[Modality, ...]) -> Model:
    """The model of a `TableImputer` unless it is given another one."""
    return SigmaPointSSM(modalities, latent=8, iterations=0)  # linear emissions need no iterations


def _frame(X: Any) -> pl.DataFrame:  # noqa: N803
    """A frame of an array or of a frame."""
    if isinstance(X, np.ndarray):
        if X.ndim != 2 or X.dtype.kind not in "fiub" or not X.size:
            raise InputError(
                f"expected an array of numbers (time, column), got shape {X.shape} of {X.dtype}"
            )
        return pl.DataFrame(X.astype(float), schema=[f"x{place}" for place in range(X.shape[1])])
    if isinstance(X, pl.DataFrame):
        return X
    if _is_pandas(X):
        for name in X.columns:
            if not isinstance(name, str):
                raise InputError(f"expected names of columns that are texts, got {name!r}")
        return read_frame(X, NAME)
    raise InputError(f"expected an array or a frame of polars or pandas, got {type(X).__name__}")


def _is_pandas(X: Any) -> bool:  # noqa: N803
    return type(X).__module__.split(".")[0] == "pandas" and hasattr(X, "columns")


def _complete(table: Table, name: str) -> bool:
    """Whether a column misses no value in the rows that were read."""
    own, schema = table.grid.frame[name], table.schema
    texts = own.dtype == pl.String and schema.columns[name].likelihood != "categorical"
    return not texts and known(own, schema).all()


def _with_columns(X: Any, columns: list[pl.Series]) -> Any:  # noqa: N803
    """A frame of polars or pandas with some of its columns replaced."""
    if isinstance(X, pl.DataFrame):
        return X.with_columns(columns)
    new = {}
    for column in columns:
        own = X[column.name]
        filled = type(own)(column.to_list(), index=own.index)
        whole = own.dtype.kind in "iu" and column.dtype.is_float()
        new[column.name] = filled if whole else filled.astype(own.dtype)
    return X.assign(**new)
