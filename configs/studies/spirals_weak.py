"""Weak supervision on the noisy spirals: the task's error against what training series miss.

    python -m jdmm.experiments.study configs/studies/spirals_weak.py
    python -m jdmm.experiments.study configs/studies/spirals_weak.py --run=$SLURM_ARRAY_TASK_ID

"uniform": that fraction of the steps of each modality is missing from training and validation
series; "modality": that share of the series misses one modality wholly. Scored with the first and
the last quarter of the test series hidden, and half of the rest.

Divergences do not get fewer where values are missing, so log-likelihoods are divided by the share
of values that is left: what information costs stays in proportion to what there is to explain.
Without that, posteriors collapse onto the prior where 70 % are missing. BFVI learns the dynamics
later from less, so the filter's bound fades and starts race for longer; and it is trained on more
gaps, since the task has more. Long ones harm structured networks. BFVI's beta ends at 0.5,
with which all this was chosen, on validation series with 70 % missing and seed 0.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import spirals

METHODS = ("bfvi", "b_mask")
FRACTIONS = {
    "uniform": (0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
    "modality": (0.2, 0.4, 0.6, 0.8, 0.9),  # 0 is that of "uniform"
}


def get_study() -> dict[str, ConfigDict]:
    """Name -> configuration."""
    study = {}
    for method in METHODS:
        for kind, fractions in FRACTIONS.items():
            for fraction in fractions:
                config: Any = spirals.get_config(method)
                config.data.withheld[kind] = fraction
                left = 1.0 - fraction / (2.0 if kind == "modality" else 1.0)
                config.loss.multipliers = {name: 1.0 / left for name in config.loss.multipliers}
                if method == "bfvi":
                    config.train.beta_fall = (0.3, 0.7)
                    config.train.beta_final = 0.5
                    config.train.restarts = 4
                    config.loss.filter_fade = (0.2, 0.6)
                    config.train.restart_rungs = (0.15, 0.45)
                    config.train.deletions.scattered_steps = 0.6
                    config.train.deletions.gap_all_modalities = 0.4
                config.eval.tasks = ("weak_supervision",)
                config.eval.calibrate = False
                config.eval.importance = ()
                study[f"{method}-{kind}@{fraction}"] = config
    return study
