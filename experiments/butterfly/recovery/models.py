"""The butterfly models of the recovery experiment: permutations, parameters, dense matrices."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from structlayers.butterfly import (
    bit_reversal_permutation,
    butterfly_to_dense,
    even_odd_permutation,
    initializers,
    reverse_half_permutation,
    twiddle_shape,
)

type ColumnPermutation = Literal["identity", "bit_reversal", "cosine", "mirror"]
type RowPermutation = Literal["identity", "parity"]


def column_permutation(name: ColumnPermutation, n: int) -> np.ndarray:
    """Permutation P in T = B P, applied to the input of the butterfly.

    - "identity";
    - "bit_reversal": even/odd separation at every size, that of the Cooley-Tukey FFT;
    - "cosine": even positions, then odd ones reversed, then bit reversal: that of the fast DCT;
    - "mirror": position i beside its mirror image n-1-i, neighbouring pairs together.
    """
    if name == "identity":
        return np.arange(n)
    if name == "bit_reversal":
        return bit_reversal_permutation(n)
    if name == "cosine":
        split = even_odd_permutation(n)[reverse_half_permutation(n, 1)]
        return split[bit_reversal_permutation(n)]
    if name == "mirror":
        first = np.arange(n // 2)
        return np.stack([first, n - 1 - first], axis=1).reshape(n)
    raise ValueError(
        f"column_permutation must be one of {ColumnPermutation.__value__}, got {name!r}"
    )


def row_permutation(name: RowPermutation, n: int) -> np.ndarray:
    """Permutation of the output rows.

    "parity" puts degree 2 b + c at the place 2 reversed(b) + c. A butterfly makes rank-1 blocks of
    the rows that agree in their low bits with neighbouring columns: these rows are then
    neighbouring degrees of one parity, which are smooth together.
    """
    if name == "identity":
        return np.arange(n)
    if name == "parity":
        halves = 2 * bit_reversal_permutation(n // 2)
        return np.stack([halves, halves + 1], axis=1).reshape(n)
    raise ValueError(f"row_permutation must be one of {RowPermutation.__value__}, got {name!r}")


def draw_parameters(
    key: jax.Array, n: int, blocks: int, tied: bool, is_complex: bool, dtype: str, initializer: str
) -> jax.Array:
    """Random parameters as real numbers.

    The optimizer sees real and imaginary parts: jax's gradient with respect to a complex number
    is the conjugate of the direction of ascent, and Adam's second moments are per real number.
    """
    draw = getattr(initializers, initializer)
    shape = twiddle_shape(n, blocks=blocks, tied=tied)
    if not is_complex:
        return draw(key, shape, jnp.dtype(dtype))
    return to_pairs(draw(key, shape, np.result_type(np.dtype(dtype), np.complex64)))


def to_pairs(twiddle: jax.Array) -> jax.Array:
    """Complex array as real pairs on a new last axis."""
    return jnp.stack([twiddle.real, twiddle.imag], axis=-1)


def to_twiddle(parameters: jax.Array, is_complex: bool) -> jax.Array:
    """The twiddle that the real parameters stand for."""
    if is_complex:
        return jax.lax.complex(parameters[..., 0], parameters[..., 1])
    return parameters


def dense_matrix(parameters: jax.Array, is_complex: bool, between: np.ndarray | None) -> jax.Array:
    """Dense (n, n) matrix B_{K-1} Q ... Q B_0 with the permutation Q = `between` two blocks."""
    twiddle = to_twiddle(parameters, is_complex)
    blocks, permutation = twiddle.shape[1], None
    if blocks > 1 and between is not None:
        first = np.arange(between.shape[0], dtype=between.dtype)
        permutation = np.stack([first] + [between] * (blocks - 1))
    return butterfly_to_dense(twiddle, alternating=False, permutation=permutation)
