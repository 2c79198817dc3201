"""Products of signals, point by point, and which products make their gradients.

What fused kernels compute; imports no Pallas.
"""

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Term:
    """Some of the inputs multiplied point by point.

    Attributes:
        factors: indices of inputs, in ascending order; one may stand several times.
        scale: by which the product is multiplied.
    """

    factors: tuple[int, ...]
    scale: int = 1


@dataclasses.dataclass(frozen=True)
class Product:
    """A result: a sum of terms, projected on degrees 0 .. degree.

    Attributes:
        terms: at least one.
        degree: the largest degree that is kept.
    """

    terms: tuple[Term, ...]
    degree: int

    @property
    def inputs(self) -> set[int]:
        """Indices of the inputs that it takes."""
        return {i for term in self.terms for i in term.factors}


def product_of(factors: tuple[int, ...], degree: int) -> Product:
    """A result of one term."""
    return Product((Term(factors),), degree)


def largest_degree(columns: int) -> int:
    """L of rows of (L + 1)^2 numbers.

    Example:
        >>> largest_degree(25)
        4
    """
    return math.isqrt(columns) - 1


def grid_degree(degrees: Sequence[int], products: Sequence[Product]) -> int:
    """Degree to which a grid must be exact for products of inputs of these degrees.

    Example:
        >>> grid_degree((2, 3), [product_of((0, 0, 1), 1)])
        8
    """
    return max(
        product.degree + sum(degrees[i] for i in term.factors)
        for product in products
        for term in product.terms
    )


def powers(order: int, lmax: int) -> tuple[Product, ...]:
    """Powers 2 to `order` of one signal."""
    return tuple(product_of((0,) * power, lmax) for power in range(2, order + 1))


def pulled_back(degrees: Sequence[int], products: Sequence[Product]) -> tuple[Product | None, ...]:
    """Gradient of each input by the inputs and, after them, the cotangents of the products.

    None where no product takes the input.
    """
    found: list[Product | None] = []
    for i, degree in enumerate(degrees):
        terms = [
            Term((*_without(term.factors, i), len(degrees) + j), term.scale * term.factors.count(i))
            for j, product in enumerate(products)
            for term in product.terms
            if i in term.factors
        ]
        found.append(Product(tuple(terms), degree) if terms else None)
    return tuple(found)


def _without(factors: tuple[int, ...], factor: int) -> tuple[int, ...]:
    at = factors.index(factor)
    return factors[:at] + factors[at + 1 :]
