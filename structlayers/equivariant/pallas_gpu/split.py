"""Problems that one launch cannot hold, in several. Imports no Pallas."""

import dataclasses
from collections.abc import Sequence

from structlayers.equivariant.pallas_gpu.plan import Plan, Problem, choose_plan
from structlayers.equivariant.pointwise import Product, Term


@dataclasses.dataclass(frozen=True)
class Part:
    """A launch.

    Attributes:
        plan: its plan.
        inputs: which of the problem's inputs it takes.
        results: to which of the problem's results each of its own is added.
    """

    plan: Plan
    inputs: tuple[int, ...]
    results: tuple[int, ...]


def split_problem(problem: Problem) -> list[Part]:
    """One launch for all results, or else for each one, or else for each of its terms.

    Raises:
        NotImplementedError: a single term fits in no launch.
    """
    whole = range(len(problem.products))
    return _split(problem, problem.products, tuple(whole))


def _split(problem: Problem, products: tuple[Product, ...], results: tuple[int, ...]) -> list[Part]:
    inputs = tuple(sorted(set().union(*(product.inputs for product in products))))
    part = dataclasses.replace(
        problem,
        degrees=tuple(problem.degrees[i] for i in inputs),
        products=tuple(_renamed(product, inputs) for product in products),
        repeats=tuple(problem.repeat(i) for i in inputs),
    )
    pieces: Sequence[tuple[Product, int]] = list(zip(products, results, strict=True))
    if len(pieces) == 1:
        ((product, result),) = pieces
        pieces = [(Product((term,), product.degree), result) for term in product.terms]
    try:
        return [Part(choose_plan(part), inputs, results)]
    except NotImplementedError:
        if len(pieces) == 1:
            raise
    return [part for one, result in pieces for part in _split(problem, (one,), (result,))]


def _renamed(product: Product, inputs: tuple[int, ...]) -> Product:
    """The product with numbers of inputs among those that a part takes."""
    terms = [
        Term(tuple(inputs.index(i) for i in term.factors), term.scale) for term in product.terms
    ]
    return Product(tuple(terms), product.degree)
