"""A deep Markov model with Gaussian filters and smoothers of full covariance.

    z_1 ~ N(m, P)    z_{t+1} ~ N(f(z_t), diag v(z_t))    x_t ~ p(x_t | z_t)

With inputs u they are N(m + B u_1, P) and N(f(z_t, u_{t+1}), diag v(z_t, u_{t+1})).
Its dynamics are learned by the likelihood of the filter: without inference networks, and without
sampling. docs/full_covariance.md derives it.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import jax
from flax import linen as nn
from flax.core import FrozenDict
from jax import numpy as jnp

from jdmm.data.modality import Modality
from jdmm.errors import InputError, UnsuitableDataError
from jdmm.fields import check_section
from jdmm.inference import filtering, full_filtering, full_smoothing, path_sampling
from jdmm.inference.full_filtering import Evidence, FullModel
from jdmm.inference.full_smoothing import PathPosterior
from jdmm.inference.gaussian import Gaussian, Moments, product
from jdmm.inference.quadrature import ROTATED_SIGMA_POINTS, Points, Quadrature
from jdmm.inference.smoothing import PosteriorPath
from jdmm.inference.square_root import FullMoments
from jdmm.likelihoods import Normal, Raw
from jdmm.models import filter_bound, objectives, residuals
from jdmm.models.base import (
    QUADRATURE_FIELDS,
    Config,
    GradientModel,
    Variables,
    check_at_least,
    check_multipliers,
    check_whole,
    fields_of,
    observed_log_prob,
    quadratures_of,
)
from jdmm.models.emission import (
    backgrounds_of,
    bind,
    conditional_moments,
    evidence_of,
    make_encoder,
    observed_statistics,
    raw_outputs,
)
from jdmm.models.grouping import NetworkGroups, modality_groups, updated_statistics
from jdmm.models.objectives import Loss
from jdmm.models.sigma_point_networks import EMISSIONS, LINEAR, Networks, has_residual
from jdmm.series import Series

MOMENTS, ENCODER = "moments", "encoder"
UPDATES = (MOMENTS, ENCODER)

AUTO, LIKELIHOOD, BOUND = "auto", "likelihood", "bound"
OBJECTIVES = (AUTO, LIKELIHOOD, BOUND)

INFERENCE_FIELDS = {"iterations": int, "tolerance": float, **QUADRATURE_FIELDS}

LOSS_FIELDS = ("objective", "decoded_samples", "multipliers")
"""Fields of `SigmaPointSSM` that the section `loss` of a configuration gives."""

OTHER_SECTIONS = ("quadrature", "prediction_quadrature", "iterations", "tolerance", *LOSS_FIELDS)
"""Fields of `SigmaPointSSM` that the sections `inference` and `loss` of a configuration give."""


def smoothed_path(posterior: PathPosterior) -> PosteriorPath:
    """The smoothed means and marginals, ``(batch, time, latent)``."""
    mean = jnp.moveaxis(posterior.smoothed.mean, -1, 0)
    variance = jnp.moveaxis(jnp.sum(posterior.smoothed.root**2, 2), -1, 0)
    marginals = Moments(mean, variance)
    return PosteriorPath(marginals, marginals, mean)


@dataclass(frozen=True)
class SigmaPointSSM(GradientModel):
    """A state space model of neural networks, filtered and smoothed with full covariance.

    Attributes:
        latent: D, dimensions of the state.
        hidden: H, units of each hidden layer of the default networks.
        emission: the default decoders: "linear" or "mlp" (one hidden layer). What gives the width
            of a likelihood, such as the sd of a normal one, is learned and does not depend on the
            state; see `Likelihood.spreads`.
        transition: a Flax module, states ``(latent, n)`` -> `Moments` of the next states; None for
            a `ProductTransition`. With inputs it takes those of the next step, ``(input, n)``, as a
            second argument.
        updates: modality -> "moments" (its values update the state by their conditional moments) or
            "encoder" (by the Gaussian factor of its encoder). By default "encoder" for images and
            for a modality that has an encoder or a likelihood without moments, else "moments".
        quadrature: of the filter in training.
        prediction_quadrature: of filter and smoother in prediction.
        iterations: of posterior linearisation in prediction, at most; 0 for none.
        tolerance: an iteration that moves the states by fewer sd is the last.
        residual: whether each feature has an autoregressive residual of its own beside the state,
            for what it remembers by itself; see `jdmm.inference.residual`. With many columns, a
            small state then suffices for what they share. Normal modalities that are updated by
            moments have them, others have none.
        objective: of the training: "likelihood" (of the filter; for normal modalities, updated by
            moments), "bound" (a lower bound of it, for all likelihoods and encoders), or "auto":
            the likelihood where the modalities allow it.
        decoded_samples: states sampled at each step, at which the bound decodes; 0 for the points
            of the quadrature, whose number rises with `latent`. Large decoders need few.
        multipliers: modality -> weight of its log-likelihood in the bound, 1 where not given.

    Raises:
        InputError: for values that make no model.
    """

    latent: int = 5
    hidden: int = 20
    emission: str = LINEAR
    transition: nn.Module | None = None
    updates: Mapping[str, str] = FrozenDict()
    quadrature: Quadrature = Quadrature(ROTATED_SIGMA_POINTS)
    prediction_quadrature: Quadrature = Quadrature()
    iterations: int = 5
    tolerance: float = 0.01
    residual: bool = False
    objective: str = AUTO
    decoded_samples: int = 0
    multipliers: Mapping[str, float] = FrozenDict()
    networks_per_modality: ClassVar[tuple[str, ...]] = ("encoders", "decoders")
    takes_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        for name in ("updates", "multipliers"):  # with a hash
            object.__setattr__(self, name, FrozenDict(getattr(self, name)))
        check_whole("model.latent", self.latent, 1)
        check_whole("model.hidden", self.hidden, 1)
        check_whole("inference.iterations", self.iterations, 0)
        check_at_least("inference.tolerance", self.tolerance, 0)
        check_whole("loss.decoded_samples", self.decoded_samples, 0)
        check_multipliers(self.multipliers, self.modalities)
        for name, value, known in (
            ("model.emission", self.emission, EMISSIONS),
            ("loss.objective", self.objective, OBJECTIVES),
        ):
            if value not in known:
                raise InputError(f"expected {name} among {', '.join(known)}, got {value!r}")
        if self.transition is not None and not isinstance(self.transition, nn.Module):
            raise InputError(f"expected a Flax module as transition, got {self.transition!r}")
        for quadrature in (self.quadrature, self.prediction_quadrature):
            quadrature.check_full(self.latent)
        self._check_updates()
        if self.objective == LIKELIHOOD and not self._likelihood_known:
            raise InputError(
                "expected loss.objective 'bound' or 'auto' for modalities that are not all Normal "
                "and updated by moments, got 'likelihood'"
            )
        if self.residual and not any(has_residual(m, self.encoded) for m in self.modalities):
            raise UnsuitableDataError(
                "expected model.residual False without a modality that is Normal, updated by "
                "moments and may have residuals, got True"
            )
        weighted = any(value != 1 for value in self.multipliers.values())
        if self.chosen_objective == LIKELIHOOD and (weighted or self.decoded_samples):
            raise InputError(
                "expected loss.objective 'bound' with loss.multipliers or loss.decoded_samples, "
                "which a likelihood has no use for"
            )

    def _check_updates(self) -> None:
        names = [modality.name for modality in self.modalities]
        for name, how in self.updates.items():
            if name not in names:
                raise InputError(f"expected model.updates of {', '.join(names)}, got {name!r}")
            if how not in UPDATES:
                raise InputError(
                    f"expected model.updates.{name} among {', '.join(UPDATES)}, got {how!r}"
                )
        for modality in self.modalities:
            name, exact = modality.name, modality.name not in self.encoded
            if exact and not modality.likelihood.has_moments:
                raise InputError(
                    f"expected a likelihood with conditional moments in modality {name!r}, got "
                    f"{modality.likelihood}: set updates={{{name!r}: 'encoder'}}"
                )
            if exact and modality.encoder is not None:
                raise InputError(
                    f"expected modality {name!r} without an encoder for updates by moments, got "
                    "one: leave it out, or set updates to 'encoder'"
                )
            if exact and modality.image is not None and modality.image.background:
                raise InputError(
                    f"expected updates by an encoder in modality {name!r}, whose images have a "
                    "background: moments do not know it"
                )
            if not exact:
                make_encoder(modality, self.latent, self.hidden)

    @classmethod
    def from_config(cls, modalities: tuple[Modality, ...], config: Config) -> Self:
        """The model of the fields `model`, `inference` and `loss` of a configuration.

        Raises:
            InputError: for an unknown field or an impossible value.
        """
        how = check_section("inference", config.inference.to_dict(), INFERENCE_FIELDS)
        quadrature, prediction = quadratures_of(how)
        others = {own.name for own in dataclasses.fields(cls)} - set(LOSS_FIELDS)
        return cls(
            modalities,
            **fields_of(cls, "model", config.model.to_dict(), omit=(*OTHER_SECTIONS, "transition")),
            **fields_of(cls, "loss", config.loss.to_dict(), omit=others),
            quadrature=quadrature,
            prediction_quadrature=prediction,
            iterations=how["iterations"],
            tolerance=how["tolerance"],
        )

    @property
    def encoded(self) -> tuple[str, ...]:
        """The modalities that update the state by their encoder."""

        def default(modality: Modality) -> str:
            own = modality.encoder is not None or modality.image is not None
            given = own or not modality.likelihood.has_moments
            return ENCODER if given else MOMENTS

        return tuple(
            m.name for m in self.modalities if self.updates.get(m.name, default(m)) == ENCODER
        )

    @property
    def _exact(self) -> list[Modality]:
        """The others, which update it by moments."""
        return [m for m in self.modalities if m.name not in self.encoded]

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
            self.residual,
            self.inputs,
        )

    @property
    def _likelihood_known(self) -> bool:
        return not self.encoded and all(isinstance(m.likelihood, Normal) for m in self.modalities)

    @property
    def chosen_objective(self) -> str:
        """The objective of the training, "auto" resolved."""
        if self.objective != AUTO:
            return self.objective
        return LIKELIHOOD if self._likelihood_known else BOUND

    @property
    def for_validation(self) -> Self:
        """The model without posterior linearisation."""
        return dataclasses.replace(self, iterations=0)

    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables for series of this form.

        Raises:
            InputError: for series that disagree with the modalities, or a network whose outputs do
                not fit.
        """
        self.check(series)
        return self.networks.init(key, series)

    def state_space(self, variables: Variables, inputs: Any = None) -> FullModel:
        """The model as pure functions, for the recursions of `jdmm.inference`.

        Args:
            variables: of the model.
            inputs: of the series that it is used for (`Series.inputs`), ``(batch, time, input)``.

        Raises:
            InputError: for inputs of another number of features.
        """
        given = 0 if inputs is None else inputs.shape[-1]
        if given != self.inputs:
            raise InputError(f"expected {self.inputs} inputs of the series, got {given}")
        by_time = None if inputs is None else jnp.moveaxis(jnp.asarray(inputs), 0, -1)
        networks, method = self.networks.bind(variables), bind(self.networks, variables)
        decode = partial(raw_outputs, self._decoders(variables))
        exact = self._exact
        emission = conditional_moments(exact, decode)
        own = residuals.join(networks.residuals(), exact)
        initial = networks.initial(None if by_time is None else by_time[0])
        return FullModel(initial, method(Networks.step_forward), emission, own, by_time)

    def evidence(self, variables: Variables, series: Series) -> Evidence:
        """What is observed, with the time in front and the series last.

        Raises:
            InputError: for series that disagree with the modalities.
        """
        self.check(series)
        return self._evidence(self._encoders(variables), series)

    def _evidence(self, encoders: NetworkGroups, series: Series) -> Evidence:
        value, observed = observed_statistics(self._exact, series)
        if not self.encoded:
            return Evidence(value, observed)
        factor = product(*evidence_of(encoders, series.select(self.encoded)).values())
        return Evidence(value, observed, Gaussian(*(jnp.moveaxis(leaf, 0, -1) for leaf in factor)))

    def loss(
        self,
        variables: Variables,
        series: Series,
        targets: Series,
        key: jax.Array,
        progress: jax.Array | float = 0.0,
        training: bool = False,
    ) -> Loss:
        """Minus the objective, summed over the batch.

        The likelihood is that of what is shown; what is hidden is simply missing. The bound scores
        the targets, those that are hidden under what the filter predicts of them.
        """
        del progress
        self.check(series)
        points_key, sample_key = jax.random.split(key) if self.decoded_samples else (key, key)
        points = self.quadrature.points(points_key, series, self.latent)
        count = jnp.sum(targets.valid)
        encoders, decoders = (
            self._encoders(variables, training),
            self._decoders(variables, training),
        )
        model = self.state_space(variables, series.inputs)
        evidence = self._evidence(encoders, series)
        found = full_filtering.full_filter(model, evidence, points)
        broken = objectives.first_of(jnp.any(found.broken, 0), series)
        if self.chosen_objective == LIKELIHOOD:
            return Loss({"filter_nll": -jnp.sum(found.log_likelihood)}, count, broken)
        scored = points
        if self.decoded_samples:
            offsets = filtering.particles(
                sample_key, self.decoded_samples, series.index, series.num_steps, self.latent
            )
            scored = Points(offsets, jnp.full(self.decoded_samples, 1 / self.decoded_samples))
        backgrounds = backgrounds_of(self.modalities, series, scored=True)
        decode = partial(raw_outputs, decoders, backgrounds=backgrounds)
        own = residuals.split(found.residual, self._residuals(variables), self._exact)
        nll = -filter_bound.expected_log_prob(
            self.modalities, self.multipliers, decode, found.filtered, own, targets, scored
        )
        kl = jnp.where(series.valid.T, found.kl, 0.0)
        terms = {"filter_nll": nll, "filter_kl": jnp.sum(kl)}
        statistics = None
        if training:
            statistics = updated_statistics(variables, encoders=encoders, decoders=decoders)
        return Loss(terms, count, broken, statistics)

    def path_posterior(self, variables: Variables, series: Series, key: jax.Array) -> PathPosterior:
        """The smoothed states of all series, and how to sample whole paths.

        Raises:
            InputError: for series that disagree with the modalities.
        """
        points = self.prediction_quadrature.points(key, series, self.latent)
        return self._smooth(variables, series, points)

    def _smooth(self, variables: Variables, series: Series, points: Points) -> PathPosterior:
        model = self.state_space(variables, series.inputs)
        evidence = self.evidence(variables, series)
        if not self.iterations:
            return full_smoothing.smooth_path(model, evidence, series.lengths, points)
        return full_smoothing.linearised_posterior(
            model, evidence, series.lengths, points, self.iterations, self.tolerance
        )

    def posterior_mean(self, variables: Variables, series: Series, key: jax.Array) -> PosteriorPath:
        """The smoothed means, the posterior being the marginals, ``(batch, time, latent)``."""
        return smoothed_path(self.path_posterior(variables, series, key))

    def posterior_samples(
        self, variables: Variables, series: Series, key: jax.Array, count: int, scale: Any = 1.0
    ) -> PosteriorPath:
        """Joint samples of whole paths, ``(count, batch, time, latent)``."""
        points_key, sample_key = jax.random.split(key)
        points = self.prediction_quadrature.points(points_key, series, self.latent)
        smoothed = self._smooth(variables, series, points).smoothed
        return self._sampled_paths(variables, series, smoothed, points, sample_key, count, scale)

    def posterior_paths(
        self,
        variables: Variables,
        series: Series,
        keys: tuple[jax.Array, jax.Array],
        count: int,
        scale: Any = 1.0,
    ) -> tuple[PosteriorPath, PosteriorPath]:
        """The smoothed means and joint samples, from one smoother."""
        points = self.prediction_quadrature.points(keys[0], series, self.latent)
        posterior = self._smooth(variables, series, points)
        paths = self._sampled_paths(
            variables, series, posterior.smoothed, points, keys[1], count, scale
        )
        return smoothed_path(posterior), paths

    def _sampled_paths(
        self,
        variables: Variables,
        series: Series,
        smoothed: FullMoments,
        points: Points,
        key: jax.Array,
        count: int,
        scale: Any,
    ) -> PosteriorPath:
        model = self.state_space(variables, series.inputs)
        evidence = self.evidence(variables, series)
        sampler = path_sampling.path_sampler(model, smoothed, evidence, points)
        noise = filtering.particles(key, count, series.index, series.num_steps, self.latent)
        flat = scale * noise.reshape(series.num_steps, self.latent, -1)
        paths = path_sampling.sample_paths(model, sampler, flat)

        def public(leaf: jax.Array) -> jax.Array:
            """``(time, *, count * batch)`` -> ``(count, batch, time, *)``."""
            split = leaf.reshape(*leaf.shape[:-1], count, series.batch)
            return jnp.moveaxis(split, (-2, -1), (0, 1))

        return PosteriorPath(
            Moments(*map(public, paths.prior)),
            Moments(*map(public, paths.posterior)),
            public(paths.states),
            log_posterior=public(paths.log_posterior),
        )

    def emissions(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality from states ``(..., latent)``.

        Residuals have their stationary distribution.
        """
        raw = raw_outputs(self._decoders(variables), states)
        return residuals.widen(self.likelihoods, self._residuals(variables), raw)

    def emissions_of(
        self, variables: Variables, states: jax.Array, series: Series
    ) -> dict[str, Raw]:
        """`emissions`, with the background of images, or with the residuals given the states."""
        backgrounds = backgrounds_of(self.modalities, series)
        raw = raw_outputs(self._decoders(variables), states, backgrounds=backgrounds)
        return residuals.add_residuals(self.likelihoods, self._residuals(variables), raw, series)[0]

    def path_log_prob(
        self, variables: Variables, states: jax.Array, series: Series, raw: dict[str, Raw]
    ) -> jax.Array:
        """Log p(x | z) of what is observed, ``(..., batch)``; the residuals are integrated out."""
        own = self._residuals(variables)
        if not own:
            return super().path_log_prob(variables, states, series, raw)
        told = raw_outputs(self._decoders(variables), states)
        scores = residuals.add_residuals(self.likelihoods, own, told, series)[1]
        others = {name: each for name, each in self.likelihoods.items() if name not in own}
        total = observed_log_prob(others, raw, series, states.shape[:-2])
        return sum(scores.values(), total)

    def _residuals(self, variables: Variables) -> residuals.Residuals:
        return self.networks.bind(variables).residuals()

    def _encoders(self, variables: Variables, training: bool = False) -> NetworkGroups:
        networks = self.networks.bind(variables).encoders if self.encoded else {}
        return NetworkGroups(networks, modality_groups(self.modalities), training)

    def _decoders(self, variables: Variables, training: bool = False) -> NetworkGroups:
        networks = self.networks.bind(variables).decoders
        return NetworkGroups(networks, modality_groups(self.modalities), training)

    def _prior_samples(
        self, variables: Variables, key: jax.Array, series: Series, reverse: bool
    ) -> jax.Array:
        """Ancestral samples."""
        del reverse
        model = self.state_space(variables, series.inputs)
        noise = filtering.particles(key, 1, series.index, series.num_steps, self.latent)[:, :, 0]
        states = full_smoothing.sample_prior(model, noise)
        return jnp.moveaxis(states, -1, 0)
