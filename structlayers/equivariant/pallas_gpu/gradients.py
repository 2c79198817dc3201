"""Which products make the gradients of products. Imports no Pallas."""

from collections.abc import Sequence

from structlayers.equivariant.pallas_gpu.plan import Product, Term, product_of


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
