"""Modalities computed as a group, against the same modalities computed one by one."""

from typing import Any

import chex
import jax
import numpy as np
import pytest
from flax import linen as nn
from jax import numpy as jnp

import jdmm
from jdmm import (
    MDMM,
    MVAE,
    VRNN,
    Categorical,
    LossWeights,
    Modality,
    StructuredInference,
    series_from_arrays,
)
from jdmm.inference.gaussian import Moments
from jdmm.likelihoods import constrain_sd
from jdmm.models import grouping
from jdmm.models.grouping import NetworkGroups, map_groups, modality_groups

LATENT, HIDDEN = 2, 3
KEY = jax.random.key(0)


class LinearEncoder(nn.Module):
    """An encoder of a user."""

    latent: int

    @nn.compact
    def __call__(self, values, observed):
        mean, raw_sd = nn.Dense(self.latent)(values), nn.Dense(self.latent)(values)
        return Moments(mean, constrain_sd(raw_sd) ** 2)


NUMBERS = tuple(Modality(f"n{row}") for row in range(3))
LABELS = tuple(Modality(f"label{row}", likelihood=Categorical(3)) for row in range(3))
PAIRS = (Modality("pair", features=2),)
OWN = (Modality("own", encoder=LinearEncoder(LATENT)),)
MIXED = (*NUMBERS, *PAIRS, *LABELS)
WEIGHTS = LossWeights(
    filter_unimodal=0.5, smoother_unimodal=0.7, time_reversal=0.1, multipliers={"n1": 2.0}
)
MODELS = {
    "mdmm": MDMM((*OWN, *MIXED), LATENT, HIDDEN, weights=WEIGHTS),
    "mvae": MVAE((*MIXED, *OWN), LATENT, HIDDEN, multipliers={"n1": 2.0}),
    "vrnn": VRNN(MIXED, LATENT, HIDDEN, unimodal=0.3),
    "rnn-gmm": VRNN(MIXED, 0, HIDDEN, components=2),
    "structured": StructuredInference(MIXED, LATENT, HIDDEN, features_to_combiner=True),
}


def data(modalities):
    rng = np.random.default_rng(0)
    values = {}
    for modality in modalities:
        drawn = rng.normal(size=(2, 4, modality.features))
        if modality.likelihood.classes is not None and modality.name.startswith("label"):
            drawn = rng.integers(0, 3, drawn.shape).astype(float)
        values[modality.name] = np.where(rng.random(drawn.shape) < 0.3, np.nan, drawn)
    return series_from_arrays(values, lengths=[4, 2])


def random_variables(model, series) -> Any:
    shapes = jax.eval_shape(model.init, KEY, series)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


def evaluate(model, variables, series) -> Any:
    """Loss, gradient, and the emissions of one sampled path."""

    @jax.jit
    def loss(variables):
        return model.loss(variables, series, series, KEY, 0.1).total(1.0)

    @jax.jit
    def emissions(variables):
        path = model.posterior_samples(variables, series, KEY, 1)
        return model.emissions(variables, path.states)

    return jax.value_and_grad(loss)(variables), emissions(variables)


@pytest.mark.parametrize("name", MODELS)
def test_groups_compute_what_their_modalities_do(name, monkeypatch):
    """Losses, gradients and emissions, from parameters of each modality or stacked ones."""
    model = MODELS[name]
    series = data(model.modalities)
    variables = random_variables(model, series)
    assert modality_groups(model.modalities) == []
    expected, expected_emissions = evaluate(model, variables, series)

    monkeypatch.setattr(grouping, "MIN_GROUP", 2)
    assert [len(names) for names in modality_groups(model.modalities)] == [3, 3]
    found, emissions = evaluate(model, variables, series)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(emissions, expected_emissions, rtol=1e-5, atol=1e-5)

    stacked = model.stack_parameters(variables)
    assert len(jax.tree.leaves(stacked)) < len(jax.tree.leaves(variables))
    chex.assert_trees_all_equal(model.unstack_parameters(stacked), variables)
    (loss, gradient), emissions = evaluate(model, stacked, series)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
    chex.assert_trees_all_close(emissions, expected_emissions, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(
        model.unstack_parameters(gradient), expected[1], rtol=1e-5, atol=1e-5
    )


def test_parameters_are_stacked_behind_the_axes_of_all_variables(monkeypatch):
    monkeypatch.setattr(grouping, "MIN_GROUP", 2)
    model = MODELS["mvae"]
    one = random_variables(model, data(model.modalities))
    seeds = jax.tree.map(lambda leaf: np.stack([leaf, leaf + 1]), one)
    stacked = model.stack_parameters(seeds, axis=1)
    for row, shift in enumerate((0, 1)):
        chex.assert_trees_all_equal(
            jax.tree.map(lambda leaf, row=row: leaf[row], stacked),
            model.stack_parameters(jax.tree.map(lambda leaf, shift=shift: leaf + shift, one)),
        )
    chex.assert_trees_all_equal(model.unstack_parameters(stacked, axis=1), seeds)


def test_small_models_are_left_as_they_are():
    model = MVAE(NUMBERS, LATENT, HIDDEN)
    variables = random_variables(model, data(NUMBERS))
    assert model.stack_parameters(variables) is variables
    assert model.unstack_parameters(variables) is variables


def test_own_networks_are_not_grouped():
    modalities = [Modality(f"m{row}", encoder=LinearEncoder(LATENT)) for row in range(9)]
    assert modality_groups(modalities) == []
    assert modality_groups([*modalities, *(Modality(f"n{row}") for row in range(4))]) == [
        ["n0", "n1", "n2", "n3"]
    ]


def test_some_modalities_of_a_group_are_computed_alone():
    """Each with its own parameters."""
    names = [f"m{row}" for row in range(5)]

    class Doubles(nn.Module):
        def setup(self):
            self.layers = {name: nn.Dense(2) for name in names}

        def __call__(self):
            return [layer(jnp.zeros(1)) for layer in self.layers.values()]

    shapes = jax.eval_shape(Doubles().init, KEY)
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    groups = NetworkGroups(Doubles().bind(variables).layers, [names])
    given = {"m3": jnp.array([1.0]), "m1": jnp.array([2.0])}
    found = groups.map(lambda network, own: network(own), given)
    assert set(found) == set(given)
    for name, value in given.items():
        params = variables["params"][f"layers_{name}"]
        np.testing.assert_allclose(found[name], value @ params["kernel"] + params["bias"], 1e-5)


def test_map_groups_by_form_and_shape():
    """Every name gets its own result, whatever group it is in."""
    forms = {f"m{row}": row % 2 for row in range(11)}
    inputs = {f"m{row}": jnp.full(1 + (row > 8), float(row)) for row in range(11)}
    found = map_groups(lambda form, own: (own + 100 * form).sum(), forms, inputs)
    assert list(found) == list(forms)
    for row, value in enumerate(found.values()):
        assert value == (1 + (row > 8)) * (row + 100 * (row % 2))


def test_training_on_stacked_parameters_is_the_same(monkeypatch):
    """The fitted variables are those of each modality, under the same names."""
    model = MVAE((*NUMBERS, *PAIRS), LATENT, HIDDEN)
    settings = jdmm.TrainSettings(epochs=3, batch_size=2)
    series = data(model.modalities)
    alone = jdmm.fit(model, series, settings=settings).variables
    monkeypatch.setattr(grouping, "MIN_GROUP", 2)
    together = jdmm.fit(model, series, settings=settings).variables
    chex.assert_trees_all_close(together, alone, rtol=1e-4, atol=1e-6)
