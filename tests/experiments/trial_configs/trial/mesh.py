"""A state that is spread over the devices of all processes."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.experiment import Goal, Results, Scalars


@jax.jit
def step_of(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One step, and a sum over all devices."""
    x = 0.9 * x + jnp.flip(x, 0)
    return x, jnp.sum(x)


@dataclass(frozen=True)
class MeshPhase:
    """Rows over devices."""

    num_steps: int
    delay: float
    name: str = "rows"
    chunk: int = 1

    def init(self) -> jax.Array:
        """Two rows a device."""
        mesh = jax.make_mesh((jax.device_count(),), ("x",), axis_types=(AxisType.Auto,))
        values = np.arange(2 * jax.device_count() * 3, dtype=np.float32).reshape(-1, 3)
        sharding = NamedSharding(mesh, PartitionSpec("x"))
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    def advance(self, state: jax.Array, step: int, num: int) -> tuple[jax.Array, Scalars]:
        """Rows meet rows of other devices."""
        time.sleep(self.delay)
        state, total = step_of(state)
        assert state.sharding.spec == PartitionSpec("x")
        return state, {"sum": total}

    def finish(self, state: jax.Array) -> dict[str, Any]:
        """The sum."""
        return {"sum": step_of(state)[1]}


@dataclass(frozen=True)
class Mesh:
    """One phase."""

    phase: MeshPhase

    def phases(self) -> Sequence[MeshPhase]:
        """The phase."""
        return [self.phase]

    def finish(self, results: Results) -> dict[str, Any]:
        """The sum."""
        return results["rows"]


@dataclass(frozen=True)
class Config:
    """How long."""

    family: str = "trial"
    experiment: str = "mesh"
    num_steps: int = 20
    delay: float = 0.1

    def build(self) -> Mesh:
        """The experiment."""
        return Mesh(MeshPhase(self.num_steps, self.delay))

    def goals(self) -> tuple[Goal, ...]:
        """None."""
        return ()

    def smoke(self) -> Self:
        """Few steps."""
        return dataclasses.replace(self, num_steps=2)


def get_config() -> Config:
    """The config."""
    return Config()
