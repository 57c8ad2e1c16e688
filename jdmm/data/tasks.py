"""Inference tasks: what a model is shown of complete series, and has to predict the rest of.

The tasks are those of Tan et al. 2020, section 7 of the supplement, and those of tables, which hide
single features.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
from jax import numpy as jnp

from jdmm.data import corruption
from jdmm.errors import InputError
from jdmm.series import Series

Keep = dict[str, jax.Array]
Task = Callable[[jax.Array, Series], Keep]
"""``(key, series)`` -> modality -> mask of the values that are shown, ``(batch, time, 1)`` or
``(batch, time, feature)``."""


def reconstruction(key: jax.Array, series: Series) -> Keep:
    """Shows everything."""
    del key
    return _all_modalities(series, corruption.segment(series, 0.0, 1.0))


def drop_half(key: jax.Array, series: Series) -> Keep:
    """Hides half of the steps of each modality, chosen at random for each by itself."""
    return {
        name: corruption.scattered(order, series, 0.5)
        for name, order in _random_orders(key, series).items()
    }


def forward_extrapolation(key: jax.Array, series: Series) -> Keep:
    """Shows the first 75 % of the steps."""
    del key
    return _all_modalities(series, corruption.segment(series, 0.0, 0.75))


def backward_extrapolation(key: jax.Array, series: Series) -> Keep:
    """Shows the last 75 % of the steps."""
    del key
    return _all_modalities(series, corruption.segment(series, 0.25, 1.0))


def weak_supervision(key: jax.Array, series: Series) -> Keep:
    """Hides the first and last 25 % of the steps, and half of the others of each modality."""
    middle = corruption.segment(series, 0.25, 0.75)
    return {  # a quarter of all steps is half of the middle
        name: middle & corruption.scattered(jnp.where(middle[..., 0], order, jnp.inf), series, 0.25)
        for name, order in _random_orders(key, series).items()
    }


def conditional_generation(given: Sequence[str], shown: float = 0.25) -> Task:
    """A task that shows the modalities `given`, and of the others the first part.

    Args:
        given: modalities that are shown.
        shown: fraction of the steps of the other modalities that is shown, from the first on.

    Raises:
        InputError: when the task is used, if the series lack one of `given`.
    """

    def generation(key: jax.Array, series: Series) -> Keep:
        del key
        if unknown := sorted(set(given) - set(series.values)):
            raise InputError(
                f"expected conditional generation given modalities among {list(series.values)}, "
                f"got {unknown[0]!r}"
            )
        part = corruption.segment(series, 0.0, shown)
        return {name: jnp.ones_like(part) if name in given else part for name in series.values}

    return generation


def without(name: str) -> Task:
    """A task that hides one modality, which the others are to generate.

    Args:
        name: of the modality.

    Raises:
        InputError: when the task is used, if the series lack it.
    """

    def hidden(key: jax.Array, series: Series) -> Keep:
        del key
        if name not in series.values:
            raise InputError(f"expected a modality among {list(series.values)}, got {name!r}")
        every = corruption.segment(series, 0.0, 1.0)
        return {other: every & (other != name) for other in series.values}

    return hidden


def fill_values(fraction: float, known: Sequence[str] = ()) -> Task:
    """A task that hides single values of each series, chosen at random over all features.

    Args:
        fraction: of the observed values of each modality that is hidden.
        known: modalities that are shown.
    """

    def fill(key: jax.Array, series: Series) -> Keep:
        def keep(orders: jax.Array, observed: jax.Array) -> jax.Array:
            return corruption.scattered_values(orders, observed, fraction)

        return _each_feature(key, series, series.num_steps, keep, known)

    return fill


def fill_blocks(fraction: float, steps: int, known: Sequence[str] = ()) -> Task:
    """A task that hides blocks of consecutive steps of single features, chosen at random.

    Args:
        fraction: of the blocks of each feature that is hidden, rounded to whole blocks, and at
            least one.
        steps: of a block. The last block of a series may be shorter.
        known: modalities that are shown.
    """

    def fill(key: jax.Array, series: Series) -> Keep:
        count = -(-series.num_steps // steps)
        own = -(-series.lengths // steps)
        hidden = jnp.maximum(jnp.round(fraction * own), 1)[:, None, None]
        block = jnp.arange(series.num_steps) // steps
        outside = (jnp.arange(count)[None] >= own[:, None])[..., None]

        def keep(orders: jax.Array, observed: jax.Array) -> jax.Array:
            del observed
            rank = jnp.argsort(jnp.argsort(jnp.where(outside, jnp.inf, orders), 1), 1)
            return (rank >= hidden)[:, block]

        return _each_feature(key, series, count, keep, known)

    return fill


def forecast(shown: float, known: Sequence[str] = ()) -> Task:
    """A task that shows the first part of the steps, and of the modalities `known` all.

    Args:
        shown: fraction of the steps.
        known: modalities that are shown.
    """

    def forward(key: jax.Array, series: Series) -> Keep:
        del key
        part = corruption.segment(series, 0.0, shown)
        return {name: part | (name in known) for name in series.values}

    return forward


STANDARD_TASKS: Mapping[str, Task] = {
    task.__name__: task
    for task in (
        reconstruction,
        drop_half,
        forward_extrapolation,
        backward_extrapolation,
        weak_supervision,
    )
}
"""The tasks that any data set has."""


def show(tasks: Mapping[str, Task], names: Sequence[str], series: Series, key: jax.Array) -> Series:
    """What the tasks `names` show of `series`, ``(task * batch, ...)``, task by task.

    The random numbers of a task depend on its place among `tasks`, not on `names`.
    """
    places = list(tasks)
    shown = [
        series.hide(tasks[name](jax.random.fold_in(key, places.index(name)), series))
        for name in names
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *shown)


def _all_modalities(series: Series, keep: jax.Array) -> Keep:
    return {name: keep for name in series.values}


def _each_feature(
    key: jax.Array,
    series: Series,
    count: int,
    keep: Callable[[jax.Array, jax.Array], jax.Array],
    known: Sequence[str],
) -> Keep:
    """Masks from `count` uniform numbers of each feature, ``(batch, count, feature)``, and masks.

    Modalities that are `known` are shown.
    """
    masks = {}
    for place, name in enumerate(sorted(series.values)):
        observed = series.observed[name]
        if name in known:
            masks[name] = jnp.ones(observed.shape, bool)
            continue
        own, features = jax.random.fold_in(key, place), observed.shape[-1]
        orders = corruption.uniform(own, series, count * features)
        masks[name] = keep(orders.reshape(series.batch, count, features), observed)
    return masks


def _random_orders(key: jax.Array, series: Series) -> dict[str, jax.Array]:
    """Modality -> uniform numbers ``(batch, time)``."""
    names = sorted(series.values)
    numbers = corruption.uniform(key, series, series.num_steps * len(names))
    orders = numbers.reshape(series.batch, series.num_steps, len(names))
    return {name: orders[..., place] for place, name in enumerate(names)}
