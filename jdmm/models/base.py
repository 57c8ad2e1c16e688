"""What a latent sequence model offers, and how most of it follows from one method.

Training, prediction, importance sampling and the program ask every model for `init`, `loss`,
`infer`, `draw`, `decode`, `sample` and `likelihoods`. A `ChainModel` gets all but `init` and
`decode` from its `chain`: one pass through the posterior q(z_t | z_{t-1}, x), with the prior
p(z_t | z_{t-1}) beside it.
"""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.errors import InputError
from jdmm.inference import filtering, gaussian
from jdmm.inference.gaussian import Gaussian
from jdmm.inference.smoothing import SmoothedPosterior
from jdmm.likelihoods import Categorical, Likelihood, Normal, Raw
from jdmm.models import objectives
from jdmm.models.objectives import Loss
from jdmm.networks import LabelEncoder, MLPDecoder, MLPEncoder
from jdmm.series import Series

Variables = Any
"""Flax variables, ``{"params": ...}``."""

Config = Any
"""A `ConfigDict`; type checkers cannot follow its attributes."""


@dataclass(frozen=True)
class Modality:
    """One observation sequence x^m of the model.

    Attributes:
        name: its key in `Series`.
        features: how many features it has.
        likelihood: p(x | z) given the decoder's outputs.
        encoder: a Flax module ``(values, observed) -> Moments (..., latent)``; by default the MLP,
            or the embedding for categories.
        decoder: a Flax module ``(..., latent) -> raw outputs`` of the likelihood; by default the
            MLP.
    """

    name: str
    features: int = 1
    likelihood: Likelihood = Normal()
    encoder: nn.Module | None = None
    decoder: nn.Module | None = None


def encoder_of(modality: Modality, latent: int, hidden: int) -> nn.Module:
    """Its own encoder, or the default one of its likelihood."""
    if modality.encoder is not None:
        return modality.encoder
    if isinstance(modality.likelihood, Categorical):
        return LabelEncoder(modality.likelihood.classes, latent, hidden)
    return MLPEncoder(latent, hidden)


def decoder_of(modality: Modality, hidden: int) -> nn.Module:
    """Its own decoder, or the default one."""
    return modality.decoder or MLPDecoder(modality.features, modality.likelihood, hidden)


def features_of(modality: Modality, values: jax.Array, observed: jax.Array) -> jax.Array:
    """What a plain layer is shown of ``(..., feature)``: numbers, or categories one by one.

    With more than one feature the mask as well, since a 0 may be a value or a gap.
    """
    if isinstance(modality.likelihood, Categorical):
        onehot = jax.nn.one_hot(values.astype(jnp.int32), modality.likelihood.classes)
        values = jnp.where(observed[..., None], onehot, 0.0).reshape(*values.shape[:-1], -1)
    if observed.shape[-1] > 1:
        values = jnp.concatenate([values, observed.astype(values.dtype)], -1)
    return values


def bound(networks: nn.Module, variables: Variables) -> Callable[..., Callable[..., Any]]:
    """The module's methods as pure functions: ``bound(networks, variables)(Networks.decode)``."""
    return lambda method: lambda *inputs: networks.apply(variables, *inputs, method=method)


def evidence_of(encoders: Mapping[str, nn.Module], series: Series) -> dict[str, Gaussian]:
    """Each modality's evidence p(z | x) / p(z), (0, 0) where all its features are missing."""
    return {
        name: gaussian.mask(
            gaussian.natural(encoder(series.values[name], series.observed[name])),
            jnp.any(series.observed[name], -1, keepdims=True),
        )
        for name, encoder in encoders.items()
    }


@dataclass(frozen=True)
class Multimodal:
    """What has modalities.

    Attributes:
        modalities: the observation sequences.
    """

    modalities: tuple[Modality, ...]

    @property
    def likelihoods(self) -> dict[str, Likelihood]:
        """Modality -> likelihood."""
        return {m.name: m.likelihood for m in self.modalities}


@dataclass(frozen=True)
class ChainModel(Multimodal, abc.ABC):
    """A model that is trained on the evidence lower bound of one pass through its posterior.

    Attributes:
        latent: D, dimensions of z.
        hidden: H, units of each hidden layer.
        alone: weight of the bounds of each modality seen alone; 0 for that of all together only.
        multipliers: modality -> lambda_m of its log-likelihood, 1 where not given.
    """

    latent: int = 5
    hidden: int = 20
    alone: float = 0.0
    multipliers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        at_least("model.latent", self.latent, 1)
        at_least("model.hidden", self.hidden, 1)
        at_least("loss.alone", self.alone, 0)

    @classmethod
    def from_config(cls, modalities: tuple[Modality, ...], config: Config) -> Self:
        """The model of the fields `model` and `loss` of a configuration.

        Raises:
            InputError: for an impossible value.
        """
        fields = {name: value for name, value in config.model.items() if name != "name"}
        return cls(modalities, **fields, **loss_fields(config, modalities))

    @abc.abstractmethod
    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables for series of this form."""

    @abc.abstractmethod
    def decode(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality from the states of a chain."""

    @abc.abstractmethod
    def chain(
        self, variables: Variables, series: Series, key: jax.Array | None, scale: Any = 1.0
    ) -> SmoothedPosterior:
        """Posterior, prior and states of one pass; the states are drawn, or means without `key`.

        The noise of the drawn states is multiplied by `scale`; `self.noise` makes it.

        `posterior` and `prior` are of z, ``(batch, time, latent)``; `states` begin with z and may
        hold more for the decoder. Where nothing is observed at or after a step, the posterior is
        the prior.
        """

    def noise(self, series: Series, key: jax.Array | None, scale: Any = 1.0) -> jax.Array:
        """Normal numbers ``(time, latent, batch)`` for the states of a chain; 0 without a key."""
        if key is None:
            return jnp.zeros((series.time, self.latent, series.batch))
        return scale * filtering.particles(key, 1, series.index, series.time, self.latent)[:, :, 0]

    @property
    def quick(self) -> Self:
        """The model for validation during training: here the same."""
        return self

    def loss(
        self,
        variables: Variables,
        series: Series,
        targets: Series,
        key: jax.Array,
        progress: jax.Array | float = 0.0,
    ) -> Loss:
        """The evidence lower bounds of what `series` shows and of each modality of it alone."""
        del progress
        names = tuple(targets.values)
        views = objectives.views(names, self.alone)

        def follow(seen: jax.Array) -> SmoothedPosterior:
            shown = series.hide(dict(zip(names, seen, strict=True)))
            return self.chain(variables, shown, key)

        keep = jnp.array([[name in seen for name in names] for seen, _ in views])
        nll, divergence = objectives.evidence_bound(
            lambda name, states: self.decode(variables, states)[name],
            self.likelihoods,
            targets,
            jax.vmap(follow)(keep),
            views,
            self.multipliers,
        )
        return Loss({"smoother_nll": nll, "smoother_kl": divergence}, jnp.sum(targets.valid))

    def infer(self, variables: Variables, series: Series, key: jax.Array) -> SmoothedPosterior:
        """The recursion of posterior means, ``(batch, time, ...)``."""
        del key
        return self.chain(variables, series, None)

    def draw(
        self, variables: Variables, series: Series, key: jax.Array, count: int, scale: Any = 1.0
    ) -> SmoothedPosterior:
        """Draws from the posterior, ``(count, batch, time, ...)``, their noise times `scale`."""
        return jax.vmap(lambda own: self.chain(variables, series, own, scale))(
            jax.random.split(key, count)
        )

    def sample(
        self, variables: Variables, key: jax.Array, count: int, time: int, reverse: bool = False
    ) -> jax.Array:
        """States ``(count, time, ...)`` from the prior: the posterior of nothing.

        Raises:
            InputError: for `reverse`, which needs a model with a backward transition.
        """
        if reverse:
            raise InputError(
                f"expected to sample forwards from {type(self).__name__}, got reverse: "
                "it has no backward transition"
            )
        return self.chain(variables, nothing(self.modalities, count, time), key).states


def nothing(modalities: tuple[Modality, ...], count: int, time: int) -> Series:
    """Series of which nothing is observed."""
    shapes = {m.name: (count, time, m.features) for m in modalities}
    return Series(
        values={name: jnp.zeros(shape) for name, shape in shapes.items()},
        observed={name: jnp.zeros(shape, bool) for name, shape in shapes.items()},
        lengths=jnp.full(count, time, jnp.int32),
        index=jnp.arange(count, dtype=jnp.int32),
    )


def loss_fields(config: Config, modalities: tuple[Modality, ...]) -> dict[str, Any]:
    """The fields `loss` of a configuration, with `modality` as `multipliers`.

    Raises:
        InputError: for an unknown modality, or a negative multiplier.
    """
    fields = config.loss.to_dict()
    multipliers = fields.pop("modality")
    names = {modality.name for modality in modalities}
    if unknown := sorted(set(multipliers) - names):
        raise InputError(f"expected loss.modality among {sorted(names)}, got {unknown[0]!r}")
    for name, value in multipliers.items():
        at_least(f"loss.modality.{name}", value, 0)
    return {**fields, "multipliers": multipliers}


def at_least(name: str, value: float, least: float) -> None:
    """Refuses a number below `least`, an infinity or NaN.

    Raises:
        InputError: naming the field.
    """
    if not least <= value < float("inf"):
        raise InputError(f"expected {name} to be finite and at least {least}, got {value}")
