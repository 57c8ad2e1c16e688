"""The spirals on few series: a configuration for `main.py`, and its data set.

Most noisy spirals are for validation and testing. Tests of whole runs would spend most of their
time on predicting these.
"""

from dataclasses import dataclass

import jax

from configs import spirals
from jdmm.data.base import Split
from jdmm.data.datasets import DATASETS
from jdmm.data.spirals.dataset import Spirals

KEPT = 12
"""With five tasks they fill one batch of 50, and a part of another."""


@dataclass(frozen=True)
class FewSpirals(Spirals):
    """Ten of the noisy spirals for training, and twelve each for validation and testing."""

    validation: int = 590

    def load(self):
        def first(split):
            arrays = split.series, split.truth, split.second
            return Split(*jax.tree.map(lambda array: array[:KEPT], arrays))

        return {name: first(split) for name, split in super().load().items()}


if __name__ != "few_spirals":  # main.py runs this file; tests import it, and share the registry
    DATASETS["few_spirals"] = FewSpirals


def get_config(preset="smoke"):
    config = spirals.get_config(preset)
    config.data.name = "few_spirals"
    config.data.validation = 590
    return config
