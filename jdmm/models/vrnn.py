"""The variational recurrent network for several, incomplete modalities.

Chung et al., *A Recurrent Latent Variable Model for Sequential Data*, NeurIPS 2015. The recurrent
state h_{t-1} gives the prior of z_t, both give x_t, and all three give the next recurrent state.
The posterior is the product of the prior and one expert per observed modality. A missing value is
sampled from the model itself (or its mean, on a path of means) and fed back like the others.

With `components` above 1 the emissions are mixtures of normals. With `latent` 0 only the recurrent
network is left: the RNN-GMM.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
from flax import linen as nn
from flax.core import FrozenDict
from jax import numpy as jnp

from jdmm.data.modality import Modality, by_name
from jdmm.inference import gaussian
from jdmm.inference.gaussian import Moments
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Normal, NormalMixture, Raw
from jdmm.models.base import GradientModel, Variables, check_at_least, check_multipliers
from jdmm.models.dynamical_vae import DynamicalVAE
from jdmm.models.emission import make_decoder, masked_values, network_inputs, refuse_encoders
from jdmm.networks import MLPEncoder
from jdmm.series import Series


class Networks(nn.Module):
    """Everything learned; arrays are ``(batch, feature)``."""

    modalities: tuple[Modality, ...]
    latent: int
    hidden: int

    def setup(self) -> None:
        """Makes the submodules."""
        self.prior = MLPEncoder(self.latent, self.hidden)
        self.extractors = {m.name: nn.Dense(self.hidden) for m in self.modalities}
        self.encoders = {m.name: MLPEncoder(self.latent, self.hidden) for m in self.modalities}
        self.decoders = {m.name: make_decoder(m, self.hidden) for m in self.modalities}
        self.recurrent = nn.GRUCell(self.hidden)

    def decode(self, states: jax.Array) -> dict[str, Raw]:
        """Raw outputs of every modality's likelihood from z_t and h_{t-1}, concatenated."""
        return {name: decoder(states) for name, decoder in self.decoders.items()}

    def step(
        self,
        memory: jax.Array,
        values: dict[str, jax.Array],
        observed: dict[str, jax.Array],
        noise: jax.Array,
        keys: jax.Array | None,
    ) -> tuple[jax.Array, PosteriorPath]:
        """h_{t-1} -> h_t; values, masks and noise are those of step t."""
        prior, posterior = self._posterior(memory, values, observed)
        state = gaussian.sample(posterior, noise)
        both = jnp.concatenate([state, memory], -1)
        raws = self.decode(both)
        completed = {}
        for number, m in enumerate(self.modalities):
            raw = raws[m.name]
            own = m.likelihood.mean(raw)
            if keys is not None:
                own = jax.vmap(
                    lambda raw, key, m=m, number=number: m.likelihood.sample(
                        raw, jax.random.fold_in(key, number)
                    )
                )(raw, keys)
            completed[m.name] = jnp.where(observed[m.name], values[m.name], own)
        features = [self._extract(m, completed, observed) for m in self.modalities]
        following, _ = self.recurrent(memory, jnp.concatenate([*features, state], -1))
        return following, PosteriorPath(prior, posterior, both)

    def _posterior(
        self, memory: jax.Array, values: dict[str, jax.Array], observed: dict[str, jax.Array]
    ) -> tuple[Moments, Moments]:
        """p(z_t | h_{t-1}) and q(z_t | x_t, h_{t-1})."""
        if not self.latent:
            empty = Moments(*(jnp.zeros((len(memory), 0)) for _ in range(2)))
            return empty, empty
        prior = self.prior(memory)
        experts = []
        for m in self.modalities:
            inputs = jnp.concatenate([self._extract(m, values, observed), memory], -1)
            expert = gaussian.natural(self.encoders[m.name](inputs))
            present = jnp.any(observed[m.name], -1, keepdims=True)
            experts.append(gaussian.mask(expert, present))
        return prior, gaussian.moments(gaussian.product(gaussian.natural(prior), *experts))

    def _extract(
        self, modality: Modality, values: dict[str, jax.Array], observed: dict[str, jax.Array]
    ) -> jax.Array:
        inputs = network_inputs(modality, values[modality.name], observed[modality.name])
        return nn.relu(self.extractors[modality.name](inputs))


@dataclass(frozen=True)
class VRNN(DynamicalVAE):
    """A variational recurrent network; with `latent` 0 a recurrent one.

    Attributes:
        components: normals in the mixture of each Normal modality; 1 leaves it as it is.
    """

    components: int = 1

    def __post_init__(self) -> None:
        """Checks the values and makes the mixtures."""
        GradientModel.__post_init__(self)  # latent 0 is allowed here
        object.__setattr__(self, "multipliers", FrozenDict(self.multipliers))
        check_at_least("model.latent", self.latent, 0)
        check_at_least("model.hidden", self.hidden, 1)
        check_at_least("model.components", self.components, 1)
        check_at_least("loss.unimodal", self.unimodal, 0)
        check_multipliers(self.multipliers, self.modalities)
        refuse_encoders(self.modalities, "a VRNN")
        mixed = tuple(
            replace(m, likelihood=NormalMixture(self.components))
            if self.components > 1 and isinstance(m.likelihood, Normal)
            else m
            for m in self.modalities
        )
        object.__setattr__(self, "modalities", mixed)

    @property
    def networks(self) -> Networks:
        """The Flax module; its layers take the modalities ordered by name, as series hold them."""
        return Networks(by_name(self.modalities), self.latent, self.hidden)

    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables for series of this form."""
        self.check(series)
        step = {name: value[:, 0] for name, value in series.values.items()}
        observed = {name: mask[:, 0] for name, mask in series.observed.items()}
        memory = jnp.zeros((series.batch, self.hidden))
        noise = jnp.zeros((series.batch, self.latent))
        return self.networks.init(key, memory, step, observed, noise, None, method=Networks.step)

    def emissions(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality from ``(..., latent + hidden)``."""
        return self.networks.apply(variables, states, method=Networks.decode)  # type: ignore[return-value]

    def posterior_path(
        self, variables: Variables, series: Series, key: jax.Array | None, scale: Any = 1.0
    ) -> PosteriorPath:
        """One pass forwards; the states are z_t and h_{t-1}, concatenated."""
        noise_key = keys = None
        if key is not None:
            noise_key, feed_key = jax.random.split(key)
            own = jax.vmap(lambda index: jax.random.fold_in(feed_key, index))(series.index)
            steps = jnp.arange(series.num_steps)
            keys = jax.vmap(lambda step: jax.vmap(lambda key: jax.random.fold_in(key, step))(own))(
                steps
            )

        def _step(memory, inputs):
            """h_{t-1} -> h_t."""
            return self.networks.apply(variables, memory, *inputs, method=Networks.step)

        inputs = jax.tree.map(
            lambda leaf: jnp.swapaxes(leaf, 0, 1), (masked_values(series), series.observed)
        )
        noise = jnp.swapaxes(self.noise(series, noise_key, scale), 1, 2)
        _, path = jax.lax.scan(
            _step, jnp.zeros((series.batch, self.hidden)), (*inputs, noise, keys)
        )
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), path)
