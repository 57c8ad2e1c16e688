"""The training loss of Tan et al. 2020, supplement B, as named sums over one count.

    L = filter * L_filter + smoother * L_smoother + match * beta * L_match

L_filter and L_smoother add up one evidence lower bound per view: all modalities together, and
each alone. Every modality is encoded once; a view's evidence is the sum over its modalities.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import optax
from jax import numpy as jnp

from jdmm.inference import filtering, gaussian, smoothing
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.posterior import Parts, Points
from jdmm.inference.smoothing import SmoothedPosterior
from jdmm.likelihoods import Likelihood, Raw
from jdmm.series import Series

Views = Sequence[tuple[tuple[str, ...], float]]
"""The modalities that are seen together, and the weight of their bound."""

OUTLIER = 5.0
"""In `reverse_nll`, residuals of more sd than this count as outliers."""


@dataclass(frozen=True)
class LossWeights:
    """Multipliers of the loss; a view or part of weight 0 is not computed.

    Attributes:
        filter: of the bound on a sampled backward chain.
        filter_fade: fractions of the training between which that bound's weight falls to 0;
            (1, 1) keeps it. It teaches the transitions early, but a chain that commits itself to
            every draw needs noisy ones, and then the messages of the backward filter forget.
        smoother: of the bound on the smoothing chain behind the backward filter.
        reverse: of the negative log-likelihood of the backward transition and of p(z) on the
            states that the smoothing chain draws: they learn to be the time reversal and the
            marginal of the forward process. This takes over from the filter's bound as it fades.
        match: of the prior matching, which keeps the model stationary where nothing is observed.
        match_particles: states drawn from p(z) to match it.
        filter_alone: of the views of one modality, within the filter's bound.
        smoother_alone: the same within the smoother's bound.
        multipliers: modality -> lambda_m of its log-likelihood, 1 where not given.
    """

    filter: float = 0.5
    filter_fade: tuple[float, float] = (1.0, 1.0)
    smoother: float = 0.5
    reverse: float = 0.0
    match: float = 0.01
    match_particles: int = 50
    filter_alone: float = 1.0
    smoother_alone: float = 1.0
    multipliers: Mapping[str, float] = field(default_factory=dict)


class Loss(NamedTuple):
    """Numerators and their count, to be added up over devices before the one division.

    terms: name -> sum over the batch, in nats, weighted as in the loss but for beta.
    count: number of time steps within the series' lengths.
    """

    terms: dict[str, jax.Array]
    count: jax.Array

    def total(self, beta: jax.Array | float) -> jax.Array:
        """The loss: (log-likelihoods + beta * divergences) / count, in nats per time step."""
        weighted = (
            term * (1.0 if name.endswith("_nll") else beta) for name, term in self.terms.items()
        )
        return sum(weighted) / jnp.maximum(self.count, 1)  # type: ignore[return-value]

    def means(self) -> dict[str, jax.Array]:
        """Each term per time step."""
        return {name: term / jnp.maximum(self.count, 1) for name, term in self.terms.items()}


def mdmm_loss(
    parts: Parts,
    likelihoods: Mapping[str, Likelihood],
    series: Series,
    targets: Series,
    key: jax.Array,
    points: Points,
    weights: LossWeights,
    progress: jax.Array | float = 0.0,
) -> Loss:
    """The loss of a batch: what `series` shows is encoded, what `targets` holds is scored.

    `progress` is the fraction of the training that is done, 0 to 1.
    """
    evidence = parts.encode(series)
    names = tuple(evidence)
    points_key, noise_key, match_key = jax.random.split(key, 3)
    noise = filtering.particles(noise_key, 2, series.index, series.time, parts.latent)
    terms: dict[str, jax.Array] = {}

    def bound(alone: float, posterior: Moments, prior: Moments, states: jax.Array) -> list[Any]:
        chain = SmoothedPosterior(prior, posterior, states)
        shares = views(names, alone)
        return list(
            evidence_bound(parts.decode, likelihoods, targets, chain, shares, weights.multipliers)
        )

    def filter_bound() -> list[Any]:
        drawn = noise[:, :, :1]
        stacked = _stack(evidence, views(names, weights.filter_alone))
        chain = filtering.backward_filter(parts.backward, parts.prior, stacked, drawn)
        states = gaussian.sample(chain.filtered, jnp.moveaxis(drawn[:, :, 0], -1, 0)[None])
        return bound(weights.filter_alone, chain.filtered, chain.message, states)

    def smoother_bound() -> list[Any]:
        stacked = _stack(evidence, views(names, weights.smoother_alone))
        offsets = points.offsets(points_key, series, parts.latent)
        filtered = filtering.backward_filter(parts.backward, parts.prior, stacked, offsets).filtered
        smooth = smoothing.conditional_smoother(
            parts.forward, parts.prior, filtered, noise[:, :, 1]
        )
        sums = bound(weights.smoother_alone, smooth.posterior, smooth.prior, smooth.states)
        return [*sums, reverse_nll(parts, smooth.states[0], targets.valid)]

    first, last = weights.filter_fade
    faded = jnp.clip((progress - first) / max(last - first, 1e-9), 0.0, 1.0)
    if weights.filter:
        weight = weights.filter * (1.0 - faded)
        # once faded out, the chain is not computed
        sums = jax.lax.cond(weight > 0, filter_bound, lambda: [jnp.zeros(())] * 2)
        terms["filter_nll"], terms["filter_kl"] = (weight * value for value in sums)
    if weights.smoother:
        nll, divergence, reverse = smoother_bound()
        terms["smoother_nll"] = weights.smoother * nll
        terms["smoother_kl"] = weights.smoother * divergence
        if weights.reverse:
            weight = weights.reverse * (faded if weights.filter else 1.0)
            terms["reverse_nll"] = weight * reverse
    count = jnp.sum(targets.valid)
    if weights.match:
        terms["match"] = (
            weights.match * count * prior_matching(parts, match_key, weights.match_particles)
        )
    return Loss(terms, count)


def reverse_nll(parts: Parts, states: jax.Array, valid: jax.Array) -> jax.Array:
    """-log p(z_t | z_{t+1}) - log p(z_t) summed over drawn ``(batch, time, latent)``, in nats.

    The states are taken as given: the terms train the backward transition and the stationary
    prior, which else can shrink to nothing while the states do not follow it. Beyond `OUTLIER` sd
    the squared error goes on as a line (Huber), since a density that is sure of itself and wrong
    about a few states would otherwise drown everything else that is learned.
    """
    states = jax.lax.stop_gradient(jnp.moveaxis(states, -1, 0))
    prior = filtering.column(parts.prior)

    def flat(values: jax.Array) -> jax.Array:
        return values.reshape(parts.latent, -1)

    def surprise(values: jax.Array, expected: Moments) -> jax.Array:
        residual = (values - expected.mean) / expected.sd
        huber = optax.losses.huber_loss(residual, delta=OUTLIER)
        return jnp.sum(huber + jnp.log(expected.sd) + 0.5 * jnp.log(2 * jnp.pi), 0)

    moved = parts.backward(flat(states[:, :, 1:]))
    past = gaussian.condition(jax.lax.stop_gradient(prior), moved)
    transitions = surprise(flat(states[:, :, :-1]), past)
    marginals = surprise(flat(states), prior)
    return jnp.sum(jnp.where(valid[:, 1:].ravel(), transitions, 0.0)) + jnp.sum(
        jnp.where(valid.ravel(), marginals, 0.0)
    )


def prior_matching(parts: Parts, key: jax.Array, count: int) -> jax.Array:
    """KL(p(z) || match E p(z' | z)) over z ~ p(z), forwards plus backwards, in nats."""
    prior = filtering.column(parts.prior)
    noise = jax.random.normal(key, (2, parts.latent, count, 1))
    divergence = jnp.zeros(())
    for transition, draws in zip((parts.forward, parts.backward), noise, strict=True):
        matched = filtering.predict(transition, parts.prior, prior, draws)
        divergence += jnp.sum(gaussian.kl(prior, matched))
    return divergence


def views(names: Sequence[str], alone: float) -> Views:
    """What is seen together, and its weight: everything, and each modality alone if it has one."""
    single = [((name,), alone) for name in names] if alone and len(names) > 1 else []
    return [(tuple(names), 1.0), *single]


def evidence_bound(
    decode: Callable[[str, jax.Array], Raw],
    likelihoods: Mapping[str, Likelihood],
    targets: Series,
    chain: SmoothedPosterior,
    views: Views,
    multipliers: Mapping[str, float],
) -> tuple[jax.Array, jax.Array]:
    """Negative log-likelihoods and divergences of the evidence lower bounds, in nats.

    Args:
        decode: modality and states -> raw outputs.
        likelihoods: modality -> likelihood.
        targets: what is scored; a view scores the modalities that it sees.
        chain: one per view, ``(view, batch, time, ...)``.
        views: what they see, and their weights.
        multipliers: modality -> lambda_m of its log-likelihood, 1 where not given.
    """
    share = jnp.array([weight for _, weight in views])[:, None, None]
    nll = jnp.zeros(())
    for modality, target in targets.values.items():
        rows = [row for row, (seen, _) in enumerate(views) if modality in seen]
        raw = decode(modality, jnp.stack([chain.states[row] for row in rows]))
        value = jnp.broadcast_to(target[None], (len(rows), *target.shape))
        log_prob = likelihoods[modality].log_prob(raw, value)
        scored = jnp.where(targets.observed[modality][None], log_prob, 0.0)
        weight = share[jnp.array(rows)][..., None] * multipliers.get(modality, 1.0)
        nll -= jnp.sum(weight * scored)
    steps = jnp.sum(gaussian.kl(chain.posterior, chain.prior), -1)
    return nll, jnp.sum(share * jnp.where(targets.valid[None], steps, 0.0))


def _stack(evidence: Mapping[str, Gaussian], views: Views) -> Gaussian:
    """Each view's evidence, ``(view, batch, time, latent)``."""
    joint = [gaussian.product(*(evidence[name] for name in seen)) for seen, _ in views]
    return Gaussian(*(jnp.stack(leaves) for leaves in zip(*joint, strict=True)))
