"""Sequences over the devices there are: equality with one device, bytes exchanged, weak scaling."""

import functools
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.bench.loop import build_loop
from experiments.bench.timing import sample_loops
from experiments.experiment import Phase, Results, Scalars
from structlayers.gla import gated_linear_attention, sequence_parallel_gated_linear_attention
from structlayers.testing import error_ratio

_TIME = PartitionSpec(None, "time")
_NUMBERS = {
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "s32": "int32",
    "u32": "uint32",
}
_COLLECTIVE = re.compile(
    r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\("
)
_SHAPE = re.compile(r"\b([a-z]+\d+)\[([\d,]*)\]")


@dataclass(frozen=True)
class Sizes:
    """One call: batch, heads, features of a key and of a value, dtype of q, k and v."""

    batch: int
    heads: int
    key: int
    value: int
    dtype: str

    def draw(self, tokens: int) -> tuple[np.ndarray, ...]:
        """Signed normal q, k, v, and log gates as at the start of training."""
        rng = np.random.default_rng([tokens, self.key, self.value])
        lead = (self.batch, tokens, self.heads)
        widths = (self.key, self.key, self.value)
        rows = [rng.standard_normal((*lead, n), np.float32) for n in widths]
        gates = -np.logaddexp(0, -rng.standard_normal((*lead, self.key), np.float32)) / 16
        return *(np.asarray(jnp.asarray(x, self.dtype)) for x in rows), gates

    def state_bytes(self, ranks: int) -> int:
        """What all ranks' states and decays take together: `4 P B H (K V + K)`."""
        return 4 * ranks * self.batch * self.heads * (self.key * self.value + self.key)


def mesh_of(ranks: int) -> Mesh:
    """The first devices in a row."""
    return jax.make_mesh(
        (ranks,), ("time",), axis_types=(AxisType.Auto,), devices=jax.devices()[:ranks]
    )


def over_ranks(ranks: int, implementation: str | None) -> Callable[..., jax.Array]:
    """The op with time sharded over so many devices."""
    return jax.shard_map(
        on_a_rank(implementation), mesh=mesh_of(ranks), in_specs=_TIME, out_specs=_TIME
    )


def on_a_rank(implementation: str | None) -> Callable[..., jax.Array]:
    """The op as one of several devices runs it."""
    return functools.partial(
        sequence_parallel_gated_linear_attention, axis_name="time", implementation=implementation
    )


def with_gradients(fn: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Outputs, and the gradients of all arguments along a cotangent that is the output itself."""

    def run(*arrays: jax.Array) -> Any:
        out, pull = jax.vjp(fn, *arrays)
        return out, pull(out)

    return run


def collective_bytes(text: str) -> int:
    """Bytes of the results of all collectives in a compiled program, on one device.

    Raises:
        ValueError: no collective was found, so that the text is not of such a program or is
            written in a way that is not known here.
    """
    sizes = []
    for shapes, starts in _COLLECTIVE.findall(text):
        parts = [
            jnp.dtype(_NUMBERS.get(kind, kind)).itemsize
            * int(np.prod([int(n) for n in shape.split(",") if n], dtype=np.int64))
            for kind, shape in _SHAPE.findall(shapes)
        ]
        # what starts a collective holds its operand beside its result, which is no smaller
        sizes.append(max(parts) if starts else sum(parts))
    if not sizes:
        lines = [line.strip() for line in text.splitlines() if "gather" in line]
        raise ValueError(f"no collective in the compiled program; lines that may be one: {lines}")
    return sum(sizes)


@dataclass(frozen=True)
class RanksPhase:
    """One number of ranks.

    Attributes:
        ranks: P.
        equality: sizes at which results are compared, in float32.
        equality_tokens: on every rank, there.
        timing: sizes at which times are taken.
        timing_tokens: on every rank, there.
        implementation: of the op; None is what it chooses.
        repeats: timed loops, of P devices and of one in turn.
        calls: in a loop.
    """

    ranks: int
    equality: Sizes
    equality_tokens: int
    timing: Sizes
    timing_tokens: int
    implementation: str | None
    repeats: int
    calls: int
    num_steps: int = 2
    chunk: int = 1
    allow_nonfinite: frozenset[str] = frozenset({"*"})  # a failure shows in the metrics

    @property
    def name(self) -> str:
        """E.g. "p4"."""
        return f"p{self.ranks}"

    def on_one_device(self, *arrays: jax.Array) -> jax.Array:
        """The op without ranks."""
        return gated_linear_attention(*arrays, implementation=self.implementation)

    def init(self) -> dict[str, np.ndarray]:
        """Errors of values and gradients, bytes forward and of both, seconds of both programs."""
        return {
            "errors": np.full(2, np.nan),
            "bytes": np.zeros(2, np.int64),
            "seconds": np.full((2, 2, self.repeats), np.nan),
        }

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], Scalars]:
        """First compares, then times."""
        state = {name: np.array(array) for name, array in state.items()}
        for index in range(step, step + num):
            if index == 0:
                state["errors"], state["bytes"] = self.compare()
            else:
                state["seconds"] = self.time()
        return state, {"error": float(state["errors"][0])}

    def compare(self) -> tuple[np.ndarray, np.ndarray]:
        """Largest relative error of values and of gradients against one device; bytes."""
        arrays = self.equality.draw(self.equality_tokens * self.ranks)
        fn = over_ranks(self.ranks, self.implementation)
        compiled = jax.jit(with_gradients(fn)).lower(*arrays).compile()
        forward = jax.jit(fn).lower(*arrays).compile()
        got = jax.tree.map(np.asarray, compiled(*arrays))
        single = jax.jit(with_gradients(self.on_one_device))
        want = jax.tree.map(np.asarray, single(*arrays))
        errors = [
            max(map(error_ratio, jax.tree.leaves(one), jax.tree.leaves(two)))
            for one, two in zip(got, want, strict=True)
        ]
        texts = [program.as_text() or "" for program in (forward, compiled)]
        # the collectives of one rank are compiled away
        sizes = [collective_bytes(text) if self.ranks > 1 else 0 for text in texts]
        return np.array(errors), np.array(sizes)

    def time(self) -> np.ndarray:
        """Seconds of forward and of both passes, on one device and on all, `(2, 2, repeats)`.

        Of a call in a loop on the devices: launching one program on several devices takes the host
        longer than on one, which a model pays once a step and not once a layer.
        """
        samples = []
        for wrap in (lambda fn: fn, with_gradients):
            loops, carries = zip(
                self.loop(1, wrap(self.on_one_device)),
                self.loop(self.ranks, wrap(on_a_rank(self.implementation))),
                strict=True,
            )
            samples.append(sample_loops(loops, carries, self.repeats))
        return np.array(samples) / self.calls

    def loop(self, ranks: int, fn: Callable[..., Any]) -> tuple[Callable[..., Any], Any]:
        """Calls of a rank's function one after another, and the inputs and results to start from.

        One device is a mesh of one, as among several the op does not choose a kernel by itself.
        """
        mesh = mesh_of(ranks)
        over = functools.partial(jax.shard_map, mesh=mesh, in_specs=_TIME, out_specs=_TIME)
        sharding = NamedSharding(mesh, _TIME)
        arrays = tuple(jax.device_put(self.timing.draw(self.timing_tokens * ranks), sharding))
        results = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=sharding),
            jax.eval_shape(over(fn), *arrays),
        )
        return over(build_loop(fn, self.calls)), ([arrays], [results])

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """Errors, bytes as a share of what is allowed, times and their quotients."""
        bound = self.equality.state_bytes(self.ranks)
        result: dict[str, Any] = {
            "value_error": float(state["errors"][0]),
            "gradient_error": float(state["errors"][1]),
            "bytes_forward": int(state["bytes"][0]),
            "bytes_both": int(state["bytes"][1]),
            "bytes_share": float(state["bytes"][0] / bound),
            "bytes_back_share": float((state["bytes"][1] - state["bytes"][0]) / bound),
        }
        for name, (one, many) in zip(("forward", "both"), state["seconds"], strict=True):
            result |= {
                f"{name}_one_seconds": statistics.median(one.tolist()),
                f"{name}_seconds": statistics.median(many.tolist()),
                f"{name}_seconds_min_max": [float(np.min(many)), float(np.max(many))],
                f"{name}_one_seconds_min_max": [float(np.min(one)), float(np.max(one))],
            }
            result[f"{name}_weak_scaling"] = (
                result[f"{name}_one_seconds"] / result[f"{name}_seconds"]
            )
        return result


@dataclass(frozen=True)
class SequenceParallel:
    """A phase for every number of ranks."""

    ranks: tuple[RanksPhase, ...]

    def phases(self) -> Sequence[Phase]:
        """By number of ranks."""
        return self.ranks

    def finish(self, results: Results) -> dict[str, float]:
        """`pP/NAME` of every phase's numbers."""
        return {
            f"{phase}/{name}": float(value)
            for phase, result in results.items()
            for name, value in result.items()
            if not isinstance(value, list)
        }

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Any) -> None:
        """Weak scaling over the number of ranks."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        del results
        figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
        ranks = [phase.ranks for phase in self.ranks]
        for name in ("forward", "both"):
            values = [metrics[f"p{count}/{name}_weak_scaling"] for count in ranks]
            axes.plot(ranks, values, "o-", label=name)
        axes.set(xlabel="devices", ylabel="time on one / time on all", xticks=ranks, ylim=(0, 1.1))
        axes.legend()
        figure.savefig(path, dpi=130)
        plt.close(figure)
