"""Modalities of one form, computed as one.

Every modality has parameters of its own. A program that computes many modalities one after the
other takes minutes to compile. Modalities of equal form are therefore a group: their parameters and
arrays are stacked, and one network or likelihood is mapped over them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax import numpy as jnp

from jdmm.data.modality import Modality
from jdmm.networks import BATCH_STATS

MIN_GROUP = 4
"""Smaller groups are computed one after the other."""

Groups = Sequence[Sequence[str]]
"""Names of the modalities of each group."""


def modality_groups(modalities: Sequence[Modality]) -> Groups:
    """The modalities that share a computation: at least `MIN_GROUP` of one form.

    The form is the number of features and the likelihood, which determine the default networks.
    Modalities with their own networks are computed one by one: a convolution with stacked kernels
    takes ten times as long on a CPU.
    """
    forms = {
        m.name: (m.features, m.likelihood)
        for m in modalities
        if m.encoder is None and m.decoder is None and m.image is None
    }
    return [names for names in _group_equal(forms) if len(names) >= MIN_GROUP]


class NetworkGroups:
    """One network per modality, the parameters of each group stacked once.

    Args:
        networks: modality -> submodule of a bound module.
        groups: of `modality_groups`; by default every network is computed by itself.
        training: whether batch normalisation takes its statistics from the batch.

    Attributes:
        statistics: modality -> running statistics of its network after the last call in training.
    """

    def __init__(
        self, networks: Mapping[str, nn.Module], groups: Groups = (), training: bool = False
    ) -> None:
        """Stacks the parameters of each group, unless `stack_parameters` has."""
        self.statistics: dict[str, Any] = {}
        self._training = training
        unbound = {name: network.unbind() for name, network in networks.items()}
        self._modules = {name: module for name, (module, _) in unbound.items()}
        self._variables = {name: variables for name, (_, variables) in unbound.items()}
        self._groups = [list(names) for names in groups]
        self._alone = [name for name in networks if not any(name in names for names in groups)]
        self._stacked = []
        for names in self._groups:
            each = [self._variables[name] for name in names]
            self._stacked.append(_stack(each) if each[1] else each[0])

    def __iter__(self) -> Iterator[str]:
        """The names of the modalities."""
        return iter(self._modules)

    def map(self, function: Callable[..., Any], *inputs: Mapping[str, Any]) -> dict[str, Any]:
        """``modality -> function(network, *inputs)`` for the modalities that the inputs have.

        Args:
            function: pure, of a network ``(*arrays) -> outputs`` and the inputs of one modality.
            inputs: each modality -> tree of arrays, of equal shapes within a group.
        """

        def one(name: str, variables: Any, *own: Any) -> Any:
            if self.normalises(name):
                return function(partial(self._apply_in_training, name), *own)
            return function(partial(self._modules[name].apply, variables), *own)

        given = inputs[0]
        outputs = {
            name: one(name, self._variables[name], *(each[name] for each in inputs))
            for name in self._alone
            if name in given
        }
        for group, stacked in zip(self._groups, self._stacked, strict=True):
            if names := [name for name in group if name in given]:
                if len(names) < len(group):
                    rows = np.array([group.index(name) for name in names])
                    stacked = jax.tree.map(lambda leaf, rows=rows: leaf[rows], stacked)
                outputs |= _map_stacked(partial(one, names[0]), names, inputs, stacked)
        return {name: outputs[name] for name in self._modules if name in given}

    def normalises(self, name: str) -> bool:
        """Whether a network of this modality takes statistics from the batch."""
        return self._training and BATCH_STATS in self._variables[name]

    def _apply_in_training(self, name: str, *inputs: Any) -> Any:
        outputs, updated = self._modules[name].apply(
            self._variables[name], *inputs, mutable=[BATCH_STATS]
        )
        self.statistics[name] = updated[BATCH_STATS]
        return outputs


def updated_statistics(variables: Any, **networks: NetworkGroups) -> dict[str, Any] | None:
    """The running statistics of all networks after a step of the training.

    Args:
        variables: of the model.
        **networks: ``kind=`` those of each modality, used in training; see `stack_parameters`.

    Returns:
        The collection "batch_stats"; None if there is none.
    """
    if BATCH_STATS not in variables:
        return None
    statistics = dict(variables[BATCH_STATS])
    for kind, group in networks.items():
        statistics |= {f"{kind}_{name}": own for name, own in group.statistics.items()}
    return statistics


def stack_parameters(variables: Any, groups: Groups, kinds: Sequence[str], axis: int = 0) -> Any:
    """Flax variables as numpy arrays, in which the parameters of each group are stacked.

    Args:
        variables: with the parameters of modality m's network in ``variables["params"][kind_m]``.
        groups: of `modality_groups`.
        kinds: names of the mappings modality -> network in the module's `setup`.
        axis: of the group in its arrays; the axes in front are those of all variables.

    Returns:
        Variables with one entry ``kind_m`` per group, that of its first modality.
    """
    if not groups or not kinds:
        return variables
    params = dict(variables["params"])
    for kind in kinds:
        for names in groups:
            if f"{kind}_{names[0]}" not in params:  # such as the encoders of a model without states
                continue
            each = [params.pop(f"{kind}_{name}") for name in names]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves, axis), *each)
            params[f"{kind}_{names[0]}"] = stacked
    return {**variables, "params": params}


def unstack_parameters(variables: Any, groups: Groups, kinds: Sequence[str], axis: int = 0) -> Any:
    """The inverse of `stack_parameters`."""
    if not groups or not kinds:
        return variables
    params = dict(variables["params"])
    for kind in kinds:
        for names in groups:
            if f"{kind}_{names[0]}" not in params:
                continue
            stacked = jax.device_get(params.pop(f"{kind}_{names[0]}"))
            for row, name in enumerate(names):
                params[f"{kind}_{name}"] = jax.tree.map(
                    lambda leaf, row=row: np.take(leaf, row, axis), stacked
                )
    return {**variables, "params": params}


def map_groups(
    function: Callable[..., Any], forms: Mapping[str, Any], *inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """``name -> function(form, *inputs)``, mapped over equal forms with inputs of equal shapes.

    Args:
        function: pure, of a form and the inputs of one name.
        forms: name -> what does not change within a group, compared by ``==``.
        inputs: each name -> tree of arrays.
    """
    outputs = {}
    keys = {n: (form, [_shapes(each[n]) for each in inputs]) for n, form in forms.items()}
    for names in _group_equal(keys):
        own = partial(function, forms[names[0]])
        if len(names) >= MIN_GROUP:
            outputs |= _map_stacked(own, names, inputs)
        else:
            outputs |= {n: own(*(each[n] for each in inputs)) for n in names}
    return {name: outputs[name] for name in forms}


def _group_equal(forms: Mapping[str, Any]) -> list[list[str]]:
    groups: list[tuple[Any, list[str]]] = []
    for name, form in forms.items():
        for known, names in groups:
            if known == form:
                names.append(name)
                break
        else:
            groups.append((form, [name]))
    return [names for _, names in groups]


def _stack(trees: Sequence[Any]) -> Any:
    """Trees of one form as one, with a new axis in front."""
    if all(tree is trees[0] for tree in trees):
        return jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (len(trees), *leaf.shape)), trees[0]
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _map_stacked(
    function: Callable[..., Any],
    names: Sequence[str],
    inputs: Sequence[Mapping[str, Any]],
    *stacked: Any,
) -> dict[str, Any]:
    """``name -> function(*stacked, *inputs)`` of a group."""
    every = [*stacked, *(_stack([each[name] for name in names]) for each in inputs)]
    leaves, structure = jax.tree.flatten(jax.vmap(function)(*every))
    # the gradient of a split is one concatenation, that of indexing a sum of padded arrays
    pieces = [jax.lax.split(leaf, (1,) * len(names)) for leaf in leaves]
    rows = zip(*pieces, strict=True)
    return {
        name: structure.unflatten(piece[0] for piece in row)
        for name, row in zip(names, rows, strict=True)
    }


def _shapes(tree: Any) -> Any:
    """Shapes and types of a tree of arrays, to be compared."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
