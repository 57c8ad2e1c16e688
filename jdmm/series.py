"""Incomplete multimodal time series, and the names of the array axes.

Axes: `batch` (series), `time`, `feature` (of one modality), `latent` (dimensions of the state z),
`view` (a subset of the modalities), `sample`, and `point` (of a quadrature). Public arrays are
``(*batch, time, feature)`` or ``(*batch, time, latent)``; views and samples come first.
docs/notation.md lists all symbols.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import struct
from jax import numpy as jnp

from jdmm.errors import InputError

if TYPE_CHECKING:
    Array = jax.Array
else:
    Array = jax.Array | np.ndarray  # at run time NumPy arrays are accepted too


@struct.dataclass
class Series:
    """A batch of time series in which any value may be missing.

    Attributes:
        values: modality -> ``(batch, time, feature)`` float32, 0 where not observed. Training
            series may hold images as bytes (uint8), which `as_float` makes numbers from 0 to 1.
        observed: modality -> bool mask of the same shape, False after the end of a series.
        lengths: ``(batch,)`` int32, number of time steps of each series.
        index: ``(batch,)`` int32, number of each series in the data set. Random numbers for a
            series depend on this number, not on its batch, its position there, or its device.
        inputs: ``(batch, time, input)`` float32, covariates that are known at all steps and drive
            the dynamics, such as the time of day or a control; 0 after the end of a series. They
            are not modelled. None for series without.
    """

    values: dict[str, Any]
    observed: dict[str, Any]
    lengths: Any
    index: Any
    inputs: Any = None

    if TYPE_CHECKING:  # flax adds it

        def replace(self, **changes: Any) -> "Series":
            """The series with some attributes replaced."""
            ...

    @property
    def num_steps(self) -> int:
        """Number of time steps of the padded arrays."""
        return next(iter(self.values.values())).shape[-2]

    @property
    def batch(self) -> int:
        """Number of series."""
        return self.lengths.shape[0]

    @property
    def num_inputs(self) -> int:
        """Number of features of the inputs."""
        return 0 if self.inputs is None else self.inputs.shape[-1]

    @property
    def valid(self) -> Any:
        """Bool mask ``(batch, time)``, True within the length of each series."""
        return jnp.arange(self.num_steps)[None, :] < self.lengths[:, None]

    def take(self, index: Any) -> "Series":
        """Selects series by an integer array or a slice over the batch axis."""
        return jax.tree.map(lambda leaf: leaf[index], self)

    def select(self, names: Sequence[str]) -> "Series":
        """Selects the modalities `names`.

        Raises:
            InputError: if the series have no modality of that name.
        """
        if unknown := sorted(set(names) - set(self.values)):
            raise InputError(f"expected modalities among {list(self.values)}, got {unknown[0]!r}")
        return self.replace(
            values={name: self.values[name] for name in names},
            observed={name: self.observed[name] for name in names},
        )

    def until(self, num_steps: int) -> "Series":
        """The first `num_steps` of the padded arrays; no series may be longer."""
        if num_steps == self.num_steps:
            return self
        cut = {name: value[:, :num_steps] for name, value in self.values.items()}
        masks = {name: mask[:, :num_steps] for name, mask in self.observed.items()}
        inputs = None if self.inputs is None else self.inputs[:, :num_steps]
        return self.replace(values=cut, observed=masks, inputs=inputs)

    def as_float(self) -> "Series":
        """The same series, bytes (uint8, of images) as float32 from 0 to 1."""
        values = {
            name: value.astype(jnp.float32) / 255 if value.dtype == jnp.uint8 else value
            for name, value in self.values.items()
        }
        return self.replace(values=values)

    def hide(self, keep: Mapping[str, Any]) -> "Series":
        """Marks values as missing where `keep` is False.

        Args:
            keep: modality -> mask that broadcasts to ``(batch, time, feature)``. True leaves a
                value as it is; missing values stay missing.
        """
        observed = {name: mask & keep[name] for name, mask in self.observed.items()}
        values = {
            name: jnp.where(observed[name], value, jnp.zeros((), value.dtype))
            for name, value in self.values.items()
        }
        return self.replace(values=values, observed=observed)

    def pad(self, before: int = 0, after: int = 0) -> "Series":
        """Adds unobserved steps to every series, for extrapolation.

        Args:
            before: number of steps to add before the first.
            after: number of steps to add after the last.

        Raises:
            InputError: if a number is negative, if `after` is positive and the lengths differ, or
                for series with inputs, which are not known at other steps.
        """
        if before < 0 or after < 0:
            raise InputError(
                f"expected before and after of at least 0 to pad series, got before={before}, "
                f"after={after}"
            )
        if self.inputs is not None and (before or after):
            raise InputError(
                "expected series without inputs to pad, got some: build series whose inputs reach "
                "over the further steps, with NaN as values"
            )
        if after and (np.asarray(self.lengths) != self.num_steps).any():
            raise InputError(
                "expected series of equal length to pad after the end, got different lengths: "
                "append rows of NaN to each series instead"
            )
        width = ((0, 0), (before, after), (0, 0))
        return self.replace(
            values={name: jnp.pad(value, width) for name, value in self.values.items()},
            observed={name: jnp.pad(mask, width) for name, mask in self.observed.items()},
            lengths=self.lengths + before + after,
        )


def series_from_arrays(
    values: Mapping[str, Any],
    observed: Mapping[str, Any] | None = None,
    lengths: Sequence[int] | np.ndarray | None = None,
    inputs: Any = None,
) -> Series:
    """Builds a `Series` from arrays in which NaN means missing.

    Args:
        values: modality -> array ``(batch, time, feature)``, array ``(batch, time)`` for a single
            feature, or a list of arrays ``(time_i, feature)`` or ``(time_i,)``, which may differ
            in length.
        observed: modality -> mask of the same form as `values`. Values that are NaN or outside of
            the mask are missing. Modalities without a mask are observed wherever they are not NaN.
        lengths: ``(batch,)`` number of steps of each series in padded arrays. By default the
            lengths of the lists, or all steps of the arrays.
        inputs: covariates that are known at all steps and drive the dynamics, of the same form as
            the values, on a scale of about 1. NaN is refused within the lengths.

    Returns:
        The series, with their lengths, padded to the longest, and `index` 0, 1, ..., batch - 1.

    Raises:
        InputError: if shapes, lengths or modalities disagree, a series is empty, an observed value
            is infinite, or an input is not finite.
    """
    if not values:
        raise InputError("expected at least one modality, got none")
    observed = observed or {}
    if unknown := sorted(set(observed) - set(values)):
        raise InputError(f"expected masks for {sorted(values)} only, got one for {unknown[0]!r}")

    arrays: dict[str, np.ndarray] = {}
    masks: dict[str, np.ndarray] = {}
    found: dict[str, np.ndarray] = {}
    for name, value in values.items():
        arrays[name], found[name] = _padded(f"modality {name!r}", value, np.float32, np.nan)
        if name in observed:
            masks[name], steps = _padded(f"mask of {name!r}", observed[name], bool, False)
            if masks[name].shape != arrays[name].shape or (steps != found[name]).any():
                raise InputError(
                    f"expected a mask of shape {arrays[name].shape} for {name!r}, with the same "
                    f"lengths, got {masks[name].shape}"
                )
        else:
            masks[name] = np.ones(arrays[name].shape, bool)

    first = next(iter(arrays))
    for name, array in arrays.items():
        if array.shape[:2] != arrays[first].shape[:2] or (found[name] != found[first]).any():
            raise InputError(
                f"expected the same series and lengths in every modality, got (batch, time) "
                f"{arrays[first].shape[:2]} in {first!r} and {array.shape[:2]} in {name!r}"
            )
    batch, time = arrays[first].shape[:2]
    steps = found[first] if lengths is None else np.asarray(lengths)
    if steps.shape != (batch,) or not np.issubdtype(steps.dtype, np.integer):
        raise InputError(
            f"expected {batch} whole numbers as lengths, got {steps.dtype} of shape {steps.shape}"
        )
    if batch == 0 or (steps < 1).any() or (steps > time).any():
        raise InputError(
            f"expected at least one series, with lengths between 1 and {time}, got lengths "
            f"{steps.tolist()[:8]}"
        )

    inside = (np.arange(time) < steps[:, None])[..., None]
    for name, array in arrays.items():
        masks[name] = masks[name] & inside & ~np.isnan(array)
        if np.isinf(array[masks[name]]).any():
            where = np.argwhere(masks[name] & np.isinf(array))[0].tolist()
            raise InputError(
                f"expected finite float32 values or NaN in modality {name!r}, got infinity at "
                f"(series, step, feature) {tuple(where)}: replace it by NaN, or rescale the data"
            )
        arrays[name] = np.where(masks[name], array, 0).astype(np.float32)
    known = None if inputs is None else _known_inputs(inputs, found[first], steps, time)
    return Series(arrays, masks, steps.astype(np.int32), np.arange(batch, dtype=np.int32), known)


def _known_inputs(inputs: Any, rows: np.ndarray, lengths: np.ndarray, time: int) -> np.ndarray:
    """Inputs ``(batch, time, input)`` of series whose arrays have so many rows.

    Raises:
        InputError: if they have other rows, or are not finite within the lengths.
    """
    array, own = _padded("inputs", inputs, np.float32, 0)
    if len(own) != len(rows) or (own != rows).any():
        raise InputError(
            f"expected inputs of the series' (batch, time) {(len(rows), time)}, with the same "
            f"lengths, got {array.shape[:2]}"
        )
    inside = (np.arange(time) < lengths[:, None])[..., None]
    if (wrong := inside & ~np.isfinite(array)).any():
        where = tuple(np.argwhere(wrong)[0].tolist())
        raise InputError(
            f"expected finite inputs, which are known at all steps, got {array[where]} at (series, "
            f"step, input) {where}: fill them, or make them a modality"
        )
    return np.where(inside, array, np.float32(0))


def _padded(what: str, value: Any, dtype: Any, fill: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns ``(batch, time, feature)`` padded with `fill`, and lengths ``(batch,)``."""
    try:
        with np.errstate(over="ignore"):  # overflow gives infinity, which the caller reports
            rows = [np.asarray(row, dtype) for row in value]
    except (TypeError, ValueError) as error:
        raise InputError(f"expected numbers for {what}, got something else ({error})") from None
    rows = [row[:, None] if row.ndim == 1 else row for row in rows]
    shapes = {row.shape[1:] for row in rows}
    if not rows or len(shapes) != 1 or rows[0].ndim != 2 or 0 in rows[0].shape[1:]:
        got = [row.shape for row in rows[:3]]
        raise InputError(f"expected {what} as (batch, time, feature), got series of shapes {got}")
    lengths = np.array([len(row) for row in rows])
    padded = np.full((len(rows), lengths.max(), *rows[0].shape[1:]), fill, dtype)
    for row, target in zip(rows, padded, strict=True):
        target[: len(row)] = row
    return padded, lengths
