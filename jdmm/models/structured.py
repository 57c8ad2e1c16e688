"""Structured inference networks over the transitions and emissions of a deep Markov model.

Krishnan, Shalit & Sontag, *Structured Inference Networks for Nonlinear State Space Models*, AAAI
2017. A recurrent network per modality runs over the observations, forwards or backwards (then it
is their deep Kalman smoother), and a combiner makes q(z_t | z_{t-1}, h_t) of its states. Missing
inputs are zeros ("mask"), or the network keeps its state there ("skip").
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.errors import InputError
from jdmm.inference import filtering, gaussian
from jdmm.inference.gaussian import Moments
from jdmm.inference.smoothing import SmoothedPosterior
from jdmm.likelihoods import Raw, positive
from jdmm.models.base import ChainModel, Modality, Variables, bound, decoder_of, features_of
from jdmm.networks import GRU, GatedTransition, StateDense, handing_on
from jdmm.series import Series

DIRECTIONS, MISSING = ("forward", "backward"), ("mask", "skip")

HANDED_ON = 0.7
"""Of z_{t-1}, what the mean of q(z_t | z_{t-1}, h_t) starts as, beside random functions of h_t.

More starts of backward networks learned the dynamics so than from wholly random combiners; of
forward ones as many (docs/reproduction.md). The sd starts without z_{t-1}: states that fed
themselves could grow without end.
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
        into, out = handing_on(min(self.latent, self.hidden // 2))
        self.combiner = StateDense(self.hidden, into)
        self.mean = StateDense(self.latent, out(HANDED_ON))
        self.sd = StateDense(self.latent, out(0.0))
        self.decoders = {m.name: decoder_of(m, self.hidden) for m in self.modalities}

    def embed(self, name: str, values: jax.Array, observed: jax.Array) -> jax.Array:
        """Features ``(hidden, *)`` of ``(feature, *)``; zeros where nothing is observed."""
        modality = next(m for m in self.modalities if m.name == name)
        inputs = jnp.moveaxis(
            features_of(modality, jnp.moveaxis(values, 0, -1), jnp.moveaxis(observed, 0, -1)), -1, 0
        )
        return jnp.where(jnp.any(observed, 0), nn.relu(self.embeddings[name](inputs)), 0.0)

    def gates(self, name: str, features: jax.Array) -> jax.Array:
        """The part of the recurrent network's gates that its inputs give."""
        return self.recurrent[name].gates(features)

    def step(self, name: str, state: jax.Array, gates: jax.Array) -> jax.Array:
        """The recurrent network's next state."""
        return self.recurrent[name](state, gates)

    def start(self, name: str) -> jax.Array:
        """Its first state."""
        return self.starts[name]

    def combine(self, state: jax.Array, summary: jax.Array) -> Moments:
        """q(z_t | z_{t-1}, h_t) from ``(latent, n)`` and all modalities' ``(*, n)``."""
        inner = nn.relu(self.combiner(jnp.concatenate([state, summary])))
        return Moments(self.mean(inner), positive(self.sd(inner)) ** 2)

    def move(self, state: jax.Array) -> Moments:
        """p(z_t | z_{t-1})."""
        return self.transition(state)

    def decode(self, name: str, states: jax.Array) -> Raw:
        """Raw outputs of the modality's likelihood from ``(..., latent)``."""
        return self.decoders[name](states)


@dataclass(frozen=True)
class Structured(ChainModel):
    """A deep Markov model with p(z_1) = N(0, 1) and a structured inference network.

    Attributes:
        direction: of the recurrent networks, "forward" or "backward".
        missing: what they do where nothing is observed: "mask" or "skip".
        features_to_combiner: whether it is given the embedded observations as well.
    """

    direction: str = "backward"
    missing: str = "mask"
    features_to_combiner: bool = False

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        super().__post_init__()
        for name, known in (("direction", DIRECTIONS), ("missing", MISSING)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"expected model.{name} among {', '.join(known)}, got {getattr(self, name)!r}"
                )

    @property
    def networks(self) -> Networks:
        """The Flax module."""
        return Networks(self.modalities, self.latent, self.hidden)

    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables."""
        del series

        def touch(networks: Networks) -> None:
            state = jnp.zeros((self.latent, 1))
            summary = []
            for modality in self.modalities:
                value = jnp.zeros((modality.features, 1))
                features = networks.embed(modality.name, value, value > 0)
                gates = networks.gates(modality.name, features)
                summary.append(networks.step(modality.name, networks.start(modality.name), gates))
                summary += [features] if self.features_to_combiner else []
                networks.decode(modality.name, state.T)
            networks.combine(state, jnp.concatenate(summary))
            networks.move(state)

        return nn.init(touch, self.networks)(key)

    def decode(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality from states ``(..., latent)``."""
        decode = bound(self.networks, variables)(Networks.decode)
        return {modality.name: decode(modality.name, states) for modality in self.modalities}

    def chain(
        self, variables: Variables, series: Series, key: jax.Array | None, scale: Any = 1.0
    ) -> SmoothedPosterior:
        """One pass; after a series' last observation the posterior is the prior."""
        own = bound(self.networks, variables)
        combine, move = own(Networks.combine), own(Networks.move)
        summary, seen = self._summary(variables, series)
        informed = jax.lax.associative_scan(jnp.logical_or, seen, reverse=True)
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
        _, chain = jax.lax.scan(_step, start, (summary, informed, noise))
        return SmoothedPosterior(
            *jax.tree.map(lambda leaf: filtering.unfold(leaf, [series.batch]), chain)
        )

    def _summary(self, variables: Variables, series: Series) -> tuple[jax.Array, jax.Array]:
        """What the recurrent networks know, ``(time, *, batch)``, and where anything is seen."""
        own = bound(self.networks, variables)
        embed, gates = own(Networks.embed), own(Networks.gates)
        advance, start = own(Networks.step), own(Networks.start)
        features, inputs, seen = {}, {}, {}
        for modality in self.modalities:
            name = modality.name
            values, observed = (
                jnp.moveaxis(leaf[name], (1, 2), (0, 1))  # (time, feature, batch)
                for leaf in (series.values, series.observed)
            )
            seen[name] = jnp.any(observed, 1)
            features[name] = jax.vmap(lambda *step, name=name: embed(name, *step))(values, observed)
            inputs[name] = jax.vmap(lambda step, name=name: gates(name, step))(features[name])
        # behind its end a series has no steps, and "mask" none to show
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
