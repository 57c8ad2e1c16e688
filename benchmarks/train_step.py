"""Time and memory of jdmm's train step on one CPU core, beside the same step in eager PyTorch.

    python -m pip install '.[benchmarks]'
    python benchmarks/train_step.py                 # the spirals step, and its ratio to PyTorch
    python benchmarks/train_step.py --sweep=all     # also against particles, batch and length

Every configuration runs in a process of its own, on one thread and the same core, with random data
in the form of the spirals: two modalities of one feature, three views in both passes. PyTorch and
jdmm take turns, so that a busy machine slows both: trust the ratio more than the seconds.
Prints Markdown, writes nothing.
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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SIGMA_POINTS = 0
COLUMNS = "| moments | batch | T | s / step | compile s | temporaries MB | peak memory MB |"


@dataclass(frozen=True)
class Case:
    """One train step to measure; 0 particles are sigma points. By default that of the spirals."""

    particles: int = 25
    batch: int = 100
    time: int = 100

    def row(self, result: dict[str, Any], what: str = "") -> str:
        """Its row of a table; what was not measured stays blank."""
        figures = [
            f"{result[name]:.{digits}f}" if name in result else ""
            for name, digits in (("seconds", 3), ("compile", 1), ("temporaries", 1), ("peak", 0))
        ]
        moments = f"{self.particles} particles" if self.particles else "sigma points"
        return f"| {' | '.join([what + moments, str(self.batch), str(self.time), *figures])} |"


SWEEPS = {
    "particles": [Case(count) for count in (1, 5, 25, 100, SIGMA_POINTS)],
    "batch": [Case(count, batch=size) for count in (25, SIGMA_POINTS) for size in (25, 100, 400)],
    "time": [Case(count, time=steps) for count in (25, SIGMA_POINTS) for steps in (25, 100, 400)],
}


def measure(case: Case, repeats: int) -> dict[str, float]:
    """Compiles and runs the train step in this process, which should do nothing else."""
    # imported here alone: a process starts with the peak memory of the one that started it
    import jax
    import numpy as np
    from jax import numpy as jnp

    from jdmm import MDMM, LossWeights, Modality, Points, TrainSettings, series_from_arrays
    from jdmm.schedule import Schedule
    from jdmm.training import make_train_step, start

    values = np.random.default_rng(0).standard_normal((2, case.batch, case.time, 1))
    series = series_from_arrays({"x": values[0], "y": values[1]})
    points = Points(count=case.particles) if case.particles else Points("sigma_points")
    weights = LossWeights()  # all views in both bounds
    model = MDMM((Modality("x"), Modality("y")), points=points, weights=weights)
    settings = TrainSettings(batch_size=case.batch)
    schedule = Schedule(settings, series.batch)
    state = start(model, series, settings, [0]).state
    series, rows = jax.tree.map(jnp.asarray, (series, schedule.rows(0, 0, 0)[0]))

    began = time.perf_counter()
    train_step = jax.jit(make_train_step(model, schedule), donate_argnums=0)
    compiled = train_step.lower(state, series, rows).compile()
    compile_seconds = time.perf_counter() - began
    times = []
    for _ in range(1 + repeats):  # the first warms up
        began = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, series, rows))
        times.append(time.perf_counter() - began)
    memory = compiled.memory_analysis()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": statistics.median(times[1:]),
        "compile": compile_seconds,
        "temporaries": memory.temp_size_in_bytes / 1e6 if memory else math.nan,
        "peak": peak * (1 if sys.platform == "darwin" else 1024) / 1e6,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.variables)),
    }


def run_jax(case: Case, repeats: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    path = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "PYTHONPATH": os.pathsep.join(path),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    }
    command = [sys.executable, __file__, f"--measure={json.dumps(asdict(case))}"]
    return _run([*command, f"--repeats={repeats}"], environment)


def run_torch(python: str, case: Case, repeats: int) -> dict[str, Any]:
    """The same step by `torch_step.py`, in a process of its own."""
    command = [python, str(HERE / "torch_step.py"), f"--batch={case.batch}", "--threads=1"]
    command += [f"--steps={case.time}", f"--particles={case.particles}", f"--repeats={repeats}"]
    return _run(command, {})


def has_torch(python: str) -> bool:
    """Whether that interpreter exists and has PyTorch."""
    search = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"
    try:
        return subprocess.run([python, "-c", search], check=False).returncode == 0
    except OSError:
        return False


def compare(python: str | None, rounds: int, repeats: int) -> Iterator[str]:
    """The table of the spirals step: PyTorch, if there is any, and jdmm in turns."""
    cases = (Case(), Case(SIGMA_POINTS))
    torch_runs, runs = [], {case: [] for case in cases}
    for _ in range(rounds):
        if python:
            torch_runs.append(run_torch(python, Case(), repeats))
        for case in cases:
            runs[case].append(run_jax(case, repeats))

    yield "## The spirals step\n"
    yield f"Rounds: {rounds}, and medians of them, each the median of {repeats} steps after one;"
    yield "the ratio is that of the medians, with the lowest and the highest of a round. Peak"
    yield "memory includes Python, JAX and the compiler."
    yield f"Parameters: jdmm {runs[Case()][0]['parameters']}" + (
        f", PyTorch {torch_runs[0]['torch']} {torch_runs[0]['parameters']}.\n" if python else ".\n"
    )
    yield f"{COLUMNS} PyTorch / this |"
    yield "|:--|" + "--:|" * 7
    if python:
        yield Case().row({"seconds": _median(torch_runs, "seconds")}, "PyTorch, ") + " 1 |"
    for case in cases:
        ratio = ""
        if python:
            pairs = zip(torch_runs, runs[case], strict=True)
            each = [theirs["seconds"] / ours["seconds"] for theirs, ours in pairs]
            middle = _median(torch_runs, "seconds") / _median(runs[case], "seconds")
            ratio = f"{middle:.1f} ({min(each):.1f} to {max(each):.1f})"
        medians = {name: _median(runs[case], name) for name in runs[case][0]}
        yield f"{case.row(medians)} {ratio} |"


def sweep(name: str, repeats: int) -> Iterator[str]:
    """The table over one of `SWEEPS`."""
    yield f"\n## By {name}\n"
    yield COLUMNS
    yield "|:--|" + "--:|" * 6
    for case in SWEEPS[name]:
        yield case.row(run_jax(case, repeats))


def machine(core: int | None) -> str:
    """What the figures are measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    versions = [f"{n} {importlib.metadata.version(n)}" for n in ("jax", "jaxlib", "flax")]
    return ", ".join(
        [
            f"{cpu}, {os.cpu_count()} cores",
            "not pinned" if core is None else f"pinned to core {core}",
            f"load {os.getloadavg()[0]:.1f} at the start; {platform.system()}",
            f"Python {platform.python_version()}",
            *versions,
            f"{datetime.datetime.now(datetime.UTC).date()}.\n",
        ]
    )


def main() -> None:
    """Prints the tables asked for; in a measuring process, one line of JSON."""
    parser = argparse.ArgumentParser(description="Measures jdmm's train step on one CPU core.")
    parser.add_argument("--core", type=int, default=0, help="to run on; -1: do not pin [0]")
    parser.add_argument("--sweep", choices=("none", *SWEEPS, "all"), default="none")
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

    core = options.core if options.core >= 0 and hasattr(os, "sched_setaffinity") else None
    if core is not None:
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
    print(machine(core))
    for line in compare(python, options.rounds, options.repeats):
        print(line, flush=True)
    for name in SWEEPS:
        if options.sweep in (name, "all"):
            for line in sweep(name, options.repeats):
                print(line, flush=True)


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def _run(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """The last line that a command prints, as JSON; its complaints go where ours do."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NPROC", "PJRT_NPROC"), "1")
    environment = {**os.environ, **threads, **environment}
    child = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {child.returncode}")
    return json.loads(child.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
