"""A search for settings of BFVI on the noisy spirals, by Optuna, on the validation series.

pip install 'jdmm[search]'
python -m jdmm.experiments.study configs/studies/spirals_search.py --trials=20
"""

from typing import Any

from ml_collections import ConfigDict

from configs import spirals


def suggest(trial: Any) -> ConfigDict:
    """A configuration to try."""
    config: Any = spirals.get_config("bfvi")
    config.learning_rate = trial.suggest_float("learning_rate", 0.005, 0.04, log=True)
    config.train.beta_peak = trial.suggest_float("beta_peak", 1.0, 4.0)
    config.train.beta_final = trial.suggest_float("beta_final", 0.25, 1.0)
    return config
