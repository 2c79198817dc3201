"""Functions whose derivatives by a few numbers are evaluated beside their values."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

# `f(slopes, x, weights)` is a list of arrays (K, *x.shape[:1], ...): values, K = 1, or with
# `slopes`, behind them the derivatives by each of the D numbers of a row of x, K = 1 + D.
type Rows = Callable[[bool, jax.Array, Any], list[jax.Array]]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def by_slopes(functions: Rows, x: jax.Array, weights: Any) -> list[jax.Array]:
    """Values of functions of the rows of x, each by itself, differentiated by their slopes.

    Their derivative by x is a sum of slopes that are evaluated together with the values: nothing
    goes back through the functions for it. It has all derivatives that the slopes have.

    Args:
        functions: see `Rows`.
        x: `(E, D)`.
        weights: a tree of arrays, differentiated as usual.

    Example:
        >>> def powers(slopes, x, weights):
        ...     return [weights * jnp.stack([x[:, 0] ** 3, 3 * x[:, 0] ** 2][: 1 + slopes])]
        >>> jax.grad(jax.grad(lambda x: by_slopes(powers, x[None, None], 2.0)[0][0]))(3.0).item()
        36.0
    """
    return _values(functions, x, weights)


def _values(functions: Rows, x: jax.Array, weights: Any) -> list[jax.Array]:
    return [rows[0] for rows in functions(False, x, weights)]


@partial(by_slopes.defjvp, symbolic_zeros=True)
def _by_slopes_jvp(functions: Rows, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (x, weights), (step, changes) = primals, tangents
    moves = not isinstance(step, SymbolicZero)
    rows = functions(moves, x, weights)
    terms = [_along(array[1:], step) for array in rows] if moves else []
    if not all(isinstance(leaf, SymbolicZero) for leaf in jax.tree.leaves(changes)):
        changes = jax.tree.map(_filled, weights, changes)
        _, others = jax.jvp(partial(_values, functions, x), (weights,), (changes,))
        terms = [a + b for a, b in zip(terms, others, strict=True)] if moves else others
    values = [array[0] for array in rows]
    return values, terms or [jnp.zeros_like(value) for value in values]


def _along(slopes: jax.Array, step: jax.Array) -> jax.Array:
    """Sum over the D numbers of slopes `(D, E, ...)` times steps `(E, D)`."""
    return jnp.sum(slopes * step.T.reshape(*slopes.shape[:2], *[1] * (slopes.ndim - 2)), axis=0)


def _filled(leaf: jax.Array, change: Any) -> jax.Array:
    return jnp.zeros_like(leaf) if isinstance(change, SymbolicZero) else change
