"""Shapes of the toy ops."""

import jax

from structlayers._core.arg_spec import ArgSpec


def _mix(name: str, rows: int, size: int, dtype: str, tags: set[str]) -> ArgSpec:
    arrays = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in ((rows, size), (size, size)))
    return ArgSpec(name, "mix", arrays, {}, 2 * rows * size**2, "none", frozenset(tags))


ARG_SPECS = (
    _mix("mix_float32", 12, 8, "float32", {"smoke"}),
    _mix("mix_complex64", 12, 8, "complex64", {"smoke"}),
    _mix("mix_bfloat16", 12, 8, "bfloat16", {"smoke"}),
    _mix("mix_large", 4096, 1024, "float32", {"gpu"}),
    ArgSpec(
        "count_parity_int32",
        "count_parity",
        (jax.ShapeDtypeStruct((6, 5), "int32"),),
        {},
        30,
        "none",
        frozenset({"smoke"}),
    ),
)


def make_inputs(spec: ArgSpec, key: jax.Array) -> tuple[jax.Array, ...]:
    """Integers from 0 to 9; normals for `mix`."""
    if spec.op == "count_parity":
        return (jax.random.randint(key, (6, 5), 0, 10),)
    keys = jax.random.split(key, len(spec.arrays))
    return tuple(
        jax.random.normal(each, shape.shape, shape.dtype)
        for each, shape in zip(keys, spec.arrays, strict=True)
    )
