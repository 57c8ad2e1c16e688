"""What every registered model promises, tested on each of them.

Each model is tried in a tiny configuration. A model that is registered without one fails.
"""

import dataclasses
import functools
from typing import Any

import chex
import jax
import numpy as np
import pytest

import jdmm
from jdmm import (
    MDMM,
    MVAE,
    VRNN,
    Categorical,
    ExactLikelihood,
    GradientModel,
    ImputationBaseline,
    InputError,
    LinearGaussianSSM,
    Mixed,
    Modality,
    NearestValue,
    Normal,
    Poisson,
    Quadrature,
    SelfFittingModel,
    Series,
    SigmaPointSSM,
    StructuredInference,
    StudentT,
    series_from_arrays,
)
from jdmm.models import MODELS

MIXED = (Modality("pair", features=2), Modality("label", likelihood=Categorical(3)))
NUMBERS = (Modality("pair", features=2), Modality("label"))
OTHERS = (
    Modality("pair", likelihood=Mixed((StudentT(), Normal(sd=0.5)))),
    Modality("label", likelihood=Poisson()),
)
PARTICLES = Quadrature("particles", 3)

TINY: dict[str, tuple[str, jdmm.Model]] = {
    "mdmm": ("mdmm", MDMM(MIXED, 2, 3)),
    "mdmm, counts": ("mdmm", MDMM(OTHERS, 2, 3)),
    "sigma points, counts": ("sigma_point", SigmaPointSSM(OTHERS, 2, 3, iterations=1)),
    "vrnn, counts": ("vrnn", VRNN(OTHERS, 2, 4)),
    "mdmm, particles": ("mdmm", MDMM(MIXED, 2, 3, PARTICLES, PARTICLES)),
    "sigma points, likelihood": ("sigma_point", SigmaPointSSM(NUMBERS, 2, 3)),
    "sigma points, residual": (
        "sigma_point",
        SigmaPointSSM(NUMBERS, 2, 3, residual=True, iterations=1),
    ),
    "sigma points, bound": ("sigma_point", SigmaPointSSM(MIXED, 2, 3, iterations=1)),
    "sigma points, encoder": (
        "sigma_point",
        SigmaPointSSM(MIXED, 2, 3, updates={"label": "encoder"}, emission="linear"),
    ),
    "mdmm, full covariance": (
        "mdmm",
        MDMM(
            MIXED,
            2,
            3,
            Quadrature("particles", 4),
            Quadrature("gauss_hermite"),
            covariance="full",
        ),
    ),
    "f-mask": (
        "structured_inference",
        StructuredInference(MIXED, 2, 3, direction="forward", missing="mask"),
    ),
    "b-skip": (
        "structured_inference",
        StructuredInference(MIXED, 2, 3, direction="backward", missing="skip", unimodal=0.5),
    ),
    "mvae": ("mvae", MVAE(MIXED, 2, 3)),
    "vrnn": ("vrnn", VRNN(MIXED, 2, 3)),
    "rnn-gmm": ("vrnn", VRNN(MIXED, 0, 3, components=2)),
    "linear": ("linear_gaussian", LinearGaussianSSM(NUMBERS, 2, iterations=2)),
    "mean": ("baseline", ImputationBaseline(NUMBERS, "mean")),
    "carry": ("baseline", ImputationBaseline(NUMBERS, "carry")),
    "interpolate": ("baseline", ImputationBaseline(NUMBERS, "interpolate")),
    "nearest": ("nearest", NearestValue(MIXED)),
}
"""Case -> name in `MODELS`, and the model."""

EACH = pytest.mark.parametrize("case", TINY)


def each_of(kind: type) -> Any:
    return pytest.mark.parametrize(
        "case", [case for case, (_, model) in TINY.items() if isinstance(model, kind)]
    )


STEPS, COUNT = 5, 2
KEY = jax.random.key(0)


def data(missing: float = 0.3, num_steps: int = STEPS) -> Series:
    """Three series; the second is shorter."""
    rng = np.random.default_rng(1)
    pair = rng.normal(size=(3, num_steps, 2))
    label = rng.integers(0, 3, (3, num_steps, 1)).astype(float)
    for values in (pair, label):
        values[rng.random(values.shape) < missing] = np.nan
    lengths = np.array([num_steps, max(num_steps - 2, 1), num_steps])
    return series_from_arrays({"pair": pair, "label": label}, lengths=lengths)


@functools.cache
def variables(case: str) -> Any:
    """Random, biases too: an initial 0 would hide a missing term."""
    model = TINY[case][1]
    if isinstance(model, SelfFittingModel):
        return model.fit(data())
    assert isinstance(model, GradientModel)
    shapes = jax.eval_shape(model.init, KEY, data())
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


@functools.cache
def programs(case: str) -> tuple[Any, Any]:
    """Expected and sampled emissions, with their paths; compiled once per shape."""
    model = TINY[case][1]

    @jax.jit
    def expected(variables, series):
        path = model.posterior_mean(variables, series, KEY)
        return path, model.emissions(variables, path.states)

    @jax.jit
    def sampled(variables, series):
        path = model.posterior_samples(variables, series, KEY, COUNT)
        return path, model.emissions(variables, path.states)

    return expected, sampled


def within(tree: Any, series: Series, axis: int = 0) -> Any:
    """Leaves ``(*, batch, time, ...)`` with 0 in the padding."""
    valid = np.asarray(series.valid)
    return jax.tree.map(
        lambda leaf: np.where(
            valid.reshape(*(1,) * axis, *valid.shape, *(1,) * (leaf.ndim - 2 - axis)), leaf, 0
        ),
        tree,
    )


def test_every_registered_model_is_tried():
    assert {name for name, _ in TINY.values()} == set(MODELS)
    assert all(type(model) is MODELS[name] for name, model in TINY.values())


@EACH
def test_shapes(case):
    model, series = TINY[case][1], data()
    for program, lead in zip(programs(case), ((), (COUNT,)), strict=True):
        path, raw = program(variables(case), series)
        shape = (*lead, 3, STEPS)
        assert path.states.shape[:-1] == shape
        latent = path.posterior.mean.shape[-1]
        for moments in (path.prior, path.posterior):
            assert moments.mean.shape == moments.variance.shape == (*shape, latent)
        assert set(raw) == {modality.name for modality in model.modalities}
        for modality in model.modalities:
            assert len(raw[modality.name]) == modality.likelihood.outputs
            classes = modality.likelihood.classes
            last = (modality.features,) if classes is None else (modality.features, classes)
            assert all(leaf.shape == (*shape, *last) for leaf in raw[modality.name])
        chex.assert_tree_all_finite(within((path, raw), series, len(lead)))


@EACH
def test_values_under_the_mask_change_nothing(case):
    series = data()
    garbage = series.replace(
        values={
            name: np.where(series.observed[name], value, 2.0).astype(np.float32)
            for name, value in series.values.items()
        }
    )
    expected = programs(case)[0]
    chex.assert_trees_all_equal(
        *(within(expected(variables(case), each), series) for each in (series, garbage))
    )


@EACH
def test_neighbours_and_padding_change_nothing(case):
    """A series by itself, unpadded, has the results that it has in the batch."""
    series = data()
    length = int(series.lengths[1])
    cut = jax.tree.map(lambda leaf: leaf[1:2, :length] if leaf.ndim == 3 else leaf[1:2], series)
    expected = programs(case)[0]
    together = jax.tree.map(lambda leaf: leaf[1:2, :length], expected(variables(case), series))
    alone = expected(variables(case), cut)
    chex.assert_trees_all_close(alone, together, rtol=1e-4, atol=1e-5)


@EACH
def test_the_order_of_the_modalities_changes_nothing(case):
    """Neither in the model nor in the series; outputs are found by name."""
    model, series = TINY[case][1], data()
    turned_model = dataclasses.replace(model, modalities=model.modalities[::-1])
    turned = series.select(["label", "pair"])
    path = turned_model.posterior_mean(variables(case), turned, KEY)
    found = turned_model.emissions(variables(case), path.states)
    expected = programs(case)[0](variables(case), series)[1]
    assert set(found) == {"label", "pair"}
    chex.assert_trees_all_close(
        within(dict(found), series), within(dict(expected), series), rtol=1e-4, atol=1e-5
    )


@EACH
def test_prior_samples(case):
    model = TINY[case][1]
    states = model.prior_samples(variables(case), KEY, 4, STEPS)
    assert states.shape[:2] == (4, STEPS) and np.isfinite(states).all()
    if isinstance(model, GradientModel):  # the samples differ
        mean = model.emissions(variables(case), states)["pair"][0]
        assert np.std(mean, 0)[-1].min() > 0
    if model.samples_backward:
        backward = model.prior_samples(variables(case), KEY, 4, STEPS, reverse=True)
        assert backward.shape == states.shape and np.isfinite(backward).all()
    else:
        with pytest.raises(InputError, match="no backward transition"):
            model.prior_samples(variables(case), KEY, 4, STEPS, reverse=True)
    for count, num_steps in ((0, STEPS), (4, 0)):
        with pytest.raises(InputError, match="at least 1"):
            model.prior_samples(variables(case), KEY, count, num_steps)


@each_of(GradientModel)
@pytest.mark.parametrize("num_steps", [STEPS, 1])
def test_loss_and_gradient_are_finite(case, num_steps):
    """Of series that show some values, nothing, and everything."""
    model = TINY[case][1]
    assert isinstance(model, GradientModel)
    each = [data(missing, num_steps).take(slice(0, 2)) for missing in (0.4, 1.0, 0.0)]
    series = jax.tree.map(lambda *leaves: np.concatenate(leaves), *each)

    @jax.jit
    @jax.value_and_grad
    def evaluate(own):
        return model.loss(own, series, series, KEY).total(1.0)

    loss, gradient = evaluate(variables(case))
    assert np.isfinite(loss)
    chex.assert_tree_all_finite(gradient)
    if num_steps > 1:  # every parameter matters
        assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradient))


@each_of(ExactLikelihood)
def test_exact_likelihoods_add_up_over_series(case):
    model, series = TINY[case][1], data()
    assert isinstance(model, ExactLikelihood)
    found = model.log_likelihood(variables(case), series)
    assert found.shape == (3,) and np.isfinite(found).all()
    alone = model.log_likelihood(variables(case), series.take(slice(1, 2)))
    np.testing.assert_allclose(alone, found[1:2], rtol=1e-4)


@each_of(SelfFittingModel)
def test_fitting_reports_its_iterations(case):
    model = TINY[case][1]
    assert isinstance(model, SelfFittingModel)
    reports: list[dict[str, float]] = []
    model.fit(data(), reports.append)
    assert [report["iteration"] for report in reports] == list(range(len(reports))) and reports


def bad_series() -> dict[str, Series]:
    good = data()
    wide = np.concatenate([good.values["pair"]] * 2, -1)
    seen = np.concatenate([good.observed["pair"]] * 2, -1)
    return {
        "label": good.select(["pair"]),
        "smell": good.replace(
            values={**good.values, "smell": good.values["label"]},
            observed={**good.observed, "smell": good.observed["label"]},
        ),
        "pair": good.replace(
            values={**good.values, "pair": wide}, observed={**good.observed, "pair": seen}
        ),
    }


@EACH
@pytest.mark.parametrize("named", ["label", "smell", "pair"])
def test_series_that_disagree_are_refused_by_name(case, named):
    """A missing modality, an unknown one, and one of another number of features."""
    model, series = TINY[case][1], bad_series()[named]
    calls = [
        lambda: model.posterior_mean(variables(case), series, KEY),
        lambda: model.posterior_samples(variables(case), series, KEY, 1),
    ]
    if isinstance(model, GradientModel):
        calls.append(lambda: model.loss(variables(case), series, series, KEY))
        calls.append(lambda: model.init(KEY, series))
    if isinstance(model, SelfFittingModel):
        calls.append(lambda: model.fit(series))
    if isinstance(model, ExactLikelihood):
        calls.append(lambda: model.log_likelihood(variables(case), series))
    for call in calls:
        with pytest.raises(InputError, match=named):
            call()


@EACH
def test_values_outside_the_support_are_refused_before_anything_is_compiled(case):
    """A label of 7 among three classes, or an infinite number."""
    model, series = TINY[case][1], data()
    value = np.inf if model.likelihoods["label"].classes is None else 7.0
    values = {**series.values, "label": np.full_like(series.values["label"], value)}
    bad = series.replace(values=values)
    with jax.disable_jit(), pytest.raises(InputError, match="'label'"):
        jdmm.predict_all(model, variables(case), bad, KEY, 2)
    with pytest.raises(InputError, match="'label'"):
        jdmm.fit(model, bad)
