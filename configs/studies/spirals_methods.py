"""The methods of the paper, and some others, on the noisy spirals, with five seeds each.

    python -m jdmm.experiments.study configs/studies/spirals_methods.py

Times and scores are in docs/reproduction.md.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import spirals


def get_study() -> dict[str, ConfigDict]:
    """Name -> configuration."""
    names = ("best", "bfvi", *spirals.METHODS, *spirals.FITTED)
    study: dict[str, Any] = {name: spirals.get_config(name) for name in names}
    for name, config in study.items():
        config.seeds = 1 if name in spirals.FITTED else 5
        if "importance" in config.eval:
            config.eval.importance = (1, 10, 100, 1000)
    return study
