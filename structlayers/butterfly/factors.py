"""Shapes of butterfly twiddles, and the product of consecutive factors without a matmul.

A twiddle stores the 2x2 blocks of every factor by level, level ``l`` having stride ``s = 2**l``:

- untied: ``(S, K, M, N/2, 2, 2)``; block ``p*s + k`` of level ``l`` mixes the indices
  ``p*2s + k`` and ``p*2s + s + k``;
- tied: ``(S, K, N-1, 2, 2)``; level ``l`` occupies ``[s-1, 2s-1)`` and every ``p`` shares it.

One factor, or the product of consecutive ones, is held in block form ``(S, P, s, R, R)``:
``out[p, i, k] = sum_j W[p, k, i, j] x[p, j, k]`` with the index ``n = p*R*s + j*s + k``.
"""

from typing import NamedTuple

import jax

__all__ = [
    "TwiddleShape",
    "block_directions",
    "factor_blocks",
    "merge_levels",
    "merge_pair",
    "twiddle_shape",
    "twiddle_sizes",
]


class TwiddleShape(NamedTuple):
    """What the shape of a twiddle says: stacks, blocks, levels, transform size and tying."""

    stacks: int
    blocks: int
    levels: int
    size: int
    tied: bool


def twiddle_shape(n: int, *, stacks: int = 1, blocks: int = 1, tied: bool = False) -> tuple:
    """Shape of the twiddle of a butterfly of size ``n``.

    Untied: ``(stacks, blocks, log2 n, n/2, 2, 2)``, ``2 n log2 n`` scalars per block.
    Tied: ``(stacks, blocks, n - 1, 2, 2)``, ``4 (n - 1)`` scalars per block.

    Args:
        n: Transform size, a power of two.
        stacks: Number of butterflies side by side, each seeing the same input.
        blocks: Number of butterflies in a row.
        tied: Whether all blocks of one factor at the same offset share their values.

    Returns:
        The shape as a tuple of ints.

    Raises:
        ValueError: If ``n`` is not a power of two, or ``stacks`` or ``blocks`` is below 1.

    Example:
        >>> twiddle_shape(8)
        (1, 1, 3, 4, 2, 2)
        >>> twiddle_shape(8, tied=True)
        (1, 1, 7, 2, 2)
    """
    if n < 1 or n & (n - 1):
        raise ValueError(f"n must be a power of two, at least 1; got {n}")
    if stacks < 1 or blocks < 1:
        raise ValueError(f"stacks and blocks must be at least 1; got {stacks} and {blocks}")
    if tied:
        return (stacks, blocks, n - 1, 2, 2)
    return (stacks, blocks, n.bit_length() - 1, n // 2, 2, 2)


def twiddle_sizes(shape: tuple[int, ...], name: str = "twiddle") -> TwiddleShape:
    """Read stacks, blocks, levels, size and tying off the shape of a twiddle.

    Args:
        shape: Shape of a twiddle.
        name: How error messages call the array.

    Returns:
        The sizes; an untied twiddle without levels is the identity of size 1.

    Raises:
        ValueError: If no butterfly has that shape.

    Example:
        >>> twiddle_sizes((1, 2, 3, 4, 2, 2))
        TwiddleShape(stacks=1, blocks=2, levels=3, size=8, tied=False)
    """
    shape = tuple(shape)
    wanted = "(stacks, blocks, log2 N, N/2, 2, 2) or, tied, (stacks, blocks, N-1, 2, 2)"
    if len(shape) not in (5, 6) or shape[-2:] != (2, 2) or shape[0] < 1 or shape[1] < 1:
        raise ValueError(f"{name} must have shape {wanted}; got {shape}")
    tied = len(shape) == 5
    size = shape[2] + 1 if tied else 2 ** shape[2]
    if (size & (size - 1)) or (not tied and shape[3] != size // 2):
        raise ValueError(f"{name} must have shape {wanted} with N a power of two; got {shape}")
    return TwiddleShape(shape[0], shape[1], size.bit_length() - 1, size, tied)


def block_directions(blocks: int, increasing_stride: bool, alternating: bool) -> tuple[bool, ...]:
    """Whether each block multiplies its factors by increasing stride."""
    return tuple(increasing_stride ^ (alternating and k % 2 == 1) for k in range(blocks))


def factor_blocks(twiddle: jax.Array, block: int, level: int) -> jax.Array:
    """One radix-2 factor in block form.

    Args:
        twiddle: Tied or untied twiddle.
        block: Which of the K blocks.
        level: log2 of the stride.

    Returns:
        Array ``(S, P, s, 2, 2)``; ``P = N/(2s)``, or 1 when tied.
    """
    stride = 2**level
    if twiddle.ndim == 5:
        return twiddle[:, block, stride - 1 : 2 * stride - 1][:, None]
    # one index for both: XLA for GPUs copies slices of an argument as it came before it uses them
    stacks, blocks, levels = twiddle.shape[:3]
    factors = twiddle.reshape(stacks, blocks * levels, *twiddle.shape[3:])
    return factors[:, block * levels + level].reshape(stacks, -1, stride, 2, 2)


def merge_pair(low: jax.Array, high: jax.Array, increasing_stride: bool) -> jax.Array:
    """Product of two neighbouring factors, again in block form, by broadcasting alone.

    Every entry of the product is one entry of ``low`` times one entry of ``high``, because an
    input and an output index determine the index between the two factors. With ``i = (i2, i1)``
    and ``j = (j2, j1)``:

    - increasing (``high @ low``): ``W[p,k,i,j] = high[p,(i1,k),i2,j2] low[(p,j2),k,i1,j1]``;
    - decreasing (``low @ high``): ``W[p,k,i,j] = low[(p,i2),k,i1,j1] high[p,(j1,k),i2,j2]``.

    Args:
        low: ``(S, P*R2, s, R1, R1)``, the factor of the smaller stride; ``(S, 1, ...)`` if tied.
        high: ``(S, P, s*R1, R2, R2)``; ``(S, 1, ...)`` if tied.
        increasing_stride: Whether ``low`` is applied first.

    Returns:
        Array ``(S, P, s, R1*R2, R1*R2)``.
    """
    stacks, p_low, stride, r1, _ = low.shape
    p_high, r2 = high.shape[1], high.shape[-1]
    # copies of low along i2 or j2: r2 of them when untied, one to broadcast when tied
    copies, p_low = (r2, p_low // r2) if p_low > 1 else (1, 1)
    low = low.reshape(stacks, p_low, copies, stride, r1, r1)
    high = high.reshape(stacks, p_high, r1, stride, r2, r2)
    if increasing_stride:
        high = high.transpose(0, 1, 3, 4, 2, 5)[..., None]  # S P k i2 i1 j2 1
        low = low.transpose(0, 1, 3, 4, 2, 5)[:, :, :, None]  # S P k 1 i1 j2 j1
    else:
        high = high.transpose(0, 1, 3, 4, 5, 2)[:, :, :, :, None]  # S P k i2 1 j2 j1
        low = low.transpose(0, 1, 3, 2, 4, 5)[:, :, :, :, :, None]  # S P k i2 i1 1 j1
    p = max(p_low, p_high)
    return (high * low).reshape(stacks, p, stride, r1 * r2, r1 * r2)


def merge_levels(
    twiddle: jax.Array, block: int, start: int, stop: int, increasing_stride: bool
) -> jax.Array:
    """Product of the factors of levels ``start .. stop-1`` of one block, in block form.

    The levels are halved recursively, so that the last product reads two arrays of about the
    square root of its size and writes the result once: ``O(N R)`` multiplications for radix
    ``R = 2**(stop - start)``, untied.

    Args:
        twiddle: Tied or untied twiddle.
        block: Which of the K blocks.
        start: First level.
        stop: One past the last level, above ``start``.
        increasing_stride: Multiplication order of the block.

    Returns:
        Array ``(S, P, 2**start, R, R)``; ``P = N/(2**stop)``, or 1 when tied.
    """
    if stop - start == 1:
        return factor_blocks(twiddle, block, start)
    middle = (start + stop) // 2
    low = merge_levels(twiddle, block, start, middle, increasing_stride)
    high = merge_levels(twiddle, block, middle, stop, increasing_stride)
    return merge_pair(low, high, increasing_stride)
