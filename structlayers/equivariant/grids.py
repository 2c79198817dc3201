r"""Quadrature grids on the sphere, proved exact when they are made.

A product of signals of degrees L1 and L2, projected on degree L3, is exact on a grid that
integrates all harmonics up to `T = L1 + L2 + L3`. T is symmetric in the three: the same grid is
exact for the derivatives of any order. With nu equal factors `T = nu L + L3`.
"""

import dataclasses
import functools
import math

import numpy as np

from structlayers._core.checks import require_choice, require_positive
from structlayers.equivariant.designs import spherical_design
from structlayers.equivariant.harmonics import spherical_harmonics
from structlayers.equivariant.wigner import require_degree

KINDS = ("gauss_legendre", "equiangular", "design", "lebedev")

LEBEDEV_DEGREES = (*range(3, 32, 2), *range(35, 132, 6))
"""Degrees to which the rules of Lebedev and Laikov are exact."""

# Rules whose weights, some of them negative, add up to 1.47 and 1.66 times 4 pi in magnitude (1.08
# at degree 27, else 1). Relative error at L1 = L2 = L3 = 4 on half of the points of rule 13, of
# rule 15, and of a Gauss-Legendre product: TF32 6.8e-4, 4.4e-4, 4.6e-4, bfloat16 4.8e-3, 3.7e-3,
# 3.8e-3, float32 1.6e-7, 1.2e-7, 1.5e-7. At 8 on rules 25 and 27 and the product: TF32 11e-4,
# 4.5e-4, 4.4e-4, bfloat16 8.5e-3, 3.7e-3, 3.5e-3, float32 4.3e-7, 2.1e-7, 2.6e-7.
_LARGE_WEIGHTS = (13, 25)

_TOLERANCE = 1e-12

type GridLike = str | SphericalGrid | None


@dataclasses.dataclass(frozen=True, eq=False)
class SphericalGrid:
    r"""Points and weights that integrate all harmonics up to a degree.

    .. math:: \sum_n w_n Y_{l m}(p_n) = \int Y_{l m} = \sqrt{4 \pi} \delta_{l 0}
        \quad (0 \le l \le T)

    Products of harmonics whose degrees sum to at most T are therefore integrated exactly, which
    is what the constructor proves in float64, to 1e-12. Compared by identity; `get_grid` keeps one
    of each kind and degree.

    Attributes:
        points: unit vectors, float64 `(N, 3)`.
        weights: float64 `(N,)`, sum 4 pi.
        degree: T.
        cos_beta: `(n_beta,)`, the polar factor of a product grid, else None. Points then are in
            the order (beta, alpha).
        alpha: `(n_alpha,)`, its azimuths, equally spaced, in radians.

    Raises:
        ValueError: shapes that do not fit, points that are no unit vectors, or a grid that is not
            exact to the degree.

    Example:
        >>> len(SphericalGrid.gauss_legendre(12).weights)
        91

    References:
        Driscoll, Healy, "Computing Fourier transforms and convolutions on the 2-sphere", 1994,
        section 3.
    """

    points: np.ndarray
    weights: np.ndarray
    degree: int
    cos_beta: np.ndarray | None = None
    alpha: np.ndarray | None = None

    def __post_init__(self) -> None:
        require_degree("degree", self.degree)
        points, weights = (np.array(v, np.float64) for v in (self.points, self.weights))
        if points.ndim != 2 or points.shape[1] != 3 or weights.shape != points.shape[:1]:
            raise ValueError(
                "points and weights must have shapes (N, 3) and (N,), "
                f"got {points.shape} and {weights.shape}"
            )
        if not np.all(np.abs(np.linalg.norm(points, axis=1) - 1) < _TOLERANCE):
            raise ValueError("points must be unit vectors")
        for name, values in (("points", points), ("weights", weights)):
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        moments = weights @ spherical_harmonics(self.degree, points)
        moments[0] -= math.sqrt(4 * math.pi)
        worst = int(np.argmax(np.abs(moments)))
        if not abs(moments[worst]) <= _TOLERANCE:
            raise ValueError(
                f"a grid of {len(weights)} points does not integrate harmonics up to degree "
                f"{self.degree}: degree {math.isqrt(worst)} is off by {abs(moments[worst]):.1e}, "
                f"allowed are {_TOLERANCE}"
            )

    @classmethod
    def gauss_legendre(
        cls, degree: int, *, num_beta: int | None = None, num_alpha: int | None = None
    ) -> "SphericalGrid":
        """Gauss-Legendre nodes in `cos b`, equally spaced azimuths.

        Args:
            degree: T.
            num_beta: at least `ceil((T + 1) / 2)`, which is the default.
            num_alpha: at least `T + 1`, which is the default.

        Returns:
            The grid, exact to degree T.

        Raises:
            ValueError: too few points in either direction.

        Example:
            >>> SphericalGrid.gauss_legendre(4).points.shape
            (15, 3)
        """
        degree = require_degree("degree", degree)
        sizes = _check_sizes("Gauss-Legendre", degree, degree // 2 + 1, num_beta, num_alpha)
        nodes, weights = np.polynomial.legendre.leggauss(sizes[0])
        return cls._product(degree, nodes[::-1], weights[::-1], sizes[1])

    @classmethod
    def equiangular(
        cls, degree: int, *, num_beta: int | None = None, num_alpha: int | None = None
    ) -> "SphericalGrid":
        """Polar angles `(i + 1/2) pi / n` with Fejer's weights, equally spaced azimuths.

        Args:
            degree: T.
            num_beta: at least `2 floor(T / 2) + 1`, which is the default.
            num_alpha: at least `T + 1`, which is the default.

        Returns:
            The grid, exact to degree T.

        Raises:
            ValueError: too few points in either direction.

        Example:
            >>> SphericalGrid.equiangular(4).points.shape
            (25, 3)

        References:
            Waldvogel, "Fast construction of the Fejer and Clenshaw-Curtis quadrature rules", 2006,
            equation 2.3.
        """
        degree = require_degree("degree", degree)
        needed = 2 * (degree // 2) + 1
        sizes = _check_sizes("equiangular", degree, needed, num_beta, num_alpha)
        beta = (np.arange(sizes[0]) + 0.5) * np.pi / sizes[0]
        k = np.arange(1, sizes[0] // 2 + 1)
        series = np.cos(2 * beta[:, None] * k) / (4 * k**2 - 1)
        weights = (1 - 2 * series.sum(axis=1)) * 2 / sizes[0]
        # the node at the equator without rounding, so that opposite points are opposite
        nodes = np.sin((sizes[0] - 1 - 2 * np.arange(sizes[0])) * np.pi / (2 * sizes[0]))
        return cls._product(degree, nodes, weights, sizes[1])

    @classmethod
    def design(cls, degree: int, *, antipodal: bool = False) -> "SphericalGrid":
        """A spherical design: equal weights, no axis is special.

        Args:
            degree: T.
            antipodal: whether every point must have its opposite.

        Returns:
            The grid, exact to degree T.

        Example:
            >>> len(SphericalGrid.design(4).weights)
            14

        References:
            Womersley, "Efficient spherical designs with good geometric properties", 2018,
            arXiv:1709.01624.
        """
        degree = require_degree("degree", degree)
        points = spherical_design(degree, antipodal=antipodal)
        return cls(points, np.full(len(points), 4 * np.pi / len(points)), degree)

    @classmethod
    def lebedev(cls, degree: int) -> "SphericalGrid":
        """The smallest rule of Lebedev and Laikov: about `(T + 1)^2 / 3` points.

        Points and weights have the symmetries of the octahedron, so every point has its opposite.
        Some weights of the rules of degree 13, 25 and 27 are negative.

        Args:
            degree: T, at most 131.

        Returns:
            The grid, exact to the degree of the rule, the next of 3, 5, ... 31, 35, 41, ... 131.

        Raises:
            ValueError: a degree beyond 131.

        Example:
            >>> grid = SphericalGrid.lebedev(14)
            >>> len(grid.weights), grid.degree
            (86, 15)

        References:
            Lebedev, Laikov, "A quadrature formula for the sphere of the 131st algebraic order of
            accuracy", 1999.
        """
        # not before it is needed: a third of a second
        from scipy.integrate import lebedev_rule

        degree = require_degree("degree", degree)
        rule = next((one for one in LEBEDEV_DEGREES if one >= degree), None)
        if rule is None:
            raise ValueError(
                f"a grid of kind lebedev is exact to degree {LEBEDEV_DEGREES[-1]} at most, "
                f"degree T = {degree} is wanted"
            )
        points, weights = lebedev_rule(rule)
        return cls(points.T, weights, rule)

    @classmethod
    def _product(
        cls, degree: int, nodes: np.ndarray, weights: np.ndarray, num_alpha: int
    ) -> "SphericalGrid":
        alpha = 2 * np.pi * np.arange(num_alpha) / num_alpha
        sine = np.sqrt((1 - nodes) * (1 + nodes))
        points = np.stack(
            [
                np.outer(sine, np.sin(alpha)),
                np.broadcast_to(nodes[:, None], (len(nodes), num_alpha)),
                np.outer(sine, np.cos(alpha)),
            ],
            axis=-1,
        )
        each = np.repeat(weights * 2 * np.pi / num_alpha, num_alpha)
        return cls(points.reshape(-1, 3), each, degree, nodes, alpha)

    @functools.cached_property
    def opposites(self) -> np.ndarray | None:
        """Pairs of opposite points, int64 `(2, N / 2)`, or None if not all come in such pairs."""
        nearest = np.argmin(self.points @ self.points.T, axis=1)
        first = np.flatnonzero(np.arange(len(nearest)) < nearest)
        second = nearest[first]
        paired = 2 * len(first) == len(nearest) == len({*first, *second})
        exact = np.allclose(self.points[first], -self.points[second], rtol=0, atol=_TOLERANCE)
        same = np.allclose(self.weights[first], self.weights[second], rtol=_TOLERANCE, atol=0)
        return np.stack([first, second]) if paired and exact and same else None


def _check_sizes(
    kind: str, degree: int, needed: int, num_beta: int | None, num_alpha: int | None
) -> tuple[int, int]:
    """Numbers of points in both directions, at least those of the rule."""
    beta = needed if num_beta is None else require_positive("num_beta", num_beta)
    alpha = degree + 1 if num_alpha is None else require_positive("num_alpha", num_alpha)
    rule = "2 floor(T / 2) + 1" if kind == "equiangular" else "ceil((T + 1) / 2)"
    if beta < needed or alpha < degree + 1:
        raise ValueError(
            f"a grid of kind {kind} exact to degree T = {degree} needs num_beta >= {needed} = "
            f"{rule} and num_alpha >= {degree + 1} = T + 1, got {beta} and {alpha}"
        )
    return beta, alpha


@functools.cache
def get_grid(kind: str | None, degree: int, *, antipodal: bool = False) -> SphericalGrid:
    """The smallest grid of a kind that is exact to a degree; made once.

    Args:
        kind: one of "gauss_legendre", "equiangular", "design", "lebedev", or None for the fewest
            points whose weights do not magnify rounding: of a Lebedev rule, passing over those of
            degree 13 and 25, or of a Gauss-Legendre product where that has fewer (T < 2), or no
            rule is known (T > 131).
        degree: T.
        antipodal: whether all points must come in opposite pairs.

    Returns:
        The grid.

    Raises:
        ValueError: an unknown kind, a negative degree, or one beyond 131 for "lebedev".

    Example:
        >>> grid = get_grid("gauss_legendre", 12, antipodal=True)
        >>> len(grid.weights), grid.opposites.shape
        (98, (2, 49))
        >>> len(get_grid(None, 12).weights)
        86
    """
    if kind is None:
        least = require_degree("degree", degree)
        rules = [one for one in LEBEDEV_DEGREES if one >= least and one not in _LARGE_WEIGHTS]
        if rules and least >= 2:
            return get_grid("lebedev", rules[0])
        return get_grid("gauss_legendre", least, antipodal=antipodal)
    require_choice("grid", kind, KINDS)
    if kind == "lebedev":
        return SphericalGrid.lebedev(degree)
    if kind == "design":
        return SphericalGrid.design(degree, antipodal=antipodal)
    make = SphericalGrid.gauss_legendre if kind == "gauss_legendre" else SphericalGrid.equiangular
    return make(degree, num_alpha=degree + 1 + (antipodal and degree % 2 == 0))
