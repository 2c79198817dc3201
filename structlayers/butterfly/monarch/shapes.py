"""Sizes of Monarch matrices: reading them off two arrays, and choosing them for a layer."""

import math
from typing import Any, NamedTuple

import numpy as np

from structlayers._core.checks import require_inexact, require_positive


class MonarchSizes(NamedTuple):
    """Letters of a Monarch matrix: blocks1 is `(k, q, p)`, blocks2 is `(l, s, r)`, `k q = l r`."""

    k: int
    q: int
    p: int
    l: int  # noqa: E741
    s: int
    r: int

    @property
    def in_features(self) -> int:
        """Largest number of inputs, `k p`."""
        return self.k * self.p

    @property
    def out_features(self) -> int:
        """Largest number of outputs, `s l`."""
        return self.s * self.l

    @property
    def middle(self) -> int:
        """Number of values between the two factors, `k q = r l`."""
        return self.k * self.q


def monarch_sizes(blocks1: Any, blocks2: Any) -> MonarchSizes:
    """Reads the sizes off two arrays (or `jax.ShapeDtypeStruct`).

    Raises:
        TypeError: integers or bools.
        ValueError: not three axes each, an empty axis, or `k q != l r`.

    Example:
        >>> monarch_sizes(np.ones((2, 6, 5)), np.ones((3, 7, 4))).middle
        12
    """
    for name, blocks, wanted in (
        ("blocks1", blocks1, "(k, q, p)"),
        ("blocks2", blocks2, "(l, s, r)"),
    ):
        require_inexact(name, blocks)
        if len(blocks.shape) != 3 or 0 in blocks.shape:
            raise ValueError(f"{name} must have shape {wanted}, none of them 0, got {blocks.shape}")
    sizes = MonarchSizes(*blocks1.shape, *blocks2.shape)
    if sizes.k * sizes.q != sizes.l * sizes.r:
        raise ValueError(
            f"blocks1 (k, q, p) and blocks2 (l, s, r) must have k q = l r, "
            f"got shapes {blocks1.shape} and {blocks2.shape}"
        )
    return sizes


def monarch_shapes(
    in_features: int,
    out_features: int,
    num_blocks: int | tuple[int, int] = 4,
    *,
    block_rank: int | None = None,
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Shapes of the two factors of a Monarch matrix of given size.

    `p = ceil(in / k)` and `s = ceil(out / l)`: the input is padded to `k p`, the output cut from
    `s l`. The values in between are either `block_rank` for each of the `k l` pairs of blocks, or
    as many as the smaller side has, rounded up to a common multiple of k and l.

    Args:
        in_features: size of the input.
        out_features: size of the output.
        num_blocks: k and l, or one number for both.
        block_rank: rank of each of the `k l` blocks of the matrix, `q = block_rank l` and
            `r = block_rank k`; None is the largest middle described above.

    Returns:
        `(k, q, p)` and `(l, s, r)`.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size is below 1.

    Example:
        >>> monarch_shapes(768, 3072, 4)
        ((4, 192, 192), (4, 768, 192))
        >>> monarch_shapes(64, 64, 8, block_rank=1)
        ((8, 8, 8), (8, 8, 8))

    References:
        Dao, Chen, Sohoni, Desai, Poli, Grogan, Liu, Rao, Rudra, Ré, "Monarch: expressive
        structured matrices for efficient and accurate training", 2022, arXiv:2204.00595,
        section 3.1 and appendix (rectangular matrices).
    """
    in_features = require_positive("in_features", in_features)
    out_features = require_positive("out_features", out_features)
    pair = num_blocks if isinstance(num_blocks, tuple) else (num_blocks, num_blocks)
    k, l = (require_positive("num_blocks", number) for number in pair)  # noqa: E741
    p, s = -(-in_features // k), -(-out_features // l)
    if block_rank is not None:
        rank = require_positive("block_rank", block_rank)
        return (k, rank * l, p), (l, s, rank * k)
    multiple = math.lcm(k, l)
    middle = -(-min(k * p, l * s) // multiple) * multiple
    return (k, middle // k, p), (l, s, middle // l)


def block_terms(sizes: MonarchSizes) -> tuple[np.ndarray, np.ndarray]:
    """Which middle values join input block k and output block l.

    Middle value m belongs to input block `m // q` and, transposed, to output block `m % l`. So
    block `(l, k)` of the matrix is a sum of one outer product for each of its values.

    Returns:
        Integers `(k, l, c)`, c the largest number of values of a pair, and booleans of the same
        shape that are False where a pair has fewer.
    """
    first = np.arange(sizes.k)[:, None] * sizes.q
    start = first + (np.arange(sizes.l) - first) % sizes.l
    count = -(-sizes.q // sizes.l)
    terms = start[..., None] + sizes.l * np.arange(count)
    valid = terms < (first + sizes.q)[..., None]
    return np.where(valid, terms, 0), valid
