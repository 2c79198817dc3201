"""Device time of one token of a layer, its state written in place, beside the bytes it moves."""

import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.profiler import time_profiler
from experiments.experiment import Phase, Results, Scalars
from structlayers.gla import gated_linear_attention_decode
from structlayers.testing import error_ratio

MEASURES = ("output_error", "state_error", "microseconds", "min_us", "max_us")
_STATE = 4  # its place among the arguments
_CASE = re.compile(r"b([1-9]\d*)_h([1-9]\d*)_k([1-9]\d*)_v([1-9]\d*)_(bfloat16|float32)")


@dataclass(frozen=True)
class Case:
    """One call: sequences, heads, features of a key and of a value, dtype of all but the state."""

    batch: int
    heads: int
    key: int
    value: int
    dtype: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reverse of the name, with the dtype: "b8_h4_k256_v512_bfloat16".

        Raises:
            ValueError: the text is none.
        """
        found = _CASE.fullmatch(text)
        if not found:
            raise ValueError(f"cases are of the form b8_h4_k256_v512_bfloat16, got {text!r}")
        batch, heads, key, value, dtype = found.groups()
        return cls(int(batch), int(heads), int(key), int(value), dtype)

    @property
    def name(self) -> str:
        """E.g. "b8_h4_k256_v512"."""
        return f"b{self.batch}_h{self.heads}_k{self.key}_v{self.value}"

    @property
    def state_bytes(self) -> int:
        """The state read and written, float32."""
        return 8 * self.batch * self.heads * self.key * self.value

    def draw(self) -> list[np.ndarray]:
        """Signed normal arguments of `gated_linear_attention_decode`."""
        rng = np.random.default_rng([self.batch, self.heads, self.key, self.value])
        lead = (self.batch, self.heads)
        keys, values, state = (*lead, self.key), (*lead, self.value), (*lead, self.key, self.value)
        shapes = (keys, keys, values, keys, state, values, (self.value,))
        arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
        narrow = [np.asarray(jnp.asarray(array, self.dtype)) for array in arrays]
        return [*narrow[:_STATE], arrays[_STATE], narrow[5], arrays[6]]


def in_place(implementation: str) -> Callable[..., jax.Array]:
    """A jitted step that overwrites the `jax.Ref` which holds the state."""

    def run(*arguments: Any) -> jax.Array:
        memory = arguments[_STATE]
        state = memory[...]
        arrays = (*arguments[:_STATE], state, *arguments[_STATE + 1 :])
        out, memory[...] = gated_linear_attention_decode(*arrays, implementation=implementation)
        return out

    return jax.jit(run)


def errors(case: Case, implementation: str) -> tuple[float, float]:
    """Relative errors of output and state against the definition in float64."""
    arrays = case.draw()
    run = jax.jit(gated_linear_attention_decode, static_argnames="implementation")
    found = run(*arrays, implementation=implementation)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        wide = [jnp.asarray(np.asarray(array), jnp.float64) for array in arrays]
        wanted = run(*wide, implementation="reference")
    out, state = (error_ratio(a, np.asarray(b)) for a, b in zip(found, wanted, strict=True))
    return out, state


def seconds(case: Case, implementation: str, repeats: int, cache_bytes: int) -> Sequence[float]:
    """Times of single steps on states that take turns, so that none is found in a cache."""
    count = max(2, math.ceil(cache_bytes / (case.state_bytes // 2)))
    arrays = [jnp.asarray(array) for array in case.draw()]
    sets = [
        tuple(jax.new_ref(x) if i == _STATE else jnp.copy(x) for i, x in enumerate(arrays))
        for _ in range(count)
    ]
    run = in_place(implementation)
    if jax.default_backend() == "gpu":
        return time_profiler(run, sets, "cold", repeats=max(repeats, count)).samples
    samples = []
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(run(*sets[repeat % count]))
        samples.append(time.perf_counter() - start)
    return samples[1:]


@dataclass(frozen=True)
class DecodePhase:
    """One implementation, one case a step.

    Attributes:
        name: the implementation.
        cases: the cases.
        repeats: timed calls at least.
        cache_bytes: what all states of a case together exceed.
    """

    name: str
    cases: tuple[Case, ...]
    repeats: int
    cache_bytes: int
    chunk: int = 1
    allow_nonfinite: frozenset[str] = frozenset({"*"})  # a failure shows in the metrics

    @property
    def num_steps(self) -> int:
        """Number of cases."""
        return len(self.cases)

    def init(self) -> dict[str, np.ndarray]:
        """A row of `MEASURES` for every case."""
        return {"table": np.full((len(self.cases), len(MEASURES)), np.nan)}

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], Scalars]:
        """Measures the next cases."""
        table = np.array(state["table"])
        for index in range(step, step + num):
            case = self.cases[index]
            samples = seconds(case, self.name, self.repeats, self.cache_bytes)
            times = (statistics.median(samples), min(samples), max(samples))
            table[index] = [*errors(case, self.name), *(1e6 * x for x in times)]
        return {"table": table}, {"microseconds": float(table[step + num - 1, 2])}

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """By case its measures."""
        return {
            case.name: dict(zip(MEASURES, map(float, row), strict=True))
            for case, row in zip(self.cases, np.asarray(state["table"]), strict=True)
        }


@dataclass(frozen=True)
class DecodeSpeed:
    """A phase an implementation.

    Attributes:
        implementations: of the op.
        cases: of all of them.
        repeats: see `DecodePhase`.
        cache_bytes: see `DecodePhase`.
        bytes_per_second: of the memory, as measured by a copy.
    """

    implementations: tuple[str, ...]
    cases: tuple[Case, ...]
    repeats: int
    cache_bytes: int
    bytes_per_second: float

    def phases(self) -> Sequence[Phase]:
        """By implementation."""
        return [
            DecodePhase(name, self.cases, self.repeats, self.cache_bytes)
            for name in self.implementations
        ]

    def finish(self, results: Results) -> dict[str, float]:
        """`IMPLEMENTATION/CASE/MEASURE`, and the `share` of the memory's bandwidth."""
        metrics: dict[str, float] = {}
        for implementation, result in results.items():
            for case in self.cases:
                prefix, row = f"{implementation}/{case.name}", result[case.name]
                metrics |= {f"{prefix}/{name}": row[name] for name in MEASURES}
                least = 1e6 * case.state_bytes / self.bytes_per_second
                metrics[f"{prefix}/share"] = least / row["microseconds"]
        return metrics

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Any) -> None:
        """Share of the bandwidth over the bytes of a step."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        del results
        figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
        cases = sorted(self.cases, key=lambda case: case.state_bytes)
        for name in self.implementations:
            shares = [metrics[f"{name}/{case.name}/share"] for case in cases]
            axes.plot([case.state_bytes / 1e6 for case in cases], shares, "o-", label=name)
        axes.set(xscale="log", xlabel="MB of state read and written", ylabel="share of bandwidth")
        axes.legend()
        figure.savefig(path, dpi=130)
        plt.close(figure)
