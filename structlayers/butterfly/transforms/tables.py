"""Accurate tables in float64: roots of unity, radix-2 Fourier factors by level.

A factor of stride s is written tied, as `(s, 2, 2)`: block k mixes the indices k and s + k.
"""

import math

import numpy as np

NORMS = ("backward", "ortho", "forward")
"""Normalizations of a transform, in the words of numpy.fft and scipy.fft."""


def roots_of_unity(numerator: np.ndarray, denominator: int) -> np.ndarray:
    """exp(2 pi i numerator / denominator), each part within an ulp or so of the exact value.

    The angle is reduced in integers to the first octant, so that multiples of 1/4 are exact and
    symmetric entries are equal to the last bit.

    Args:
        numerator: integers of any size and sign.
        denominator: positive integer.

    Returns:
        complex128 array of the numerator's shape.

    Example:
        >>> bool(roots_of_unity(np.array([3]), 4)[0] == -1j)
        True
    """
    quarter, rest = np.divmod(4 * np.mod(numerator, denominator), denominator)
    upper = 2 * rest > denominator  # past pi/4: the sine and cosine of pi/2 minus the angle
    angle = (math.pi / 2) * (np.where(upper, denominator - rest, rest) / denominator)
    cos, sin = np.cos(angle), np.sin(angle)
    diagonal = 2 * rest == denominator
    cos = np.where(diagonal, math.sqrt(0.5), cos)
    sin = np.where(diagonal, math.sqrt(0.5), sin)
    first = np.where(upper, sin, cos) + 1j * np.where(upper, cos, sin)
    return first * np.array([1, 1j, -1, -1j])[quarter]


def fourier_levels(n: int, *, sign: int = -1, shift: int = 0) -> list[np.ndarray]:
    """Factors of sum_m x[m] exp(sign 2 pi i (k + shift) m / n) after bit reversal, by level.

    Splitting m into even and odd keeps the shift: the factor of stride s is
    [[1, w], [1, -w]] with w = exp(sign 2 pi i (k + shift) / 2s).

    Returns:
        log2(n) complex128 arrays `(s, 2, 2)`, s = 1, 2, .., n/2.
    """
    levels = []
    for level in range(n.bit_length() - 1):
        s = 2**level
        w = roots_of_unity(sign * (np.arange(s) + shift), 2 * s)
        one = np.ones(s)
        levels.append(np.stack([np.stack([one, w], -1), np.stack([one, -w], -1)], -2))
    return levels


def scale_levels(levels: list[np.ndarray], log2_scale: float) -> list[np.ndarray]:
    """The product times 2**log2_scale, in halves spread evenly over the levels.

    Powers of two change no mantissa; a remaining square root of 1/2 goes to the first level.

    Args:
        levels: factors of any shape.
        log2_scale: a multiple of 1/2 between -len(levels) and 0.
    """
    count, halves = len(levels), math.floor(-log2_scale)
    levels = [
        level * 0.5 if (i + 1) * halves // count > i * halves // count else level
        for i, level in enumerate(levels)
    ]
    if -log2_scale > halves:
        levels[0] = levels[0] * math.sqrt(0.5)
    return levels


def log2_norm(levels: int, norm: str, *, inverse: bool) -> float:
    """log2 of the factor 1, 1/sqrt(N) or 1/N that `norm` puts on a transform of N = 2**levels."""
    if norm == "ortho":
        return -levels / 2
    return -float(levels) if (norm == "forward") != inverse else 0.0
