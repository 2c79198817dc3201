"""Functions that the tests of the compile gate hand to the compiler's process, by this path."""

import os
import time

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from structlayers._core.dispatch import current_platform


def matmul(a: jax.Array, b: jax.Array, *, block: int = 256, parallel: bool = False) -> jax.Array:
    """bfloat16 product (m, k) x (k, n), one output block a step."""

    def kernel(a_ref, b_ref, c_ref):
        c_ref[...] = jnp.dot(a_ref[...], b_ref[...], preferred_element_type=jnp.float32).astype(
            c_ref.dtype
        )

    (m, k), n = a.shape, b.shape[1]
    return pl.pallas_call(
        kernel,
        grid=(m // block, n // block),
        in_specs=[
            pl.BlockSpec((block, k), lambda i, j: (i, 0)),
            pl.BlockSpec((k, block), lambda i, j: (0, j)),
        ],
        out_specs=pl.BlockSpec((block, block), lambda i, j: (i, j)),
        out_shape=jax.ShapeDtypeStruct((m, n), a.dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel" if parallel else "arbitrary", "arbitrary")
        ),
    )(a, b)


def _per_row_block(kernel, x: jax.Array, rows: int = 8, **options) -> jax.Array:
    block = pl.BlockSpec((rows, x.shape[1]), lambda i: (i, 0))
    return pl.pallas_call(
        kernel,
        grid=(x.shape[0] // rows,),
        in_specs=[block],
        out_specs=block,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        **options,
    )(x)


def looping(x: jax.Array, *, start: int, stop: int) -> jax.Array:
    """A loop of stop - start passes in every step."""

    def kernel(x_ref, y_ref):
        y_ref[...] = lax.fori_loop(start, stop, lambda _, y: y * y + 1, x_ref[...])

    return _per_row_block(kernel, x)


def looping_by_step(x: jax.Array) -> jax.Array:
    """A loop whose length depends on the step."""

    def kernel(x_ref, y_ref):
        y_ref[...] = lax.fori_loop(0, pl.program_id(0), lambda _, y: y * y + 1, x_ref[...])

    return _per_row_block(kernel, x)


def scanned(x: jax.Array) -> jax.Array:
    """A kernel inside a loop of XLA."""
    return lax.scan(lambda y, _: (looping(y, start=0, stop=3), None), x, length=5)[0]


def asks_for_vmem(x: jax.Array) -> jax.Array:
    """256 MiB of scratch."""

    def kernel(x_ref, y_ref, scratch_ref):
        scratch_ref[:8, :] = x_ref[...]
        y_ref[...] = scratch_ref[:8, :]

    return _per_row_block(kernel, x, scratch_shapes=[pltpu.VMEM((1 << 19, 128), jnp.float32)])


def breaks_tiling(x: jax.Array) -> jax.Array:
    """Blocks of three rows."""

    def kernel(x_ref, y_ref):
        y_ref[...] = x_ref[...]

    return _per_row_block(kernel, x, rows=3)


def not_lowerable(x: jax.Array) -> jax.Array:
    """An operation that kernels do not have."""

    def kernel(x_ref, y_ref):
        y_ref[...] = jnp.sort(x_ref[...])

    return _per_row_block(kernel, x)


def fits_the_target(x: jax.Array) -> jax.Array:
    """Depends on what the trace knows of the target."""
    if current_platform() != "tpu" or len(jax.devices()) != 1:
        raise AssertionError(f"traced for {current_platform()} with {jax.devices()}")
    return x * (pltpu.get_tpu_info().vmem_capacity_bytes >> 20)


def chatty(x: jax.Array) -> jax.Array:
    """Prints while it is traced."""
    print('{"row": 1}')
    return x + 1


def crashes(x: jax.Array) -> jax.Array:
    """Ends its process as a failed check of the compiler does."""
    os.abort()


def hangs(x: jax.Array) -> jax.Array:
    """Does not come back."""
    time.sleep(600)
    return x
