"""Reproducible random arguments for an `ArgSpec`."""

import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.loop import Arrays
from experiments.errors import CommandError
from structlayers._core.arg_spec import ArgSpec
from structlayers._core.precision import accumulation_dtype

type MakeInputs = Callable[[ArgSpec, jax.Array], Arrays]


def draw(key: jax.Array, shape: jax.ShapeDtypeStruct, name: str) -> jax.Array:
    """Standard normal array, signed; complex with independent parts and E|z|^2 = 1.

    Args:
        key: PRNG key.
        shape: shape and dtype, floating point or complex.
        name: what the array is, for the message.

    Raises:
        CommandError: integers or booleans, whose range only the family knows.
    """
    if not jnp.issubdtype(shape.dtype, jnp.inexact):
        raise CommandError(
            f"{name} has dtype {shape.dtype}, whose range is not known here: the family's "
            f"arg_specs module must define make_inputs(spec, key)"
        )
    if jnp.issubdtype(shape.dtype, jnp.complexfloating):
        return jax.random.normal(key, shape.shape, shape.dtype)
    # Narrow floats are drawn in float32: their own generators have few distinct values.
    wide = accumulation_dtype(shape.dtype)
    return jax.random.normal(key, shape.shape, wide).astype(shape.dtype)


def draw_tree(key: jax.Array, tree: Any, name: str) -> Any:
    """`draw` for every leaf of a pytree of `jax.ShapeDtypeStruct`."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))
    return structure.unflatten(
        [
            draw(keys[index], leaf, f"{name}, array {index} of {len(leaves)},")
            for index, leaf in enumerate(leaves)
        ]
    )


def make_arrays(spec: ArgSpec, make_inputs: MakeInputs | None, index: int = 0) -> Arrays:
    """Arguments for a spec; the same for the same spec and index on every machine and run.

    Args:
        spec: the shapes.
        make_inputs: the family's own generator `(spec, key) -> arrays`; None draws normals.
        index: number of the input set.

    Returns:
        Arrays shaped as `spec.arrays`.

    Raises:
        CommandError: integers without `make_inputs`, or arrays that are not what the spec says.
    """
    key = jax.random.fold_in(jax.random.key(zlib.crc32(spec.name.encode())), index)
    if make_inputs is None:
        return tuple(draw_tree(key, spec.arrays, spec.name))
    arrays = tuple(make_inputs(spec, key))
    wanted = jax.tree.map(lambda leaf: (tuple(leaf.shape), str(leaf.dtype)), spec.arrays)
    made = jax.tree.map(lambda leaf: (tuple(leaf.shape), str(leaf.dtype)), arrays)
    if made != wanted:
        raise CommandError(f"make_inputs of {spec.name} gave {made}, the spec wants {wanted}")
    return jax.tree.map(jnp.asarray, arrays)
