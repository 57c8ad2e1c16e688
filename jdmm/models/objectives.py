"""The training loss of Tan et al. 2020, supplement B, as named sums over one count.

    L = filter L_filter + smoother L_smoother + prior_matching beta L_match

L_filter and L_smoother each add up one evidence lower bound per view: all modalities together, and
each modality by itself. Every modality is encoded once; the evidence of a view is the sum over its
modalities.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import optax
from flax.core import FrozenDict
from jax import numpy as jnp

from jdmm.errors import InputError
from jdmm.inference import filtering, gaussian, posterior
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.posterior import States, StateSpaceModel
from jdmm.inference.quadrature import Quadrature
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Likelihood, Raw
from jdmm.models.grouping import map_groups
from jdmm.series import Series

Views = Sequence[tuple[tuple[str, ...], float]]
"""The modalities that a view observes, and the weight of its bound."""

WEIGHTS = (
    "filter",
    "smoother",
    "time_reversal",
    "prior_matching",
    "filter_unimodal",
    "smoother_unimodal",
)
"""Fields of `LossWeights` that are weights."""

HUBER_DELTA = 5.0
"""Residuals of more sd than this are outliers of `time_reversal_nll`."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss; a view or term of weight 0 is not computed.

    The defaults are the best known settings for the spirals. The loss of Tan et al. has
    ``filter_fade=(1, 1)``, ``time_reversal=0``, ``filter_unimodal=1`` and ``smoother_unimodal=1``.

    Attributes:
        filter: of the bound on a path sampled by the backward filter.
        filter_fade: fractions of the training between which that weight falls to 0; (1, 1) keeps
            it. This bound teaches the transitions early. But a path that commits to every sample
            needs noisy transitions, and then the predictions of the backward filter forget.
        smoother: of the bound on the path of the smoother behind the backward filter.
        time_reversal: of the negative log-likelihood of the backward transition and of p(z) on
            the states that the smoother samples. They learn to be the time reversal and the
            marginal of the forward process. Takes over from the filter's bound as that fades.
        prior_matching: of the divergences that keep the model stationary where nothing is
            observed.
        prior_matching_particles: states sampled from p(z) for them.
        filter_unimodal: of the views of one modality, within the filter's bound.
        smoother_unimodal: the same within the smoother's bound.
        multipliers: modality -> lambda_m of its log-likelihood, 1 where not given.
    """

    filter: float = 0.5
    filter_fade: tuple[float, float] = (0.05, 0.2)
    smoother: float = 0.5
    time_reversal: float = 0.05
    prior_matching: float = 0.01
    prior_matching_particles: int = 50
    filter_unimodal: float = 0.0
    smoother_unimodal: float = 0.0
    multipliers: Mapping[str, float] = FrozenDict()

    def __post_init__(self) -> None:
        """Checks the values."""
        # with a hash, equal models share compiled programs
        object.__setattr__(self, "filter_fade", tuple(self.filter_fade))
        object.__setattr__(self, "multipliers", FrozenDict(self.multipliers))
        first, last = self.filter_fade
        expectations = {
            "filter_fade": (0 <= first <= last <= 1, "two rising fractions within 0..1"),
            "prior_matching_particles": (self.prior_matching_particles >= 1, "at least 1"),
        }
        for name in WEIGHTS:
            holds = 0 <= getattr(self, name) < float("inf")
            expectations[name] = (holds, "finite and at least 0")
        for name, (holds, expected) in expectations.items():
            if not holds:
                raise InputError(f"expected loss.{name} {expected}, got {getattr(self, name)}")
        if not self.filter and not self.smoother:
            raise InputError("expected loss.filter or loss.smoother above 0, got both 0")


class Loss(NamedTuple):
    """Numerators and their count: add both up over devices, then divide once.

    terms: name -> sum over the batch in nats, weighted as in the loss except for beta.
    count: number of time steps within the lengths of the series.
    broken: `Series.index` of a series whose numbers cannot be right, -1 if there is none; None for
        a loss without such a check. It stops the training.
    statistics: the running statistics of batch normalisation, the collection "batch_stats" of
        the variables after this batch; None where there are none, and outside training.
    """

    terms: dict[str, jax.Array]
    count: jax.Array
    broken: jax.Array | None = None
    statistics: Any = None

    def total(self, beta: jax.Array | float) -> jax.Array:
        """The loss in nats per time step: (log-likelihoods + beta divergences) / count."""
        weighted = (
            term * (1.0 if name.endswith("_nll") else beta) for name, term in self.terms.items()
        )
        return sum(weighted) / jnp.maximum(self.count, 1)  # type: ignore[return-value]

    def means(self) -> dict[str, jax.Array]:
        """Each term in nats per time step."""
        return {name: term / jnp.maximum(self.count, 1) for name, term in self.terms.items()}


def first_of(mask: jax.Array, series: Series) -> jax.Array:
    """`Series.index` of the first series where a mask ``(batch,)`` holds, -1 if there is none."""
    return jnp.where(jnp.any(mask), jnp.asarray(series.index)[jnp.argmax(mask)], -1)


def mdmm_loss(
    ssm: StateSpaceModel,
    likelihoods: Mapping[str, Likelihood],
    series: Series,
    targets: Series,
    key: jax.Array,
    quadrature: Quadrature,
    weights: LossWeights,
    progress: jax.Array | float = 0.0,
) -> Loss:
    """The loss of a batch.

    Args:
        ssm: the model, its variables bound.
        likelihoods: modality -> likelihood.
        series: what the encoders see.
        targets: what the likelihoods score.
        key: of all random numbers.
        quadrature: of the backward filter behind the smoother (K_b).
        weights: of the terms.
        progress: fraction of the training done, 0 to 1.
    """
    evidence = ssm.encode(series)
    names = tuple(evidence)
    points_key, noise_key, match_key = jax.random.split(key, 3)
    noise = filtering.particles(noise_key, 2, series.index, series.num_steps, ssm.latent)
    terms: dict[str, jax.Array] = {}

    def bound(path: PosteriorPath, unimodal: float) -> tuple[jax.Array, jax.Array]:
        shares = views(names, unimodal)
        return evidence_lower_bound(
            ssm.decode, likelihoods, targets, path, shares, weights.multipliers
        )

    def filter_bound() -> tuple[jax.Array, jax.Array]:
        # with one particle per step the filter samples a path (K = 1). A prediction from one point
        # is p(z') q~(z' | z), so these messages are diagonal whatever `ssm.covariance` is
        own_noise = noise[:, :, :1]
        stacked = _stack(evidence, views(names, weights.filter_unimodal))
        path = filtering.backward_filter(ssm.backward, ssm.prior, stacked, own_noise)
        states = gaussian.sample(path.filtered, jnp.moveaxis(own_noise[:, :, 0], -1, 0)[None])
        return bound(PosteriorPath(path.predicted, path.filtered, states), weights.filter_unimodal)

    def smoother_bound() -> tuple[jax.Array, jax.Array, jax.Array]:
        stacked = _stack(evidence, views(names, weights.smoother_unimodal))
        smooth = posterior.backward_forward(ssm, stacked, series, points_key, quadrature)
        path = smooth(noise[:, :, 1])
        sums = bound(path, weights.smoother_unimodal)
        return *sums, time_reversal_nll(ssm, path.states[0], targets.valid)

    first, last = weights.filter_fade
    faded = jnp.clip((progress - first) / max(last - first, 1e-9), 0.0, 1.0)
    if weights.filter:
        weight = weights.filter * (1.0 - faded)
        if first == 1:
            sums = filter_bound()
        else:
            # once faded out, the path is not computed. Running statistics that its decoders leave
            # in the branch are replaced by those of the smoother's path
            sums = jax.lax.cond(weight > 0, filter_bound, lambda: (jnp.zeros(()),) * 2)
        terms["filter_nll"], terms["filter_kl"] = (weight * value for value in sums)
    if weights.smoother:
        nll, divergence, reversal = smoother_bound()
        terms["smoother_nll"] = weights.smoother * nll
        terms["smoother_kl"] = weights.smoother * divergence
        if weights.time_reversal:
            weight = weights.time_reversal * (faded if weights.filter else 1.0)
            terms["time_reversal_nll"] = weight * reversal
    count = jnp.sum(targets.valid)
    if weights.prior_matching:
        divergence = prior_matching(ssm, match_key, weights.prior_matching_particles)
        terms["prior_matching"] = weights.prior_matching * count * divergence
    return Loss(terms, count)


def time_reversal_nll(ssm: StateSpaceModel, states: jax.Array, valid: jax.Array) -> jax.Array:
    """-log p(z_t | z_{t+1}) - log p(z_t), summed over ``(batch, time, latent)`` states, in nats.

    No gradient flows into the states: the terms train the backward transition and the stationary
    prior, which could otherwise shrink to nothing while the states do not follow it. Beyond
    `HUBER_DELTA` sd the squared error becomes linear (Huber), because a narrow density that is
    wrong about a few states would otherwise dominate the loss.
    """
    states = jax.lax.stop_gradient(jnp.moveaxis(states, -1, 0))
    prior = filtering.column(ssm.prior)

    def flat(values: jax.Array) -> jax.Array:
        return values.reshape(ssm.latent, -1)

    def nll(values: jax.Array, expected: Moments) -> jax.Array:
        residual = (values - expected.mean) / expected.sd
        huber = optax.losses.huber_loss(residual, delta=HUBER_DELTA)
        return jnp.sum(huber + jnp.log(expected.sd) + 0.5 * jnp.log(2 * jnp.pi), 0)

    quotient = ssm.backward(flat(states[:, :, 1:]))
    previous = gaussian.condition(jax.lax.stop_gradient(prior), quotient)
    transitions = nll(flat(states[:, :, :-1]), previous)
    marginals = nll(flat(states), prior)
    return jnp.sum(jnp.where(valid[:, 1:].ravel(), transitions, 0.0)) + jnp.sum(
        jnp.where(valid.ravel(), marginals, 0.0)
    )


def prior_matching(ssm: StateSpaceModel, key: jax.Array, count: int) -> jax.Array:
    """KL(p(z) || match E p(z' | z)) over z ~ p(z), forwards plus backwards, in nats."""
    prior = filtering.column(ssm.prior)
    noise = jax.random.normal(key, (2, ssm.latent, count, 1))
    divergence = jnp.zeros(())
    for transition, offsets in zip((ssm.forward, ssm.backward), noise, strict=True):
        matched = filtering.predict(transition, ssm.prior, prior, offsets)
        divergence += jnp.sum(gaussian.kl(prior, matched))
    return divergence


def views(names: Sequence[str], unimodal: float) -> Views:
    """All modalities together, and each by itself if `unimodal`, its weight, is not 0."""
    single = [((name,), unimodal) for name in names] if unimodal and len(names) > 1 else []
    return [(tuple(names), 1.0), *single]


def evidence_lower_bound(
    decode: Callable[[States, Mapping[str, jax.Array]], dict[str, Raw]],
    likelihoods: Mapping[str, Likelihood],
    targets: Series,
    path: PosteriorPath,
    views: Views,
    multipliers: Mapping[str, float],
) -> tuple[jax.Array, jax.Array]:
    """Negative log-likelihoods and divergences of the evidence lower bounds, in nats.

    Args:
        decode: raw emission outputs of the modalities; see `StateSpaceModel.decode`.
        likelihoods: modality -> likelihood.
        targets: what is scored; a view scores the modalities that it observes.
        path: one per view, ``(view, batch, time, ...)``.
        views: what they observe, and their weights.
        multipliers: modality -> lambda_m of its log-likelihood, 1 where not given.
    """
    share = jnp.array([weight for _, weight in views])[:, None, None]
    rows = {
        modality: [row for row, (names, _) in enumerate(views) if modality in names]
        for modality in targets.values
    }
    states: States = path.states
    if len(views) > 1:
        states = {m: jnp.stack([path.states[row] for row in own]) for m, own in rows.items()}
    counted = {
        m: jnp.broadcast_to(jnp.any(mask, -1)[None], (len(rows[m]), *mask.shape[:-1]))
        for m, mask in targets.observed.items()
    }
    weights = {
        modality: share[jnp.array(own)][..., None] * multipliers.get(modality, 1.0)
        for modality, own in rows.items()
    }

    def weighted_log_prob(
        likelihood: Likelihood, raw: Raw, value: jax.Array, observed: jax.Array, weight: jax.Array
    ) -> jax.Array:
        value = jnp.broadcast_to(value[None], (len(weight), *value.shape))
        scored = jnp.where(observed[None], likelihood.log_prob(raw, value), 0.0)
        return jnp.sum(weight * scored)

    own_likelihoods = {modality: likelihoods[modality] for modality in targets.values}
    log_probs = map_groups(
        weighted_log_prob,
        own_likelihoods,
        decode(states, counted),
        targets.values,
        targets.observed,
        weights,
    )
    nll = jnp.zeros(())
    for log_prob in log_probs.values():
        nll -= log_prob
    return nll, jnp.sum(share * jnp.where(targets.valid[None], path.kl(), 0.0))


def _stack(evidence: Mapping[str, Gaussian], views: Views) -> Gaussian:
    """Each view's evidence, ``(view, batch, time, latent)``."""
    joint = [gaussian.product(*(evidence[name] for name in names)) for names, _ in views]
    return Gaussian(*(jnp.stack(leaves) for leaves in zip(*joint, strict=True)))
