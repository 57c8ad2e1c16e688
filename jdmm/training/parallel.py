"""Devices and processes; the only file that knows of them.

The train step runs by `jit` on one device and by `pmap` on several, each with its part of the
global batch and a copy of the state. With several processes each drives its own devices, all take
the same decisions from the same figures, and process 0 alone writes.
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

from jdmm.errors import InputError, PeerLost

AXIS = "devices"
"""Name of the mapped axis, over which gradients, numerators and counts are added up."""

CLUSTERS = {
    "JAX_NUM_PROCESSES": ("JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID"),
    "SLURM_NTASKS": ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"),
    "OMPI_COMM_WORLD_SIZE": ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_RANK"),
}
"""The number of processes in the environment, and what must stand beside it, by launcher."""


HEARTBEAT = 30
"""Seconds after which a process that does not answer counts as lost."""


SHUTDOWN = 3600
"""Seconds that processes wait at their end for the one that evaluates."""

COMPILING = 3600
"""Seconds that they wait for each other to have compiled."""

_COMPILED = itertools.count()


class StepCost(NamedTuple):
    """What compiling the train step took.

    seconds: of tracing and compiling.
    bytes: that one device needs for the step, its arguments included; None where not known.
    """

    seconds: float
    bytes: int | None


@dataclass(frozen=True)
class Devices:
    """The devices that share each batch, of all processes.

    Attributes:
        local: those that this process drives.
        count: of all processes together.
    """

    local: tuple[Any, ...]
    count: int

    @classmethod
    def one(cls) -> "Devices":
        """This process's first device."""
        return cls((jax.local_devices()[0],), 1)

    @classmethod
    def available(cls, limit: int = 0) -> "Devices":
        """All devices, or, in a single process, the first `limit` of them.

        Raises:
            InputError: if there are fewer, or if part of a cluster's devices is asked for.
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
        """The mapped axis of the train step, None on one device."""
        return AXIS if self.count > 1 else None

    @property
    def vectorised(self) -> bool:
        """Whether several models at once take less time than one after the other."""
        return self.local[0].platform != "cpu"

    def check(self, batch_size: int) -> None:
        """Refuses a batch that cannot be divided.

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
        """Compiles ``step(state, series, rows) -> (state, metrics)``, which uses its state up.

        Takes and gives what `replicate` and `divide` make; shapes are fixed from then on.
        """
        began = time.perf_counter()
        if self.axis is None:
            mapped = jax.jit(step, donate_argnums=0)
        else:
            chosen = None if self.count == jax.device_count() else self.local
            mapped = jax.pmap(step, AXIS, donate_argnums=0, devices=chosen)
        compiled = mapped.lower(state, series, rows).compile()
        if jax.process_count() > 1:
            # gloo gives up when another process comes 30 s later to the first sum
            name = f"compiled {next(_COMPILED)}"
            everybody = set(range(jax.process_count()))
            multihost.sync_global_processes(name, timeout=COMPILING, processes=everybody)
        memory = compiled.memory_analysis()
        needed = None
        if memory is not None:
            needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        return compiled, StepCost(time.perf_counter() - began, needed)

    def replicate(self, tree: Any) -> Any:
        """A copy of its own for each device."""
        if self.axis is None:
            return jax.device_put(tree, self.local[0], may_alias=False)
        return self._place(jax.tree.map(lambda leaf: np.stack([leaf] * len(self.local)), tree))

    def unreplicate(self, tree: Any) -> Any:
        """Of what `replicate` made, or the step returned: this process's first copy."""
        if self.axis is None:
            return tree
        return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_shards[0].data)[0], tree)

    def shard(self, rows: np.ndarray) -> Any:
        """Of ``(..., batch)`` rows of the global batch, each device's part."""
        if self.axis is None:
            return rows
        parts = np.stack(np.split(rows, self.count, axis=-1))
        offset = jax.process_index() * len(self.local)
        return self._place(parts[offset : offset + len(self.local)])

    def _place(self, tree: Any) -> Any:
        """Leaves ``(local device, ...)`` of each process as arrays over all devices."""
        every = jax.devices() if self.count == jax.device_count() else self.local
        mesh = jax.sharding.Mesh(np.array(every), (AXIS,))
        sharding = jax.NamedSharding(mesh, jax.P(AXIS))
        return jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), tree)


def processes_expected() -> int:
    """How many processes the environment speaks of; 1 outside of clusters.

    Raises:
        InputError: if the environment names processes, but not everything that they need.
    """
    for number, others in CLUSTERS.items():
        count = os.environ.get(number, "1")
        if not count.isdigit():
            raise InputError(f"expected a whole number in {number}, got {count!r}")
        if int(count) > 1 and all(name in os.environ for name in others):
            return int(count)
    return 1


def initialise(distributed: bool | None = None, timeout: int = 300) -> None:
    """Joins the other processes of a cluster job; call before anything else of jax.

    Args:
        distributed: whether to; None: if the environment shows a job of several processes
            (`CLUSTERS`). TPU pods and clusters that only jax recognises need True.
        timeout: seconds to wait for all of them.

    Raises:
        InputError: if there is no cluster, or not everybody came in time.
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
    """Whether this is the process that writes: the first, or the only one."""
    return jax.process_index() == 0


def exit_process(status: int) -> NoReturn:
    """Exits; with other processes at once, since a normal exit would wait for them."""
    if jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def broadcast(value: Any) -> Any:
    """What process 0 has, in every process, as JSON tells it; all must call it."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode() if is_primary() else b"", np.uint8)
    length = int(broadcast_arrays(np.int32(len(text))))
    return json.loads(broadcast_arrays(np.resize(text, length)).tobytes())


def broadcast_arrays(tree: Any) -> Any:
    """The arrays of process 0, in every process; all must call it with the same shapes."""
    if jax.process_count() == 1:
        return tree
    return jax.device_get(multihost_utils.broadcast_one_to_all(tree))


def reached_end(steps: int) -> bool:
    """Whether all processes stop after `steps`, because one of them was sent SIGTERM.

    All must ask after every step. Only with several processes: jax then catches the signal.
    """
    return multihost_utils.reached_preemption_sync_point(steps)


@contextlib.contextmanager
def report_lost_peers() -> Iterator[None]:
    """Within, a process that lost another one says so instead of how jax came to know.

    Raises:
        PeerLost: if a collective operation fails.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # a step whose inputs have failed gives the same status as a ValueError
        if jax.process_count() == 1 or not re.match("[A-Z_]+: ", str(error)):
            raise
        cause = str(error).strip().splitlines()[0]
        raise PeerLost(
            f"process {jax.process_index()} of {jax.process_count()} lost another one ({cause}); "
            "start the job again: it goes on from the last checkpoint"
        ) from error
