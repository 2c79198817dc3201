"""Half of a grid that is symmetric about the origin."""

import functools

import numpy as np


@functools.cache
def half_grid(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of which each stands for itself and its antipode, and their weights.

    Rings of a Gauss-Legendre rule in cos b; the ones north of the equator have ``degree + 1``
    points, the southern ones are their antipodes, turned by half a step where that number is odd. A
    ring on the equator is its own antipode and needs an even number. Antipodes double the weights.

    Args:
        degree: T of the polynomials that it integrates exactly.

    Returns:
        float64 points `(n, 3)` and weights `(n,)`, which sum up to 4 pi.

    Example:
        >>> [len(half_grid(3 * lmax)[1]) for lmax in (2, 3, 4, 6, 8)]
        [14, 25, 46, 95, 163]
    """
    nodes, weights = np.polynomial.legendre.leggauss(-(-(degree + 1) // 2))
    points, each = [], []
    for cosine, weight in zip(nodes, weights, strict=True):
        if cosine < -1e-12:
            continue
        equator = cosine < 1e-12
        count = degree + 1 + (degree % 2 == 0 if equator else 0)
        alpha = 2 * np.pi * np.arange(count) / count
        if equator:
            alpha = alpha[: count // 2]
        cosine = 0.0 if equator else cosine
        sine = np.sqrt((1 - cosine) * (1 + cosine))
        ring = [sine * np.sin(alpha), np.full_like(alpha, cosine), sine * np.cos(alpha)]
        points.append(np.stack(ring, axis=1))
        each.append(np.full(len(alpha), 2 * weight * 2 * np.pi / count))
    return np.concatenate(points), np.concatenate(each)
