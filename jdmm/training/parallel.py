"""Devices and processes.

The train step runs under `jit` on one device. On several it runs under `pmap`: each device has its
part of the global batch and a copy of the state. With several processes, each drives its own
devices, all make the same decisions from the same figures, and only process 0 writes files.
"""

import contextlib
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from jdmm.compiling import DEVICE_AXIS
from jdmm.errors import InputError, PeerLost

CLUSTERS = {
    "JAX_NUM_PROCESSES": ("JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID"),
    "SLURM_NTASKS": ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"),
    "OMPI_COMM_WORLD_SIZE": ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_RANK"),
}
"""Environment variable with the number of processes -> variables that must be set beside it."""

HEARTBEAT = 30
"""Seconds without an answer after which a process counts as lost."""

SHUTDOWN = 3600
"""Seconds that processes wait at the end for the one that evaluates."""

COMPILING = 3600
"""Seconds that processes wait for each other to compile."""

LEAST_MEMORY: dict[str, Any] = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
"""Options of XLA's compiler on the CPU. By default it computes independent parts at once, and keeps
what all of them need."""

_COMPILED = itertools.count()


class StepCost(NamedTuple):
    """The cost of compiling the train step, and the memory of running it.

    seconds: of tracing and compiling.
    bytes: of memory that the step needs on each device, with its arguments; None if unknown.
    """

    seconds: float
    bytes: int | None


@dataclass(frozen=True)
class Devices:
    """The devices that share each batch, in all processes.

    Attributes:
        local: the devices of this process.
        count: number of devices of all processes together.
    """

    local: tuple[Any, ...]
    count: int

    @classmethod
    def one(cls) -> "Devices":
        """The first device of this process."""
        return cls((jax.local_devices()[0],), 1)

    @classmethod
    def available(cls, limit: int = 0) -> "Devices":
        """All devices or, in a single process, the first `limit` of them.

        Raises:
            InputError: if there are fewer, or for a part of the devices of several processes.
        """
        count = jax.device_count()
        if limit in (0, count):
            return cls(tuple(jax.local_devices()), count)
        if not 1 <= limit <= count:
            raise InputError(f"expected devices within 1..{count} (0: all), got {limit}")
        if jax.process_count() > 1:
            raise InputError(
                f"expected all {count} devices of the {jax.process_count()} processes, got "
                f"devices={limit}: start fewer processes instead"
            )
        return cls(tuple(jax.local_devices()[:limit]), limit)

    @property
    def axis(self) -> str | None:
        """The mapped axis of the train step; None on one device."""
        return DEVICE_AXIS if self.count > 1 else None

    @property
    def vectorised(self) -> bool:
        """Whether one program for several seeds is faster than training them in turns."""
        return self.local[0].platform != "cpu"

    def check(self, batch_size: int) -> None:
        """Checks that a batch can be divided evenly.

        Raises:
            InputError: naming the nearest sizes that can.
        """
        below = batch_size - batch_size % self.count
        if below != batch_size:
            nearest = [str(size) for size in (below, below + self.count) if size]
            raise InputError(
                f"expected a batch_size that {self.count} devices can share, got {batch_size}: "
                f"the nearest are {' and '.join(nearest)}; or use fewer --devices"
            )

    def compile(
        self, step: Callable[..., Any], state: Any, series: Any, rows: Any
    ) -> tuple[Callable[..., Any], StepCost]:
        """Compiles ``step(state, series, rows) -> (state, metrics)`` for these shapes.

        State comes from `replicate`, series from `replicate` or `place`, rows from `shard`. A call
        consumes its state.
        """
        began = time.perf_counter()
        if self.axis is None:
            mapped = jax.jit(step, donate_argnums=0)
        else:
            chosen = None if self.count == jax.device_count() else self.local
            mapped = jax.pmap(step, DEVICE_AXIS, donate_argnums=0, devices=chosen)
        compiled = _compiled(mapped.lower(state, series, rows), self.local[0].platform)
        if jax.process_count() > 1:
            # gloo gives up on a process that reaches the first sum 30 s later
            name = f"compiled {next(_COMPILED)}"
            everybody = set(range(jax.process_count()))
            multihost.sync_global_processes(name, timeout=COMPILING, processes=everybody)
        memory = compiled.memory_analysis()
        needed = None
        if memory is not None:
            needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        return compiled, StepCost(time.perf_counter() - began, needed)

    def replicate(self, tree: Any) -> Any:
        """A copy of the tree on each device."""
        if self.axis is None:
            return jax.device_put(tree, self.local[0], may_alias=False)
        return self._place(jax.tree.map(lambda leaf: np.stack([leaf] * len(self.local)), tree))

    def unreplicate(self, tree: Any) -> Any:
        """The first copy in this process of a tree from `replicate` or from the step."""
        if self.axis is None:
            return tree
        return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_shards[0].data)[0], tree)

    def shard(self, rows: np.ndarray) -> Any:
        """Divides rows ``(..., batch)`` of the global batch among the devices."""
        return self.place(self.parts(rows))

    def parts(self, rows: np.ndarray) -> np.ndarray:
        """What `shard` gives to this process: ``(local device, ..., batch / count)``.

        On one device, the rows as they are, without an axis of devices.
        """
        if self.axis is None:
            return rows
        parts = np.stack(np.split(rows, self.count, axis=-1))
        offset = jax.process_index() * len(self.local)
        return parts[offset : offset + len(self.local)]

    def place(self, tree: Any) -> Any:
        """Moves leaves like those of `parts` to their devices."""
        if self.axis is None:
            return jax.device_put(tree, self.local[0])
        return self._place(tree)

    def _place(self, tree: Any) -> Any:
        """Arrays over all devices from the leaves ``(local device, ...)`` of each process."""
        every = jax.devices() if self.count == jax.device_count() else self.local
        mesh = jax.sharding.Mesh(np.array(every), (DEVICE_AXIS,))
        sharding = jax.NamedSharding(mesh, jax.P(DEVICE_AXIS))
        return jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), tree)


def processes_expected() -> int:
    """The number of processes of the job, by its environment; 1 outside of clusters.

    Raises:
        InputError: for a number of processes that is not a whole number.
    """
    for number, others in CLUSTERS.items():
        count = os.environ.get(number, "1")
        if not count.isdigit():
            raise InputError(f"expected a whole number in {number}, got {count!r}")
        if int(count) > 1 and all(name in os.environ for name in others):
            return int(count)
    return 1


def initialise(distributed: bool | None = None, timeout: int = 300) -> None:
    """Joins the other processes of a cluster job. Call it before any other function of jax.

    Args:
        distributed: whether to join; None joins if the environment shows a job of several processes
            (`CLUSTERS`). TPU pods, and clusters that only jax recognises, need True.
        timeout: seconds to wait for all processes.

    Raises:
        InputError: if there is no cluster, or not all processes joined in time.
    """
    if distributed is None:
        distributed = processes_expected() > 1
    if not distributed:
        return
    given: dict[str, Any] = {}
    if "JAX_NUM_PROCESSES" in os.environ:
        names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        if missing := [name for name in names if name not in os.environ]:
            raise InputError(f"expected {missing[0]} beside {names[1]}, got none")
        address, count, rank = (os.environ[name] for name in names)
        if not count.isdigit() or not rank.isdigit() or int(rank) >= int(count):
            raise InputError(
                f"expected JAX_PROCESS_ID below JAX_NUM_PROCESSES, got {rank!r} and {count!r}"
            )
        given = {
            "coordinator_address": address,
            "num_processes": int(count),
            "process_id": int(rank),
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except (ValueError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            "expected to join a cluster's job (Slurm, Open MPI, a TPU pod, or "
            f"JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID), got: {lines[0]}"
        ) from error


def is_primary() -> bool:
    """Whether this process writes files: the first, or the only one."""
    return jax.process_index() == 0


def exit_process(status: int) -> NoReturn:
    """Exits; in a job of several processes immediately, as a normal exit waits for the others."""
    if jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def broadcast(value: Any) -> Any:
    """The value of process 0 in every process, as JSON restores it. All must call it."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode() if is_primary() else b"", np.uint8)
    length = int(broadcast_arrays(np.int32(len(text))))
    return json.loads(broadcast_arrays(np.resize(text, length)).tobytes())


def broadcast_arrays(tree: Any) -> Any:
    """The arrays of process 0 in every process. All must call it with the same shapes."""
    if jax.process_count() == 1:
        return tree
    return jax.device_get(multihost_utils.broadcast_one_to_all(tree))


def reached_end(steps: int) -> bool:
    """Whether all processes are to stop after `steps`, because one of them received SIGTERM.

    All must call it after every step. It needs several processes: only then jax catches the signal.
    """
    return multihost_utils.reached_preemption_sync_point(steps)


@contextlib.contextmanager
def report_lost_peers() -> Iterator[None]:
    """Turns the errors of jax about a lost process into `PeerLost`.

    Raises:
        PeerLost: if a collective operation fails.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # a step whose inputs have failed raises the same status as a ValueError
        if jax.process_count() == 1 or not re.match("[A-Z_]+: ", str(error)):
            raise
        cause = str(error).strip().splitlines()[0]
        raise PeerLost(
            f"process {jax.process_index()} of {jax.process_count()} lost another one ({cause}); "
            "start the job again: it continues from the last checkpoint"
        ) from error


def _compiled(lowered: jax.stages.Lowered, platform: str) -> jax.stages.Compiled:
    """The program; on the CPU with the options `LEAST_MEMORY`, if XLA knows them."""
    if platform == "cpu":
        try:
            return lowered.compile(LEAST_MEMORY)
        except jax.errors.JaxRuntimeError as error:
            if " option" not in str(error):  # XLA's options come and go
                raise
    return lowered.compile()
