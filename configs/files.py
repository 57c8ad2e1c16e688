"""Your own incomplete table: a CSV, Parquet or NPZ file of one or more time series.

    python main.py --config=configs/files.py --config.data.path=air.csv --workdir=runs/air
    python main.py --config=configs/files.py:best ...         # one model of full covariance
    python main.py --config=configs/files.py:linear ...       # a linear Gaussian model, by EM
    python main.py --config=configs/files.py:interpolate ...  # a baseline: lines between values
    python main.py --config=configs/files.py:smoke ...        # one model, small, in seconds

The first command, of the preset choose, trains all of CANDIDATES, and uses the one that fills the
validation part best. The table stays as it is: what its columns are is guessed, printed and written
to schema.json in the work directory. To change it, edit a copy and give that as
--config.data.schema. The presets linear and interpolate take columns of likelihood normal only.
docs/your_data.md has more.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from configs import sections
from jdmm import SigmaPointSSM
from jdmm.data.tables.dataset import Files
from jdmm.training.imputer import SETTINGS

FITTED = {
    "linear": {"name": "linear_gaussian", "latent": 8, "iterations": 50},
    "interpolate": {"name": "baseline", "kind": "interpolate"},
}
"""Preset -> all of its model."""

CANDIDATES = {
    **{
        f"{kind}_{latent}": {
            "name": "sigma_point",
            "latent": latent,
            "hidden": 20,
            "emission": SigmaPointSSM.emission,
            "residual": kind == "residual",
        }
        for kind in ("full", "residual")
        for latent in (4, 12)
    },
    **{f"linear_{latent}": FITTED["linear"] | {"latent": latent} for latent in (4, 12)},
    **{kind: {"name": "baseline", "kind": kind} for kind in ("interpolate", "carry")},
}
"""Name -> model, of the preset `choose`. Those that cannot take the table are left out."""

PRESETS = ("choose", "best", "smoke", *FITTED)


def get_config(preset: str = "choose") -> ConfigDict:
    """The configuration; `preset` is one of `PRESETS`."""
    if preset not in PRESETS:
        raise ValueError(f"expected a preset among {', '.join(PRESETS)}, got {preset!r}")
    config: Any = sections.start("files", **dataclasses.asdict(Files()))
    config.eval = ConfigDict()
    config.eval.tasks = ("fill_10", "fill_50", "fill_blocks", "forecast")
    return complete(config, preset)


def complete(config: Any, preset: str) -> ConfigDict:
    """Adds models, training and evaluation to a configuration of data and `eval.tasks`."""
    config.eval.select = "loss"  # epochs by the likelihood of the validation part
    config.eval.draws = 100  # posterior samples; 95 % intervals need 39
    config.eval.calibrate = True  # intervals, on the validation part
    config.eval.importance = ()  # samples of the log-likelihood bounds; () for none
    config.eval.batch_size = 50  # windows at a time in evaluation: they decide its memory
    config.eval.seed = 0  # of what the tasks hide, and of all samples

    if preset in FITTED:
        config.model = ConfigDict(FITTED[preset])
        for field in ("importance", "select"):
            del config.eval[field]
        return config

    model = SigmaPointSSM
    if preset == "choose":
        config.candidates = ConfigDict(CANDIDATES)
    else:
        config.model = ConfigDict({"name": "sigma_point", "latent": 8, "hidden": 20})
        config.model.emission = model.emission  # "linear" or "mlp"
    config.inference = ConfigDict()
    sections.quadratures(config, model)
    config.inference.iterations = 0  # of posterior linearisation; linear emissions need none
    config.inference.tolerance = model.tolerance
    config.loss = ConfigDict({"objective": model.objective})
    config.loss.decoded_samples = model.decoded_samples
    sections.training(config, SETTINGS)
    if preset == "smoke":
        config.model.latent = 3
        config.epochs = 2
        config.train.validate_every = 1
        config.eval.draws = 10
    return config
