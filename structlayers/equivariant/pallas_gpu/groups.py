"""Coefficients of one parity in groups of four: the order in which tensor cores see a row.

In every fragment of the tensor cores four lanes share a row. They read, or write, one group at a
time, where they can four coefficients that follow each other. A group that lacks coefficients
repeats its last one: as an operand a repeated coefficient meets zeros in the table, as a result it
is computed and stored again.
"""

import functools

import numpy as np

GROUP = 4

type Group = tuple[int, int, int, int]


@functools.cache
def groups(lmax: int, parity: int, multiple: int) -> tuple[Group, ...]:
    """Groups of all coefficients whose degrees have a parity.

    Args:
        lmax: the largest degree, at least 1.
        parity: 0 or 1.
        multiple: what the number of groups is filled up to; the last group is repeated.

    Example:
        >>> groups(3, 1, 2)
        ((1, 2, 3, 3), (9, 10, 11, 12), (12, 13, 14, 15), (12, 13, 14, 15))
    """
    found: list[Group] = []
    rest: list[int] = []
    for degree in range(parity, lmax + 1, 2):
        indices = list(range(degree**2, (degree + 1) ** 2))
        whole = len(indices) // GROUP * GROUP
        if parity and whole:  # three are left over: a group that overlaps the one before
            starts = [*range(0, whole, GROUP), len(indices) - GROUP]
        else:
            starts = list(range(0, whole, GROUP))
            rest += indices[whole:]
        found += [_filled(indices[start : start + GROUP]) for start in starts]
    found = [*(_filled(rest[i : i + GROUP]) for i in range(0, len(rest), GROUP)), *found]
    found += [found[-1]] * (-len(found) % multiple)
    return tuple(found)


def _filled(indices: list[int]) -> Group:
    a, b, c, d = indices + [indices[-1]] * (GROUP - len(indices))
    return a, b, c, d


def first_of_each(chosen: tuple[Group, ...]) -> np.ndarray:
    """Where a coefficient stands for the first time, bool `(groups, 4)`.

    Example:
        >>> first_of_each(groups(1, 1, 1)).tolist()
        [[True, True, True, False]]
    """
    flat = np.array(chosen).ravel()
    marks = np.zeros(flat.size, bool)
    marks[np.unique(flat, return_index=True)[1]] = True
    return marks.reshape(-1, GROUP)
