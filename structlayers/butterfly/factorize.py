"""Closed-form butterfly factorization of a dense matrix by hierarchical rank-one projections.

Everything here runs on the host in numpy float64 / complex128 and is neither traceable nor
differentiable: it is a direct method for a given matrix, not a layer.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from structlayers.butterfly.operator import ButterflyOperator
from structlayers.butterfly.permutations import require_permutation
from structlayers.butterfly.transforms.build import (
    make_operator,
    require_twiddle_dtype,
    scalar_operator,
    transpose_levels,
)

_POWER_ITERATIONS = 6
_SVD_CHUNK = 4096


def factorize_butterfly(
    matrix: ArrayLike,
    *,
    permutation: ArrayLike | None = None,
    tied: bool = False,
    increasing_stride: bool = True,
    dtype: DTypeLike | None = None,
) -> tuple[ButterflyOperator, float]:
    r"""Factorizes a matrix `T` into one butterfly after a permutation, `T ~ B P`.

    The product of the first `m` factors is block diagonal with blocks `R_p` of size `2**m`, that
    of the others couples the high index bits only, with one matrix `L_k` per value of the low
    bits. So the sub-matrix of `B` at fixed low output bits `k` and high input bits `p` is the outer
    product `L_k[:, p] R_p[k, :]`: `m = log2(N) / 2` turns `T P^-1` into `N` independent rank-one
    approximations of `sqrt(N) x sqrt(N)` matrices, and `L` and `R` are factorized in the same way.
    Between the steps the weights are moved so that the factor not being projected is an isometry
    on its columns; the error of a step is then the error it adds to the product.

    For a member of the class the result is exact to rounding and costs O(N^2). Any other matrix
    gives a good member (within a constant of the best one) and its error; each rank-one
    approximation is then a full SVD, O(N^2.5) in all.

    Args:
        matrix: `(N, N)`, real or complex, N a power of two, every entry finite. It acts as `T x`.
        permutation: integers `(N,)`, the `P` of `x[permutation]`; None is the identity.
        tied: whether the copies of a factor inside a level share one set of 2 x 2 blocks.
        increasing_stride: multiply strides 1, 2, .., N/2 (True) or N/2, .., 2, 1.
        dtype: of the twiddle; None is the matrix's own (64-bit dtypes become 32-bit ones unless
            `jax_enable_x64` is on), float32 for integers.

    Returns:
        The operator, and the relative error `||T - B P||_F / ||T||_F` of its stored twiddle,
        measured in float64.

    Raises:
        ValueError: `matrix` is not square, its size not a power of two, an entry is not finite, a
            permutation does not fit, or `dtype` is real for a complex matrix.
        TypeError: `matrix` is a traced value.

    Example:
        >>> hadamard = np.array([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
        >>> operator, relative_error = factorize_butterfly(hadamard)
        >>> relative_error < 1e-6
        True

    References:
        Zheng, Riccietti, Gribonval, "Efficient identification of butterfly sparse matrix
        factorizations", 2021, arXiv:2110.01230 (hierarchical method, exact recovery).
        Le, Zheng, Riccietti, Gribonval, "Fast learning of fast transforms, with guarantees",
        ICASSP 2022 (balanced tree). Le, Zheng, Riccietti, Gribonval, "Butterfly factorization with
        error guarantees", 2024, arXiv:2411.04506 (isometric weights between the steps).
    """
    target, dtype = _check_matrix(matrix, dtype)
    n = target.shape[0]
    order = None
    if permutation is not None:
        require_permutation("permutation", permutation, n)
        order = np.asarray(permutation)
    # B = T[:, order], since (B x[order])_i = sum_j B_ij x[order[j]]
    wanted = target if order is None else np.take(target, order, axis=1)
    scale = float(np.max(np.abs(wanted))) or 1.0
    square = (wanted if increasing_stride else wanted.T) / scale
    if n == 1:
        operator = scalar_operator(target[0, 0], dtype=dtype, tied=tied)
        rounded = target.astype(dtype).astype(target.dtype)
        return operator, float(np.linalg.norm(rounded - target)) / scale
    levels = [level[0] for level in _normalize(_factorize_levels(square[None], tied), scale)]
    error = _relative_error(square, scale, [level.astype(dtype) for level in levels])
    operator = make_operator(
        # (B_{M-1} .. B_0)^T applies the transposed factors backwards
        [levels if increasing_stride else transpose_levels(levels)],
        dtype=dtype,
        tied=tied,
        permutation=order,
        increasing_stride=increasing_stride,
    )
    return operator, error


def _check_matrix(matrix: ArrayLike, dtype: DTypeLike | None) -> tuple[np.ndarray, np.dtype]:
    if isinstance(matrix, jax.core.Tracer):
        raise TypeError(
            "matrix is a traced value; factorize_butterfly works on concrete arrays outside jit,"
            " vmap and grad"
        )
    given = np.asarray(matrix)
    if given.ndim != 2 or given.shape[0] != given.shape[1]:
        raise ValueError(f"matrix has shape {given.shape}; a square matrix (N, N) was wanted")
    n = given.shape[0]
    if n < 1 or n & (n - 1):
        raise ValueError(f"matrix has size {n}; a power of two was wanted (pad it with zeros)")
    is_complex = np.iscomplexobj(given)
    target = given.astype(np.complex128 if is_complex else np.float64)
    if not np.isfinite(target).all():
        raise ValueError(f"matrix of shape {given.shape} has NaN or infinite entries")
    if dtype is None:
        inexact = given.dtype if jnp.issubdtype(given.dtype, jnp.inexact) else np.float32
        wanted = np.dtype(jax.dtypes.canonicalize_dtype(inexact))
    else:
        wanted = require_twiddle_dtype(dtype, complex_values=is_complex)
    return target, wanted


def _factorize_levels(a: np.ndarray, tied: bool) -> list[np.ndarray]:
    """Factors of every matrix of a batch, by level.

    Args:
        a: `(b, n, n)`.
        tied: whether a level's copies share their blocks.

    Returns:
        One array per level of stride s: `(b, n/2, 2, 2)`, tied `(b, s, 2, 2)`.
    """
    b, n, _ = a.shape
    if n <= 2:
        return [a[:, None]] if n == 2 else []
    low = 2 ** ((n.bit_length() - 1) // 2)
    high = n // low
    blocks = a.reshape(b, high, low, high, low).transpose(0, 2, 3, 1, 4)  # b i0 j1 i1 j0
    if tied:  # one right factor for every j1
        u, v = _rank_one(blocks.reshape(b, low, high * high, low))
        u, v = u.reshape(b, low, high, high), v[:, :, None]
    else:
        u, v = _rank_one(blocks)
    del blocks

    left = np.ascontiguousarray(u.swapaxes(-1, -2)).reshape(b * low, high, high)  # (b i0) i1 j1
    left_levels = _factorize_levels(left, tied)
    norms = np.linalg.norm(_product(left_levels, high), axis=1).reshape(b, low, high)  # b i0 j1
    if tied:
        norms = np.linalg.norm(norms, axis=-1, keepdims=True)
    # unit columns on the left: then an error of the right factor is an error of the product
    divisor = np.broadcast_to(np.where(norms > 0, norms, 1.0), (b, low, high))
    columns = divisor.reshape(b * low, high // 2, 1, 2)
    left_levels[0] = left_levels[0] / (columns[:, :1] if tied else columns)
    right = (norms[..., None] * v).swapaxes(1, 2)  # b j1 i0 j0
    right_levels = _factorize_levels(np.ascontiguousarray(right).reshape(-1, low, low), tied)

    # block p*s + k: the right levels have j1 as high part of p, the left ones i0 as low part of k
    levels = [level.reshape(b, -1, 2, 2) for level in right_levels]
    for level in left_levels:
        level = level.reshape(b, low, -1, 2, 2).swapaxes(1, 2)
        levels.append(level.reshape(b, -1, 2, 2))
    return levels


def _rank_one(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best rank-one approximation `u v` of every matrix of a batch, the rows `v` of unit length.

    Power iterations from the longest row settle the matrices of numerical rank one; the others go
    to an SVD. A fixed point carrying half of the squared norm or more is the dominant one.

    Args:
        a: `(..., r, c)`.

    Returns:
        `u` `(..., r)` and `v` `(..., c)`.
    """
    batch, (r, c) = a.shape[:-2], a.shape[-2:]
    a = a.reshape(-1, r, c)
    row_norms = np.linalg.norm(a, axis=-1)
    longest = np.argmax(row_norms, axis=-1)
    rows = np.arange(a.shape[0])
    v = _unit(a[rows, longest])
    u = np.einsum("brc,bc->br", a, v.conj())  # not BLAS: its threads cost more than these sums
    total = np.linalg.norm(row_norms, axis=-1)
    pending = rows
    tolerance = 8 * math.sqrt(r + c) * np.finfo(np.float64).eps
    for _ in range(_POWER_ITERATIONS):
        part = a if pending.size == rows.size else a[pending]
        v_next = _unit(np.einsum("br,brc->bc", u[pending].conj(), part))
        u_next = np.einsum("brc,bc->br", part, v_next.conj())
        moved = np.linalg.norm(v_next - v[pending], axis=-1) > tolerance
        minor = np.linalg.norm(u_next, axis=-1) < math.sqrt(0.5) * total[pending]
        v[pending], u[pending] = v_next, u_next
        pending = pending[moved | minor]
        if pending.size == 0:
            break
    for start in range(0, pending.size, _SVD_CHUNK):
        chunk = pending[start : start + _SVD_CHUNK]
        left, singular, right = np.linalg.svd(a[chunk], full_matrices=False)
        u[chunk], v[chunk] = left[..., 0] * singular[:, :1], right[:, 0]
    return u.reshape(*batch, r), v.reshape(*batch, c)


def _unit(v: np.ndarray) -> np.ndarray:
    """Rows scaled to length one; zero rows become the first unit vector."""
    norms = np.linalg.norm(v, axis=-1, keepdims=True)
    first = np.zeros_like(v[:1])
    first[:, 0] = 1.0
    return np.where(norms > 0, v / np.where(norms > 0, norms, 1.0), first)


def _product(levels: list[np.ndarray], n: int) -> np.ndarray:
    """The dense product `(b, n, n)` of factors by level, without a sum: every entry is one path."""
    b = levels[0].shape[0] if levels else 1
    dense = np.ones((b, n, 1, 1), np.result_type(np.float64, *levels))
    for level in levels:
        s = dense.shape[-1]
        t = level.reshape(b, -1, s, 2, 2).transpose(0, 1, 3, 2, 4)  # b p i k j
        below = dense.reshape(b, -1, 2, s, s).swapaxes(2, 3)  # b p k j m
        dense = (t[..., None] * below[:, :, None]).reshape(b, -1, 2 * s, 2 * s)
    return dense[:, 0]


def _normalize(levels: list[np.ndarray], scale: float) -> list[np.ndarray]:
    """Factors of `scale` times the same product, with the freedom between factors used up.

    Position by position, a factor's row may be divided by anything and the next factor's column
    multiplied by it. Every row is divided by its larger entry, so that the DFT and the Hadamard
    matrix come out as the textbook's factors. The scale that is left is spread in powers of two,
    which are exact; the rest is with the last factor.
    """
    levels = list(levels)
    for low in range(len(levels) - 1):
        s = 2**low
        size = np.abs(levels[low])
        # the first entry unless the second is really larger, not only by rounding
        second = size[..., 1] > (1 + 1e-6) * size[..., 0]
        pivot = np.where(second, levels[low][..., 1], levels[low][..., 0])  # b, (p k), i
        pivot = np.where(pivot == 0, 1.0, pivot)
        levels[low] = levels[low] / pivot[..., None]
        # the position (p, i, k) = (p', j, k') is column j of block (p', k') of the next level
        copies = pivot.size // (2 * s)
        rows = pivot.reshape(copies, s, 2).swapaxes(1, 2)
        columns = rows.reshape(-1, min(copies, 2), 2 * s).swapaxes(1, 2)  # p' k' j; 1 j if tied
        levels[low + 1] = levels[low + 1] * columns.reshape(1, -1, 1, min(copies, 2))
    largest = scale * float(np.max(np.abs(levels[-1])))
    twos = round(math.log2(largest)) if largest > 0 else 0
    count, sign = len(levels), math.copysign(1, twos)
    for i in range(count):
        share = (i + 1) * abs(twos) // count - i * abs(twos) // count
        levels[i] = levels[i] * 2.0 ** (sign * share)
    levels[-1] = levels[-1] * (scale * 2.0**-twos)
    return levels


def _relative_error(square: np.ndarray, scale: float, stored: list[np.ndarray]) -> float:
    wide = np.complex128 if np.iscomplexobj(square) else np.float64
    product = _product([level.astype(wide)[None] for level in stored], square.shape[0])[0]
    error = float(np.linalg.norm(product / scale - square))
    norm = float(np.linalg.norm(square))
    return error / norm if norm > 0 else error
