"""Device loops that run a function many times without a way for the compiler to run it less.

One loop step calls the function once for each input set. Three measures keep the work in place:

- Before a call, one entry of *every* input array is rewritten with a value that depends on the
  result of the call before. It is the value that was there, but only the running program knows,
  so no part of the function is loop-invariant (weights included) and no two calls are equal.
  The value comes from outside the loop: were it read from the array, compilers would fuse the
  read with the write, and rewrite the whole array (seen in jax 0.11.2 on a CPU).
- The whole result is carried from step to step in a buffer of its own, so that all of it is
  computed and written each time.
- Inside the loop every carried array keeps the row-major layout in which a caller would hold it,
  so that no transposition moves out of the loop.

Rewriting one entry happens in place. What it costs is measured beside a kernel long enough to
hide launches (`build_overhead_loop`) and taken off.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

type Arrays = tuple[Any, ...]
type Loop[Carry] = Callable[[Carry], Carry]

# Never a result of anything; were it one, an input would change by 1 and nothing else happen.
_NEVER = 1.2345e-30


def _is_array(leaf: Any) -> bool:
    return leaf.size > 0 and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def first_entries(tree: Any) -> jax.Array:
    """Sum of the first entries of all arrays: a float32 scalar that depends on each of them."""
    total = jnp.zeros((), jnp.float32)
    for leaf in jax.tree.leaves(tree):
        if _is_array(leaf):
            total = total + jnp.real(leaf[(0,) * leaf.ndim]).astype(jnp.float32)
    return total


def read_entries(tree: Any, position: int = 0) -> Any:
    """One entry of each array, as an array of the same rank; other leaves unchanged.

    Args:
        tree: pytree of arrays.
        position: 0 for the first entry of each array, -1 for the last.
    """

    def read(leaf: jax.Array) -> jax.Array:
        if not _is_array(leaf):
            return leaf
        start = _start(leaf, position)
        return jax.lax.slice(leaf, start, [index + 1 for index in start])

    return jax.tree.map(read, tree)


def rewrite_entries(tree: Any, entries: Any, dependency: jax.Array, position: int = 0) -> Any:
    """The same values, one entry of each array rewritten in dependence of a scalar.

    Args:
        tree: pytree of arrays.
        entries: what `read_entries` gave for the same position.
        dependency: float32 scalar.
        position: 0 for the first entry of each array, -1 for the last.
    """
    unlikely = dependency == _NEVER

    def rewrite(leaf: jax.Array, entry: jax.Array) -> jax.Array:
        if not _is_array(leaf):
            return leaf
        other = ~entry if leaf.dtype == jnp.bool_ else entry + 1
        entry = jax.lax.select(jnp.broadcast_to(unlikely, entry.shape), other, entry)
        return jax.lax.dynamic_update_slice(leaf, entry, _start(leaf, position))

    return jax.tree.map(rewrite, tree, entries)


def _start(leaf: jax.Array, position: int) -> list[int]:
    return [0 if position == 0 else size - 1 for size in leaf.shape]


def _row_major(tree: Any) -> Any:
    def pin(leaf: jax.Array) -> jax.Array:
        if leaf.ndim < 2 or not _is_array(leaf):
            return leaf
        return with_layout_constraint(leaf, Layout(major_to_minor=tuple(range(leaf.ndim))))

    return jax.tree.map(pin, tree)


def build_loop(fn: Callable[..., Any], steps: int) -> Loop[tuple[list[Arrays], list[Any]]]:
    """Loop of `steps` steps; each calls `fn` once on every input set.

    Args:
        fn: called as `fn(*arrays)`; arrays and result are pytrees of arrays.
        steps: number of steps, fixed at compile time so that the device need not ask the host.

    Returns:
        Function of (input sets, results of one call on each set) that gives back both, unchanged
        in value. Compile it with the argument donated: all its buffers are updated in place.
    """

    def run(carry: tuple[list[Arrays], list[Any]]) -> tuple[list[Arrays], list[Any]]:
        entries = [read_entries(arrays) for arrays in carry[0]]

        def step(_: Any, carry: tuple[list[Arrays], list[Any]]) -> tuple[list[Arrays], list[Any]]:
            sets, results = _row_major(carry)
            new_sets, new_results = [], []
            previous = results[-1]
            for arrays, entry in zip(sets, entries, strict=True):
                arrays = _row_major(rewrite_entries(arrays, entry, first_entries(previous)))
                arrays = jax.lax.optimization_barrier(arrays)
                previous = _row_major(fn(*arrays))
                new_sets.append(arrays)
                new_results.append(previous)
            return new_sets, new_results

        return jax.lax.fori_loop(0, steps, step, carry)

    return run


def build_overhead_loop(rounds: int, steps: int) -> Loop[tuple[Arrays, jax.Array]]:
    """Loop that rewrites an entry of every array `rounds` times beside a long kernel.

    The time of two rounds less that of one is what `build_loop` spends on it for each call.

    Args:
        rounds: 1 or 2.
        steps: number of steps.

    Returns:
        Function of (arrays, large float32 vector for the long kernel) that gives back both.
    """

    def run(carry: tuple[Arrays, jax.Array]) -> tuple[Arrays, jax.Array]:
        first, last = read_entries(carry[0]), read_entries(carry[0], -1)

        def step(_: Any, carry: tuple[Arrays, jax.Array]) -> tuple[Arrays, jax.Array]:
            arrays, ballast = carry
            arrays = _row_major(rewrite_entries(_row_major(arrays), first, ballast[0]))
            if rounds == 2:
                arrays = jax.lax.optimization_barrier(arrays)
                arrays = _row_major(rewrite_entries(arrays, last, ballast[-1], -1))
            arrays, ballast = jax.lax.optimization_barrier((arrays, ballast))
            return arrays, -ballast

        return jax.lax.fori_loop(0, steps, step, carry)

    return run
