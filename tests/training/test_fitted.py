"""Fitted models: units against models fitted without scaling, and what a folder gives back."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax import numpy as jnp
from scipy import stats

from jdmm import Categorical, InputError, LossWeights, Modality, Quadrature, series_from_arrays
from jdmm.data.scaling import Standardise
from jdmm.evaluation.importance import log_likelihood_bounds
from jdmm.evaluation.prediction import Calibration, predict_all
from jdmm.inference.gaussian import Moments
from jdmm.likelihoods import NormalMixture
from jdmm.models import MDMM, VRNN, ImputationBaseline, LinearGaussianSSM, StructuredInference
from jdmm.networks import MLPEncoder
from jdmm.training import serialise
from jdmm.training.fitted import UNDO, FittedModel
from jdmm.training.serialise import load, save

ROOT = Path(__file__).parents[2]
KEY = jax.random.key(0)


class Encoder(nn.Module):
    """An encoder of the user's own, with a function and a list among its fields."""

    units: Any
    activation: Callable[[jax.Array], jax.Array]
    kernel_init: Any = nn.initializers.lecun_normal()  # a closure, which has no name to import

    @nn.compact
    def __call__(self, values, observed):
        del observed
        for number, units in enumerate(self.units):
            layer = nn.Dense(units, kernel_init=self.kernel_init, name=f"layer_{number}")
            values = self.activation(layer(values))
        return Moments(values, jnp.ones_like(values))


class Decoder(nn.Module):
    """A decoder of the user's own, made of other modules."""

    mean: nn.Module
    sd: nn.Module

    def __call__(self, states):
        return self.mean(states), self.sd(states)


@dataclass(frozen=True)
class Doubling(ImputationBaseline):
    """Does not keep the fields that it is given."""

    units: int = 1

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "units", 2 * self.units)


OWN = (
    Modality("x", 2, encoder=Encoder([4, 3], nn.relu), decoder=Decoder(nn.Dense(2), nn.Dense(2))),
    Modality("class", likelihood=Categorical(3)),
)
PLAIN = (Modality("x", 2), Modality("y"))


def table(own=True, offset=50.0, scale=7.0):
    """Series of "x" around 50, and classes or "y"; a third is missing."""
    rng = np.random.default_rng(0)
    x = offset + scale * rng.normal(size=(3, 4, 2))
    x[rng.random(x.shape) < 1 / 3] = np.nan
    other = {"class": rng.integers(0, 3, (3, 4))} if own else {"y": rng.normal(size=(3, 4))}
    return series_from_arrays({"x": x, **other})


def gradient_model(model, data):
    """With random variables, because initialising them compiles a program."""
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: rng.normal(0, 0.7, leaf.shape).astype(leaf.dtype),
        jax.eval_shape(model.init, KEY, data),
    )
    return FittedModel(model, variables, scaling=Standardise.fit(data, ["x"]))


def mdmm():
    model = MDMM(
        OWN,
        latent=3,
        hidden=4,
        quadrature=Quadrature(),
        prediction_quadrature=Quadrature("particles", 5),
        weights=LossWeights(filter_fade=(0.25, 1 / 3), multipliers={"class": np.float64(20.0)}),
    )
    return dataclasses.replace(
        gradient_model(model, table()),
        calibration=Calibration(1.21, 0.7),
        history=({"epoch": 0, "loss": 1 / 3}, {"epoch": 1, "loss": float("nan")}),
        best_epoch=1,
        best_score=np.float32(0.1),
    )


def vrnn():
    return gradient_model(VRNN(PLAIN, latent=2, hidden=3, components=2), table(own=False))


def structured():
    model = StructuredInference(PLAIN, latent=2, hidden=3, missing="skip", unimodal=0.5)
    return gradient_model(model, table(own=False))


def linear_gaussian():
    """With the parameters that EM starts from."""
    model, data = LinearGaussianSSM(PLAIN, latent=2, tolerance=1e-7), table(own=False)
    values, observed = (
        np.concatenate([tree[name] for name in ("x", "y")], -1)
        for tree in (data.values, data.observed)
    )
    parameters = model.initial_parameters(values.astype(np.float64), observed)
    return FittedModel(model, {k: np.asarray(v) for k, v in parameters._asdict().items()})


def baseline():
    model, data = ImputationBaseline(PLAIN, kind="mean"), table(own=False)
    scaling = Standardise.fit(data)
    return FittedModel(model, model.fit(scaling.apply(data)), scaling=scaling)


FITTED = {
    "mdmm": mdmm,
    "vrnn": vrnn,
    "structured": structured,
    "linear_gaussian": linear_gaussian,
    "baseline": baseline,
}


PREDICTED = ("mdmm", "linear_gaussian", "baseline")
"""Own networks and single precision, double precision, and no network; the rest compile long."""


def predict(name, fitted):
    """Name -> array of all that is predicted."""
    data = table(own=name == "mdmm")
    prediction = fitted.predict(data, num_samples=39, targets=data)
    leaves = jax.tree_util.tree_leaves_with_path(prediction)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_bits(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def main(folder):
    """Another process: loads every model, and leaves what it predicts."""
    for name in PREDICTED:
        np.savez(folder / f"{name}.npz", **predict(name, load(folder / name)))


def test_another_process_predicts_the_same_to_the_bit(tmp_path):
    fitted = {name: FITTED[name]() for name in PREDICTED}
    for name, each in fitted.items():
        save(tmp_path / name, each)
    places = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    code = f"import pathlib, test_fitted; test_fitted.main(pathlib.Path({str(tmp_path)!r}))"
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env=os.environ | {"PYTHONPATH": places},
        timeout=300,
    )
    for name, each in fitted.items():
        with np.load(tmp_path / f"{name}.npz") as found:
            assert_same_bits(dict(found), predict(name, each))


@pytest.mark.parametrize("name", FITTED)
def test_model_and_variables_come_back(tmp_path, name):
    saved = FITTED[name]()
    save(tmp_path / "model", saved)
    loaded = load(tmp_path / "model")
    assert loaded.model == saved.model and type(loaded.model) is type(saved.model)
    assert_same_bits(loaded.variables, saved.variables)


def test_every_kind_of_value_comes_back(tmp_path):
    saved = mdmm()
    save(tmp_path / "model", saved)
    loaded = load(tmp_path / "model")
    assert type(loaded.model.weights.multipliers["class"]) is np.float64
    assert loaded.model.modalities[0].encoder.activation is nn.relu
    assert_same_bits(loaded.scaling.to_dict(), saved.scaling.to_dict())
    assert_same_bits(loaded.history, saved.history)
    assert loaded.calibration == saved.calibration
    assert (loaded.best_epoch, loaded.best_score) == (1, np.float32(0.1))
    assert type(loaded.best_score) is np.float32
    count = sum(leaf.size for leaf in jax.tree.leaves(saved.variables))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "# MDMM" in card and f"parameters: {count}\n" in card and "best epoch: 1" in card


def test_dtypes_and_mixtures_come_back(tmp_path):
    variables = {"half": jnp.ones(2, jnp.bfloat16), "double": np.array([1 / 3]), "none": {}}
    save(tmp_path / "model", FittedModel(vrnn().model, variables))
    loaded = load(tmp_path / "model")
    assert_same_bits(loaded.variables, variables)
    assert loaded.model.likelihoods == {"x": NormalMixture(2), "y": NormalMixture(2)}


@pytest.mark.parametrize("shared", [True, False])
def test_networks_that_share_their_parameters_still_do(tmp_path, shared):
    first = MLPEncoder(2, 3)
    second = first if shared else MLPEncoder(2, 3)
    model = MDMM((Modality("x", encoder=first), Modality("y", encoder=second)), latent=2, hidden=3)
    data = series_from_arrays({"x": np.zeros((1, 2)), "y": np.zeros((1, 2))})
    save(tmp_path / "model", FittedModel(model, {}))
    shapes = [jax.eval_shape(m.init, KEY, data) for m in (model, load(tmp_path / "model").model)]
    assert shapes[0] == shapes[1]
    assert ("encoders_y" in shapes[0]["params"]) is not shared


def test_what_cannot_be_imported_is_refused_by_name(tmp_path):
    class Local(nn.Module):
        pass

    modality = Modality("x", encoder=Encoder([3], lambda x: x))
    for own, field in [
        (dataclasses.replace(modality, decoder=None), r"modalities\[0\]\.encoder\.activation"),
        (Modality("x", encoder=Encoder(np.ones(3), nn.relu)), r"modalities\[0\]\.encoder\.units"),
        (Modality("x", decoder=Local()), r"modalities\[0\]\.decoder"),
    ]:
        with pytest.raises(InputError, match=rf"^expected model\.{field} as .*, got "):
            save(tmp_path / "model", FittedModel(MDMM((own,)), {}))
    with pytest.raises(InputError, match="__post_init__ idempotent"):
        save(tmp_path / "model", FittedModel(Doubling(PLAIN), {}))
    with pytest.raises(InputError, match=r"variables\['a'\]\['b'\] as an array"):
        save(tmp_path / "model", FittedModel(baseline().model, {"a": {"b": "text"}}))
    with pytest.raises(InputError, match="FittedModel to save, got tuple"):
        save(tmp_path / "model", (baseline().model, {}))
    assert not list(tmp_path.iterdir())


def test_names_of_main_are_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(Doubling, "__module__", "__main__")
    monkeypatch.setattr(Doubling, "__post_init__", ImputationBaseline.__post_init__)
    monkeypatch.setattr(sys.modules["__main__"], "Doubling", Doubling, raising=False)
    with pytest.warns(UserWarning, match="model is Doubling of __main__"):
        save(tmp_path / "model", FittedModel(Doubling(PLAIN), {}))
    assert type(load(tmp_path / "model").model) is Doubling


def test_a_saved_model_is_replaced_and_nothing_else(tmp_path):
    target = tmp_path / "deep" / "model"
    save(target, baseline())
    save(target, linear_gaussian())
    assert type(load(target).model) is LinearGaussianSSM
    assert [entry.name for entry in target.parent.iterdir()] == ["model"]
    (target / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for path in (target, tmp_path / "file", tmp_path):
        with pytest.raises(InputError, match=rf"got {path}, which holds something else"):
            save(path, baseline())
    assert (target / "notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_a_failed_save_leaves_the_old_model(tmp_path, monkeypatch):
    save(tmp_path / "model", linear_gaussian())

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(serialise, "_card", full)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path / "model", baseline())
    assert type(load(tmp_path / "model").model) is LinearGaussianSSM
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_readers_see_one_model_or_the_other_never_a_mix(tmp_path):
    target = tmp_path / "model"
    kinds = ("mean", "carry")
    each = [
        FittedModel(ImputationBaseline(PLAIN, kind=kind), {"kind": np.full(50_000, number)})
        for number, kind in enumerate(kinds)
    ]
    save(target, each[0])

    def write(own):
        for _ in range(20):
            save(target, own)

    seen = 0
    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, own) for own in each]
        while not all(writer.done() for writer in writers):
            try:
                loaded = load(target)
            except InputError:  # none for a moment, or replaced while it was read
                continue
            assert (loaded.variables["kind"] == kinds.index(loaded.model.kind)).all()
            seen += 1
        for writer in writers:
            writer.result()
    assert seen
    load(target)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_damaged_and_foreign_folders_are_refused_in_one_line(tmp_path):
    saved = tmp_path / "saved"
    save(saved, baseline())

    def damaged(change):
        target = tmp_path / "damaged"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(saved, target)
        change(target)
        with pytest.raises(InputError, match=str(target)) as caught:
            load(target)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def edit(change: Callable[[dict[str, Any]], Any]):
        def rewrite(target):
            content = json.loads((target / "model.json").read_text())
            change(content)
            (target / "model.json").write_text(json.dumps(content))

        return damaged(rewrite)

    def flip(target):
        content = bytearray((target / "variables.msgpack").read_bytes())
        content[-1] ^= 1
        (target / "variables.msgpack").write_bytes(content)

    def cut(target):
        (target / "model.json").write_bytes((target / "model.json").read_bytes()[:-9])

    assert "without model.json" in damaged(lambda target: (target / "model.json").unlink())
    assert "without model.json" in damaged(shutil.rmtree)
    assert "got none" in damaged(lambda target: (target / "variables.msgpack").unlink())
    assert "checksum" in damaged(flip)
    assert "damaged" in damaged(cut)
    assert "damaged" in damaged(lambda target: (target / "model.json").write_bytes(b"\xff\xfe"))
    assert "damaged" in damaged(lambda target: (target / "model.json").write_text("[]"))
    assert "damaged" in edit(lambda content: content.pop("calibration"))
    assert "update jdmm" in edit(lambda content: content.update(format=2))
    model = "jdmm.models.baselines:ImputationBaseline"
    for name in ("nowhere.to_be:Found", "jdmm.models.baselines:Gone", "jdmm"):
        message = edit(lambda content, name=name: content["model"].update({"class": name}))
        assert "for model" in message and "PYTHONPATH" in message
    for name in ("os:getpid", "subprocess:Popen"):
        call = {"class": name, "fields": {}}
        assert f"expected model of a dataclass, got {name}" in edit(
            lambda content, call=call: content.update(model=call)
        )
    weights = {"class": "jdmm.models.objectives:LossWeights", "fields": {}}
    assert "expected a model, got LossWeights" in edit(
        lambda content: content.update(model=weights)
    )
    assert f"fields of model that {model} takes" in edit(
        lambda content: content["model"]["fields"].update(unknown=1)
    )
    assert f"fields of model that {model} takes" in edit(
        lambda content: content["model"]["fields"].update(kind="none such")
    )


def shifted():
    """Two fits of a baseline to the same table: in its own units, and scaled."""
    rng = np.random.default_rng(1)
    x = [50.0, -3.0] + [7.0, 0.5] * rng.normal(size=(20, 30, 2))
    data = series_from_arrays({"x": x, "y": rng.normal(size=(20, 30))})
    model, scaling = ImputationBaseline(PLAIN, kind="mean"), Standardise.fit(data, ["x"])
    raw = FittedModel(model, model.fit(data))
    return data, raw, FittedModel(model, model.fit(scaling.apply(data)), scaling=scaling)


def test_predictions_are_in_the_units_of_the_user():
    """A fit to scaled series predicts what a fit to the series themselves does."""
    data, raw, scaled = shifted()
    hidden = data.hide({"x": np.array(False), "y": np.array(False)})
    plain, undone = (
        fitted.predict(hidden, seed=3, num_samples=50, targets=data) for fitted in (raw, scaled)
    )
    for field in ("mean", "sd", "lower", "upper", "log_prob", "pit", "crps"):
        for name in ("x", "y"):
            first, second = getattr(plain, field)[name], getattr(undone, field)[name]
            np.testing.assert_allclose(second, first, 5e-3, 2e-2, err_msg=f"{field} of {name}")
    unitless = {"pit", "probabilities", "states"}
    undone_elsewhere = {"log_weights"}  # see the test of the bound
    known = set(UNDO) | unitless | undone_elsewhere
    assert set(type(plain)._fields) <= known, "a field whose unit is not undone"
    direct = predict_all(raw.model, raw.variables, hidden, jax.random.key(3), 50, data)
    assert_same_bits(direct, plain)


def test_log_likelihoods_are_in_the_units_of_the_user():
    data, raw, scaled = shifted()
    mean, variance = raw.variables["mean"], raw.variables["variance"]
    values = np.concatenate([data.values["x"], data.values["y"]], -1)
    expected = stats.norm.logpdf(values, mean, np.sqrt(variance)).sum((1, 2))
    for fitted in (raw, scaled):
        np.testing.assert_allclose(fitted.log_likelihood(data), expected, 1e-4)


def test_the_bound_is_corrected_for_the_observed_values():
    fitted, data = structured(), table(own=False)
    inner = log_likelihood_bounds(
        fitted.model, fitted.variables, fitted.scaling.apply(data), jax.random.key(2), (5,)
    ).bounds[5]
    count = data.observed["x"].sum(1)
    expected = inner - count @ np.log(fitted.scaling.sd["x"])
    np.testing.assert_allclose(fitted.log_likelihood(data, seed=2, num_samples=5), expected, 1e-6)
    scaled, own = (
        each.predict(given, seed=2, num_samples=39, return_log_weights=True).log_weights
        for each, given in (
            (dataclasses.replace(fitted, scaling=None), fitted.scaling.apply(data)),
            (fitted, data),
        )
    )
    difference = count @ np.log(fitted.scaling.sd["x"])
    np.testing.assert_allclose(own, scaled - difference[:, None], 1e-6)


def test_samples_are_in_the_units_of_the_user():
    data, _, scaled = shifted()
    found = scaled.sample(200, 30, seed=1)
    for name, values in data.values.items():
        assert found[name].shape == (200, 30, values.shape[-1])
        sd = values.std((0, 1))
        error = sd / np.sqrt(200 * 30)
        assert (np.abs(found[name].mean((0, 1)) - values.mean((0, 1))) < 5 * error).all()
        np.testing.assert_allclose(found[name].std((0, 1)), sd, 0.05)
    assert_same_bits(found, scaled.sample(200, 30, seed=1))
    assert (found["x"] != scaled.sample(200, 30, seed=2)["x"]).any()
    with pytest.raises(InputError, match="no backward transition"):
        scaled.sample(1, 2, reverse=True)


def test_samples_of_own_networks_are_classes_and_values():
    found = mdmm().sample(4, 3, reverse=True)
    assert set(np.unique(found["class"])) <= {0.0, 1.0, 2.0}
    assert found["x"].shape == (4, 3, 2) and np.isfinite(found["x"]).all()


def test_calibration_widens_intervals_that_are_too_narrow():
    """A third of the true sd: the scales make up for it, in the units of the user."""
    data, _, scaled = shifted()
    hidden = data.hide({"x": np.array(False), "y": np.array(False)})
    narrow = dataclasses.replace(
        scaled, variables=scaled.variables | {"variance": scaled.variables["variance"] / 9}
    )
    calibrated = narrow.calibrate([hidden], [data])
    np.testing.assert_allclose(np.prod(calibrated.calibration), 3, rtol=0.15)
    assert narrow.calibration == Calibration() and calibrated.variables is narrow.variables
    for fitted, expected in ((narrow, 2 * stats.norm.cdf(1.96 / 3) - 1), (calibrated, 0.95)):
        found = fitted.predict(hidden, num_samples=200)
        inside = [
            (found.lower[name] <= values) & (values <= found.upper[name])
            for name, values in data.values.items()
        ]
        assert abs(np.mean(np.concatenate(inside, -1)) - expected) < 0.05


def test_series_are_checked_before_they_are_scaled():
    with pytest.raises(InputError, match="expected modality 'x' in the series"):
        baseline().predict(series_from_arrays({"y": np.zeros((1, 2))}))
