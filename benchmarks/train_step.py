"""Time and memory of jdmm's train steps, beside the same steps in eager PyTorch.

    python -m pip install '.[benchmarks]'
    python benchmarks/train_step.py                 # the spirals steps, and their ratio to PyTorch
    python benchmarks/train_step.py --device=cuda   # the same on a GPU

Two methods: `MDMM` with three views in both passes (`torch_step.py`), and `SigmaPointSSM`, learned
by the likelihood of its filter (`torch_filter_step.py`). Every configuration runs in a process of
its own, on the CPU on one thread and the same core, with random data in the form of the spirals:
two modalities of one feature. PyTorch and jdmm take turns, so that a busy machine slows both: trust
the ratio more than the seconds. Prints Markdown, writes nothing.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SIGMA_POINTS = 0
METHODS = {"mdmm": "MDMM", "sigma_point": "SigmaPointSSM"}
HIDDEN = 20
COLUMNS = (
    "| moments | batch | T | latent | seeds | devices | s / step | compile s | temporaries MB "
    "| peak memory MB |"
)
WIDTH = COLUMNS.count("|") - 1


@dataclass(frozen=True)
class Case:
    """One train step to measure; 0 particles are sigma points. By default that of the spirals.

    `method` is a key of `METHODS`.
    """

    particles: int = 25
    batch: int = 100
    time: int = 100
    latent: int = 5
    seeds: int = 1
    devices: int = 1
    method: str = "mdmm"

    def row(self, result: dict[str, Any], what: str = "") -> str:
        """Its row of a table; what was not measured stays blank."""
        figures = [
            f"{result[name]:.{digits}f}" if name in result else ""
            for name, digits in (("seconds", 4), ("compile", 1), ("temporaries", 1), ("peak", 0))
        ]
        moments = f"{self.particles} particles" if self.particles else "sigma points"
        sizes = (self.batch, self.time, self.latent, self.seeds, self.devices)
        return f"| {' | '.join([what + moments, *map(str, sizes), *figures])} |"


COMPARED = (
    (Case(), Case(SIGMA_POINTS)),
    (Case(SIGMA_POINTS, batch=25, latent=7, method="sigma_point"),),
)
"""For each method its cases, the first of which runs in PyTorch too."""


def measure(case: Case, repeats: int) -> dict[str, float]:
    """Compiles and runs the train step in this process, which should do nothing else."""
    # imported here alone: a process starts with the peak memory of the one that started it
    import jax
    import numpy as np

    from jdmm import (
        MDMM,
        LossWeights,
        Modality,
        Quadrature,
        SigmaPointSSM,
        TrainSettings,
        series_from_arrays,
    )
    from jdmm.training import parallel
    from jdmm.training.loop import initial_progress
    from jdmm.training.parallel import Devices
    from jdmm.training.schedule import Schedule
    from jdmm.training.step import make_train_step, over_seeds

    parallel.initialise()
    values = np.random.default_rng(0).standard_normal((2, case.batch, case.time, 1))
    series = series_from_arrays({"x": values[0], "y": values[1]})
    modalities = (Modality("x"), Modality("y"))
    sizes: dict[str, Any] = {"latent": case.latent, "hidden": HIDDEN}
    if case.particles:  # otherwise the sigma points that each model uses by default
        sizes["quadrature"] = Quadrature("particles", case.particles)
    if case.method == "sigma_point":
        model = SigmaPointSSM(modalities, **sizes)
    else:
        # the published loss: all views in both bounds
        weights = LossWeights(
            filter_fade=(1.0, 1.0), time_reversal=0.0, filter_unimodal=1.0, smoother_unimodal=1.0
        )
        model = MDMM(modalities, weights=weights, **sizes)
    settings = TrainSettings(batch_size=case.batch)
    schedule = Schedule(settings, series.batch)
    devices = Devices.available(0 if jax.process_count() > 1 else case.devices)
    fresh = initial_progress(model, series, settings, list(range(case.seeds))).state
    state, series = devices.replicate(fresh), devices.replicate(series)
    rows = devices.shard(np.stack([schedule.rows(seed, 0, 0)[0] for seed in range(case.seeds)]))

    step = over_seeds(make_train_step(model, schedule, devices.axis), devices.vectorised)
    compiled, cost = devices.compile(step, state, series, rows)
    times = []
    for _ in range(1 + repeats):  # the first warms up
        began = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, series, rows))
        times.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    device_peak = (devices.local[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return {
        "seconds": statistics.median(times[1:]),
        "compile": cost.seconds,
        "temporaries": math.nan if cost.bytes is None else cost.bytes / 1e6,
        "peak": (device_peak or peak * (1 if sys.platform == "darwin" else 1024)) / 1e6,
        "parameters": sum(leaf[0].size for leaf in jax.tree.leaves(fresh.variables)),
    }


def run_jax(case: Case, repeats: int, device: str) -> dict[str, Any]:
    """`measure` in a process of its own."""
    return result(start(case, repeats, device))


def start(
    case: Case, repeats: int, device: str, prefix: Sequence[str] = (), **variables: str
) -> subprocess.Popen[str]:
    """Starts `measure` in a process of its own, behind a command that starts others."""
    path = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "PYTHONPATH": os.pathsep.join(path),
        "JAX_PLATFORMS": device,
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    if device == "cpu":
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        if case.devices > 1:
            environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={case.devices}"
            # with few threads, collectives over several CPU devices hang
            environment |= {"NPROC": str(4 * case.devices), "PJRT_NPROC": str(4 * case.devices)}
    command = [sys.executable, __file__, f"--measure={json.dumps(asdict(case))}"]
    command += [f"--repeats={repeats}"]
    return _start([*prefix, *command], environment | variables)


def run_torch(python: str, case: Case, repeats: int, device: str) -> dict[str, Any]:
    """The same step in PyTorch, in a process of its own."""
    if case.method == "sigma_point":
        command = [python, str(HERE / "torch_filter_step.py")]
    else:
        command = [python, str(HERE / "torch_step.py"), f"--particles={case.particles}"]
    command += [f"--batch={case.batch}", "--threads=1", f"--device={device}"]
    command += [f"--steps={case.time}", f"--repeats={repeats}"]
    return result(_start(command, {}))


def has_torch(python: str) -> bool:
    """Whether that interpreter exists and has PyTorch."""
    search = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"
    try:
        return subprocess.run([python, "-c", search], check=False).returncode == 0
    except OSError:
        return False


def compare(python: str | None, rounds: int, repeats: int, device: str) -> Iterator[str]:
    """The table of the spirals steps: PyTorch, if there is any, and jdmm in turns."""
    runs = {case: [] for cases in COMPARED for case in cases}
    torch_runs = {cases[0]: [] for cases in COMPARED}
    for _ in range(rounds):
        for cases in COMPARED:
            if python:
                torch_runs[cases[0]].append(run_torch(python, cases[0], repeats, device))
            for case in cases:
                runs[case].append(run_jax(case, repeats, device))

    yield "## The spirals steps\n"
    yield f"Rounds: {rounds}, and medians of them, each the median of {repeats} steps after one;"
    yield "the ratio is that of the medians, with the lowest and the highest of a round. Peak"
    yield "memory includes Python, JAX and the compiler; on a GPU it is the device's.\n"
    for case, theirs in torch_runs.items():
        yield f"Parameters of {METHODS[case.method]}: jdmm {runs[case][0]['parameters']}" + (
            f", PyTorch {theirs[0]['torch']} {theirs[0]['parameters']}.\n" if theirs else ".\n"
        )
    yield f"{COLUMNS} PyTorch / this |"
    yield "|:--|" + "--:|" * WIDTH
    for cases in COMPARED:
        name, theirs = METHODS[cases[0].method], torch_runs[cases[0]]
        if theirs:
            seconds = {"seconds": _median(theirs, "seconds")}
            yield cases[0].row(seconds, f"PyTorch, {name}, ") + " 1 |"
        for case in cases:
            medians = {figure: _median(runs[case], figure) for figure in runs[case][0]}
            yield f"{case.row(medians, f'{name}, ')} {_ratio(theirs, runs[case])} |"


def machine(where: str) -> str:
    """What the figures are measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    versions = [f"{n} {importlib.metadata.version(n)}" for n in ("jax", "jaxlib", "flax")]
    return ", ".join(
        [
            f"{cpu}, {os.cpu_count()} cores",
            where,
            f"load {os.getloadavg()[0]:.1f} at the start; {platform.system()}",
            f"Python {platform.python_version()}",
            *versions,
            f"{datetime.datetime.now(datetime.UTC).date()}.\n",
        ]
    )


def main() -> None:
    """Prints the tables asked for; in a measuring process, one line of JSON."""
    parser = argparse.ArgumentParser(description="Measures jdmm's train step.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--core", type=int, default=0, help="to run on; -1: do not pin [0]")
    parser.add_argument("--rounds", type=int, default=3, help="of PyTorch and jdmm in turns [3]")
    parser.add_argument("--repeats", type=int, default=5, help="train steps per process [5]")
    parser.add_argument(
        "--torch", action=argparse.BooleanOptionalAction, help="compare [if PyTorch is found]"
    )
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with PyTorch")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.rounds, options.repeats) < 1:
        parser.error("expected --rounds and --repeats of at least 1")
    if options.measure:
        print(json.dumps(measure(Case(**json.loads(options.measure)), options.repeats)))
        return

    pin = options.device == "cpu" and options.core >= 0 and hasattr(os, "sched_setaffinity")
    core = options.core
    if pin:
        allowed = os.sched_getaffinity(0)
        if core not in allowed:
            parser.error(f"expected --core among {sorted(allowed)}, or -1, got {core}")
        os.sched_setaffinity(0, {core})  # the measuring processes inherit it
    python = options.torch_python
    if options.torch is False or not has_torch(python):
        if options.torch:
            parser.error(
                f"found no PyTorch in {python}: python -m pip install '.[benchmarks]', or give "
                "--torch-python"
            )
        python = None
    print(machine(f"pinned to core {core}" if pin else "not pinned"))
    for line in compare(python, options.rounds, options.repeats, options.device):
        print(line, flush=True)


def _ratio(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    """Seconds of theirs by seconds of ours; empty without theirs."""
    if not theirs:
        return ""
    each = [a["seconds"] / b["seconds"] for a, b in zip(theirs, ours, strict=True)]
    middle = _median(theirs, "seconds") / _median(ours, "seconds")
    return f"{middle:.1f} ({min(each):.1f} to {max(each):.1f})"


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NPROC", "PJRT_NPROC"), "1")
    environment = {**os.environ, **threads, **environment}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def result(child: subprocess.Popen[str]) -> dict[str, Any]:
    """The last line that a process prints, as JSON; its complaints go where ours do."""
    printed, _ = child.communicate()
    if child.returncode:
        raise SystemExit(f"{child.args} ended with status {child.returncode}")
    return json.loads(printed.splitlines()[-1])


if __name__ == "__main__":
    main()
