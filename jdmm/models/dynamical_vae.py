"""Models that are trained on the evidence lower bound of one pass through their posterior.

The family of dynamical variational autoencoders (Girin et al. 2021): structured inference networks,
VRNNs, and as a special case the VAE without transitions. `posterior_path` is all that tells them
apart; loss, predictions and samples follow from it.
"""

import abc
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
from flax.core import FrozenDict
from jax import numpy as jnp

from jdmm.data.modality import Modality
from jdmm.errors import InputError
from jdmm.inference import filtering
from jdmm.inference.posterior import States
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Raw
from jdmm.models import objectives
from jdmm.models.base import (
    Config,
    GradientModel,
    Variables,
    check_at_least,
    check_multipliers,
    check_whole,
    fields_of,
)
from jdmm.models.objectives import Loss
from jdmm.networks.images import BATCH
from jdmm.series import Series

LOSS_FIELDS = ("unimodal", "multipliers")
"""Fields of `DynamicalVAE` that the section `loss` of a configuration gives."""


def check_image(modality: Modality, model: str) -> None:
    """Refuses images whose networks these models do not have.

    Raises:
        InputError: naming the modality.
    """
    image = modality.image
    if image is not None and image.normalisation == BATCH:
        raise InputError(
            f"expected normalisation 'group' of the images in modality {modality.name!r} for "
            f"{model}, which keeps no running statistics, got 'batch'"
        )
    if image is not None and image.background:
        raise InputError(
            f"expected images without a background in modality {modality.name!r} for {model}, "
            "which does not use it"
        )


@dataclass(frozen=True)
class DynamicalVAE(GradientModel):
    """A model given by one pass through its posterior q(z_t | z_{t-1}, x), its prior beside it.

    Attributes:
        latent: D, dimensions of z.
        hidden: H, units of each hidden layer.
        unimodal: weight of the bounds of each modality by itself; 0 for the joint bound only.
        multipliers: modality -> lambda_m of its log-likelihood, 1 where not given.
    """

    latent: int = 5
    hidden: int = 20
    unimodal: float = 0.0
    multipliers: Mapping[str, float] = FrozenDict()

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        object.__setattr__(self, "multipliers", FrozenDict(self.multipliers))  # has a hash
        check_whole("model.latent", self.latent, 1)
        check_whole("model.hidden", self.hidden, 1)
        check_at_least("loss.unimodal", self.unimodal, 0)
        check_multipliers(self.multipliers, self.modalities)
        for modality in self.modalities:
            check_image(modality, type(self).__name__)

    @classmethod
    def from_config(cls, modalities: tuple[Modality, ...], config: Config) -> Self:
        """The model of the fields `model` and `loss` of a configuration.

        Raises:
            InputError: for an unknown field or an impossible value.
        """
        others = {own.name for own in dataclasses.fields(cls)} - set(LOSS_FIELDS)
        model = fields_of(cls, "model", config.model, omit=LOSS_FIELDS)
        loss = fields_of(cls, "loss", config.loss.to_dict(), omit=others)
        return cls(modalities, **model, **loss)

    @abc.abstractmethod
    def posterior_path(
        self, variables: Variables, series: Series, key: jax.Array | None, scale: Any = 1.0
    ) -> PosteriorPath:
        """One pass through the posterior; without `key` the states are its means.

        `posterior` and `prior` are of z, ``(batch, time, latent)``. The states begin with z and may
        hold more for the emissions. Where nothing is observed at or after a step, the posterior is
        the prior. The noise of sampled states is multiplied by `scale`; `self.noise` makes it.
        """

    def noise(self, series: Series, key: jax.Array | None, scale: Any = 1.0) -> jax.Array:
        """Standard normal ``(time, latent, batch)`` times `scale`; zeros without a key."""
        if key is None:
            return jnp.zeros((series.num_steps, self.latent, series.batch))
        drawn = filtering.particles(key, 1, series.index, series.num_steps, self.latent)
        return scale * drawn[:, :, 0]

    def loss(
        self,
        variables: Variables,
        series: Series,
        targets: Series,
        key: jax.Array,
        progress: jax.Array | float = 0.0,
        training: bool = False,
    ) -> Loss:
        """The evidence lower bounds of all modalities together and of each by itself."""
        del progress, training  # no batch normalisation: see __post_init__
        self.check(series)
        names = tuple(targets.values)
        views = objectives.views(names, self.unimodal)

        def path(observes: jax.Array) -> PosteriorPath:
            shown = series.hide(dict(zip(names, observes, strict=True)))
            return self.posterior_path(variables, shown, key)

        keep = jnp.array([[name in observed for name in names] for observed, _ in views])
        nll, divergence = objectives.evidence_lower_bound(
            lambda states, counted: self.decode(variables, states),
            self.likelihoods,
            targets,
            jax.vmap(path)(keep),
            views,
            self.multipliers,
        )
        return Loss({"smoother_nll": nll, "smoother_kl": divergence}, jnp.sum(targets.valid))

    def decode(self, variables: Variables, states: States) -> dict[str, Raw]:
        """`emissions`, also of ``modality -> states`` for those modalities only."""
        if not isinstance(states, Mapping):
            return self.emissions(variables, states)
        return {name: self.emissions(variables, own)[name] for name, own in states.items()}

    def posterior_mean(self, variables: Variables, series: Series, key: jax.Array) -> PosteriorPath:
        """The recursion of posterior means, ``(batch, time, ...)``."""
        del key
        self.check(series)
        return self.posterior_path(variables, series, None)

    def posterior_samples(
        self, variables: Variables, series: Series, key: jax.Array, count: int, scale: Any = 1.0
    ) -> PosteriorPath:
        """Sample paths of the posterior, ``(count, batch, time, ...)``."""
        self.check(series)
        return jax.vmap(lambda own: self.posterior_path(variables, series, own, scale))(
            jax.random.split(key, count)
        )

    def _prior_samples(
        self, variables: Variables, key: jax.Array, series: Series, reverse: bool
    ) -> jax.Array:
        """The posterior given nothing is the prior."""
        del reverse
        return self.posterior_path(variables, series, key).states
