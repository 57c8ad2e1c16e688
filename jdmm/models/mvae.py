"""The multimodal variational autoencoder, which treats every step as if it were alone.

Wu & Goodman, *Multimodal Generative Models for Scalable Weakly-Supervised Learning*, NeurIPS 2018:
the posterior is the product of the prior N(0, 1) and one expert per modality that is observed.
"""

from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.inference import gaussian
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.smoothing import SmoothedPosterior
from jdmm.likelihoods import Raw
from jdmm.models.base import (
    ChainModel,
    Modality,
    Variables,
    bound,
    decoder_of,
    encoder_of,
    evidence_of,
)
from jdmm.series import Series


class Networks(nn.Module):
    """An encoder and a decoder per modality."""

    modalities: tuple[Modality, ...]
    latent: int
    hidden: int

    def setup(self) -> None:
        """Makes the submodules."""
        self.encoders = {m.name: encoder_of(m, self.latent, self.hidden) for m in self.modalities}
        self.decoders = {m.name: decoder_of(m, self.hidden) for m in self.modalities}

    def encode(self, series: Series) -> Gaussian:
        """The product of the experts, (0, 0) where nothing is observed."""
        return gaussian.product(*evidence_of(self.encoders, series).values())

    def decode(self, states: jax.Array) -> dict[str, Raw]:
        """Raw outputs of every modality's likelihood."""
        return {name: decoder(states) for name, decoder in self.decoders.items()}

    def __call__(self, series: Series) -> None:
        """Touches every parameter once, for `init`."""
        self.decode(self.encode(series).shift)


@dataclass(frozen=True)
class MVAE(ChainModel):
    """A product of experts per step, no transitions."""

    alone: float = 1.0

    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables for series of this form."""
        return self._networks.init(key, series)

    def decode(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality from states ``(..., latent)``."""
        return bound(self._networks, variables)(Networks.decode)(states)

    def chain(
        self, variables: Variables, series: Series, key: jax.Array | None, scale: Any = 1.0
    ) -> SmoothedPosterior:
        """All steps at once."""
        evidence = bound(self._networks, variables)(Networks.encode)(series)
        prior = Moments(jnp.zeros_like(evidence.shift), jnp.ones_like(evidence.shift))
        posterior = gaussian.moments(gaussian.product(gaussian.natural(prior), evidence))
        noise = jnp.moveaxis(self.noise(series, key, scale), -1, 0)
        return SmoothedPosterior(prior, posterior, gaussian.sample(posterior, noise))

    @property
    def _networks(self) -> Networks:
        return Networks(self.modalities, self.latent, self.hidden)
