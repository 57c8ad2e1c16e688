"""Likelihoods by name, and the texts that describe them."""

from dataclasses import dataclass, field

import pytest

from jdmm import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    InputError,
    LogNormal,
    Mixed,
    NegativeBinomial,
    Normal,
    NormalMixture,
    Poisson,
    StudentT,
    likelihood_from_text,
    likelihood_to_text,
    register_likelihood,
)

TEXTS = {
    "normal": Normal(),
    "normal(sd=0.1)": Normal(sd=0.1),
    "normal_mixture(classes=3)": NormalMixture(3),
    "bernoulli": Bernoulli(),
    "categorical(classes=4)": Categorical(4),
    "student_t": StudentT(),
    "poisson": Poisson(),
    "negative_binomial": NegativeBinomial(),
    "log_normal": LogNormal(),
    "mixed(normal(sd=2.0), poisson, bernoulli)": Mixed((Normal(sd=2), Poisson(), Bernoulli())),
}


@pytest.mark.parametrize("text", TEXTS)
def test_texts_and_likelihoods(text):
    assert likelihood_from_text(text) == TEXTS[text]
    assert likelihood_to_text(TEXTS[text]) == text


def test_every_name_has_a_text():
    own = {cls for cls in LIKELIHOODS.values() if cls.__module__.startswith("jdmm.")}
    assert {type(likelihood) for likelihood in TEXTS.values()} == own  # other tests register more


@pytest.mark.parametrize("text", [" normal ", "normal()", "normal( sd = None )"])
def test_other_ways_to_write_it(text):
    assert likelihood_from_text(text) == Normal()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("poison", "did you mean 'poisson'"),
        ("gumbel", "see register_likelihood"),
        ("mixed(normal, student)", "did you mean 'student_t'"),
        ("", "as text"),
        ("normal(", "as text"),
        ("normal.sd", "as text"),
        ("normal(0.1)", "as text"),
        ("normal(sd=x)", "as text"),
        ("normal(**{'sd': 1.0})", "as text"),
        ("mixed(1)", "as text"),
        (None, "as text"),
        ("normal(mean=0)", r"its fields \(sd\), got 'normal\(mean=0\)'"),
        ("categorical", r"its fields \(classes\)"),
        ("poisson(rate=1)", r"its fields \(size\)"),
        ("bernoulli(rate=1)", r"its fields \(none\)"),
        ("poisson(size=0)", "positive size"),
        ("log_normal(size=-1)", "positive size"),
        ("normal(sd=-1)", "positive sd"),
        ("mixed", "a tuple of likelihoods"),
        ("mixed(parts=normal)", "as text"),
    ],
)
def test_other_texts_are_refused(text, words):
    with pytest.raises(InputError, match=words) as refused:
        likelihood_from_text(text)
    assert "\n" not in str(refused.value)


@dataclass(frozen=True)
class Cautious(Normal):
    """A likelihood of a user."""

    caution: float = 1.0
    names: tuple[object, ...] = field(default=())


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr("jdmm.likelihoods.registry.LIKELIHOODS", dict(LIKELIHOODS))


@pytest.mark.usefixtures("registered")
def test_a_class_of_the_user():
    with pytest.raises(InputError, match="register_likelihood"):
        likelihood_to_text(Cautious())
    register_likelihood("cautious", Cautious)
    register_likelihood("cautious", Cautious)
    own = Cautious(sd=0.5, caution=2.0, names=("a", "b"))
    text = "cautious(sd=0.5, caution=2.0, names=('a', 'b'))"
    assert likelihood_to_text(own) == text and likelihood_from_text(text) == own
    assert likelihood_from_text(f"mixed(poisson, {text})") == Mixed((Poisson(), own))
    with pytest.raises(InputError):
        likelihood_to_text(Cautious(names=(object(),)))


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("name", "cls", "words"),
    [
        ("normal", Cautious, "a new name, got 'normal', which is Normal"),
        ("Cautious", Cautious, "lower case"),
        ("my normal", Cautious, "lower case"),
        (3, Cautious, "lower case"),
        ("cautious", int, "subclasses Likelihood"),
        ("cautious", Cautious(), "subclasses Likelihood"),
    ],
)
def test_what_cannot_be_registered_is_refused(name, cls, words):
    with pytest.raises(InputError, match=words):
        register_likelihood(name, cls)
