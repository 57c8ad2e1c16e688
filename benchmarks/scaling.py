"""Measures how time and memory of jdmm's train step scale with each of its sizes.

    python benchmarks/scaling.py                        # all sweeps on the CPU: 15 minutes
    python benchmarks/scaling.py --sweep=seeds --sweep=time
    python benchmarks/scaling.py --device=cuda          # on a GPU

The measurement itself is in `train_step.py`. On the CPU each case runs on one core, with two
exceptions: several devices are virtual devices on all cores, and two processes have one core each.
The script prints Markdown and writes no files.
"""

import argparse
import os
import socket
import sys
from collections.abc import Iterator

from train_step import COLUMNS, SIGMA_POINTS, WIDTH, Case, machine, result, run_jax, start

SWEEPS = {
    "particles": [Case(count) for count in (1, 5, 25, 100, 1000)],
    "batch": [Case(SIGMA_POINTS, batch=size) for size in (25, 100, 1_000, 10_000, 100_000)],
    "time": [Case(SIGMA_POINTS, batch=25, time=steps) for steps in (100, 1_000, 10_000)],
    "latent": [Case(batch=25, latent=size) for size in (5, 16, 64, 256)],
    "seeds": [Case(SIGMA_POINTS, batch=25, seeds=count) for count in (1, 2, 8, 64)],
    "devices": [Case(SIGMA_POINTS, batch=200, devices=count) for count in (1, 2, 4, 8)],
}
"""Name of the size that varies -> cases to measure."""

LARGEST_ON_CPU = 10_000
"""Largest batch on the CPU. A batch of 100,000 series takes 40 GB and two minutes per step."""


def sweep(name: str, repeats: int, device: str) -> Iterator[str]:
    """Yields the table of one of `SWEEPS`. Cases that fail, e.g. out of memory, stay blank."""
    yield f"\n## By {name}\n"
    yield f"{COLUMNS} steps / s | series / s |"
    yield "|:--|" + "--:|" * (WIDTH + 1)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    for case in SWEEPS[name]:
        if device == "cpu" and case.batch > LARGEST_ON_CPU:
            continue
        if cores:
            os.sched_setaffinity(0, cores if case.devices > 1 else {min(cores)})
        rates = " | |"
        try:
            found = run_jax(case, repeats, device)
            steps = 1 / found["seconds"]
            rates = f" {steps:.2f} | {steps * case.batch * case.seeds:.0f} |"
        except SystemExit as error:
            print(error, file=sys.stderr)
            found = {}
        yield case.row(found) + rates
    if cores:
        os.sched_setaffinity(0, cores)


def processes(repeats: int) -> Iterator[str]:
    """Yields the table of the spirals step by one process, and by two that share each batch."""
    yield "\n## By processes\n"
    yield f"{COLUMNS} processes |"
    yield "|:--|" + "--:|" * WIDTH
    case = Case()
    for count in (1, 2):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        children = [
            start(
                case,
                repeats,
                "cpu",
                prefix=("taskset", "-c", str(rank)),
                JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
                JAX_NUM_PROCESSES=str(count),
                JAX_PROCESS_ID=str(rank),
            )
            for rank in range(count)
        ]
        yield case.row([result(child) for child in children][0]) + f" {count} |"


def main() -> None:
    """Prints the tables of the chosen sweeps."""
    parser = argparse.ArgumentParser(description="Measures how jdmm's train step scales.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps per process [3]")
    parser.add_argument(
        "--sweep",
        action="append",
        choices=(*SWEEPS, "processes"),
        help="sweep to run, may be repeated [all]",
    )
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("expected --repeats of at least 1")
    chosen = options.sweep or [*SWEEPS, "processes"]
    print(machine("one core per process, all for several devices"))
    for name in chosen:
        if name != "processes":
            lines = sweep(name, options.repeats, options.device)
        elif options.device == "cpu":
            lines = processes(options.repeats)
        else:
            continue
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
