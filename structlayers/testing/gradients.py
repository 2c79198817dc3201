"""Gradients of an op against those of its reference, taken in float64."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structlayers.testing.errors import assert_close


def _widen(leaf: Any) -> Any:
    array = np.asarray(leaf)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return jnp.asarray(array, jnp.complex128)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return jnp.asarray(array.astype(np.float64))
    return leaf


def _differentiable(arg: Any) -> bool:
    leaves = jax.tree.leaves(arg)
    return bool(leaves) and all(jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in leaves)


def _cotangent(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    real = rng.standard_normal(shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        real = real + 1j * rng.standard_normal(shape)
    # Rounded to the op's dtype first, so that both sides see the same numbers.
    return np.asarray(real).astype(dtype)


def _value_and_gradients(
    fn: Callable[..., Any], args: Sequence[Any], argnums: Sequence[int], cotangents: Any
) -> tuple[Any, tuple[Any, ...]]:
    def of_differentiated(*picked: Any) -> Any:
        full = list(args)
        for position, arg in zip(argnums, picked, strict=True):
            full[position] = arg
        return fn(*full)

    value, pullback = jax.vjp(of_differentiated, *(args[i] for i in argnums))
    matched = jax.tree.map(lambda v, c: jnp.asarray(c, jnp.result_type(v)), value, cotangents)
    return value, pullback(matched)


def assert_gradients_match(
    fn: Callable[..., Any],
    reference: Callable[..., Any],
    args: Sequence[Any],
    bound: float | Sequence[float],
    *,
    argnums: Sequence[int] | None = None,
    value_bound: float | None = None,
    scale: float | None = None,
    seed: int = 0,
) -> None:
    """Asserts that an op's value and all its gradients equal the float64 reference's.

    Both are pulled back along one random signed cotangent. `fn` runs with the arguments as given;
    `reference` with every floating argument widened to float64 or complex128, x64 enabled.

    Args:
        fn: the op under test, of positional arguments.
        reference: its oracle, with the same signature and output structure.
        args: pytrees of arrays; those of integers are passed on and not differentiated.
        bound: largest `error_ratio` of a gradient, one for all or one per differentiated argument.
        argnums: positions to differentiate; None is every floating or complex argument.
        value_bound: largest `error_ratio` of the value; None is the largest of `bound`.
        scale: as in `error_ratio`, for gradients that may vanish.
        seed: of the cotangent.

    Raises:
        AssertionError: a value or gradient is further off, or has another dtype than its argument.

    Example:
        >>> assert_gradients_match(lambda x: 2 * x, lambda x: x + x, (jnp.ones(3),), 1e-6)
    """
    if argnums is None:
        argnums = [i for i, arg in enumerate(args) if _differentiable(arg)]
    if not argnums:
        raise ValueError("args hold nothing to differentiate: no floating or complex arrays")
    bounds = [bound] * len(argnums) if isinstance(bound, int | float) else list(bound)
    if len(bounds) != len(argnums):
        raise ValueError(f"bound has {len(bounds)} entries for {len(argnums)} gradients")

    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(fn, *args)
    cotangents = jax.tree.map(lambda out: _cotangent(rng, out.shape, out.dtype), shapes)
    value, gradients = _value_and_gradients(fn, args, argnums, cotangents)
    with jax.enable_x64(True):
        wide_args = jax.tree.map(_widen, list(args))
        wide_value, wide_gradients = _value_and_gradients(
            reference, wide_args, argnums, jax.tree.map(_widen, cotangents)
        )
        wide_value, wide_gradients = jax.tree.map(np.asarray, (wide_value, wide_gradients))

    assert_close("value", value, wide_value, value_bound or max(bounds), scale=scale)
    for position, limit, gradient, wide in zip(
        argnums, bounds, gradients, wide_gradients, strict=True
    ):
        for given, found in zip(
            jax.tree.leaves(args[position]), jax.tree.leaves(gradient), strict=True
        ):
            if jnp.result_type(given) != jnp.result_type(found):
                raise AssertionError(
                    f"gradient of argument {position}: dtype {jnp.result_type(found)} "
                    f"for an argument of {jnp.result_type(given)}"
                )
        assert_close(f"gradient of argument {position}", gradient, wide, limit, scale=scale)
