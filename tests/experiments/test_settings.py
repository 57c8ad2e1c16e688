"""Configurations become typed objects, or one line that names the mistake; bugs stay bugs."""

import json

import jax
import pytest
from ml_collections import ConfigDict

from configs import spirals
from jdmm import InputError, Quadrature
from jdmm.data.spirals.dataset import Spirals
from jdmm.experiments import settings
from jdmm.experiments.settings import EvalSettings
from jdmm.models import MDMM, MODELS
from jdmm.models.base import unobserved_series


def config_of(preset="bfvi", **changes):
    config = spirals.get_config(preset)
    with config.unlocked(), config.ignore_type():
        for name, value in changes.items():
            *sections, field = name.split(".")
            section = config
            for each in sections:
                section = section[each]
            section[field] = value
    return config


@pytest.mark.parametrize("preset", spirals.PRESETS)
def test_presets_are_valid(preset):
    experiment = settings.build(spirals.get_config(preset))
    assert (experiment.training is None) == (preset in spirals.FITTED)


def test_objects_hold_what_the_configuration_says():
    config = config_of(
        **{"data.validation": 10, "data.withheld.burst": 0.25, "seed": 3, "seeds": 2}
    )
    experiment = settings.build(config)
    assert experiment.dataset == Spirals(validation=10)
    assert experiment.withheld.burst == 0.25
    assert experiment.model.quadrature.particles == 25
    assert experiment.training.beta_fall == (0.3, 0.8) and experiment.training.epochs == 400
    assert experiment.evaluation.importance == (1, 10, 100) and experiment.seeds == [3, 4]


def test_full_covariance_and_its_quadrature():
    config = config_of(
        **{
            "inference.covariance": "full",
            "inference.prediction_rule": "gauss_hermite",
            "inference.order": 2,
            "inference.prediction_order": 4,
        }
    )
    model = settings.build_model(config)
    assert model.covariance == "full" and settings.build_model(config_of()).covariance == "diagonal"
    assert model.quadrature == Quadrature(order=2)
    assert model.prediction_quadrature == Quadrature("gauss_hermite", 200, 4)


def test_json_gives_the_same_objects(tmp_path):
    config = config_of()
    settings.save_config(config, tmp_path / "config.json")
    loaded = settings.load_config(tmp_path / "config.json")
    ours, theirs = settings.build(config), settings.build(loaded)
    assert (ours.model, ours.training, ours.evaluation) == (
        theirs.model,
        theirs.training,
        theirs.evaluation,
    )
    assert settings.difference(ours, loaded) is None
    loaded.data.dir = "elsewhere"
    loaded.train.streamed = True
    assert settings.difference(ours, loaded) is None
    loaded.data.validation = 61
    assert settings.difference(ours, loaded) == "data.validation is 61 there and 60 here"


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_damaged_json(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="config.json"):
        settings.load_config(tmp_path / "config.json")


REFUSED = [
    # impossible values
    ("epochs", 0),
    ("batch_size", -5),
    ("learning_rate", -1.0),
    ("seed", -1),
    ("seeds", 0),
    ("data.name", "cats"),
    ("data.validation", 600),
    ("data.withheld.uniform", 1.5),
    ("model.name", "gru"),
    ("model.latent", 0),
    ("inference.particles", 0),
    ("inference.rule", "magic"),
    ("inference.rule", "gauss_hermite"),  # the covariance is diagonal
    ("inference.covariance", "round"),
    ("inference.order", 1),
    ("loss.filter", -0.5),
    ("loss.prior_matching_particles", 0),
    ("train.beta_fall", (0.5, 0.3)),
    ("train.schedule", "exotic"),
    ("eval.draws", 1),
    ("eval.select", "luck"),
    ("eval.tasks", ("tap_dance",)),
    ("eval.seed", 2**32),
    ("eval.importance", (0,)),
    # wrong types
    ("epochs", "many"),
    ("learning_rate", "fast"),
    ("seed", 0.5),
    ("seeds", "two"),
    ("data.validation", 60.5),
    ("data.withheld", 0.5),
    ("model.latent", "wide"),
    ("inference.particles", "some"),
    ("inference.covariance", 3),
    ("inference.order", "high"),
    ("loss.filter", "half"),
    ("loss.filter_fade", (0.5,)),
    ("loss.multipliers", 2.0),
    ("train.deletions", 0.5),
    ("train.beta_fall", 0.5),
    ("eval.tasks", "drop_half"),
    ("eval.calibrate", 1),
    ("eval", 3),
    # unknown or unused fields
    ("colour", "red"),
    ("data.colour", "red"),
    ("data.withheld.colour", "red"),
    ("model.colour", "red"),
    ("model.weights", "red"),
    ("inference.colour", "red"),
    ("loss.colour", "red"),
    ("train.epochs", 3),
    ("train.deletions.colour", "red"),
    ("eval.colour", "red"),
]


@pytest.mark.parametrize(("field", "value"), REFUSED)
def test_mistakes_are_named_in_one_line(field, value):
    with pytest.raises(InputError) as caught:
        settings.build(config_of(**{field: value}))
    message = str(caught.value)
    assert field.split(".")[-1] in message and "\n" not in message
    named = value[0] if isinstance(value, tuple) else value
    assert str(named) in message or value in ("red", 3)


@pytest.mark.parametrize(
    "field",
    ["seed", "epochs", "data", "data.name", "model", "model.name", "inference", "inference.rule"]
    + ["loss", "train", "eval", "eval.draws", "eval.select", "eval.importance"],
)
def test_missing_fields_are_named(field):
    config = config_of()
    *sections, last = field.split(".")
    with config.unlocked():
        del (config[sections[0]] if sections else config)[last]
    with pytest.raises(InputError, match=last):
        settings.build(config)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("loss", ConfigDict(), "'loss' for model 'linear_gaussian', which does not use it"),
        ("inference", ConfigDict(), "'inference'"),
        ("train", ConfigDict(), "'train'"),
        ("epochs", 3, "'epochs'"),
        ("eval.select", "score", "eval.select for LinearGaussianSSM"),
        ("eval.importance", (1,), "eval.importance for LinearGaussianSSM"),
        ("seeds", 2, "seed 0 and seeds 1 for LinearGaussianSSM"),
    ],
)
def test_options_that_a_model_does_not_use_are_refused(field, value, named):
    with pytest.raises(InputError, match=named):
        settings.build(config_of("linear", **{field: value}))
    with pytest.raises(InputError, match="'inference' for model 'mvae'"):
        settings.build(config_of("mvae", inference=ConfigDict()))
    with pytest.raises(InputError, match="model fields among .*'unimodal'"):
        settings.build(config_of("mvae", **{"model.unimodal": 1.0}))
    with pytest.raises(InputError, match="loss fields among .*'latent'"):
        settings.build(config_of("mvae", **{"loss.latent": 3}))


@pytest.mark.parametrize("error", [TypeError, KeyError, AttributeError])
def test_a_bug_is_not_taken_for_a_mistake_of_the_user(monkeypatch, error):
    class Buggy(MDMM):
        def __post_init__(self):
            raise error("a bug")

    monkeypatch.setitem(MODELS, "mdmm", Buggy)
    with pytest.raises(error, match="a bug"):
        settings.build(config_of())


def test_what_is_withheld_is_missing_from_training_and_validation_alone(tmp_path):
    config = config_of(**{"data.dir": str(tmp_path), "data.withheld.uniform": 0.3})
    data = settings.build(config).load()
    shares = {name: split.series.observed["x"].mean() for name, split in data.items()}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.7, "test": 1.0})
    assert data["train"].truth["x"].all() and data["train"].second["x"].all()


def test_published_size():
    model = settings.build_model(spirals.get_config("paper"))
    variables = model.init(jax.random.key(0), unobserved_series(model.modalities, 1, 1))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 1854


def test_settings_of_the_evaluation_are_those_of_the_configuration():
    """So that no field is read under another name."""
    fields = json.loads(json.dumps(config_of().eval.to_dict()))
    assert set(fields) == set(EvalSettings.__dataclass_fields__)
