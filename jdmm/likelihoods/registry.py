"""Likelihoods by name, and as text: "normal(sd=0.1)" for files that describe data."""

import ast
import dataclasses
import difflib

from jdmm.errors import InputError
from jdmm.likelihoods.base import Likelihood
from jdmm.likelihoods.bernoulli import Bernoulli
from jdmm.likelihoods.categorical import Categorical
from jdmm.likelihoods.log_normal import LogNormal
from jdmm.likelihoods.mixed import Mixed
from jdmm.likelihoods.mixture import NormalMixture
from jdmm.likelihoods.negative_binomial import NegativeBinomial
from jdmm.likelihoods.normal import Normal
from jdmm.likelihoods.poisson import Poisson
from jdmm.likelihoods.student_t import StudentT

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "log_normal": LogNormal,
    "mixed": Mixed,
    "negative_binomial": NegativeBinomial,
    "normal": Normal,
    "normal_mixture": NormalMixture,
    "poisson": Poisson,
    "student_t": StudentT,
}
"""Name -> class; `register_likelihood` adds to it."""


def register_likelihood(name: str, cls: type[Likelihood]) -> None:
    """Gives a likelihood of the user a name in texts.

    Args:
        name: a Python name in lower case, such as "gumbel".
        cls: a frozen dataclass that subclasses `Likelihood`; its fields are numbers, text or None.

    Raises:
        InputError: for another kind of name or class, or a name that another class has.
    """
    if not isinstance(name, str) or not name.isidentifier() or name != name.lower():
        raise InputError(
            f"expected a Python name in lower case for a likelihood, such as 'gumbel', got {name!r}"
        )
    if not (
        isinstance(cls, type) and issubclass(cls, Likelihood) and dataclasses.is_dataclass(cls)
    ):
        raise InputError(f"expected a dataclass that subclasses Likelihood as {name!r}, got {cls}")
    if LIKELIHOODS.get(name, cls) is not cls:
        raise InputError(
            f"expected a new name, got {name!r}, which is {LIKELIHOODS[name].__name__}: choose "
            "another"
        )
    LIKELIHOODS[name] = cls


def likelihood_from_text(text: str) -> Likelihood:
    """The likelihood that a text describes: a name, and its fields where they are not defaults.

    Examples are "poisson", "normal(sd=0.1)", "categorical(classes=4)" and
    "mixed(normal, poisson)".

    Raises:
        InputError: for an unknown name, or a text or fields that the likelihood does not take.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (AttributeError, SyntaxError, TypeError, ValueError):
        raise _no_text(text) from None
    return _read(tree, text)


def likelihood_to_text(likelihood: Likelihood) -> str:
    """The text from which `likelihood_from_text` makes an equal likelihood.

    Raises:
        InputError: for a class without a name, or a field that has no text.
    """
    if isinstance(likelihood, Mixed):
        return f"mixed({', '.join(map(likelihood_to_text, likelihood.parts))})"
    names = [name for name, cls in LIKELIHOODS.items() if cls is type(likelihood)]
    if not names:
        raise InputError(
            f"expected a likelihood with a name, got {likelihood!r}: give its class one with "
            "register_likelihood"
        )
    given = [
        f"{field.name}={getattr(likelihood, field.name)!r}"
        for field in dataclasses.fields(likelihood)  # type: ignore[arg-type]
        if field.init and getattr(likelihood, field.name) != field.default
    ]
    text = names[0] + (f"({', '.join(given)})" if given else "")
    if likelihood_from_text(text) != likelihood:
        raise InputError(
            f"expected fields of {likelihood!r} that can be read from text, got {text}"
        )
    return text


def _read(tree: ast.expr, text: str) -> Likelihood:
    match tree:
        case ast.Name(id=name):
            arguments, keywords = [], []
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords):
            pass
        case _:
            raise _no_text(text)
    cls = _look_up(name)
    try:
        fields = {each.arg: ast.literal_eval(each.value) for each in keywords if each.arg}
    except ValueError:
        raise _no_text(text) from None
    if len(fields) < len(keywords) or (arguments and cls is not Mixed):
        raise _no_text(text)
    if cls is Mixed:
        fields["parts"] = tuple(_read(each, text) for each in arguments)
    try:
        return cls(**fields)
    except InputError:
        raise
    except TypeError:
        known = ", ".join(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]
        raise InputError(
            f"expected {name!r} with values for its fields ({known or 'none'}), got {text!r}"
        ) from None


def _look_up(name: str) -> type[Likelihood]:
    if name in LIKELIHOODS:
        return LIKELIHOODS[name]
    close = difflib.get_close_matches(name, LIKELIHOODS, n=1)
    hint = f": did you mean {close[0]!r}?" if close else ": see register_likelihood"
    raise InputError(f"expected a likelihood among {', '.join(LIKELIHOODS)}, got {name!r}{hint}")


def _no_text(text: str) -> InputError:
    return InputError(
        "expected a likelihood as text, such as 'poisson' or 'categorical(classes=4)', got "
        f"{text!r}"
    )
