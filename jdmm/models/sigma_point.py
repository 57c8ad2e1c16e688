"""A deep Markov model with Gaussian filters and smoothers of full covariance.

Its dynamics are learned by the likelihood of the filter: no inference networks, no sampling. See
docs/full_covariance.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import jax
from flax import linen as nn
from flax.core import FrozenDict
from jax import numpy as jnp

from jdmm.data.modality import Modality
from jdmm.errors import InputError
from jdmm.fields import check_section
from jdmm.inference import filtering, full_filtering, full_smoothing
from jdmm.inference.full_filtering import Evidence, FullModel
from jdmm.inference.full_smoothing import PathPosterior
from jdmm.inference.gaussian import Gaussian, Moments, product
from jdmm.inference.quadrature import ROTATED_SIGMA_POINTS, Quadrature
from jdmm.inference.smoothing import PosteriorPath
from jdmm.inference.square_root import FullMoments
from jdmm.likelihoods import SD_FLOOR, Normal, Raw
from jdmm.models.base import (
    Config,
    GradientModel,
    Variables,
    check_at_least,
    check_whole,
    fields_of,
)
from jdmm.models.emission import (
    bind,
    evidence_of,
    init_decoders,
    init_encoders,
    make_encoder,
    masked_values,
    raw_outputs,
)
from jdmm.models.grouping import NetworkGroups, modality_groups
from jdmm.models.objectives import Loss
from jdmm.networks import GatedTransition, HomoscedasticDecoder
from jdmm.series import Series

MOMENTS, ENCODER = "moments", "encoder"
"""How a modality updates the state: by its conditional moments, or by its encoder's factor."""

LIKELIHOOD, BOUND = "likelihood", "bound"

EMISSIONS = ("mlp", "linear")


class Networks(nn.Module):
    """Everything learned: initial distribution, transition, decoders, and encoders if any."""

    modalities: tuple[Modality, ...]
    encoded: tuple[str, ...]
    latent: int
    hidden: int
    emission: str
    transition_network: nn.Module | None

    def setup(self) -> None:
        """Makes the submodules."""
        self.initial_mean = self.param("initial_mean", nn.initializers.zeros, (self.latent,))
        self.initial_log_sd = self.param("initial_log_sd", nn.initializers.zeros, (self.latent,))
        own = self.transition_network
        self.transition = own or GatedTransition(self.latent, self.hidden, identity=True)
        self.encoders = {
            m.name: make_encoder(m, self.latent, self.hidden)
            for m in self.modalities
            if m.name in self.encoded
        }
        self.decoders = {m.name: self.make_decoder(m) for m in self.modalities}

    def make_decoder(self, modality: Modality) -> nn.Module:
        """The modality's own decoder, or the default one."""
        hidden = self.hidden if self.emission == "mlp" else 0
        return modality.decoder or HomoscedasticDecoder(
            modality.features, modality.likelihood, hidden
        )

    def initial(self) -> FullMoments:
        """p(z_1), ``(latent, 1)`` and ``(latent, latent, 1)``."""
        sd = jnp.exp(self.initial_log_sd) + SD_FLOOR
        return FullMoments(self.initial_mean[:, None], jnp.diag(sd)[:, :, None])

    def step_forward(self, state: jax.Array) -> Moments:
        """Moments of p(z_{t+1} | z_t), ``(latent, *states)``."""
        return self.transition(state)

    def __call__(self, series: Series) -> None:
        """Uses every parameter once, for `init`."""
        encoded = [m for m in self.modalities if m.name in self.encoded]
        init_encoders(encoded, self.encoders, series, self.latent)
        init_decoders(self.modalities, self.decoders, self.latent)
        self.step_forward(self.initial().mean)


@dataclass(frozen=True)
class SigmaPointSSM(GradientModel):
    """A state space model of neural networks, filtered and smoothed with full covariance.

    Attributes:
        latent: D, dimensions of the state.
        hidden: H, units of each hidden layer of the default networks.
        emission: the default decoders: "mlp" (one hidden layer) or "linear". The sd of normal
            features is learned and does not depend on the state.
        transition: a Flax module, states ``(latent, n)`` -> `Moments` of the next states; None for
            a gated transition that starts near the identity.
        updates: modality -> "moments" (its values update the state by their conditional moments) or
            "encoder" (by the Gaussian factor of its encoder). By default "encoder" for a modality
            with an encoder, else "moments".
        quadrature: of the filter in training.
        prediction_quadrature: of filter and smoother in prediction.
        iterations: of posterior linearisation in prediction, at most; 0 for none.
        tolerance: an iteration that moves the states by fewer sd is the last.
        objective: of the training: "likelihood" (of the filter; all modalities normal and updated
            by moments), "bound" (of the filter, for all likelihoods), or "auto".

    Raises:
        InputError: for values that make no model.
    """

    latent: int = 5
    hidden: int = 20
    emission: str = "mlp"
    transition: nn.Module | None = None
    updates: Mapping[str, str] = FrozenDict()
    quadrature: Quadrature = Quadrature(ROTATED_SIGMA_POINTS)
    prediction_quadrature: Quadrature = Quadrature()
    iterations: int = 3
    tolerance: float = 0.01
    objective: str = "auto"
    networks_per_modality: ClassVar[tuple[str, ...]] = ("encoders", "decoders")

    @property
    def encoded(self) -> tuple[str, ...]:
        """The modalities that update the state by their encoder."""
        return tuple(
            m.name
            for m in self.modalities
            if self.updates.get(m.name, MOMENTS if m.encoder is None else ENCODER) == ENCODER
        )

    @property
    def networks(self) -> Networks:
        """The Flax module."""
        return Networks(
            self.modalities,
            self.encoded,
            self.latent,
            self.hidden,
            self.emission,
            self.transition,
        )

    @property
    def uses_likelihood(self) -> bool:
        """Whether training maximises the likelihood of the filter, rather than its bound."""
        normal = all(isinstance(m.likelihood, Normal) for m in self.modalities)
        return self.objective == LIKELIHOOD or (
            self.objective == "auto" and normal and not self.encoded
        )

    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables for series of this form."""
        self.check(series)
        return self.networks.init(key, series)

    def full_model(self, variables: Variables) -> FullModel:
        """The model as pure functions, for the recursions of `jdmm.inference`."""
        networks, method = self.networks.bind(variables), bind(self.networks, variables)
        decode = self._decoder(variables)
        used = [m for m in self.modalities if m.name not in self.encoded]

        def emission(states: jax.Array) -> Moments:
            flat = jnp.moveaxis(states, 0, -1)
            raw = decode({m.name: flat for m in used})
            moments = [m.likelihood.moments(raw[m.name]) for m in used]
            joined = [jnp.concatenate(leaves, -1) for leaves in zip(*moments, strict=True)]
            return Moments(*(jnp.moveaxis(leaf, -1, 0) for leaf in joined))

        return FullModel(networks.initial(), method(Networks.step_forward), emission)

    def evidence(self, variables: Variables, series: Series) -> Evidence:
        """What is observed, time in front and series last."""
        values, masks = [], []
        given = masked_values(series)
        for modality in self.modalities:
            if modality.name in self.encoded:
                continue
            value = modality.likelihood.statistics(given[modality.name])
            observed = series.observed[modality.name]
            values.append(value)
            masks.append(jnp.repeat(observed, value.shape[-1] // observed.shape[-1], -1))
        value, observed = (
            jnp.moveaxis(jnp.concatenate(leaves, -1), 0, -1) for leaves in (values, masks)
        )
        factor = None
        if self.encoded:
            encoders = NetworkGroups(
                self.networks.bind(variables).encoders, modality_groups(self.modalities)
            )
            own = series.select(self.encoded)
            factor = Gaussian(
                *(jnp.moveaxis(leaf, 0, -1) for leaf in product(*evidence_of(encoders, own).values()))
            )
        return Evidence(value, observed, factor)

    def loss(
        self,
        variables: Variables,
        series: Series,
        targets: Series,
        key: jax.Array,
        progress: jax.Array | float = 0.0,
    ) -> Loss:
        """Minus the log-likelihood of what is shown; what is hidden is simply missing."""
        del progress
        self.check(series)
        points = self.quadrature.points(key, series, self.latent)
        model, evidence = self.full_model(variables), self.evidence(variables, series)
        found = full_filtering.full_filter(model, evidence, points)
        return Loss({"filter_nll": -jnp.sum(found.log_likelihood)}, jnp.sum(targets.valid))

    def path_posterior(
        self, variables: Variables, series: Series, key: jax.Array
    ) -> PathPosterior:
        """The smoothed states of all series, and how to sample whole paths."""
        self.check(series)
        points = self.prediction_quadrature.points(key, series, self.latent)
        model, evidence = self.full_model(variables), self.evidence(variables, series)
        path = full_smoothing.smooth_path(model, evidence, series.lengths, points)
        if not self.iterations:
            return path
        return full_smoothing.iterate_linearisation(
            model, evidence, series.lengths, points, path, self.iterations, self.tolerance
        )

    def posterior_mean(self, variables: Variables, series: Series, key: jax.Array) -> PosteriorPath:
        """The smoothed means, the posterior being the marginals, ``(batch, time, latent)``."""
        smoothed = self.path_posterior(variables, series, key).smoothed
        mean = jnp.moveaxis(smoothed.mean, -1, 0)
        marginals = Moments(mean, jnp.moveaxis(jnp.sum(smoothed.root**2, 2), -1, 0))
        return PosteriorPath(marginals, marginals, mean)

    def posterior_samples(
        self, variables: Variables, series: Series, key: jax.Array, count: int, scale: Any = 1.0
    ) -> PosteriorPath:
        """Joint samples of whole paths, ``(count, batch, time, latent)``."""
        points_key, sample_key = jax.random.split(key)
        posterior = self.path_posterior(variables, series, points_key)
        noise = filtering.particles(
            sample_key, count, series.index, series.num_steps, self.latent
        )
        time, latent, _, n = noise.shape
        paths = full_smoothing.sample_paths(posterior, (scale * noise).reshape(time, latent, -1))
        first = self.networks.bind(variables).initial()
        reached = bind(self.networks, variables)(Networks.step_forward)(
            jnp.moveaxis(paths.states[:-1], 0, 1).reshape(latent, -1)
        )
        prior = [
            jnp.concatenate(
                [
                    jnp.broadcast_to(start, (1, latent, count * n)),
                    jnp.moveaxis(leaf.reshape(latent, time - 1, -1), 1, 0),
                ]
            )
            for start, leaf in zip((first.mean, first.variance), reached, strict=True)
        ]

        def public(leaf: jax.Array) -> jax.Array:
            return jnp.moveaxis(leaf.reshape(time, -1, count, n), (2, 3), (0, 1))

        return PosteriorPath(
            Moments(*map(public, prior)),
            Moments(public(paths.mean), public(paths.variance)),
            public(paths.states),
            log_posterior=public(paths.log_density)[..., 0],
        )

    def emissions(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality from states ``(..., latent)``."""
        return self._decoder(variables)(states)

    def _decoder(self, variables: Variables) -> Any:
        decoders = NetworkGroups(
            self.networks.bind(variables).decoders, modality_groups(self.modalities)
        )
        return partial(raw_outputs, decoders)
