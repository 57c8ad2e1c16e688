"""A deep Markov model with Gaussian filters and smoothers of full covariance.

    z_1 ~ N(m, P)    z_{t+1} ~ N(f(z_t), diag v(z_t))    x_t ~ p(x_t | z_t)

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
from jdmm.inference.residual import no_residuals
from jdmm.inference.smoothing import PosteriorPath
from jdmm.inference.square_root import FullMoments
from jdmm.likelihoods import Normal, Raw
from jdmm.models import objectives
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
    add_residuals,
    backgrounds_of,
    bind,
    evidence_of,
    make_encoder,
    masked_values,
    num_statistics,
    raw_outputs,
    widen,
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
            a `ProductTransition`.
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

    def state_space(self, variables: Variables) -> FullModel:
        """The model as pure functions, for the recursions of `jdmm.inference`."""
        networks, method = self.networks.bind(variables), bind(self.networks, variables)
        decode = partial(raw_outputs, self._decoders(variables))
        exact = [m for m in self.modalities if m.name not in self.encoded]

        def emission(states: jax.Array) -> Moments:
            """Moments ``(statistic, n)`` of all modalities that update by them."""
            last = jnp.moveaxis(states, 0, -1)
            raw = decode({m.name: last for m in exact})
            each = [m.likelihood.moments(raw[m.name]) for m in exact]
            if not each:
                return Moments(*(jnp.zeros((0, states.shape[-1]), states.dtype),) * 2)
            return Moments(
                *(
                    jnp.moveaxis(jnp.concatenate(leaves, -1), -1, 0)
                    for leaves in zip(*each, strict=True)
                )
            )

        own = networks.residuals()
        rows = [own.get(m.name) or no_residuals(num_statistics(m)) for m in exact] if own else []
        residual = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *rows) if own else None
        return FullModel(networks.initial(), method(Networks.step_forward), emission, residual)

    def evidence(self, variables: Variables, series: Series) -> Evidence:
        """What is observed, with the time in front and the series last.

        Raises:
            InputError: for series that disagree with the modalities.
        """
        self.check(series)
        return self._evidence(self._encoders(variables), series)

    def _evidence(self, encoders: NetworkGroups, series: Series) -> Evidence:
        given = masked_values(series)
        values = [jnp.zeros((series.batch, series.num_steps, 0))]
        masks = [jnp.zeros((series.batch, series.num_steps, 0), bool)]
        for modality in self.modalities:
            if modality.name not in self.encoded:
                value = modality.likelihood.statistics(given[modality.name])
                repeats = value.shape[-1] // modality.features
                values.append(value)
                masks.append(jnp.repeat(jnp.asarray(series.observed[modality.name]), repeats, -1))
        value, observed = (
            jnp.moveaxis(jnp.concatenate(leaves, -1), 0, -1) for leaves in (values, masks)
        )
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
        model, evidence = self.state_space(variables), self._evidence(encoders, series)
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
        told = self._residuals_of(variables, found)
        nll = -self._expected_log_prob(decode, found.filtered, targets, scored, told)
        kl = jnp.where(series.valid.T, found.kl, 0.0)
        terms = {"filter_nll": nll, "filter_kl": jnp.sum(kl)}
        statistics = None
        if training:
            statistics = updated_statistics(variables, encoders=encoders, decoders=decoders)
        return Loss(terms, count, broken, statistics)

    def _residuals_of(
        self, variables: Variables, found: full_filtering.FilteredStates
    ) -> dict[str, Moments]:
        """Modality -> the filtered residuals of its features, ``(batch, time, feature)``."""
        if found.residual is None:
            return {}
        residuals, told, start = self.networks.bind(variables).residuals(), {}, 0
        for modality in self.modalities:
            if modality.name not in self.encoded:
                end = start + num_statistics(modality)
                if modality.name in residuals:
                    told[modality.name] = Moments(
                        *(jnp.moveaxis(leaf[:, start:end], -1, 0) for leaf in found.residual)
                    )
                start = end
        return told

    def _expected_log_prob(
        self,
        decode: Any,
        states: FullMoments,
        targets: Series,
        points: Points,
        residuals: Mapping[str, Moments],
    ) -> jax.Array:
        """E log p(x_t | z_t, r_t) of all targets, weighted by the multipliers, in nats."""
        placed = full_smoothing.place_all(states, points)  # (time, latent, point, n)
        shape = (placed.shape[2], targets.batch, targets.num_steps)
        counted = {
            name: jnp.broadcast_to(jnp.any(mask, -1)[None], shape)
            for name, mask in targets.observed.items()
        }
        raw = decode(jnp.transpose(placed, (2, 3, 0, 1)), counted)
        total, given = jnp.zeros(()), masked_values(targets)
        for modality in self.modalities:
            values = given[modality.name]
            every = jnp.broadcast_to(values[None], (placed.shape[2], *values.shape))
            if modality.name in residuals:
                own = residuals[modality.name]  # E over r: at its mean, less var r / (2 R)
                _, noise = modality.likelihood.moments(raw[modality.name])
                each = modality.likelihood.log_prob(raw[modality.name], every - own.mean[None])
                each -= 0.5 * own.variance[None] / noise
            else:
                each = modality.likelihood.log_prob(raw[modality.name], every)
            each = jnp.where(targets.observed[modality.name][None], each, 0.0)
            multiplier = self.multipliers.get(modality.name, 1.0)
            total += multiplier * (points.weights @ jnp.sum(each, (1, 2, 3)))
        return total

    def path_posterior(self, variables: Variables, series: Series, key: jax.Array) -> PathPosterior:
        """The smoothed states of all series, and how to sample whole paths.

        Raises:
            InputError: for series that disagree with the modalities.
        """
        points = self.prediction_quadrature.points(key, series, self.latent)
        return self._smooth(variables, series, points)

    def _smooth(self, variables: Variables, series: Series, points: Points) -> PathPosterior:
        model, evidence = self.state_space(variables), self.evidence(variables, series)
        path = full_smoothing.smooth_path(model, evidence, series.lengths, points)
        if not self.iterations:
            return path
        return full_smoothing.iterate_linearisation(
            model, evidence, series.lengths, points, path, self.iterations, self.tolerance
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
        model, evidence = self.state_space(variables), self.evidence(variables, series)
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
        return widen(self.likelihoods, self.networks.bind(variables).residuals(), raw)

    def emissions_of(
        self, variables: Variables, states: jax.Array, series: Series
    ) -> dict[str, Raw]:
        """`emissions`, with the background of images, or with the residuals given the states."""
        backgrounds = backgrounds_of(self.modalities, series)
        raw = raw_outputs(self._decoders(variables), states, backgrounds=backgrounds)
        residuals = self.networks.bind(variables).residuals()
        return add_residuals(self.likelihoods, residuals, raw, series)[0]

    def path_log_prob(
        self, variables: Variables, states: jax.Array, series: Series, raw: dict[str, Raw]
    ) -> jax.Array:
        """Log p(x | z) of what is observed, ``(..., batch)``; the residuals are integrated out."""
        residuals = self.networks.bind(variables).residuals()
        told = raw_outputs(self._decoders(variables), states)
        scores = add_residuals(self.likelihoods, residuals, told, series)[1]
        others = {name: own for name, own in self.likelihoods.items() if name not in residuals}
        total = observed_log_prob(others, raw, series, states.shape[:-2])
        return sum(scores.values(), total)

    def _encoders(self, variables: Variables, training: bool = False) -> NetworkGroups:
        networks = self.networks.bind(variables).encoders if self.encoded else {}
        return NetworkGroups(networks, modality_groups(self.modalities), training)

    def _decoders(self, variables: Variables, training: bool = False) -> NetworkGroups:
        networks = self.networks.bind(variables).decoders
        return NetworkGroups(networks, modality_groups(self.modalities), training)

    def _prior_samples(
        self, variables: Variables, key: jax.Array, count: int, num_steps: int, reverse: bool
    ) -> jax.Array:
        """Ancestral samples."""
        del reverse
        noise = filtering.particles(key, 1, jnp.arange(count), num_steps, self.latent)[:, :, 0]
        states = full_smoothing.sample_prior(self.state_space(variables), noise)
        return jnp.moveaxis(states, -1, 0)
