"""Trains a small model for 50 steps on some of the devices: run by `test_parallel`.

python training_run.py OUTPUT.npz [DEVICES ...]: trains once for each number of devices; 0 is all.
With an "s" behind the number, the series stream from a file.
"""

import os
import sys
import time

import jax
import numpy as np

from jdmm import (
    MDMM,
    LossWeights,
    Modality,
    Normal,
    Quadrature,
    SeriesFile,
    TrainSettings,
    series_from_arrays,
    write_series,
)
from jdmm.networks import Image
from jdmm.training import loop, parallel
from jdmm.training.parallel import Devices

BATCH, STEPS = 8, 50


def main(output: str, *limits: str) -> None:
    """Losses ``(epoch,)`` and all variables ``(number,)``, for each of `limits`."""
    parallel.initialise(timeout=60)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 7, 1)).cumsum(1)
    values[:8, 2:6] = np.nan  # the parts of a batch hold different numbers of values
    values[9] = np.nan
    frames = rng.uniform(size=(20, 7, 4))
    frames[rng.uniform(size=(20, 7)) < 0.4] = np.nan
    frames[:6] = np.nan
    arrays = {"x": values, "video": frames}
    series = series_from_arrays(arrays, lengths=rng.integers(1, 8, 20))
    # batch normalisation, whose statistics are those of the whole batch
    video = Modality("video", likelihood=Normal(), image=Image((2, 2, 1), (2,)))
    model = MDMM(
        (Modality("x"), video),
        latent=2,
        hidden=3,
        quadrature=Quadrature("particles", 3),
        weights=LossWeights(time_reversal=0.1),
    )
    settings = TrainSettings(epochs=17, batch_size=BATCH)  # 51 steps, the last is not run
    jax.devices()  # waits for all processes by itself
    time.sleep(float(os.environ.get("LATE", 0)))
    found = {}
    write_series(f"{output}.series{jax.process_index()}", series)
    file = SeriesFile(f"{output}.series{jax.process_index()}")
    for limit in limits:
        source = file if limit.endswith("s") else series
        progress = loop.initial_progress(model, source, settings, [3])
        losses = []
        for _ in loop.run_epochs(
            model,
            source,
            settings,
            progress,
            interrupted=lambda steps: steps == STEPS,
            devices=Devices.available(int(limit.rstrip("s"))),
        ):
            if progress.records:
                losses.append(progress.records[0]["train/loss"])
        leaves = jax.tree.leaves(progress.state.variables)
        found[f"losses{limit}"] = np.array(losses)
        found[f"variables{limit}"] = np.concatenate([np.ravel(leaf) for leaf in leaves])
    if parallel.is_primary():
        np.savez(output, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
