"""The multimodal variational autoencoder, which has no transitions.

Wu & Goodman, *Multimodal Generative Models for Scalable Weakly-Supervised Learning*, NeurIPS 2018:
the posterior of each step is the product of the prior N(0, 1) and one expert per observed modality.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.data.modality import Modality
from jdmm.inference import gaussian
from jdmm.inference.gaussian import Moments
from jdmm.inference.posterior import States
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Raw
from jdmm.models.base import Variables
from jdmm.models.dynamical_vae import DynamicalVAE
from jdmm.models.emission import (
    evidence_of,
    init_decoders,
    init_encoders,
    make_decoder,
    make_encoder,
    raw_outputs,
)
from jdmm.models.grouping import NetworkGroups, modality_groups
from jdmm.series import Series


class Networks(nn.Module):
    """An encoder and a decoder per modality."""

    modalities: tuple[Modality, ...]
    latent: int
    hidden: int

    def setup(self) -> None:
        """Makes the submodules."""
        self.encoders = {m.name: make_encoder(m, self.latent, self.hidden) for m in self.modalities}
        self.decoders = {m.name: make_decoder(m, self.hidden) for m in self.modalities}

    def __call__(self, series: Series) -> None:
        """Uses every parameter once, for `init`."""
        init_encoders(self.modalities, self.encoders, series, self.latent)
        init_decoders(self.modalities, self.decoders, self.latent)


@dataclass(frozen=True)
class MVAE(DynamicalVAE):
    """A product of experts per step."""

    unimodal: float = 1.0
    networks_per_modality: ClassVar[tuple[str, ...]] = ("encoders", "decoders")

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        for modality in self.modalities:
            make_encoder(modality, self.latent, self.hidden)

    @property
    def networks(self) -> Networks:
        """The Flax module."""
        return Networks(self.modalities, self.latent, self.hidden)

    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables for series of this form.

        Raises:
            InputError: for series that disagree with the modalities, or a network whose outputs do
                not fit.
        """
        self.check(series)
        return self.networks.init(key, series)

    def emissions(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality from states ``(..., latent)``."""
        return self.decode(variables, states)

    def decode(self, variables: Variables, states: States) -> dict[str, Raw]:
        """`emissions`, also of ``modality -> states`` for those modalities only."""
        decoders = self.networks.bind(variables).decoders
        return raw_outputs(NetworkGroups(decoders, modality_groups(self.modalities)), states)

    def posterior_path(
        self, variables: Variables, series: Series, key: jax.Array | None, scale: Any = 1.0
    ) -> PosteriorPath:
        """All steps at once; without `key` the states are posterior means."""
        encoders = self.networks.bind(variables).encoders
        groups = NetworkGroups(encoders, modality_groups(self.modalities))
        evidence = gaussian.product(*evidence_of(groups, series).values())
        prior = Moments(jnp.zeros_like(evidence.precision), jnp.ones_like(evidence.precision))
        posterior = gaussian.moments(gaussian.product(gaussian.natural(prior), evidence))
        noise = jnp.moveaxis(self.noise(series, key, scale), -1, 0)
        return PosteriorPath(prior, posterior, gaussian.sample(posterior, noise))
