"""The variational recurrent network for several, incomplete modalities.

Chung et al., *A Recurrent Latent Variable Model for Sequential Data*, NeurIPS 2015. The recurrent
state h_{t-1} gives the prior of z_t, both give x_t, and all three give the next recurrent state.
The posterior is the product of the prior and one expert per observed modality. A missing value is
sampled from the model itself (or its mean, on a path of means) and fed back like the others.

With `components` above 1 the emissions are mixtures of normals. With `latent` 0 only the recurrent
network is left: the RNN-GMM.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
from flax import linen as nn
from flax.core import FrozenDict
from jax import numpy as jnp

from jdmm.data.modality import Modality, by_name
from jdmm.errors import InputError
from jdmm.inference import gaussian
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.posterior import States
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Likelihood, Normal, NormalMixture, Raw
from jdmm.models.base import (
    GradientModel,
    Variables,
    check_at_least,
    check_multipliers,
    check_whole,
)
from jdmm.models.dynamical_vae import DynamicalVAE
from jdmm.models.emission import (
    bind,
    init_decoders,
    make_decoder,
    masked_values,
    network_inputs,
    raw_outputs,
    refuse_encoders,
)
from jdmm.models.grouping import NetworkGroups, map_groups, modality_groups
from jdmm.networks import MLPEncoder
from jdmm.series import Series

Arrays = dict[str, Any]
"""Modality -> array."""


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

    def prior_moments(self, memory: jax.Array) -> Moments:
        """p(z_t | h_{t-1})."""
        return self.prior(memory)

    def advance(self, memory: jax.Array, inputs: jax.Array) -> jax.Array:
        """h_t from h_{t-1} and the features of x_t and z_t."""
        return self.recurrent(memory, inputs)[0]

    def __call__(self) -> None:
        """Uses every parameter once, for `init`."""
        memory, state = jnp.zeros((1, self.hidden)), jnp.zeros((1, self.latent))
        features = []
        for modality in self.modalities:
            values = jnp.zeros((1, modality.features))
            inputs = network_inputs(modality, values, values > 0)
            features.append(self.extractors[modality.name](inputs))
            if self.latent:
                self.encoders[modality.name](jnp.concatenate([features[-1], memory], -1))
        if self.latent:
            self.prior_moments(memory)
        init_decoders(self.modalities, self.decoders, self.latent + self.hidden)
        self.advance(memory, jnp.concatenate([*features, state], -1))


@dataclass(frozen=True)
class VRNN(DynamicalVAE):
    """A variational recurrent network; with `latent` 0 a recurrent one.

    Attributes:
        components: normals in the mixture of each Normal modality whose sd is not fixed; 1 leaves
            it as it is.
    """

    components: int = 1
    networks_per_modality: ClassVar[tuple[str, ...]] = ("extractors", "encoders", "decoders")

    def __post_init__(self) -> None:
        """Checks the values and makes the mixtures."""
        GradientModel.__post_init__(self)  # latent 0 is allowed here
        object.__setattr__(self, "multipliers", FrozenDict(self.multipliers))
        check_whole("model.latent", self.latent, 0)
        check_whole("model.hidden", self.hidden, 1)
        check_whole("model.components", self.components, 1)
        check_at_least("loss.unimodal", self.unimodal, 0)
        check_multipliers(self.multipliers, self.modalities)
        refuse_encoders(self.modalities, "a VRNN")
        for modality in self.modalities:
            if modality.image is not None:
                raise InputError(
                    f"expected modality {modality.name!r} without an image for a VRNN, which has "
                    "no convolutions: give its features and a decoder instead"
                )
        real = (Normal(), NormalMixture(self.components))  # the latter where a model is copied
        if self.components > 1 and not any(m.likelihood in real for m in self.modalities):
            raise InputError(
                "expected model.components of 1 without a Normal modality of predicted sd, got "
                f"{self.components}"
            )
        mixed = tuple(
            replace(m, likelihood=NormalMixture(self.components))
            if self.components > 1 and m.likelihood == Normal()
            else m
            for m in self.modalities
        )
        object.__setattr__(self, "modalities", mixed)

    @property
    def networks(self) -> Networks:
        """The Flax module; its layers take the modalities ordered by name, as series hold them."""
        return Networks(by_name(self.modalities), self.latent, self.hidden)

    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables.

        Raises:
            InputError: for series that disagree with the modalities, or a decoder that does not fit
                its likelihood.
        """
        self.check(series)
        return self.networks.init(key)

    def emissions(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality from states ``(..., latent + hidden)``."""
        return self.decode(variables, states)

    def decode(self, variables: Variables, states: States) -> dict[str, Raw]:
        """`emissions`, also of ``modality -> states`` for those modalities only."""
        decoders = self.networks.bind(variables).decoders
        return raw_outputs(NetworkGroups(decoders, modality_groups(self.modalities)), states)

    def posterior_path(
        self, variables: Variables, series: Series, key: jax.Array | None, scale: Any = 1.0
    ) -> PosteriorPath:
        """One pass forwards; the states are z_t and h_{t-1}, concatenated."""
        noise_key = keys = None
        if key is not None:
            noise_key, sample_key = jax.random.split(key)
            keys = _step_keys(sample_key, series)
        noise = jnp.swapaxes(self.noise(series, noise_key, scale), 1, 2)
        values, observed = jax.tree.map(
            lambda leaf: jnp.swapaxes(leaf, 0, 1), (masked_values(series), series.observed)
        )
        start = jnp.zeros((series.batch, self.hidden))
        _, path = jax.lax.scan(Cell(self, variables).step, start, (values, observed, noise, keys))
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), path)


class Cell:
    """One step of a VRNN, its variables bound."""

    def __init__(self, model: VRNN, variables: Variables) -> None:
        """Binds the variables."""
        bound, method = model.networks.bind(variables), bind(model.networks, variables)
        self.model = model
        self.modalities = by_name(model.modalities)
        self.prior, self.advance = method(Networks.prior_moments), method(Networks.advance)
        groups = modality_groups(model.modalities)
        self.extractors, self.encoders, self.decoders = (
            NetworkGroups(networks, groups)
            for networks in (bound.extractors, bound.encoders, bound.decoders)
        )

    def step(self, memory: jax.Array, inputs: Any) -> tuple[jax.Array, PosteriorPath]:
        """h_{t-1} -> h_t, from values, masks, noise and keys of step t."""
        values, observed, noise, keys = inputs
        prior, posterior = self.infer(memory, values, observed)
        state = gaussian.sample(posterior, noise)
        both = jnp.concatenate([state, memory], -1)
        features = self.extract(self.complete(both, values, observed, keys), observed)
        known = [*(features[modality.name] for modality in self.modalities), state]
        following = self.advance(memory, jnp.concatenate(known, -1))
        return following, PosteriorPath(prior, posterior, both)

    def extract(self, values: Arrays, observed: Arrays) -> Arrays:
        """Features ``(batch, hidden)`` of each modality."""
        inputs = {
            m.name: network_inputs(m, values[m.name], observed[m.name]) for m in self.modalities
        }
        return self.extractors.map(lambda layer, own: nn.relu(layer(own)), inputs)

    def infer(self, memory: jax.Array, values: Arrays, observed: Arrays) -> tuple[Moments, Moments]:
        """p(z_t | h_{t-1}) and q(z_t | x_t, h_{t-1})."""
        if not self.model.latent:
            empty = Moments(*(jnp.zeros((len(memory), 0)) for _ in range(2)))
            return empty, empty

        def expert(encoder: Any, features: jax.Array, own: jax.Array) -> Gaussian:
            given = gaussian.natural(encoder(jnp.concatenate([features, memory], -1)))
            return gaussian.mask(given, jnp.any(own, -1, keepdims=True))

        prior = self.prior(memory)
        experts = self.encoders.map(expert, self.extract(values, observed), observed)
        product = gaussian.product(gaussian.natural(prior), *experts.values())
        return prior, gaussian.moments(product)

    def complete(
        self, states: jax.Array, values: Arrays, observed: Arrays, keys: jax.Array | None
    ) -> Arrays:
        """x_t of each modality; missing values are samples, or expected values without keys."""

        def fill(likelihood: Likelihood, raw: Raw, own: Any, seen: Any, row: Any) -> jax.Array:
            missing = likelihood.mean(raw)
            if keys is not None:
                each = jax.vmap(lambda key: jax.random.fold_in(key, row))(keys)
                missing = jax.vmap(likelihood.sample)(raw, each)
            return jnp.where(seen, own, missing)

        raw = raw_outputs(self.decoders, states)
        rows = {m.name: jnp.array(row, jnp.uint32) for row, m in enumerate(self.modalities)}
        return map_groups(fill, self.model.likelihoods, raw, values, observed, rows)


def _step_keys(key: jax.Array, series: Series) -> jax.Array:
    """A key for every step of every series, ``(time, batch)``."""
    own = jax.vmap(lambda index: jax.random.fold_in(key, index))(series.index)
    steps = jnp.arange(series.num_steps)
    return jax.vmap(lambda step: jax.vmap(lambda key: jax.random.fold_in(key, step))(own))(steps)
