"""`mix`, a matmul with implementations good and bad, and `count_parity`, an op on integers."""

from typing import Any

import jax
import jax.numpy as jnp

from structlayers._core.dispatch import Dispatcher, Implementation


def _matmul(x: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
    return jnp.matmul(x, kernel, precision=precision)


def _coarse(x: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
    """The same with a relative error of 1e-3."""
    return 1.001 * _matmul(x, kernel, precision)


def _broken(x: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
    raise RuntimeError("out of patience\nsecond line")


def _never(*args: Any, platform: str, **static: Any) -> None:
    raise NotImplementedError(f"not on {platform}")


def _parity(index: jax.Array) -> jax.Array:
    return index.sum(axis=-1) % 2


MODULE = "tests.experiments.bench_toy.ops"
mix_dispatcher = Dispatcher(
    "mix",
    (
        Implementation("absent", f"{MODULE}:_matmul", _never),
        Implementation("xla", f"{MODULE}:_matmul"),
        Implementation("coarse", f"{MODULE}:_coarse"),
        Implementation("reference", f"{MODULE}:_matmul"),
        Implementation("broken", f"{MODULE}:_broken"),
    ),
)
parity_dispatcher = Dispatcher(
    "count_parity",
    (
        Implementation("xla", f"{MODULE}:_parity"),
        Implementation("reference", f"{MODULE}:_parity"),
    ),
)


def mix(
    x: jax.Array, kernel: jax.Array, *, precision: Any = None, implementation: str | None = None
) -> jax.Array:
    """``x @ kernel``."""
    return mix_dispatcher(x, kernel, precision=precision, implementation=implementation)


def count_parity(index: jax.Array, *, implementation: str | None = None) -> jax.Array:
    """Parity of the sums of rows of integers."""
    return parity_dispatcher(index, implementation=implementation)
