"""Paths of tensor products: which degrees couple, their number, their coupling tensors.

A path (l1, l2, l3) is one equivariant bilinear map of a degree-l1 and a degree-l2 vector to degree
l3. Its sum `l1 + l2 + l3` is even for products of true tensors into true tensors ("natural"
couplings, all that a product of functions on the sphere has) and odd where a pseudotensor appears,
as in the cross product (1, 1, 1).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from structlayers._core.checks import require_choice
from structlayers.equivariant.wigner import (
    clebsch_gordan,
    couples,
    gaunt_factor,
    require_degree,
)

type Path = tuple[int, int, int]

COUPLINGS = ("all", "even", "odd")
NORMALIZATIONS = ("component", "norm", "frobenius", "gaunt")
# Non-zero terms up to which a program lists each by itself: one fused loop over the rows. On a CPU
# 10,000 rows of 2 x 1 -> 2 (45) take .09 ms listed and .12 summed, gradients .06 and .19, of 2 x 2
# -> 2 (83) .17, .18 and .26, .32; 2 x 2 -> 4 (162) ties. On a GPU one row of the last takes 7.2 us
# listed and 1.1 summed (xla/gpu.md).
FEW_TERMS = 32
FEW_TERMS_ON_CPU = 100


def tensor_product_paths(
    degrees1: Sequence[int],
    degrees2: Sequence[int],
    degrees3: Sequence[int],
    *,
    couplings: str = "all",
) -> tuple[Path, ...]:
    """The paths between given degrees, those of l1 outermost.

    Args:
        degrees1: degrees l1 of the first factor.
        degrees2: degrees l2 of the second.
        degrees3: degrees l3 that are kept of the product.
        couplings: "all"; "even" or "odd" sums `l1 + l2 + l3` only.

    Returns:
        Triples (l1, l2, l3) that satisfy the triangle rule.

    Raises:
        ValueError: another word for `couplings`.

    Example:
        >>> tensor_product_paths((0, 1), (1,), (0, 1), couplings="even")
        ((0, 1, 1), (1, 1, 0))
    """
    require_choice("couplings", couplings, COUPLINGS)
    kept = {"all": (0, 1), "even": (0,), "odd": (1,)}[couplings]
    return tuple(
        (l1, l2, l3)
        for l1 in degrees1
        for l2 in degrees2
        for l3 in degrees3
        if couples(l1, l2, l3) and (l1 + l2 + l3) % 2 in kept
    )


def count_paths(lmax: int, couplings: str = "all") -> int:
    r"""Number of paths of degrees 0..L times 0..L to 0..2 L, in closed form.

    With `n = L + 1`: `n (2 n^2 + 1) / 3` in all, `n (n + 1) (2 n + 1) / 6` of even sum.

    Args:
        lmax: L.
        couplings: "all", "even" or "odd".

    Returns:
        The number.

    Raises:
        ValueError: a negative degree, or another word for `couplings`.

    Example:
        >>> count_paths(4), count_paths(4, "even"), count_paths(4, "odd")
        (85, 55, 30)

    References:
        Xie, Daigavane, Kotak, Smidt, "The Price of Freedom: Exploring Expressivity and Runtime
        Tradeoffs in Equivariant Tensor Products", 2025, arXiv:2506.13523, whose benchmarks count
        the same paths.
    """
    n = require_degree("lmax", lmax) + 1
    require_choice("couplings", couplings, COUPLINGS)
    every, even = n * (2 * n * n + 1) // 3, n * (n + 1) * (2 * n + 1) // 6
    return {"all": every, "even": even, "odd": every - even}[couplings]


def path_scale(path: Path, normalization: str) -> float:
    """What the tensor `clebsch_gordan(*path)`, of Frobenius norm 1, is multiplied by.

    Args:
        path: (l1, l2, l3).
        normalization: "component", `sqrt(2 l3 + 1)`; "norm", `sqrt((2 l1 + 1)(2 l2 + 1))`;
            "frobenius", 1; "gaunt", the factor of the product of functions, 0 for odd sums.

    Returns:
        The factor.

    Raises:
        ValueError: another word for `normalization`.

    Example:
        >>> path_scale((1, 1, 0), "component"), path_scale((1, 1, 1), "gaunt")
        (1.0, 0.0)
    """
    require_choice("normalization", normalization, NORMALIZATIONS)
    l1, l2, l3 = path
    if normalization == "component":
        return float(np.sqrt(2 * l3 + 1))
    if normalization == "norm":
        return float(np.sqrt((2 * l1 + 1) * (2 * l2 + 1)))
    return 1.0 if normalization == "frobenius" else gaunt_factor(*path)


@dataclasses.dataclass(frozen=True)
class Terms:
    """The non-zero terms `z[index3] += value x[index1] y[index2]`, in the order of `index3`.

    Attributes:
        index1: int32 `(T,)`, coefficient of the first factor.
        index2: int32 `(T,)`, of the second.
        index3: int32 `(T,)`, of the product, ascending.
        path: int32 `(T,)`, position of the term's path.
        value: float64 `(T,)`.
    """

    index1: np.ndarray
    index2: np.ndarray
    index3: np.ndarray
    path: np.ndarray
    value: np.ndarray


@dataclasses.dataclass(frozen=True)
class PathTable:
    """A Clebsch-Gordan product between vectors made of blocks, one degree each. Hashable.

    Attributes:
        degrees1: degree of every block of the first factor.
        degrees2: of the second.
        degrees3: of the product.
        paths: for each path, positions of its three blocks.
        scales: for each path, what its coupling tensor of Frobenius norm 1 is multiplied by.

    Example:
        >>> table = PathTable((1,), (1,), (1,), ((0, 0, 0),), (1.0,))
        >>> table.sizes, len(table.terms().value)
        ((3, 3, 3), 6)
    """

    degrees1: tuple[int, ...]
    degrees2: tuple[int, ...]
    degrees3: tuple[int, ...]
    paths: tuple[Path, ...]
    scales: tuple[float, ...]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of coefficients of the factors and the product."""
        first, second, third = (
            sum(2 * degree + 1 for degree in degrees)
            for degrees in (self.degrees1, self.degrees2, self.degrees3)
        )
        return first, second, third

    def tensor(self, position: int) -> np.ndarray:
        """The scaled coupling tensor of a path, float64 `(2 l1 + 1, 2 l2 + 1, 2 l3 + 1)`."""
        i, j, k = self.paths[position]
        degrees = self.degrees1[i], self.degrees2[j], self.degrees3[k]
        return self.scales[position] * clebsch_gordan(*degrees)

    def terms(self) -> Terms:
        """All non-zero terms of all paths."""
        return _terms(self)


def signal_table(degrees: tuple[int, int, int], factors: Mapping[Path, float]) -> PathTable:
    """The table of a product of signals, whose blocks are the degrees 0..L.

    Args:
        degrees: L1, L2, L3.
        factors: for each path, what its tensor of norm 1 is multiplied by.

    Returns:
        The table; its paths are triples of degrees.

    Example:
        >>> signal_table((1, 1, 1), {(1, 1, 1): 0.5}).degrees3
        (0, 1)
    """
    first, second, third = (tuple(range(degree + 1)) for degree in degrees)
    return PathTable(first, second, third, tuple(factors), tuple(factors.values()))


def block_offsets(degrees: Sequence[int]) -> tuple[int, ...]:
    """Where every block starts, and the end of the last.

    Example:
        >>> block_offsets((0, 2, 1))
        (0, 1, 6, 9)
    """
    return (0, *np.cumsum([2 * degree + 1 for degree in degrees], dtype=int).tolist())


@functools.cache
def _terms(table: PathTable) -> Terms:
    starts = [block_offsets(d) for d in (table.degrees1, table.degrees2, table.degrees3)]
    columns: list[list[np.ndarray]] = [[np.zeros(0, int)] * 4 + [np.zeros(0)]]
    for position, path in enumerate(table.paths):
        tensor = table.tensor(position)
        # what is zero by symmetry is left as rounding errors by the change to real harmonics
        found = np.nonzero(np.abs(tensor) > 1e-13 * np.abs(tensor).max())
        shifted = [
            start[block] + index for start, block, index in zip(starts, path, found, strict=True)
        ]
        columns.append([*shifted, np.full(len(found[0]), position), tensor[found]])
    index1, index2, index3, of_path, value = (
        np.concatenate(parts) for parts in zip(*columns, strict=True)
    )
    order = np.argsort(index3, kind="stable")
    index1, index2, index3, of_path = (
        part[order].astype(np.int32) for part in (index1, index2, index3, of_path)
    )
    return Terms(index1, index2, index3, of_path, value[order])
