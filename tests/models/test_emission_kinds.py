"""Models of counts, outliers, positive numbers and mixed features learn to impute."""

import numpy as np
import pytest

from jdmm import (
    MDMM,
    VRNN,
    Bernoulli,
    Deletions,
    ImputationBaseline,
    InputError,
    LinearGaussianSSM,
    LogNormal,
    Mixed,
    Modality,
    NearestValue,
    NegativeBinomial,
    Normal,
    Poisson,
    SigmaPointSSM,
    StudentT,
    TrainSettings,
    fit,
    hold_out,
    series_from_arrays,
)

MODALITIES = (
    Modality("counts", likelihood=Poisson()),
    Modality("heavy", likelihood=StudentT()),
    Modality("table", likelihood=Mixed((Normal(), NegativeBinomial(), Bernoulli(), LogNormal()))),
    Modality("gauge", likelihood=Normal(sd=0.2)),
)
RNG = np.random.default_rng(0)
LEVEL = RNG.normal(size=(48, 1)) + 0.3 * RNG.normal(size=(48, 12)).cumsum(1)
"""What all values depend on, ``(series, time)``."""


def incomplete_series():
    """With a fifth of the values missing."""
    shape = LEVEL.shape
    table = [
        100 - 50 * LEVEL + 10 * RNG.normal(size=shape),
        RNG.poisson(np.exp(1.5 + 0.7 * LEVEL) * RNG.gamma(9, 1 / 9, shape)),
        RNG.random(shape) < 1 / (1 + np.exp(-3 * LEVEL)),
        np.exp(0.7 * LEVEL + 0.2 * RNG.normal(size=shape)),
    ]
    values = {
        "counts": RNG.poisson(np.exp(1 + 0.7 * LEVEL)).astype(float)[..., None],
        "heavy": (LEVEL + 0.3 * RNG.standard_t(3, shape))[..., None],
        "table": np.stack(table, -1),
        "gauge": (0.5 * LEVEL + 0.2 * RNG.normal(size=shape))[..., None],
    }
    for value in values.values():
        value[RNG.random(value.shape) < 0.2] = np.nan
    return series_from_arrays(values)


SHOWN, HIDDEN = hold_out(incomplete_series(), 0.15, seed=0)


@pytest.mark.parametrize(
    "model",
    [MDMM(MODALITIES, 2, 8), SigmaPointSSM(MODALITIES, 1, 8, iterations=0)],
    ids=["mdmm", "sigma points"],
)
def test_training_on_other_kinds_of_values(model):
    """Hidden values of every feature are predicted better than by the mean, and covered."""
    settings = TrainSettings(
        epochs=60,
        batch_size=8,
        learning_rate=0.03,
        beta_peak=1.0,
        beta_final=1.0,
        deletions=Deletions.none(),
    )
    fitted = fit(model, SHOWN, settings=settings, scaling=True)
    assert all(np.isfinite(record["train/loss"]) for record in fitted.history)
    found = fitted.predict(SHOWN, num_samples=50)
    for modality in MODALITIES:
        name = modality.name
        for i in range(modality.features):
            expected, lower, upper, value, hidden, mean = (
                np.asarray(tree[name])[..., i]
                for tree in (
                    found.expected,
                    found.lower,
                    found.upper,
                    HIDDEN.values,
                    HIDDEN.observed,
                    SHOWN.values,
                )
            )
            mean = mean[np.asarray(SHOWN.observed[name])[..., i]].mean()
            error = ((expected - value)[hidden] ** 2).mean()
            assert error < 0.7 * ((mean - value)[hidden] ** 2).mean(), (name, i)
            assert ((lower <= value) & (value <= upper))[hidden].mean() > 0.8, (name, i)
    # of the table only the first feature is scaled, of the others none; a fixed sd has a unit
    assert set(fitted.scaling.mean) == {"heavy", "table"}
    np.testing.assert_array_equal(fitted.scaling.mean["table"][1:], 0.0)
    np.testing.assert_array_equal(fitted.scaling.sd["table"][1:], 1.0)
    assert fitted.scaling.mean["table"][0] > 50 and fitted.scaling.sd["table"][0] > 20


@pytest.mark.filterwarnings("error")
def test_counts_in_a_table_give_no_warning_of_their_size():
    values = np.stack([RNG.normal(size=(4, 6)), RNG.poisson(1e4, (4, 6))], -1)
    settings = TrainSettings(epochs=1, batch_size=4, deletions=Deletions.none())
    model = SigmaPointSSM((Modality("x", likelihood=Mixed((Normal(), Poisson()))),), 1)
    fit(model, series_from_arrays({"x": values}), settings=settings)
    turned = SigmaPointSSM((Modality("x", likelihood=Mixed((Poisson(), Normal()))),), 1)
    with pytest.raises(UserWarning, match="feature 1: .*scale them with Standardise"):
        fit(turned, series_from_arrays({"x": np.round(np.abs(values))}), settings=settings)


@pytest.mark.parametrize(
    "make",
    [
        lambda own: LinearGaussianSSM(own, 2),
        lambda own: ImputationBaseline(own, "mean"),
        lambda own: NearestValue(own),
    ],
    ids=["linear", "baseline", "nearest"],
)
def test_models_that_fit_the_sd_refuse_a_fixed_one(make):
    with pytest.raises(InputError, match=r"'gauge' without a fixed sd .*got Normal\(sd=0.2\)"):
        make((MODALITIES[3],))


def test_a_fixed_sd_is_no_mixture():
    both = (Modality("a"), MODALITIES[3])
    model = VRNN(both, 0, 3, components=2)
    assert [type(m.likelihood).__name__ for m in model.modalities] == ["NormalMixture", "Normal"]
    with pytest.raises(InputError, match="without a Normal modality of predicted sd"):
        VRNN((MODALITIES[3],), 0, 3, components=2)
