"""Structured inference networks over the transitions and emissions of a deep Markov model.

Krishnan, Shalit & Sontag, *Structured Inference Networks for Nonlinear State Space Models*, AAAI
2017. A recurrent network per modality runs over the observations, forwards or backwards (then it is
their deep Kalman smoother). A combiner computes q(z_t | z_{t-1}, h_t) from the recurrent states.
Missing inputs are zeros ("mask"), or the network keeps its state where they are missing ("skip").
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.data.modality import Modality, by_name
from jdmm.errors import InputError
from jdmm.inference import filtering, gaussian
from jdmm.inference.gaussian import Moments
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Raw, constrain_sd
from jdmm.models.base import Variables
from jdmm.models.dynamical_vae import DynamicalVAE
from jdmm.models.emission import bind, make_decoder, masked_values, network_inputs, refuse_encoders
from jdmm.networks import GRU, GatedTransition, StateDense, passthrough_initializers
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

    def setup(self) -> None:
        """Makes the submodules."""
        names = [modality.name for modality in self.modalities]
        self.transition = GatedTransition(self.latent, self.hidden, identity=True)
        self.embeddings = {name: StateDense(self.hidden) for name in names}
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

    def embed(self, name: str, values: jax.Array, observed: jax.Array) -> jax.Array:
        """Features ``(hidden, *)`` from ``(feature, *)``; zeros where nothing is observed."""
        modality = next(m for m in self.modalities if m.name == name)
        inputs = jnp.moveaxis(
            network_inputs(modality, jnp.moveaxis(values, 0, -1), jnp.moveaxis(observed, 0, -1)),
            -1,
            0,
        )
        return jnp.where(jnp.any(observed, 0), nn.relu(self.embeddings[name](inputs)), 0.0)

    def gates(self, name: str, features: jax.Array) -> jax.Array:
        """The contribution of the inputs to the gates of the recurrent network."""
        return self.recurrent[name].gates(features)

    def step(self, name: str, state: jax.Array, gates: jax.Array) -> jax.Array:
        """The recurrent network's next state."""
        return self.recurrent[name](state, gates)

    def start(self, name: str) -> jax.Array:
        """The initial state of the recurrent network."""
        return self.starts[name]

    def combine(self, state: jax.Array, summary: jax.Array) -> Moments:
        """q(z_t | z_{t-1}, h_t) from z_{t-1} ``(latent, n)`` and all h_t ``(*, n)``."""
        inner = nn.relu(self.combiner(jnp.concatenate([state, summary])))
        return Moments(self.mean(inner), constrain_sd(self.sd(inner)) ** 2)

    def move(self, state: jax.Array) -> Moments:
        """p(z_t | z_{t-1})."""
        return self.transition(state)

    def decode(self, name: str, states: jax.Array) -> Raw:
        """Raw outputs of the modality's likelihood from ``(..., latent)``."""
        return self.decoders[name](states)


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
        return Networks(by_name(self.modalities), self.latent, self.hidden)

    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables."""
        self.check(series)

        def touch(networks: Networks) -> None:
            state = jnp.zeros((self.latent, 1))
            summary = []
            for modality in by_name(self.modalities):
                value = jnp.zeros((modality.features, 1))
                features = networks.embed(modality.name, value, value > 0)
                gates = networks.gates(modality.name, features)
                summary.append(networks.step(modality.name, networks.start(modality.name), gates))
                summary += [features] if self.features_to_combiner else []
                networks.decode(modality.name, state.T)
            networks.combine(state, jnp.concatenate(summary))
            networks.move(state)

        return nn.init(touch, self.networks)(key)

    def emissions(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality from states ``(..., latent)``."""
        decode = bind(self.networks, variables)(Networks.decode)
        return {modality.name: decode(modality.name, states) for modality in self.modalities}

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
        own = bind(self.networks, variables)
        embed, gates = own(Networks.embed), own(Networks.gates)
        advance, start = own(Networks.step), own(Networks.start)
        given = masked_values(series)
        features, inputs, seen = {}, {}, {}
        for modality in by_name(self.modalities):
            name = modality.name
            values, observed = (
                jnp.moveaxis(leaf[name], (1, 2), (0, 1))  # (time, feature, batch)
                for leaf in (given, series.observed)
            )
            seen[name] = jnp.any(observed, 1)
            features[name] = jax.vmap(lambda *step, name=name: embed(name, *step))(values, observed)
            inputs[name] = jax.vmap(lambda step, name=name: gates(name, step))(features[name])
        # after its end a series has no steps, so "mask" does not advance there either
        moves = {name: series.valid.T for name in seen} if self.missing == "mask" else seen

        def _step(states, step):
            """h_{t-1} -> h_t of every modality, or backwards h_{t+1} -> h_t."""
            step_inputs, step_moves = step
            states = {
                name: jnp.where(step_moves[name], advance(name, state, step_inputs[name]), state)
                for name, state in states.items()
            }
            return states, states

        first = {
            name: jnp.broadcast_to(start(name), (self.hidden, series.batch)) for name in inputs
        }
        backward = self.direction == "backward"
        _, states = jax.lax.scan(_step, first, (inputs, moves), reverse=backward)
        known = [*states.values(), *(features.values() if self.features_to_combiner else ())]
        return jnp.concatenate(known, 1), functools.reduce(jnp.logical_or, seen.values())
