"""The Walsh-Hadamard transform."""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from structlayers._core.checks import require_choice, require_power_of_two
from structlayers.butterfly.operator import ButterflyOperator
from structlayers.butterfly.transforms.build import make_operator, require_twiddle_dtype
from structlayers.butterfly.transforms.tables import NORMS, log2_norm, scale_levels


def hadamard(
    n: int,
    *,
    norm: str = "backward",
    tied: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> ButterflyOperator:
    """Hadamard matrix in Sylvester's order, `H_2n = [[H_n, H_n], [H_n, -H_n]]`, times c.

    Every factor is [[1, 1], [1, -1]] and there is no permutation. Up to n it is its own inverse:
    "backward" and "forward" invert each other, "ortho" itself.

    Args:
        n: size, a power of two.
        norm: c = 1 ("backward"), 1/sqrt(n) ("ortho") or 1/n ("forward"). The factors are exact in
            any dtype unless c is an odd power of the square root of 1/2.
        tied: whether the copies of a factor share one set of blocks.
        dtype: real or complex floating point.

    Returns:
        The operator, `(*B, n)` to `(*B, n)`.

    Raises:
        ValueError: n is not a power of two, or a bad `norm` or `dtype`.

    Example:
        >>> hadamard(4)(jnp.array([1.0, 0.0, 0.0, 2.0])).tolist()
        [3.0, -1.0, -1.0, 3.0]

    References:
        Sylvester, "Thoughts on inverse orthogonal matrices", 1867.
    """
    n = require_power_of_two("n", n)
    dtype = require_twiddle_dtype(dtype, complex_values=False)
    butterfly = np.array([[1.0, 1.0], [1.0, -1.0]])
    levels = [np.tile(butterfly, (2**level, 1, 1)) for level in range(n.bit_length() - 1)]
    scale = log2_norm(len(levels), require_choice("norm", norm, NORMS), inverse=False)
    return make_operator([scale_levels(levels, scale)], dtype=dtype, tied=tied)
