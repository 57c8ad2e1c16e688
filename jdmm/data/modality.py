"""Modalities, and the check of series against them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flax import linen as nn
from jax.core import Tracer

from jdmm.errors import InputError
from jdmm.likelihoods import Bernoulli, Categorical, Likelihood, Mixed, Normal
from jdmm.networks import Image
from jdmm.series import Series


@dataclass(frozen=True)
class Modality:
    """One observation sequence x^m of a model.

    Attributes:
        name: its key in `Series`.
        features: its number of features; that of the parts of a `Mixed` likelihood.
        likelihood: p(x | z) given the outputs of the decoder.
        encoder: a Flax module ``(values, observed) -> Moments (..., latent)`` from values and
            masks ``(..., feature)``; None for the default network of the likelihood.
        decoder: a Flax module ``(..., latent) -> raw outputs`` of the likelihood; None for the
            default network.
        residual: whether its features may have residuals of their own beside the state, in a model
            that has them. Covariates that are always known should not: the state would not learn
            them.
        image: the form of an image, whose pixels are the features, row by row: then `features` is
            their number, and the default networks are convolutions.

    Raises:
        InputError: for an empty name, fewer features than one, a likelihood that is none or has
            parts for another number of features, a network that is no Flax module, or an image of
            other features or likelihood.
    """

    name: str
    features: int = 1
    likelihood: Likelihood = Normal()
    encoder: nn.Module | None = None
    decoder: nn.Module | None = None
    image: Image | None = None
    residual: bool = True

    def __post_init__(self) -> None:
        """Checks the values."""
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"expected a modality's name as text, got {self.name!r}")
        if not isinstance(self.features, int) or self.features < 1:
            raise InputError(
                f"expected modality {self.name!r} with at least 1 feature, got {self.features!r}"
            )
        if not isinstance(self.likelihood, Likelihood):
            raise InputError(
                f"expected a likelihood in modality {self.name!r}, such as Normal(), got "
                f"{self.likelihood!r}"
            )
        for name in ("encoder", "decoder"):
            network = getattr(self, name)
            if not isinstance(network, nn.Module | None):
                raise InputError(
                    f"expected a Flax module as {name} of modality {self.name!r}, got {network!r}"
                )
        if self.image is not None:
            self._check_image(self.image)
        if isinstance(self.likelihood, Mixed):
            self._check_parts(len(self.likelihood.parts))

    def _check_parts(self, parts: int) -> None:
        if self.features == 1:
            object.__setattr__(self, "features", parts)
        if self.features != parts:
            raise InputError(
                f"expected modality {self.name!r} with features={parts}, the parts of its Mixed "
                f"likelihood, got {self.features}: leave features out"
            )

    def _check_image(self, image: Image) -> None:
        if self.features == 1:
            object.__setattr__(self, "features", image.pixels)
        if self.features != image.pixels:
            raise InputError(
                f"expected modality {self.name!r} with features={image.pixels}, the pixels of "
                f"{image.shape}, got {self.features}: leave features out"
            )
        if not isinstance(self.likelihood, Bernoulli | Normal) and self.decoder is None:
            raise InputError(
                f"expected a Bernoulli or Normal likelihood of the images in modality "
                f"{self.name!r}, got {self.likelihood}: choose one, or give a decoder"
            )


def by_name(modalities: Sequence[Modality]) -> tuple[Modality, ...]:
    """The modalities ordered by name, for models whose weights depend on their order."""
    return tuple(sorted(modalities, key=lambda modality: modality.name))


def images_of(modalities: Sequence[Modality]) -> list[Modality]:
    """The modalities whose values are images. Classes of pixels count as categorical."""
    return [
        m for m in modalities if m.image is not None and not isinstance(m.likelihood, Categorical)
    ]


def check_modalities(modalities: Sequence[Modality]) -> None:
    """Checks that a model can be made of these modalities.

    Raises:
        InputError: if there is none, or two share a name.
    """
    names = [modality.name for modality in modalities]
    if not names:
        raise InputError("expected at least one modality, got none")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"expected modalities of different names, got {repeated[0]!r} twice")


def check_series(modalities: Sequence[Modality], series: Series, inputs: int = 0) -> None:
    """Checks series against the modalities and the number of inputs of a model.

    Names and shapes are checked under a trace too; values only where they are concrete numpy
    arrays, before they move to a device.

    Raises:
        InputError: naming the modality, if one is missing, unknown, of another number of features,
            or holds an observed value outside the support of its likelihood; or for another number
            of inputs.
    """
    if series.num_inputs != inputs:
        raise InputError(
            f"expected series with {inputs} inputs, as the model has, got {series.num_inputs}: "
            f"give the model inputs={series.num_inputs}, or leave them out with "
            "series.replace(inputs=None)"
        )
    names = [modality.name for modality in modalities]
    for name in names:
        if name not in series.values:
            raise InputError(
                f"expected modality {name!r} in the series, got {', '.join(series.values)}: where "
                "it is missing throughout, give it as NaN"
            )
    for name in series.values:
        if name not in names:
            raise InputError(
                f"expected series of {', '.join(names)}, got another modality {name!r}: leave it "
                "out with series.select, or give the model a modality of that name"
            )
    for modality in modalities:
        name, values = modality.name, series.values[modality.name]
        if values.shape[-1] != modality.features:
            raise InputError(
                f"expected modality {name!r} with features={modality.features}, got series with "
                f"{values.shape[-1]}: set Modality({name!r}, features={values.shape[-1]})"
            )
        mask = series.observed[name]
        if isinstance(values, Tracer) or isinstance(mask, Tracer):
            continue
        _check_values(modality, np.asarray(values), np.asarray(mask))


def _check_values(modality: Modality, values: np.ndarray, observed: np.ndarray) -> None:
    if modality.image is not None and values.dtype == np.uint8:  # stands for 0 to 1
        return
    outside = observed & ~modality.likelihood.in_support(values)
    if outside.any():
        place = np.argwhere(outside)[0]
        raise InputError(
            f"expected {modality.likelihood.support} in modality {modality.name!r} of "
            f"{modality.likelihood}, got {values[tuple(place)]:g} at (series, step, feature) "
            f"{tuple(place.tolist())}: correct it, mark it as missing, or choose another likelihood"
        )
