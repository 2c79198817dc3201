"""Device time read from JAX's profiler: the sum of a call's kernels, no launch gaps at all.

For calls so short that even a device loop is bound by launches. Needs a platform whose profile has
device planes (GPUs have them, CPUs do not) and no package beside JAX.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from jax.profiler import ProfileData

from experiments.bench.loop import Arrays
from experiments.bench.timing import Timing
from experiments.bench.turns import device_turn
from experiments.device_trace import device_kernels

MAX_SETS = 64


def kernel_seconds(profile: ProfileData) -> list[float]:
    """Durations of all kernels and copies on the streams of the first GPU, in order of start.

    Raises:
        ValueError: the profile shows no stream of a GPU.
    """
    kernels = device_kernels(profile)
    if kernels:
        return [duration * 1e-9 for _, duration, _ in kernels]
    names = ", ".join(repr(plane.name) for plane in profile.planes)
    raise ValueError(f"profile shows no kernels of /device:GPU:0, only planes {names}")


def split_calls(durations: Sequence[float], calls: int) -> list[float]:
    """Sum of the durations of each call, when every call starts equally many kernels.

    Raises:
        ValueError: the number of kernels is no multiple of the number of calls.

    Example:
        >>> split_calls([1.0, 2.0, 1.5, 2.5], 2)
        [3.0, 4.0]
    """
    per_call, rest = divmod(len(durations), calls)
    if rest or not per_call:
        raise ValueError(f"{len(durations)} kernels cannot be split into {calls} equal calls")
    return [sum(durations[i : i + per_call]) for i in range(0, len(durations), per_call)]


def time_profiler(
    single: Callable[..., Any],
    sets: Sequence[Arrays],
    cache: Literal["cold", "warm"],
    *,
    repeats: int,
) -> Timing:
    """Times a compiled function by its kernels in a profile; one sample per call.

    Args:
        single: compiled function.
        sets: input sets, used in turn.
        cache: what `plan_sets` says of them.
        repeats: number of calls.

    Returns:
        The `Timing`.

    Raises:
        ValueError: the platform's profile shows no device kernels, or calls cannot be told apart.
    """
    for arrays in sets:
        jax.block_until_ready(single(*arrays))
    with tempfile.TemporaryDirectory(prefix="bench_profile_") as folder:
        with device_turn(), jax.profiler.trace(folder):
            for index in range(repeats):
                result = single(*sets[index % len(sets)])
                jax.block_until_ready(result)
        files = sorted(Path(folder).rglob("*.xplane.pb"))
        if not files:
            raise ValueError("the profiler wrote no profile")
        durations = kernel_seconds(ProfileData.from_file(str(files[0])))
    return Timing(tuple(split_calls(durations, repeats)), 1, len(sets), cache, 0.0, "profiler")
