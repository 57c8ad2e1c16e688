"""The schema of series in arrays: what each modality is, as JSON that users edit."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jdmm.data.fitted_schema import FittedSchema
from jdmm.data.modality import Modality, check_modalities
from jdmm.data.scaling import Standardise, typical_size
from jdmm.errors import InputError
from jdmm.likelihoods import (
    Likelihood,
    Mixed,
    check_size,
    likelihood_from_text,
    likelihood_to_text,
)
from jdmm.networks import Image
from jdmm.series import Series


@dataclass(frozen=True)
class ArrayModality:
    """What a modality is.

    Attributes:
        likelihood: a text for `jdmm.likelihood_from_text`, such as "normal",
            "categorical(classes=4)" or "mixed(normal, poisson)".
        features: number of features of a step; of images it follows from `image`.
        image: height, width and number of channels of an image; () for none.
        mean: of each feature in the training series; () before it is fitted, and where no feature
            may be scaled (`jdmm.data.scaling.scalable`).
        sd: the same for the standard deviation.
        sizes: typical training values, one for each part of the likelihood, if a part has a size
            that the text does not give, such as "poisson"; () before they are fitted, and for
            others.

    Raises:
        InputError: for an impossible value.
    """

    likelihood: str = "normal"
    features: int = 1
    image: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    sd: tuple[float, ...] = ()
    sizes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Checks the values, and writes them in one way."""
        own = likelihood_from_text(self.likelihood)
        object.__setattr__(self, "likelihood", likelihood_to_text(own))
        for name in ("image", "mean", "sd", "sizes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.image and (len(self.image) != 3 or min(self.image) < 1):
            raise InputError(
                f"expected image as height, width and number of channels, got {self.image}"
            )
        if self.features == 1:
            implied = math.prod(self.image) if self.image else len(self.parts)
            object.__setattr__(self, "features", implied)
        if len(self.sizes) not in (0, len(self.parts)):
            raise InputError(f"expected sizes of all {len(self.parts)} parts, got {self.sizes}")
        for size in self.sizes:
            check_size(size)

    @property
    def parts(self) -> tuple[Likelihood, ...]:
        """The likelihoods of the features if they differ, else the one of all, as the text says."""
        own = likelihood_from_text(self.likelihood)
        return own.parts if isinstance(own, Mixed) else (own,)

    @property
    def sized(self) -> list[bool]:
        """Which of the parts have a size that the text leaves to the training series."""
        return [getattr(part, "size", None) == 1 for part in self.parts]

    def modality(self, name: str, **image: Any) -> Modality:
        """The modality of a name.

        Args:
            name: its name.
            **image: further fields of `Image`.
        """
        parts: Any = self.parts
        if self.sizes:
            parts = tuple(
                dataclasses.replace(part, size=size) if sized else part
                for part, size, sized in zip(parts, self.sizes, self.sized, strict=True)
            )
        likelihood = Mixed(parts) if self.likelihood.startswith("mixed(") else parts[0]
        if not self.image:
            return Modality(name, self.features, likelihood)
        height, width, channels = self.image
        form = Image((height, width, channels), **image)
        return Modality(name, self.features, likelihood, image=form)


@dataclass(frozen=True)
class ArraySchema(FittedSchema):
    """What the arrays of a file of series hold.

    Attributes:
        modalities: name of an array -> what it is.
        inputs: number of inputs (`Series.inputs`), which drive the dynamics.
        fitted: a mark of the other fields, set when mean, sd and sizes are fitted.

    Raises:
        InputError: for an impossible value, naming the field.
    """

    modalities: Mapping[str, ArrayModality]
    inputs: int = 0
    fitted: str = ""
    section: ClassVar[str] = "modalities"
    entry: ClassVar[type] = ArrayModality
    statistics: ClassVar[str] = "mean, sd, sizes"

    def __post_init__(self) -> None:
        """Checks the values."""
        if not self.modalities:
            raise InputError("expected at least one modality in modalities, got none")
        if self.inputs < 0:
            raise InputError(f"expected inputs of at least 0, got {self.inputs}")
        check_modalities(self.build())
        fits = any(own.mean or own.sd or own.sizes for own in self.modalities.values())
        self.check_mark(fits)

    @property
    def scaling(self) -> Standardise:
        """The fitted means and standard deviations.

        Raises:
            InputError: if they are not finite and positive, or of another number of features.
        """
        scaled = {name: own for name, own in self.modalities.items() if own.mean or own.sd}
        content = {
            "mean": {name: own.mean for name, own in scaled.items()},
            "sd": {name: own.sd for name, own in scaled.items()},
        }
        return Standardise.from_dict(content)

    def build(self, **image: Any) -> tuple[Modality, ...]:
        """The modalities.

        Args:
            **image: further fields of the `Image` of those that are images.
        """
        return tuple(own.modality(name, **image) for name, own in self.modalities.items())

    def fit(self, series: Series) -> "ArraySchema":
        """The schema with mean, sd and sizes of training series."""
        scaling = Standardise.fit_scalable(series, self.without_fit().build())
        modalities = {}
        for name, own in self.modalities.items():
            values = [
                series.values[name][..., place][series.observed[name][..., place]]
                for place in range(own.features)
            ]
            if len(own.parts) < own.features:
                values = [np.concatenate(values)]
            sizes = [
                typical_size(part, each.astype(np.float64)) if sized else 1.0
                for part, each, sized in zip(own.parts, values, own.sized, strict=True)
            ]
            modalities[name] = dataclasses.replace(
                own,
                mean=tuple(scaling.mean.get(name, np.zeros(0)).tolist()),
                sd=tuple(scaling.sd.get(name, np.zeros(0)).tolist()),
                sizes=tuple(sizes) if any(own.sized) else (),
            )
        return dataclasses.replace(self, modalities=modalities, fitted=self.mark)

    def without_fit(self) -> "ArraySchema":
        """The schema before mean, sd and sizes are fitted."""
        modalities = {
            name: dataclasses.replace(own, mean=(), sd=(), sizes=())
            for name, own in self.modalities.items()
        }
        return dataclasses.replace(self, modalities=modalities, fitted="")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is empty is left out."""
        modalities = {
            name: {key: value for key, value in vars(own).items() if value != ()}
            for name, own in self.modalities.items()
        }
        content = {"modalities": modalities, "inputs": self.inputs, "fitted": self.fitted}
        return json.loads(json.dumps(content))
