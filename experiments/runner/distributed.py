"""Several processes: jax.distributed from the launcher's environment, and agreement among them.

Recognised: JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID (set by hand or by a
script), and what jax detects itself: Slurm (srun), Open MPI, a Cloud TPU pod.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.errors import CommandError

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def launch(environ: Mapping[str, str] = os.environ) -> dict[str, Any] | None:
    """Arguments for `jax.distributed.initialize`, or None for a single process.

    Args:
        environ: environment variables.

    Returns:
        keyword arguments ({} where jax detects the cluster itself), or None.

    Raises:
        CommandError: the variables are incomplete or no numbers; the message names them.

    Example:
        >>> launch({}) is None, launch({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"})
        (True, {})
    """
    if "JAX_NUM_PROCESSES" in environ or "JAX_PROCESS_ID" in environ:
        missing = [name for name in EXPLICIT if name not in environ]
        if missing:
            raise CommandError(
                f"{', '.join(missing)} not set; several processes need {', '.join(EXPLICIT)}"
            )
        address, *rest = (environ[name] for name in EXPLICIT)
        try:
            count, index = map(int, rest)
        except ValueError:
            count, index = 0, 0
        if not 0 <= index < count:
            raise CommandError(
                f"JAX_NUM_PROCESSES={rest[0]!r} and JAX_PROCESS_ID={rest[1]!r}; expected whole "
                "numbers with 0 <= id < number of processes"
            )
        if count == 1:
            return None
        return {"coordinator_address": address, "num_processes": count, "process_id": index}
    several = (
        (_count(environ, "SLURM_STEP_NUM_TASKS") > 1 and "SLURM_PROCID" in environ)
        or _count(environ, "OMPI_COMM_WORLD_SIZE") > 1
        or len(environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
    )
    return {} if several else None


def initialize() -> None:
    """Joins the other processes where there are any; before jax touches a device."""
    arguments = launch()
    if arguments is not None:
        import jax

        jax.distributed.initialize(**arguments)


def broadcast(payload: Any) -> Any:
    """Process 0's JSON-able payload, on every process; a single process gets its own back."""
    import jax

    if jax.process_count() == 1:
        return payload
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(payload).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    buffer = np.zeros(size, np.uint8)
    if jax.process_index() == 0:
        buffer[:] = data
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes())


def largest(*values: int) -> list[int]:
    """Each value's maximum over all processes, so that all of them act alike."""
    import jax

    if jax.process_count() == 1:
        return list(values)
    from jax.experimental import multihost_utils

    gathered = multihost_utils.process_allgather(np.asarray(values, np.int32))
    return [int(value) for value in np.asarray(gathered).reshape(-1, len(values)).max(axis=0)]


def _count(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "1")
    return int(value) if value.isdigit() else 1
