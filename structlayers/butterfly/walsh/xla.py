"""Portable Hadamard products: groups of factors as products with constant matrices of +-1.

`H_N` is the Kronecker product of the `H_R` of its groups. The entries of `H_R` are exact in any
dtype, powers of two included, so a group rounds once and only its sums.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from structlayers._core.checks import log2_exact
from structlayers._core.dispatch import current_platform
from structlayers._core.precision import PrecisionLike, accumulation_dtype, canonicalize_precision
from structlayers.butterfly.walsh.alternate import alternate

# Largest merged group, in levels. CPU: measured in float32, radix 8 or 4 is best or within 30 % of
# it from N = 64 to 16384 (N = 4096, 256 rows: 1.2 ms; radix 2 takes 3.4, radix 128 3.6). GPU, TPU:
# the width of a matrix unit, two passes up to N = 16384; not measured.
_GROUP_LEVELS = {"cpu": 3, "gpu": 7, "tpu": 7}


def group_radices(size: int, platform: str) -> tuple[int, ...]:
    """Radices of the merged groups by increasing stride: as few as allowed, balanced."""
    levels = log2_exact(size)
    groups = -(-levels // _GROUP_LEVELS.get(platform, 3))
    return tuple(2 ** ((levels + g) // groups) for g in reversed(range(groups)))


def sylvester_matrix(size: int) -> np.ndarray:
    """`H_N` with entries 1 and -1: the sign is the parity of the bits that row and column share."""
    rows = np.arange(size)
    return 1.0 - 2.0 * (np.bitwise_count(rows[:, None] & rows) % 2)


def hadamard_multiply(x: jax.Array, *, scale: float, precision: PrecisionLike = None) -> jax.Array:
    """One product with a constant matrix for each group of factors.

    Args:
        x: `(*B, N)`, N a power of two.
        scale: factor of the result.
        precision: of the products; None is the highest.

    Returns:
        `(*B, N)` of the dtype of `x`.
    """
    if jnp.iscomplexobj(x):
        parts = hadamard_multiply(jnp.stack([x.real, x.imag]), scale=scale, precision=precision)
        return jax.lax.complex(parts[0], parts[1])
    precision = canonicalize_precision(precision)
    shape, dtype = x.shape, x.dtype
    stride = 1
    radices = group_radices(shape[-1], current_platform())
    # Groups share the scale in powers of two, exact and in the range of float16 on the way; what is
    # left, 1 or sqrt(2), is applied at the end in float32 or wider.
    shares, rest = _share_scale(scale, radices)
    for radix, share in zip(radices, shares, strict=True):
        weights = jnp.asarray(share * sylvester_matrix(radix), dtype)
        parts = x.reshape(*shape[:-1], shape[-1] // (radix * stride), radix, stride)
        x = jnp.einsum("...pjk,ij->...pik", parts, weights, precision=precision).reshape(shape)
        stride *= radix
    if rest == 1:
        return x
    wide = accumulation_dtype(dtype)
    return (x.astype(wide) * jnp.asarray(rest, wide)).astype(dtype)


def _share_scale(scale: float, radices: tuple[int, ...]) -> tuple[list[float], float]:
    """A power of two for each group, in proportion to its levels, and the factor that remains."""
    stops = np.cumsum([0, *map(math.log2, radices)])
    exponents = np.floor(math.log2(scale) * stops / max(stops[-1], 1))
    shares = [2.0**exponent for exponent in np.diff(exponents)]
    return shares, scale / math.prod(shares)


def sorf_multiply(x: jax.Array, signs: jax.Array, *, precision: PrecisionLike = None) -> jax.Array:
    """`H D_K ... H D_1 x`, signs and transform in turn.

    Args:
        x: `(*B, N)`, N a power of two.
        signs: `(K, N)` of the dtype of `x`.
        precision: of the products.

    Returns:
        `(*B, N)` of the dtype of `x`.
    """
    return alternate(hadamard_multiply, x, signs, precision)
