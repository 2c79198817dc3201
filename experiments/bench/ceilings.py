"""The two ceilings of a device, measured: bytes/s of a large copy, operations/s of large matmuls.

They are measured in the run that uses them, with the same timer, on random data (matmuls run
faster on zeros). Copy: one float32 array read, one written. Matmuls: square, 2 n^3 operations.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.timing import time_loop


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the measurements are.

    Attributes:
        copy: float32 elements copied.
        matmul: size of the square float32 matmul.
        narrow_matmul: size of the square bf16 and int8 matmuls.
        repeats: samples of each.
        target_seconds: length of a sample.
    """

    copy: int
    matmul: int
    narrow_matmul: int
    repeats: int
    target_seconds: float


LARGE = Sizes(copy=2**28, matmul=8192, narrow_matmul=8192, repeats=10, target_seconds=20e-3)
# A CPU: four times the usual cache, and matmuls of tenths of a second where units are missing.
SMALL = Sizes(copy=2**25, matmul=1024, narrow_matmul=512, repeats=5, target_seconds=20e-3)


def has_tf32(device: Any) -> bool:
    """Whether float32 matmuls at precision "default" run as TF32: NVIDIA, Ampere and newer."""
    capability = str(getattr(device, "compute_capability", ""))
    match = re.fullmatch(r"(\d+)\.\d+\w?", capability)
    return device.platform == "gpu" and match is not None and int(match[1]) >= 8


def _matmul(precision: str | None, dtype: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return lambda a, b: jnp.matmul(a, b, precision=precision, preferred_element_type=dtype)


def measure_ceilings(sizes: Sizes | None = None) -> dict[str, float]:
    """Measures the ceilings of the default device.

    Args:
        sizes: how large; by default `SMALL` on a CPU and `LARGE` elsewhere.

    Returns:
        "copy" in bytes/s; "float32" (precision "highest"), "tf32" (precision "default", only where
        it is TF32), "bf16" and "int8" in operations/s.
    """
    device = jax.devices()[0]
    if sizes is None:
        sizes = SMALL if device.platform == "cpu" else LARGE
    keys = jax.random.split(jax.random.key(0), 2)

    def seconds(fn: Callable[..., Any], *arrays: jax.Array) -> float:
        timing = time_loop(
            fn,
            [arrays],
            "cold",
            repeats=sizes.repeats,
            target_seconds=sizes.target_seconds,
        )
        return timing.median

    x = jax.random.normal(keys[0], (sizes.copy,), jnp.float32)
    found = {"copy": 2 * x.nbytes / seconds(jnp.negative, x)}
    del x

    def pair(size: int, dtype: Any) -> list[jax.Array]:
        if jnp.issubdtype(dtype, jnp.integer):
            return [jax.random.randint(key, (size, size), -127, 128, dtype) for key in keys]
        return [jax.random.normal(key, (size, size), dtype) for key in keys]

    operands = pair(sizes.matmul, jnp.float32)
    work = 2 * sizes.matmul**3
    found["float32"] = work / seconds(_matmul("highest", jnp.float32), *operands)
    if has_tf32(device):
        found["tf32"] = work / seconds(_matmul("default", jnp.float32), *operands)
    work = 2 * sizes.narrow_matmul**3
    operands = pair(sizes.narrow_matmul, jnp.bfloat16)
    found["bf16"] = work / seconds(_matmul(None, jnp.bfloat16), *operands)
    operands = pair(sizes.narrow_matmul, jnp.int8)
    found["int8"] = work / seconds(_matmul(None, jnp.int32), *operands)
    return found
