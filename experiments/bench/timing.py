"""Device time of one call: median and spread of many samples, launch gaps kept out."""

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.loop import Arrays, build_loop, build_overhead_loop
from experiments.bench.turns import device_turn

MAX_SETS = 8
MAX_STEPS = 2000


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one call, one entry per sample.

    Attributes:
        samples: seconds per call, `overhead_seconds` already taken off.
        calls: calls in a sample.
        sets: input sets that the calls go through in turn.
        cache: "cold" when the sets together exceed the cache, so that each call reads memory;
            "warm" when they fit, and a call may beat the byte floor.
        overhead_seconds: what the harness itself adds to a call, taken off.
        timer: "loop", "profiler", "graph" (torch) or "clock" (torch on a CPU).
        launched_seconds: seconds per call when the host launches calls one by one: an upper bound
            on `samples`, and a check on the loop for calls that outlast a launch.
    """

    samples: tuple[float, ...]
    calls: int
    sets: int
    cache: Literal["cold", "warm"]
    overhead_seconds: float
    timer: str
    launched_seconds: float | None = None

    @property
    def median(self) -> float:
        """Median seconds per call."""
        return statistics.median(self.samples)

    @property
    def resolved(self) -> bool:
        """Whether the call takes long enough beside the harness to be told from it."""
        return self.median > 0.1 * self.overhead_seconds

    def spread(self) -> dict[str, float]:
        """Extremes and percentiles of the samples, in seconds, and their number."""
        low, high = np.percentile(self.samples, (10, 90))
        return {
            "min": min(self.samples),
            "p10": float(low),
            "p90": float(high),
            "max": max(self.samples),
            "n": len(self.samples),
        }


@functools.cache
def cache_bytes(platform: str) -> int:
    """Size of the last cache before memory.

    On a GPU 64 MiB, which is at least the L2 of Hopper (50 MB on an H100, 60 MB on an H200). On a
    CPU what Linux says of the largest cache, else 32 MiB.
    """
    if platform != "cpu":
        return 64 * 2**20
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text(encoding="ascii").strip()
        if text.endswith("K"):
            sizes.append(int(text[:-1]) * 2**10)
    return max(sizes) or 32 * 2**20


def plan_sets(
    bytes_per_call: int, platform: str, limit: int = MAX_SETS
) -> tuple[int, Literal["cold", "warm"]]:
    """How many input sets to go through, and whether a call then finds its inputs cached.

    Enough sets that inputs and results together are 2.5 times the cache. If that takes more than
    `limit` sets (each is a copy of the function in the loop, and compiles once more), one set,
    called warm.

    Args:
        bytes_per_call: bytes of inputs and results of one call.
        platform: "cpu", "gpu" or "tpu".
        limit: most sets to use.

    Example:
        >>> plan_sets(2**30, "gpu"), plan_sets(2**25, "gpu"), plan_sets(2**10, "gpu")
        ((1, 'cold'), (5, 'cold'), (1, 'warm'))
    """
    wanted = math.ceil(2.5 * cache_bytes(platform) / max(bytes_per_call, 1))
    return (wanted, "cold") if wanted <= limit else (1, "warm")


def seconds_of(run: Callable[[], Any]) -> float:
    """Wall time of a call, to the end of the device work it starts."""
    with device_turn():
        start = time.perf_counter()
        jax.block_until_ready(run())
        return time.perf_counter() - start


def launched_seconds(call: Callable[[], Any]) -> float:
    """Seconds per call of a burst of launches: device time, or the host's time if that is more."""
    jax.block_until_ready(call())
    single = seconds_of(call)
    if single > 2e-3:
        return single

    def burst() -> Any:
        result = None
        for _ in range(20):
            result = call()  # one result at a time: 20 large ones may not fit
        return result

    return min(single, seconds_of(burst) / 20)


def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def sample_loops(
    loops: Sequence[Callable[[Any], Any]], carries: Sequence[Any], repeats: int
) -> list[list[float]]:
    """Seconds of whole loops, taken in turn; the carries are donated."""
    compiled = [
        jax.jit(loop, donate_argnums=0).lower(carry).compile()
        for loop, carry in zip(loops, carries, strict=True)
    ]
    carries = [
        jax.block_until_ready(run(carry)) for run, carry in zip(compiled, carries, strict=True)
    ]
    samples: list[list[float]] = [[] for _ in loops]
    with device_turn():
        for _ in range(repeats):
            for index, run in enumerate(compiled):
                start = time.perf_counter()
                carries[index] = jax.block_until_ready(run(carries[index]))
                samples[index].append(time.perf_counter() - start)
    return samples


def _signature(arrays: Any) -> Any:
    leaves, structure = jax.tree.flatten(arrays)
    return structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)


_overheads: dict[Any, float] = {}


def overhead_seconds(arrays: Arrays, *, repeats: int = 15) -> float:
    """Seconds per call that a timing loop spends on rewriting one entry of each input.

    Measured once for each set of shapes, beside a kernel that is longer than the launches, so
    that only device time counts: what hides behind the op is not taken off. The fastest sample of
    each loop is taken, because noise would be taken off the op's time.
    """
    signature = _signature(arrays)
    if signature not in _overheads:
        # On a GPU some 60 microseconds; a CPU has no launches to hide.
        size, steps = (2**10, 1000) if jax.default_backend() == "cpu" else (2**25, 200)
        ballast = jax.random.normal(jax.random.key(0), (size,), jnp.float32)
        once, twice = sample_loops(
            [build_overhead_loop(rounds, steps) for rounds in (1, 2)],
            [(_copy(arrays), jnp.copy(ballast)) for _ in range(2)],
            repeats,
        )
        _overheads[signature] = max(0.0, (min(twice) - min(once)) / steps)
    return _overheads[signature]


def time_loop(
    fn: Callable[..., Any],
    sets: Sequence[Arrays],
    cache: Literal["cold", "warm"],
    *,
    repeats: int,
    target_seconds: float,
    single: Callable[..., Any] | None = None,
    steps: int | None = None,
) -> Timing:
    """Times `fn` inside a device loop over the input sets.

    Args:
        fn: called as `fn(*arrays)`.
        sets: input sets of equal shapes; copied, not consumed.
        cache: what `plan_sets` says of them.
        repeats: number of samples.
        target_seconds: length a sample should have; the number of calls follows from it.
        single: compiled `fn`, if there is one already.
        steps: loop steps of a sample, instead of the number that follows from `target_seconds`.

    Returns:
        The `Timing`.
    """
    single = single or jax.jit(fn)
    results = [single(*arrays) for arrays in sets]
    launched = launched_seconds(lambda: single(*sets[0]))
    if steps is None:
        steps = max(1, min(MAX_STEPS, math.ceil(target_seconds / (launched * len(sets)))))
    calls = steps * len(sets)
    overhead = overhead_seconds(sets[0])
    carry = _copy((list(sets), results))
    del results
    (samples,) = sample_loops([build_loop(fn, steps)], [carry], repeats)
    return Timing(
        tuple(sample / calls - overhead for sample in samples),
        calls,
        len(sets),
        cache,
        overhead,
        "loop",
        launched,
    )
