"""A function of sharded arguments against the same function on one device."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from structlayers.testing.errors import assert_close

type ShardingMode = Literal["automatic", "explicit"]

_AXIS = "batch"


def _is_inexact(arg: Any) -> bool:
    return all(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in jax.tree.leaves(arg))


def _random_weights(outputs: Any, seed: int) -> list[np.ndarray]:
    """Signed weights for every floating output; zeros for the others."""
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal(out.shape).astype(jnp.finfo(out.dtype).dtype)
        if jnp.issubdtype(out.dtype, jnp.inexact)
        else np.zeros(out.shape, np.float32)
        for out in jax.tree.leaves(outputs)
    ]


def assert_sharded_equals_single(
    fn: Callable[..., Any],
    args: Sequence[Any],
    batch_axes: Sequence[int | None],
    *,
    bound: float = 1e-5,
    gradients: bool = True,
    modes: Sequence[ShardingMode] = ("automatic",),
    num_devices: int | None = None,
    seed: int = 0,
) -> None:
    """Asserts that a jitted function of arguments sharded over devices equals one device's.

    Values and gradients are compared, and the compiled programs are searched for an all-gather:
    a function whose batch is independent needs none.

    Args:
        fn: function of positional pytrees of arrays.
        args: its arguments, on one device.
        batch_axes: for each argument, the axis of its arrays to shard; None replicates it.
        bound: largest `error_ratio` of a value or gradient against one device's.
        gradients: whether to compare gradients too, of all floating arguments, along one random
            cotangent.
        modes: "automatic" (the compiler propagates shardings) and "explicit" (they are types).
        num_devices: how many devices to use; None is all.
        seed: of the cotangent.

    Raises:
        AssertionError: a value or gradient differs, or the batch is gathered.
        ValueError: fewer than two devices, or an axis that they do not divide.

    Example:
        >>> if jax.device_count() > 1:
        ...     x = jnp.ones((2 * jax.device_count(), 3))
        ...     assert_sharded_equals_single(jnp.sin, (x,), (0,))
    """
    devices = jax.devices()[:num_devices]
    if len(devices) < 2:
        raise ValueError(f"sharding needs at least 2 devices, got {len(devices)}")
    if len(args) != len(batch_axes):
        raise ValueError(f"batch_axes has {len(batch_axes)} entries for {len(args)} arguments")
    for axis, arg in zip(batch_axes, args, strict=True):
        for leaf in jax.tree.leaves(arg):
            if axis is not None and np.shape(leaf)[axis] % len(devices):
                raise ValueError(
                    f"{len(devices)} devices do not divide axis {axis} of shape {np.shape(leaf)}"
                )

    weights = _random_weights(jax.eval_shape(fn, *args), seed)
    argnums = tuple(i for i, arg in enumerate(args) if _is_inexact(arg))

    def loss(*args: Any) -> jax.Array:
        outs = jax.tree.leaves(fn(*args))
        terms = [
            jnp.sum(jnp.real(out) * weight)
            for out, weight in zip(outs, weights, strict=True)
            if jnp.issubdtype(out.dtype, jnp.inexact)
        ]
        return sum(terms[1:], terms[0].astype(jnp.float32))

    programs: dict[str, Callable[..., Any]] = {"value": fn}
    if gradients:
        programs["gradient"] = jax.grad(loss, argnums)
    for name, program in programs.items():
        expected = jax.tree.map(np.asarray, jax.jit(program)(*args))
        for mode in modes:
            kind = AxisType.Explicit if mode == "explicit" else AxisType.Auto
            mesh = jax.make_mesh((len(devices),), (_AXIS,), (kind,), devices=devices)
            sharded = [_shard(arg, axis, mesh) for axis, arg in zip(batch_axes, args, strict=True)]
            with jax.set_mesh(mesh) if mode == "explicit" else contextlib.nullcontext():
                jitted = jax.jit(program)
                found = jitted(*sharded)
                text = jitted.lower(*sharded).compile().as_text() or ""
            assert_close(f"{name}, {mode} sharding", found, expected, bound)
            if "all-gather" in text:
                raise AssertionError(f"{name}, {mode} sharding: the program has an all-gather")


def _shard(arg: Any, axis: int | None, mesh: jax.sharding.Mesh) -> Any:
    """The arrays of `arg`, split along `axis` over the mesh, or replicated."""
    spec = P() if axis is None else P(*(None,) * axis, _AXIS)
    # Through numpy: an array already typed by another mesh would keep its type.
    return jax.tree.map(lambda x: jax.device_put(np.asarray(x), NamedSharding(mesh, spec)), arg)
