"""The methods of the paper on the noisy spirals, five seeds each, all trained alike.

    python -m jdmm.study configs/studies/spirals_methods.py

Times and scores are in docs/reproduction.md.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import spirals

METHODS = {"bfvi": "best"} | {name: name for name in (*spirals.METHODS, *spirals.FITTED)}


def get_study() -> dict[str, ConfigDict]:
    """Name -> configuration."""
    study: dict[str, Any] = {name: spirals.get_config(preset) for name, preset in METHODS.items()}
    for config in study.values():
        config.seeds = 5
    return study
