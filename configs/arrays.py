"""Your own series of several modalities: numbers, counts, classes, images, in arrays.

    python main.py --config=configs/arrays.py --config.data.path=series.npz --workdir=runs/mine
    python main.py --config=configs/arrays.py:best ...         # one model of full covariance
    python main.py --config=configs/arrays.py:images ...       # the same with networks, for images
    python main.py --config=configs/arrays.py:linear ...       # a linear Gaussian model, by EM
    python main.py --config=configs/arrays.py:interpolate ...  # a baseline: lines between values
    python main.py --config=configs/arrays.py:smoke ...        # one model, small, in seconds

The file is an .npz file (jdmm/data/npz.py says what it holds), or one of jdmm.write_series for
series that memory does not hold. What its arrays are is guessed, printed and written to schema.json
in the work directory. To change it, edit a copy and give that as --config.data.schema. The first
command trains all candidates, and uses the one that fills the validation series best.
docs/arrays.md has more.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from configs import files, sections
from jdmm.data.arrays.dataset import Arrays

PRESETS = (*files.PRESETS, "images")


def get_config(preset: str = "choose") -> ConfigDict:
    """The configuration; `preset` is one of `PRESETS`."""
    if preset not in PRESETS:
        raise ValueError(f"expected a preset among {', '.join(PRESETS)}, got {preset!r}")
    config: Any = sections.start("arrays", **dataclasses.asdict(Arrays()))
    config.eval = ConfigDict()
    config.eval.tasks = ("fill_10", "fill_50", "drop_half", "forward_extrapolation")
    if preset != "images":
        return files.complete(config, preset)
    files.complete(config, "best")
    config.data.channels = (8, 16, 32)
    config.data.normalisation = "group"
    config.data.background = "mean"
    config.model.latent = 32
    config.model.hidden = 64
    config.model.emission = "mlp"
    config.loss.objective = "bound"
    config.loss.decoded_samples = 1
    config.batch_size = 10
    config.learning_rate = 3e-3
    config.eval.draws = 10
    config.eval.calibrate = False
    config.eval.batch_size = 4
    return config
