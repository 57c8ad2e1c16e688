"""The protocol of models: what each must give, and what it may.

Every model is a frozen dataclass over `modalities`, without learned state. Its variables are a tree
of arrays that its methods take as their first argument.

- `Model`: posterior paths, emissions and samples from the prior. Prediction asks for these.
- `GradientModel`: adds `init` and `loss`, and is trained step by step.
- `SelfFittingModel`: adds `fit`, and trains itself.
- `ExactLikelihood`: a model that also knows log p(x).
- `Model.samples_backward`: whether `prior_samples` can start at the last step.
"""

import abc
import dataclasses
import numbers
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.data.modality import Modality, check_modalities, check_series
from jdmm.errors import InputError, UnsuitableDataError
from jdmm.fields import checked_fields
from jdmm.inference.quadrature import Quadrature
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Likelihood, Raw
from jdmm.models import grouping
from jdmm.models.objectives import Loss
from jdmm.series import Series

Variables = Any
"""A tree of arrays; of Flax models ``{"params": ...}``."""

Config = Any
"""A `ConfigDict`; type checkers cannot follow its attributes."""


def observed_log_prob(
    likelihoods: Mapping[str, Likelihood],
    raw: Mapping[str, Raw],
    series: Series,
    shape: tuple[int, ...],
) -> jax.Array:
    """The log-likelihood of what is observed of each series, in nats, of shape ``(..., batch)``.

    Args:
        likelihoods: modality -> likelihood, of those that count.
        raw: raw outputs ``(..., batch, time, feature)``.
        series: what is observed.
        shape: of the result.
    """
    total = jnp.zeros(shape)
    for name, likelihood in likelihoods.items():
        value, observed = (
            jnp.broadcast_to(tree[name], (*shape, *tree[name].shape[1:]))
            for tree in (series.values, series.observed)
        )
        scored = jnp.where(observed, likelihood.log_prob(raw[name], value), 0.0)
        total += jnp.sum(scored, (-2, -1))
    return total


@dataclass(frozen=True)
class Model(abc.ABC):
    """What prediction, calibration and scores ask of every model.

    Attributes:
        modalities: the observation sequences.
        inputs: number of inputs (`Series.inputs`) that the series have.
        takes_inputs: whether there may be any.

    Raises:
        InputError: for values that make no model.
    """

    modalities: tuple[Modality, ...]
    inputs: int = dataclasses.field(default=0, kw_only=True)
    samples_backward: ClassVar[bool] = False
    takes_inputs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Checks the values."""
        object.__setattr__(self, "modalities", tuple(self.modalities))
        check_modalities(self.modalities)
        check_whole("inputs", self.inputs, 0)
        if self.inputs and not self.takes_inputs:
            raise UnsuitableDataError(
                f"expected no inputs for {type(self).__name__}, which has no place for them, got "
                f"{self.inputs}: leave them out (of a table, its calendar and columns of inputs), "
                "or choose SigmaPointSSM or LinearGaussianSSM"
            )

    @classmethod
    def from_config(cls, modalities: tuple[Modality, ...], config: Config) -> Self:
        """The model of the field `model` of a configuration.

        Raises:
            InputError: for an unknown field or an impossible value.
        """
        return cls(modalities, **fields_of(cls, "model", config.model))

    @property
    def likelihoods(self) -> dict[str, Likelihood]:
        """Modality -> likelihood."""
        return {modality.name: modality.likelihood for modality in self.modalities}

    def check(self, series: Series) -> None:
        """Checks that the model can take these series.

        Raises:
            InputError: naming the modality that disagrees, or for another number of inputs.
        """
        check_series(self.modalities, series, self.inputs)

    @abc.abstractmethod
    def posterior_mean(self, variables: Variables, series: Series, key: jax.Array) -> PosteriorPath:
        """The path of posterior means, ``(batch, time, ...)``, which point predictions decode.

        Raises:
            InputError: for series that disagree with the modalities.
        """

    @abc.abstractmethod
    def posterior_samples(
        self, variables: Variables, series: Series, key: jax.Array, count: int, scale: Any = 1.0
    ) -> PosteriorPath:
        """Sample paths of the posterior, ``(count, batch, time, ...)``, their noise times `scale`.

        Raises:
            InputError: for series that disagree with the modalities.
        """

    def posterior_paths(
        self,
        variables: Variables,
        series: Series,
        keys: tuple[jax.Array, jax.Array],
        count: int,
        scale: Any = 1.0,
    ) -> tuple[PosteriorPath, PosteriorPath]:
        """`posterior_mean` with the first key and `posterior_samples` with the second.

        A model may override it to compute only once what both need.
        """
        mean = self.posterior_mean(variables, series, keys[0])
        return mean, self.posterior_samples(variables, series, keys[1], count, scale)

    @abc.abstractmethod
    def emissions(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality from the states of a path ``(..., state)``."""

    def emissions_of(
        self, variables: Variables, states: jax.Array, series: Series
    ) -> dict[str, Raw]:
        """`emissions` from states ``(..., batch, time, state)`` of a posterior given these series.

        A model overrides it if it also decodes what it takes from the series themselves.
        """
        del series
        return self.emissions(variables, states)

    def path_log_prob(
        self, variables: Variables, states: jax.Array, series: Series, raw: dict[str, Raw]
    ) -> jax.Array:
        """Log p(x | z_{1:T}) of what is observed, in nats, ``(..., batch)``.

        Args:
            variables: of the model.
            states: ``(..., batch, time, state)``.
            series: what is observed.
            raw: of `emissions_of`.
        """
        del variables
        return observed_log_prob(self.likelihoods, raw, series, states.shape[:-2])

    def prior_samples(
        self,
        variables: Variables,
        key: jax.Array,
        count: int,
        num_steps: int,
        reverse: bool = False,
        inputs: Any = None,
    ) -> jax.Array:
        """States ``(count, num_steps, ...)`` sampled from the prior.

        Args:
            variables: of the model.
            key: of all random numbers.
            count: number of paths.
            num_steps: their steps.
            reverse: whether sampling starts at the last step.
            inputs: ``(num_steps, input)``, those of all paths, if the model has any.

        Raises:
            InputError: for `reverse` where the model has no backward transition, a number below 1,
                or inputs of another shape.
        """
        check_whole("count", count, 1)
        check_whole("num_steps", num_steps, 1)
        shape = (num_steps, self.inputs) if self.inputs else None
        if (None if inputs is None else np.shape(inputs)) != shape:
            raise InputError(
                f"expected inputs {'None' if shape is None else f'of shape {shape}'} to sample "
                f"from, got {'None' if inputs is None else np.shape(inputs)}"
            )
        if reverse and not self.samples_backward:
            raise InputError(
                f"expected to sample forwards from {type(self).__name__}, got reverse: it has no "
                "backward transition"
            )
        series = unobserved_series(self.modalities, count, num_steps, self.inputs)
        if inputs is not None:
            series = series.replace(inputs=jnp.broadcast_to(inputs, series.inputs.shape))
        return self._prior_samples(variables, key, series, reverse)

    def _prior_samples(
        self, variables: Variables, key: jax.Array, series: Series, reverse: bool
    ) -> jax.Array:
        """States of series in which nothing is observed; by default posterior samples, forwards."""
        del reverse
        return self.posterior_samples(variables, series, key, 1).states[0]


class GradientModel(Model):
    """A model that is trained step by step.

    Attributes:
        networks_per_modality: the mappings modality -> network in the `setup` of its Flax module,
            whose parameters training may stack; see `jdmm.models.grouping`.
    """

    networks_per_modality: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables for series of this form."""

    @abc.abstractmethod
    def loss(
        self,
        variables: Variables,
        series: Series,
        targets: Series,
        key: jax.Array,
        progress: jax.Array | float = 0.0,
        training: bool = False,
    ) -> Loss:
        """Numerators and count of the loss of a batch, in nats.

        Args:
            variables: of the model.
            series: what is shown.
            targets: what is scored.
            key: of all random numbers.
            progress: fraction of the training done, 0 to 1.
            training: whether batch normalisation takes its statistics from the batch, and the loss
                returns the new running statistics. Models without it need no such argument.

        Raises:
            InputError: for series that disagree with the modalities.
        """

    @property
    def for_validation(self) -> Self:
        """The model that validates during training: this one, or a faster approximation of it."""
        return self

    def stack_parameters(self, variables: Variables, axis: int = 0) -> Variables:
        """The same variables in fewer, larger arrays, from which programs compile faster.

        The parameters of modalities of one form are stacked. All methods take both.

        Args:
            variables: of the model.
            axis: of the stacked parameters; axes in front of it belong to all variables.
        """
        groups = grouping.modality_groups(self.modalities)
        return grouping.stack_parameters(variables, groups, self.networks_per_modality, axis)

    def unstack_parameters(self, variables: Variables, axis: int = 0) -> Variables:
        """The inverse of `stack_parameters`."""
        groups = grouping.modality_groups(self.modalities)
        return grouping.unstack_parameters(variables, groups, self.networks_per_modality, axis)


class SelfFittingModel(Model):
    """A model that trains itself."""

    @abc.abstractmethod
    def fit(
        self, series: Series, on_iteration: Callable[[dict[str, float]], Any] | None = None
    ) -> Variables:
        """Fitted variables.

        Args:
            series: the training series.
            on_iteration: called after every iteration with its number and figures, for progress.

        Raises:
            InputError: for series that disagree with the modalities, or are too few.
        """


class ExactLikelihood(abc.ABC):
    """A model that knows its likelihood."""

    @abc.abstractmethod
    def log_likelihood(self, variables: Variables, series: Series) -> jax.Array:
        """Exact log p(x) of what is observed of each series in nats, ``(batch,)``."""


def unobserved_series(
    modalities: tuple[Modality, ...], count: int, num_steps: int, inputs: int = 0
) -> Series:
    """`count` series of `num_steps` steps in which nothing is observed; their inputs are 0."""
    shapes = {m.name: (count, num_steps, m.features) for m in modalities}
    return Series(
        values={name: jnp.zeros(shape) for name, shape in shapes.items()},
        observed={name: jnp.zeros(shape, bool) for name, shape in shapes.items()},
        lengths=jnp.full(count, num_steps, jnp.int32),
        index=jnp.arange(count, dtype=jnp.int32),
        inputs=jnp.zeros((count, num_steps, inputs)) if inputs else None,
    )


def fields_of(
    cls: type, section: str, given: Mapping[str, Any], omit: Collection[str] = ()
) -> dict[str, Any]:
    """The fields of a section of a configuration, checked against those of a dataclass.

    Args:
        cls: the dataclass.
        section: the name of the section, for messages.
        given: field -> value; "name" is left out.
        omit: further fields of the class that do not belong to the section.

    Raises:
        InputError: for a field that the class does not have, or one of another type.
    """
    fields = {name: value for name, value in given.items() if name != "name"}
    return checked_fields(cls, section, fields, omit=("modalities", "inputs", *omit))


QUADRATURE_FIELDS = {
    f"{prefix}{name}": kind
    for prefix in ("", "prediction_")
    for name, kind in (("rule", str), ("particles", int), ("order", int))
}
"""Of the section `inference`: the quadratures of training and of prediction."""


def quadratures_of(fields: Mapping[str, Any]) -> tuple[Quadrature, Quadrature]:
    """The quadratures of training and of prediction, from `QUADRATURE_FIELDS`."""
    training, prediction = (
        Quadrature(*(fields[f"{prefix}{name}"] for name in ("rule", "particles", "order")))
        for prefix in ("", "prediction_")
    )
    return training, prediction


def check_multipliers(multipliers: Mapping[str, float], modalities: tuple[Modality, ...]) -> None:
    """Checks the multipliers of log-likelihoods.

    Raises:
        InputError: for an unknown modality, or a negative number.
    """
    names = [modality.name for modality in modalities]
    for name, value in multipliers.items():
        if name not in names:
            raise InputError(f"expected loss.multipliers among {names}, got {name!r}")
        check_at_least(f"loss.multipliers.{name}", value, 0)


def check_at_least(name: str, value: float, least: float) -> None:
    """Refuses a number below `least`, an infinity or NaN.

    Raises:
        InputError: naming the field.
    """
    if not least <= value < float("inf"):
        raise InputError(f"expected {name} to be finite and at least {least}, got {value}")


def check_whole(name: str, value: int, least: int) -> None:
    """Refuses what is not a whole number, or is below `least`.

    Raises:
        InputError: naming the field.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"expected {name} to be a whole number of at least {least}, got {value!r}")
