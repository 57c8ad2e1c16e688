"""The multimodal variational autoencoder, which has no transitions.

Wu & Goodman, *Multimodal Generative Models for Scalable Weakly-Supervised Learning*, NeurIPS 2018:
the posterior of each step is the product of the prior N(0, 1) and one expert per observed modality.
"""

from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.data.modality import Modality
from jdmm.inference import gaussian
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Raw
from jdmm.models.base import Variables
from jdmm.models.dynamical_vae import DynamicalVAE
from jdmm.models.emission import bind, evidence_of, make_decoder, make_encoder
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

    def encode(self, series: Series) -> Gaussian:
        """The product of the experts, (0, 0) where nothing is observed."""
        return gaussian.product(*evidence_of(self.encoders, series).values())

    def decode(self, states: jax.Array) -> dict[str, Raw]:
        """Raw outputs of every modality's likelihood."""
        return {name: decoder(states) for name, decoder in self.decoders.items()}

    def __call__(self, series: Series) -> None:
        """Uses every parameter once, for `init`."""
        self.decode(self.encode(series).weighted_mean)


@dataclass(frozen=True)
class MVAE(DynamicalVAE):
    """A product of experts per step."""

    unimodal: float = 1.0

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
        """Fresh variables for series of this form."""
        self.check(series)
        return self.networks.init(key, series)

    def emissions(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality from states ``(..., latent)``."""
        return bind(self.networks, variables)(Networks.decode)(states)

    def posterior_path(
        self, variables: Variables, series: Series, key: jax.Array | None, scale: Any = 1.0
    ) -> PosteriorPath:
        """All steps at once; without `key` the states are posterior means."""
        evidence = bind(self.networks, variables)(Networks.encode)(series)
        prior = Moments(jnp.zeros_like(evidence.precision), jnp.ones_like(evidence.precision))
        posterior = gaussian.moments(gaussian.product(gaussian.natural(prior), evidence))
        noise = jnp.moveaxis(self.noise(series, key, scale), -1, 0)
        return PosteriorPath(prior, posterior, gaussian.sample(posterior, noise))
