"""A random walk in two phases: the tests' own experiment.

Expected: the same numbers however often it is interrupted.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from experiments.experiment import ONLY_GOALS, Goal, Results, Scalars


@partial(jax.jit, donate_argnums=0)
def walk(state: dict[str, jax.Array], data: jax.Array, num: jax.Array) -> dict[str, jax.Array]:
    """`num` random steps of every part of the state."""

    def body(_: int, state: dict[str, jax.Array]) -> dict[str, jax.Array]:
        key, sub = jax.random.split(state["key"])
        noise = jax.random.normal(sub, state["position"].shape)
        position = 0.9 * state["position"] + noise + data.mean()
        rotated = state["phase"] * jax.lax.complex(jnp.cos(position[0]), jnp.sin(position[0]))
        half = (state["half"] + noise[:2].astype(jnp.bfloat16)).astype(jnp.bfloat16)
        return {
            "key": key,
            "position": position,
            "phase": rotated,
            "half": half,
            "count": state["count"] + jnp.int32(1),
            "parity": ~state["parity"],
        }

    return jax.lax.fori_loop(0, num, body, state)


class WalkPhase:
    """A walk with arrays of many dtypes, and a data generator outside the pytree."""

    def __init__(self, config: "Config", name: str, seed: int) -> None:
        """Names and seeds the phase."""
        self.config, self.name, self.seed = config, name, seed
        self.num_steps = config.num_steps
        self.chunk = config.chunk
        self.allow_nonfinite = frozenset(config.allow_nonfinite)
        self.generator = np.random.default_rng(seed)

    def init(self) -> dict[str, Any]:
        """State with jax, numpy, key and empty leaves."""
        device = {
            "key": jax.random.key(self.seed),
            "position": jnp.zeros(5),
            "phase": jnp.ones((), jnp.complex64),
            "half": jnp.zeros(2, jnp.bfloat16),
            "count": jnp.zeros((), jnp.int32),
            "parity": jnp.zeros((), jnp.bool_),
        }
        return {"device": device, "host": np.zeros(3), "empty": jnp.zeros((0, 4))}

    def advance(self, state: dict[str, Any], step: int, num: int) -> tuple[dict[str, Any], Scalars]:
        """Walks with fresh random data."""
        time.sleep(self.config.delay)
        data = jnp.asarray(self.generator.standard_normal(5), jnp.float32)
        device = walk(state["device"], data, jnp.int32(num))
        host = state["host"] + np.asarray(device["position"])[:3].astype(np.float64) / 3
        if self.name == self.config.bad_phase and step + num >= self.config.bad_step:
            bad = float(self.config.bad_value)
            if self.config.bad_place == "state":
                device["position"] = device["position"].at[2].set(bad)
            elif self.config.bad_place == "host":
                host[1] = bad
            elif self.config.bad_place == "shape":
                host = host[:2]
            else:
                return {**state, "device": device, "host": host}, {"loss": bad}
        state = {"device": device, "host": host, "empty": state["empty"]}
        return state, {"rms": jnp.sqrt(jnp.mean(device["position"] ** 2)), "step": step + num}

    def finish(self, state: dict[str, Any]) -> dict[str, Any]:
        """All of the state that JSON can hold."""
        device = state["device"]
        return {
            "key": jax.random.key_data(device["key"]),
            "position": device["position"],
            "half": device["half"],
            "count": device["count"],
            "parity": device["parity"],
            "phase": [device["phase"].real, device["phase"].imag],
            "host": state["host"],
        }

    def host_state(self) -> dict[str, Any]:
        """The generator."""
        return dict(self.generator.bit_generator.state)

    def set_host_state(self, state: dict[str, Any]) -> None:
        """The generator again."""
        self.generator.bit_generator.state = state


@dataclass(frozen=True)
class Walk:
    """Two walks."""

    config: "Config"

    def phases(self) -> Sequence[WalkPhase]:
        """The walks."""
        return [WalkPhase(self.config, name, seed) for seed, name in enumerate(("first", "second"))]

    def finish(self, results: Results) -> dict[str, Any]:
        """Numbers out of both."""
        first, second = (results[name]["position"] for name in ("first", "second"))
        return {
            "distance": float(np.linalg.norm(np.subtract(first, second))),
            "count": results["first"]["count"] + results["second"]["count"],
            "undefined": float("nan"),
        }

    def plot(self, results: Results, metrics: dict[str, Any], path: Path) -> None:
        """A file that stands for a picture."""
        if self.config.bad_plot:
            raise RuntimeError("no ink")
        path.write_bytes(b"\x89PNG" + str(metrics["distance"]).encode())


@dataclass(frozen=True)
class Config:
    """What the walk does."""

    family: str = "trial"
    experiment: str = "walk"
    num_steps: int = 40
    """Steps of each phase."""
    chunk: int = 4
    delay: float = 0.0
    """Seconds that a call of advance waits."""
    dtype: str = "float32"
    bad_phase: str = ""
    bad_step: int = 0
    bad_place: str = "state"
    bad_value: str = "nan"
    bad_plot: bool = False
    allow_nonfinite: tuple[str, ...] = ()
    most: float = dataclasses.field(default=1000.0, metadata=ONLY_GOALS)
    """Largest distance that is good."""

    def build(self) -> Walk:
        """The experiment."""
        return Walk(self)

    def goals(self) -> tuple[Goal, ...]:
        """One that is reached, one that is not, and one of the runner's own figures."""
        return (
            Goal("distance", self.most, "<=", paper=3.5, unit="m"),
            Goal("count", 1e9, ">="),
            Goal("phases.first.seconds", 1000.0, "<=", unit="s"),
        )

    def smoke(self) -> Self:
        """Two chunks."""
        return dataclasses.replace(self, num_steps=8)


def get_config() -> Config:
    """The walk."""
    return Config()
