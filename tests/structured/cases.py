"""The products of the family as one list: implementations, random weights, definitions in NumPy."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from structlayers import structured


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Signed normal entries; complex ones with independent parts."""
    values = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def krylov(operator: np.ndarray, vector: np.ndarray) -> np.ndarray:
    powers = [np.linalg.matrix_power(operator, t) @ vector for t in range(len(vector))]
    return np.stack(powers, axis=1)


def shift(size: int, corner: float) -> np.ndarray:
    matrix = np.diag(np.ones(size - 1), -1)
    matrix[0, -1] += corner
    return matrix


def cyclic_tridiagonal(diagonals: np.ndarray) -> np.ndarray:
    lower, main, upper = diagonals
    size = len(main)
    eye = np.eye(size)
    return (
        lower[:, None] * np.roll(eye, -1, axis=1)
        + main[:, None] * eye
        + upper[:, None] * np.roll(eye, 1, axis=1)
    )


def sylvester(size: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.kron(np.array([[1, 1], [1, -1]]), matrix)
    return matrix / np.sqrt(size)


def circulant(c: np.ndarray) -> np.ndarray:
    return np.stack([np.roll(c, j) for j in range(len(c))], axis=1)


def toeplitz_like(g: np.ndarray, h: np.ndarray) -> np.ndarray:
    a, b = shift(g.shape[-1], 1.0), shift(g.shape[-1], -1.0)
    return np.sum([krylov(a, p) @ krylov(b, q).T for p, q in zip(g, h, strict=True)], axis=0)


def ldr(g: np.ndarray, h: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    left, right = cyclic_tridiagonal(a), cyclic_tridiagonal(b)
    terms = [krylov(left, p) @ krylov(right, q).T for p, q in zip(g, h, strict=True)]
    return np.sum(terms, axis=0)


def fastfood(s: np.ndarray, g: np.ndarray, b: np.ndarray, order: np.ndarray) -> np.ndarray:
    hadamard = sylvester(len(s))
    return np.diag(s) @ hadamard @ np.diag(g) @ np.eye(len(s))[order] @ hadamard @ np.diag(b)


def low_rank(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u @ v.T


def operator_near_shift(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Tridiagonal operators whose powers neither overflow nor vanish."""
    near = 0.2 / np.sqrt(shape[-1]) * random_array(rng, shape, dtype)
    near[..., 0, :] += 1
    return near.astype(dtype)


@dataclasses.dataclass(frozen=True)
class Case:
    """One product: how to call it and what it is.

    `weights(rng, size, dtype, stacks)` gives random weights, without the axis of stacks where
    `stacks` is None; `definition` takes those of one stack.
    """

    multiply: Callable[..., Any]
    to_dense: Callable[..., Any]
    implementations: tuple[str, ...]
    weights: Callable[..., tuple[np.ndarray, ...]]
    definition: Callable[..., np.ndarray]
    sizes: tuple[int, ...] = (1, 2, 7, 24)
    takes_stacks: bool = True


def _lead(stacks: int | None) -> tuple[int, ...]:
    return () if stacks is None else (stacks,)


def _circulant_weights(rng, size, dtype, stacks):
    return (random_array(rng, (*_lead(stacks), size), dtype),)


def _generators(rng, size, dtype, stacks):
    shape = (*_lead(stacks), min(3, size), size)
    return random_array(rng, shape, dtype), random_array(rng, shape, dtype)


def _ldr_weights(rng, size, dtype, stacks):
    shape = (*_lead(stacks), 3, size)
    operators = [operator_near_shift(rng, shape, dtype) for _ in range(2)]
    return *_generators(rng, size, dtype, stacks), *operators


def _fastfood_weights(rng, size, dtype, stacks):
    diagonals = [random_array(rng, (*_lead(stacks), size), dtype) for _ in range(3)]
    orders = np.stack([rng.permutation(size) for _ in range(stacks or 1)])
    return *diagonals, orders[0] if stacks is None else orders


def _low_rank_weights(rng, size, dtype, stacks):
    rank = min(4, size)
    return random_array(rng, (size + 2, rank), dtype), random_array(rng, (size, rank), dtype)


CASES = {
    "circulant": Case(
        structured.circulant_multiply,
        structured.circulant_to_dense,
        ("fft", "dense", "reference"),
        _circulant_weights,
        circulant,
    ),
    "toeplitz_like": Case(
        structured.toeplitz_like_multiply,
        structured.toeplitz_like_to_dense,
        ("fft", "dense", "reference"),
        _generators,
        toeplitz_like,
    ),
    "ldr": Case(
        structured.ldr_multiply,
        structured.ldr_to_dense,
        ("scan", "blocks", "doubling", "reference"),
        _ldr_weights,
        ldr,
    ),
    "fastfood": Case(
        structured.fastfood_multiply,
        structured.fastfood_to_dense,
        ("xla", "reference"),
        _fastfood_weights,
        fastfood,
        sizes=(1, 2, 32),
    ),
    "low_rank": Case(
        structured.low_rank_multiply,
        structured.low_rank_to_dense,
        ("xla", "dense", "reference"),
        _low_rank_weights,
        low_rank,
        takes_stacks=False,
    ),
}

FAST = [
    (name, implementation)
    for name, case in CASES.items()
    for implementation in case.implementations
    if implementation != "reference"
]


def dense(case: Case, weights: tuple[np.ndarray, ...], stacks: int | None) -> np.ndarray:
    """The whole matrix in float64 or complex128, by the definition."""
    kinds = {"f": np.float64, "c": np.complex128, "i": np.int64}
    wide = [w.astype(kinds[w.dtype.kind]) for w in weights]
    if stacks is None:
        return case.definition(*wide)
    return np.concatenate([case.definition(*(w[k] for w in wide)) for k in range(stacks)])
