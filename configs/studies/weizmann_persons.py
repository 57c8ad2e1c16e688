"""Weizmann human actions, each of the nine persons held out in turn: actions from silhouettes.

    python -m jdmm.experiments.study configs/studies/weizmann_persons.py \
        --set=data.path=classification_masks.mat

The next person in the alphabet is the validation person. docs/weizmann.md has the results.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import weizmann
from jdmm.data.weizmann.clips import PERSONS


def get_study() -> dict[str, ConfigDict]:
    """Person -> configuration."""
    study = {}
    for number, person in enumerate(PERSONS):
        config: Any = weizmann.get_config("silhouettes")
        config.data.test_person = person
        config.data.validation_person = PERSONS[(number + 1) % len(PERSONS)]
        config.eval.tasks = ("reconstruction",)
        study[person] = config
    return study
