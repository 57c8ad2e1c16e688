"""Structured inference networks over the transitions and emissions of a deep Markov model.

Krishnan, Shalit & Sontag, *Structured Inference Networks for Nonlinear State Space Models*, AAAI
2017. A recurrent network per modality runs over the observations, forwards or backwards (then it is
their deep Kalman smoother). A combiner computes q(z_t | z_{t-1}, h_t) from the recurrent states.
Missing inputs are zeros ("mask"), or the network keeps its state where they are missing ("skip").
"""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.data.modality import Modality, by_name
from jdmm.errors import InputError
from jdmm.inference import filtering, gaussian
from jdmm.inference.gaussian import Moments
from jdmm.inference.posterior import States
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Raw, constrain_sd
from jdmm.models.base import Variables
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
from jdmm.models.grouping import NetworkGroups, modality_groups
from jdmm.networks import (
    GRU,
    GatedTransition,
    ImageEmbedding,
    StateDense,
    passthrough_initializers,
)
from jdmm.series import Series

DIRECTIONS, MISSING = ("forward", "backward"), ("mask", "skip")

PASSTHROUGH = 0.7
"""The mean of q(z_t | z_{t-1}, h_t) starts as this share of z_{t-1} plus random functions of h_t.

With it, more starts of backward networks learn the dynamics than with random combiners; of forward
networks as many (docs/reproduction.md). The sd starts independent of z_{t-1}, because states that
feed back into their own sd could grow without bound.
"""


class Networks(nn.Module):
    """Everything learned; arrays have their features first, ``(feature, n)``, as in the scans."""

    modalities: tuple[Modality, ...]
    latent: int
    hidden: int
    features_to_combiner: bool

    def setup(self) -> None:
        """Makes the submodules."""
        names = [modality.name for modality in self.modalities]
        self.transition = GatedTransition(self.latent, self.hidden, identity=True)
        self.embeddings = {
            m.name: StateDense(self.hidden)
            if m.image is None
            else ImageEmbedding(self.hidden, m.image)
            for m in self.modalities
        }
        self.recurrent = {name: GRU(self.hidden) for name in names}
        self.starts = {
            name: self.param(f"start_{name}", nn.initializers.zeros, (self.hidden, 1))
            for name in names
        }
        into, out = passthrough_initializers(min(self.latent, self.hidden // 2))
        self.combiner = StateDense(self.hidden, into)
        self.mean = StateDense(self.latent, out(PASSTHROUGH))
        self.sd = StateDense(self.latent, out(0.0))
        self.decoders = {m.name: make_decoder(m, self.hidden) for m in self.modalities}

    def combine(self, state: jax.Array, summary: jax.Array) -> Moments:
        """q(z_t | z_{t-1}, h_t) from z_{t-1} ``(latent, n)`` and all h_t ``(*, n)``."""
        inner = nn.relu(self.combiner(jnp.concatenate([state, summary])))
        return Moments(self.mean(inner), constrain_sd(self.sd(inner)) ** 2)

    def move(self, state: jax.Array) -> Moments:
        """p(z_t | z_{t-1})."""
        return self.transition(state)

    def __call__(self) -> None:
        """Uses every parameter once, for `init`."""
        state, summary = jnp.zeros((self.latent, 1)), []
        for modality in self.modalities:
            name, value = modality.name, jnp.zeros((1, modality.features))
            features = self.embeddings[name](network_inputs(modality, value, value > 0).T)
            gates = self.recurrent[name].gates(features)
            summary.append(self.recurrent[name](self.starts[name], gates))
            summary += [features] if self.features_to_combiner else []
        self.combine(state, jnp.concatenate(summary))
        self.move(state)
        init_decoders(self.modalities, self.decoders, self.latent)


@dataclass(frozen=True)
class StructuredInference(DynamicalVAE):
    """A deep Markov model with p(z_1) = N(0, 1) and a structured inference network.

    Attributes:
        direction: of the recurrent networks, "forward" or "backward".
        missing: what they do where nothing is observed: "mask" or "skip".
        features_to_combiner: whether the combiner also takes the embedded observations.
    """

    direction: str = "backward"
    missing: str = "mask"
    features_to_combiner: bool = False
    networks_per_modality: ClassVar[tuple[str, ...]] = ("embeddings", "recurrent", "decoders")

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        refuse_encoders(self.modalities, "a structured inference network")
        for name, known in (("direction", DIRECTIONS), ("missing", MISSING)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"expected model.{name} among {', '.join(known)}, got {getattr(self, name)!r}"
                )

    @property
    def networks(self) -> Networks:
        """The Flax module; its layers take the modalities ordered by name, as series hold them."""
        modalities = by_name(self.modalities)
        return Networks(modalities, self.latent, self.hidden, self.features_to_combiner)

    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables.

        Raises:
            InputError: for series that disagree with the modalities, or a decoder that does not fit
                its likelihood.
        """
        self.check(series)
        return self.networks.init(key)

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
        """One pass forwards; after the last observation of a series the posterior is the prior."""
        own = bind(self.networks, variables)
        combine, move = own(Networks.combine), own(Networks.move)
        summary, observed = self._recurrent_states(variables, series)
        informed = jax.lax.associative_scan(jnp.logical_or, observed, reverse=True)
        noise = self.noise(series, key, scale)

        def _step(carry, inputs):
            """z_{t-1} -> z_t."""
            state, first = carry
            step_summary, step_informed, step_noise = inputs
            moved = move(state)
            prior = Moments(
                jnp.where(first, 0.0, moved.mean), jnp.where(first, 1.0, moved.variance)
            )
            combined = combine(state, step_summary)
            posterior = jax.tree.map(
                lambda given, not_given: jnp.where(step_informed, given, not_given), combined, prior
            )
            state = gaussian.sample(posterior, step_noise)
            return (state, jnp.zeros_like(first)), (prior, posterior, state)

        start = (jnp.zeros(noise.shape[1:]), jnp.array(True))
        _, path = jax.lax.scan(_step, start, (summary, informed, noise))
        return PosteriorPath(
            *jax.tree.map(lambda leaf: filtering.unflatten_batch(leaf, [series.batch]), path)
        )

    def _recurrent_states(
        self, variables: Variables, series: Series
    ) -> tuple[jax.Array, jax.Array]:
        """Inputs of the combiner ``(time, *, batch)``, and where anything is observed."""
        networks = self.networks.bind(variables)
        groups = modality_groups(self.modalities)
        embeddings = NetworkGroups(networks.embeddings, groups)
        recurrent = NetworkGroups(networks.recurrent, groups)
        values = masked_values(series)
        inputs, observed = {}, {}
        for modality in by_name(self.modalities):
            name = modality.name
            rows = network_inputs(modality, values[name], series.observed[name])
            inputs[name] = jnp.moveaxis(rows, (1, 2), (0, 1))  # (time, feature, batch)
            observed[name] = jnp.any(series.observed[name], -1).T

        def embed(layer: Any, rows: jax.Array, own: jax.Array) -> jax.Array:
            return jnp.where(own[:, None], nn.relu(jax.vmap(layer)(rows)), 0.0)

        features = embeddings.map(embed, inputs, observed)
        gates = recurrent.map(
            lambda gru, own: jax.vmap(lambda step: gru(step, method=GRU.gates))(own), features
        )
        # "mask" does not advance in the padding either, because a series has no steps there
        steps = dict.fromkeys(observed, series.valid.T) if self.missing == "mask" else observed

        def advance(gru: Any, state: jax.Array, own: jax.Array, moves: jax.Array) -> jax.Array:
            return jnp.where(moves, gru(state, own), state)

        def _step(states, inputs):
            """h_{t-1} -> h_t of every modality, or backwards h_{t+1} -> h_t."""
            states = recurrent.map(advance, states, *inputs)
            return states, states

        start = {
            name: jnp.broadcast_to(own, (self.hidden, series.batch))
            for name, own in networks.starts.items()
        }
        backward = self.direction == "backward"
        _, states = jax.lax.scan(_step, start, (gates, steps), reverse=backward)
        each = [states, features] if self.features_to_combiner else [states]
        summary = [own[name] for own in each for name in observed]
        return jnp.concatenate(summary, 1), functools.reduce(jnp.logical_or, observed.values())
