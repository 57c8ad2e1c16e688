"""Training gives the same results on any number of devices and processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jdmm import InputError
from jdmm.errors import PeerLost
from jdmm.training import parallel
from jdmm.training.parallel import Devices

ROOT = Path(__file__).parents[2]
RUN = ROOT / "tests" / "training" / "training_run.py"
LIMIT = {"jax": "0", "slurm": "0s"}
"""Cluster -> the devices of the training run: all, and with an "s" the series are streamed."""
SMALL = (
    "--config=tests/few_spirals.py:smoke",
    "--config.batch_size=4",
    "--config.train.restarts=1",
    "--config.model.latent=2",
    "--config.model.hidden=3",
    "--config.eval.draws=3",
)


def environment(devices: int = 1, **variables: str) -> dict[str, str]:
    """The environment of a process with so many virtual CPU devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)} | variables


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def two(command: list[str], port: int | None = None, **variables: str) -> list[subprocess.Popen]:
    """The command in two processes that find each other on loopback."""
    port = port or free_port()
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            text=True,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=environment(
                JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
                JAX_NUM_PROCESSES="2",
                JAX_PROCESS_ID=str(rank),
                **variables,
            ),
        )
        for rank in (0, 1)
    ]


def pair(cluster: str, output: Path) -> list[subprocess.Popen]:
    """The training run in two processes of two devices each, as a cluster starts them."""
    port = free_port()
    environments = {
        "jax": {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": "{rank}",
        },
        # jax takes the port from the job's number, and process 0's host from the node list
        "slurm": {
            "SLURM_JOB_ID": str(port % 4096),
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": "{rank}",
            "SLURM_LOCALID": "{rank}",
        },
    }[cluster]
    return [
        subprocess.Popen(
            [sys.executable, RUN, output, LIMIT[cluster]],
            env=environment(
                2,
                LATE=str(40 * rank * (cluster == "jax")),
                **{k: v.format(rank=rank) for k, v in environments.items()},
            ),
        )
        for rank in (0, 1)
    ]


@pytest.fixture(scope="module")
def late_pair(tmp_path_factory):
    """Two processes of `pair`, of which the second is late, and their output."""
    output = tmp_path_factory.mktemp("late") / "out.npz"
    processes = pair("jax", output)
    yield processes, output
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def on_virtual_devices(late_pair, tmp_path_factory) -> dict[str, np.ndarray]:
    """Results of 50 steps on 1, 2 and 8 devices of one process, on 2 also streamed.

    Meanwhile the late pair waits.
    """
    output = tmp_path_factory.mktemp("parallel") / "devices.npz"
    subprocess.run(
        [sys.executable, RUN, output, "1", "2", "2s", "8"], env=environment(8), check=True
    )
    with np.load(output) as found:
        return dict(found)


def check(found: dict[str, np.ndarray], name: str, expected: dict[str, np.ndarray]) -> None:
    for kind in ("losses", "variables"):
        np.testing.assert_allclose(found[kind + name], expected[kind + "1"], 1e-5, 1e-5)


@pytest.mark.parametrize("count", ["2", "8"])
def test_devices_change_nothing(on_virtual_devices, count):
    """Losses and variables of 50 steps, within 1e-5 of those on one device."""
    check(on_virtual_devices, count, on_virtual_devices)
    assert np.ptp(on_virtual_devices["losses1"]) > 1  # it did learn


def test_streamed_series_give_the_same_bits_on_several_devices(on_virtual_devices):
    for kind in ("losses", "variables"):
        kept, streamed = on_virtual_devices[kind + "2"], on_virtual_devices[kind + "2s"]
        np.testing.assert_array_equal(kept, streamed)


@pytest.mark.parametrize("cluster", ["slurm", "jax"])
def test_two_processes_change_nothing(late_pair, on_virtual_devices, cluster, tmp_path):
    """Two processes of two devices each, as `jax.distributed` or Slurm starts them.

    In one case the second is late: it may compile for longer than the 30 s that gloo waits. In the
    other they stream the series, each those of its own devices.
    """
    output = tmp_path / "out.npz"
    processes, output = late_pair if cluster == "jax" else (pair(cluster, output), output)
    assert [process.wait(300) for process in processes] == [0, 0]
    with np.load(output) as found:
        check(dict(found), LIMIT[cluster], on_virtual_devices)


def checkpoints(workdir: Path) -> list[int]:
    """Steps of the finished checkpoints."""
    places = (workdir / "checkpoints").glob("[0-9]*")
    return sorted(int(place.name) for place in places if place.name.isdigit())


def wait_for_checkpoint(workdir: Path, after: int = 0) -> None:
    deadline = time.monotonic() + 300
    while not [step for step in checkpoints(workdir) if step > after]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_job_survives_signals_and_lost_processes(tmp_path):
    """SIGTERM to one process stops both, as does its death; a single process then resumes."""
    job = [sys.executable, "main.py", *SMALL, f"--workdir={tmp_path}", "--config.epochs=2000"]
    first, second = two(job)
    wait_for_checkpoint(tmp_path)
    second.send_signal(signal.SIGTERM)
    _, told = first.communicate(timeout=120)
    assert (first.returncode, second.wait(120)) == (143, 143), told
    stopped = checkpoints(tmp_path)[-1]
    assert f"stopped by SIGTERM at step {stopped}" in told

    first, second = two(job)
    wait_for_checkpoint(tmp_path, after=stopped)
    second.kill()
    _, told = first.communicate(timeout=120)
    assert first.returncode == 1
    last = told.strip().splitlines()[-1]
    assert "lost another one" in last and "start the job again" in last
    saved = checkpoints(tmp_path)[-1]
    assert saved > stopped

    alone = subprocess.Popen(job, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(tmp_path, after=saved)
    alone.terminate()
    assert "stopped by SIGTERM" in alone.communicate(timeout=120)[1]
    assert alone.returncode == 143


@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])
def test_both_kinds_of_error_for_a_lost_process(monkeypatch, kind):
    """The kind depends on where the failure is noticed; other errors stay as they are."""

    def fail(error: Exception) -> None:
        with parallel.report_lost_peers():
            raise error

    told = "UNKNOWN: Gloo all-reduce failed: Connection closed by peer"
    with pytest.raises(kind, match="Gloo"):  # a single process has none to lose
        fail(kind(told))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(PeerLost, match="lost another one .UNKNOWN: Gloo .* start the job again"):
        fail(kind(told))
    with pytest.raises(InputError, match="expected 3"):
        fail(InputError("expected 3, got 4"))


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(InputError, match=r"8 devices can share, got 25: the nearest are 24 and 32"):
        Devices((), 8).check(25)
    with pytest.raises(InputError, match=r"8 devices can share, got 3: the nearest are 8;"):
        Devices((), 8).check(3)
    Devices((), 8).check(24)


@pytest.mark.parametrize("limit", [-1, 1000])
def test_devices_that_are_not_there_are_refused(limit):
    with pytest.raises(InputError, match="expected devices within"):
        Devices.available(limit)


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, 1),
        ({"SLURM_NTASKS": "4"}, 1),  # an allocation, but no step of it: not started by srun
        ({"JAX_NUM_PROCESSES": "1"}, 1),
        (
            {
                "SLURM_NTASKS": "4",
                "SLURM_JOB_ID": "1",
                "SLURM_STEP_NODELIST": "a[1-4]",
                "SLURM_PROCID": "0",
                "SLURM_LOCALID": "0",
            },
            4,
        ),
        (
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "", "OMPI_COMM_WORLD_RANK": "0"},
            2,
        ),
    ],
)
def test_clusters_are_recognised(variables, count, monkeypatch):
    for number, others in parallel.CLUSTERS.items():
        for name in (number, *others):
            monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert parallel.processes_expected() == count


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"JAX_NUM_PROCESSES": "two"}, "whole number in JAX_NUM_PROCESSES, got 'two'"),
        (
            {
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "2",
                "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1",
            },
            "expected JAX_PROCESS_ID below JAX_NUM_PROCESSES, got '2' and '2'",
        ),
    ],
)
def test_a_wrong_environment_is_refused(variables, words, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=words):
        parallel.initialise()


@pytest.mark.parametrize(
    ("message", "outcome"),
    [("No such compile option: 'a'", None), ("out of memory", jax.errors.JaxRuntimeError)],
)
def test_options_that_xla_no_longer_has_are_left_out(message, outcome):
    class Lowered:
        def compile(self, options=None):
            if options:
                raise jax.errors.JaxRuntimeError(message)
            return "compiled"

    if outcome is None:
        assert parallel._compiled(Lowered(), "cpu") == "compiled"
    else:
        with pytest.raises(outcome):
            parallel._compiled(Lowered(), "cpu")


def test_the_train_step_takes_little_memory_on_the_cpu():
    """Of independent parts that need two matrices each, one is computed after the other."""

    def step(state, series, rows):
        total = 0.0
        for i in range(8):
            part = jnp.outer(state, state + i)
            for _ in range(3):
                part = jnp.sin(part @ part)
            total += jnp.sum(part)
        return state + total, ()

    size = 300
    _, cost = Devices.available().compile(step, jnp.ones(size), (), ())
    assert cost.bytes < 3 * 4 * size**2
