"""What a GPU takes for few rows, whatever the product: one loop over a table, or over its terms."""

import math
from collections.abc import Callable

# Entries up to which one row is multiplied by a table in one loop faster than by terms, if the
# products of both factors fill warps. Microseconds on one H200, 0..L x 0..L -> 0..2 L: .86 for 1.3
# at L = 1, .99 for 1.1 at L = 3, 1.8 for 2.0 at L = 7, but 1.2 for 1.1 at L = 2, with 81 products
# (xla/gpu.md).
_ROW_PAYS = 2**20
# Entries of a table up to which its terms are found to be counted.
_COUNTED = 2**24


def table_pays(rows: int, sizes: tuple[int, int, int]) -> bool:
    """Whether one row is multiplied by the table of all coefficients.

    Args:
        rows: rows.
        sizes: numbers of coefficients of the factors and the product.

    Example:
        >>> table_pays(1, (16, 16, 49)), table_pays(1, (9, 9, 25)), table_pays(2, (16, 16, 49))
        (True, False, False)
    """
    products = sizes[0] * sizes[1]
    return rows == 1 and math.prod(sizes) <= _ROW_PAYS and products & (products - 1) == 0


def terms_pay(rows: int, sizes: tuple[int, int, int], count: Callable[[], int], most: int) -> bool:
    """Whether all rows have at most so many terms.

    Args:
        rows: rows.
        sizes: numbers of coefficients of the factors and the product.
        count: of the terms of a row, called where that may be.
        most: terms.

    Example:
        >>> terms_pay(100, (9, 9, 25), lambda: 162, 20_000)
        True
    """
    # each component of the product has a term at least
    if math.prod(sizes) > _COUNTED or rows * sizes[2] > most:
        return False
    return rows * count() <= most
