"""The imputation of `air_quality.py` by SAITS, BRITS and CSDI of PyPOTS.

    python benchmarks/air_quality.py DATA.npz --write_masks=FILE.npz
    python benchmarks/air_quality_pypots.py FILE.npz --method=saits

PyPOTS has an environment of its own: `pip install torch pypots`. The networks learn from what is
shown of the training windows. The epoch that predicts the held-out values of the validation windows
best is kept, and training stops when it is long past. CSDI is validated on a part of the windows,
since it scores every window once per diffusion step; its learning rate falls as in its paper.
Prints figures, writes nothing.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import air_quality_data
import numpy as np

METHODS = ("saits", "brits", "csdi")
VALIDATION_WINDOWS = 16
"""Of CSDI."""
DECAY = (0.75, 0.9)
"""Shares of CSDI's epochs after which its learning rate falls to a tenth."""


def network(method: str, shape: tuple[int, int], options: Any) -> Any:
    """The untrained imputer of a method for windows of ``(hour, column)``."""
    from pypots import imputation
    from pypots.optim import Adam
    from pypots.optim.lr_scheduler import MultiStepLR

    steps, features = shape
    falls = [round(share * options.epochs) for share in DECAY]
    decay = MultiStepLR(falls, gamma=0.1) if method == "csdi" else None
    common = {
        "n_steps": steps,
        "n_features": features,
        "batch_size": options.batch_size,
        "epochs": options.epochs,
        "patience": options.patience,
        "optimizer": Adam(lr=options.learning_rate, lr_scheduler=decay),
        "device": "cpu",
    }
    if method == "saits":
        return imputation.SAITS(
            n_layers=2, d_model=128, n_heads=4, d_k=32, d_v=32, d_ffn=256, dropout=0.1, **common
        )
    if method == "brits":
        return imputation.BRITS(rnn_hidden_size=128, **common)
    return imputation.CSDI(
        n_layers=2,
        n_heads=2,
        n_channels=32,
        d_time_embedding=64,
        d_feature_embedding=16,
        d_diffusion_embedding=64,
        n_diffusion_steps=options.diffusion_steps,
        **common,
    )


def main() -> None:
    """Trains a method and prints its scores."""
    parser = argparse.ArgumentParser(description="Imputation of Beijing's air quality by PyPOTS.")
    parser.add_argument("data", type=Path, help="the .npz file of `--write_masks`")
    parser.add_argument("--method", choices=METHODS, default="saits", help="[saits]")
    parser.add_argument("--epochs", type=int, default=100, help="of training at most [100]")
    parser.add_argument("--patience", type=int, default=10, help="epochs without progress [10]")
    parser.add_argument("--batch_size", type=int, default=32, help="windows [32]")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="of Adam [0.001]")
    parser.add_argument("--diffusion_steps", type=int, default=50, help="of CSDI [50]")
    parser.add_argument("--samples", type=int, default=100, help="of CSDI, 39 or more [100]")
    parser.add_argument("--test_every", type=int, default=1, help="score each n-th window, too [1]")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers [0]")
    options = parser.parse_args()

    from pypots.utils.random import set_random_seed

    set_random_seed(options.seed)
    parts = air_quality_data.read(options.data)
    validation, test = parts["validation"], parts["test"]
    if options.method == "csdi":
        rows = np.linspace(0, len(validation.values) - 1, VALIDATION_WINDOWS).round().astype(int)
        validation = validation.take(rows)
    # sampling every window with CSDI would take hours
    sampled = options.test_every if options.method == "csdi" else 1
    test = test.take(slice(None, None, sampled))

    began = time.process_time()
    imputer = network(options.method, test.values.shape[1:], options)
    imputer.fit({"X": parts["train"].shown}, {"X": validation.shown, "X_ori": validation.values})
    training = time.process_time() - began

    began = time.process_time()
    samples = mean = None
    if options.method == "csdi":
        samples = imputer.impute({"X": test.shown}, n_sampling_times=options.samples)
        samples = np.moveaxis(samples, 1, 0)
        # the median is the point prediction of the paper, the mean has the least squared error
        point, mean = np.median(samples, 0), samples.mean(0)
    else:
        point = imputer.impute({"X": test.shown})
    inference = time.process_time() - began

    for every in sorted({sampled, options.test_every}):
        rows = np.s_[:: every // sampled]
        part = test.take(rows)
        scored, truth = part.hidden, part.values[part.hidden]
        crps = covered = None
        if samples is not None:
            crps, covered = air_quality_data.spread_scores(samples[:, rows][:, scored], truth)
        air_quality_data.print_scores(
            air_quality_data.named(options.method, every),
            point[rows][scored] - truth,
            crps,
            covered,
            training,
            inference,
            None if mean is None else mean[rows][scored] - truth,
        )


if __name__ == "__main__":
    main()
