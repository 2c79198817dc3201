"""Harmonics of the grid's points as operands of the tensor cores."""

import functools

import jax.numpy as jnp
import numpy as np

from structlayers.equivariant.half_grid import half_grid
from structlayers.equivariant.harmonics import spherical_harmonics
from structlayers.equivariant.pallas_gpu.groups import Group, first_of_each
from structlayers.equivariant.pallas_gpu.plan import Problem
from structlayers.equivariant.precision import rounded_to_tf32

_TILE = 8  # points, or coefficients, that are columns of an operand


@functools.cache
def _harmonics(lmax: int, degree: int, count: int, weighted: bool) -> np.ndarray:
    """Float64 `(count, (lmax + 1)^2)`, zeros after the points of the grid."""
    points, weights = half_grid(degree)
    values = spherical_harmonics(lmax, points)
    if weighted:
        values = values * weights[:, None]
    return np.concatenate([values, np.zeros((count - len(values), values.shape[1]))])


def _evaluating(problem: Problem, degree: int, parity: int) -> np.ndarray:
    """Operands `(point tiles, fragments, 8 points, depth)` that evaluate an input."""
    count = problem.steps * problem.step_points
    chosen = problem.input_groups(degree, parity)
    values = _harmonics(degree, problem.grid_degree, count, False)[:, np.array(chosen)]
    values = values * first_of_each(chosen)  # point, group, lane
    values = values.reshape(-1, _TILE, len(chosen) // problem.step_groups, problem.step_groups, 4)
    return values.transpose(0, 2, 1, 3, 4)  # tile, fragment, point, group, lane


def _columns(chosen: tuple[Group, ...]) -> np.ndarray:
    """Coefficient of each column of the tiles of a result, `(tiles, 8)`."""
    return np.array(chosen).reshape(-1, 2, 4).swapaxes(1, 2).reshape(-1, _TILE)


def _projecting(problem: Problem, degree: int, parity: int) -> np.ndarray:
    """Operands `(steps, tiles of coefficients, points of a step, 8)` that project a result."""
    count = problem.steps * problem.step_points
    values = _harmonics(degree, problem.grid_degree, count, True)
    values = values[:, _columns(problem.output_groups(degree, parity))]
    return values.reshape(problem.steps, problem.step_points, -1, _TILE).swapaxes(1, 2)


def _evaluating_words(problem: Problem, values: np.ndarray) -> np.ndarray:
    """`(tiles, fragments, point, group, lane)` as `(tiles, fragments, 32 lanes, 2)` words."""
    tiles, count = values.shape[:2]
    if problem.mode != "bf16":  # lane 4 g + t: rows t and t + 4 of column g
        return _float_words(values.transpose(0, 1, 2, 4, 3).reshape(tiles, count, 32, 2))
    # rows 2 t, 2 t + 1 and the same at + 8: lane t of groups 0, 1 and 2, 3
    pairs = values.reshape(tiles, count, _TILE, 2, 2, 4).transpose(0, 1, 2, 5, 3, 4)
    return _half_words(pairs.reshape(tiles, count, 32, 2, 2))


def _projecting_words(problem: Problem, values: np.ndarray) -> np.ndarray:
    """`(steps, tiles, points, 8)` as `(steps, tiles, 32 lanes, 2)` words."""
    steps, tiles = values.shape[:2]
    if problem.mode != "bf16":
        # points 2 t and 2 t + 1, which a lane has, in the place of rows t and t + 4
        split = values.reshape(steps, tiles, 4, 2, _TILE)
        return _float_words(split.transpose(0, 1, 4, 2, 3).reshape(steps, tiles, 32, 2))
    split = values.reshape(steps, tiles, 2, 4, 2, _TILE).transpose(0, 1, 5, 3, 2, 4)
    return _half_words(split.reshape(steps, tiles, 32, 2, 2))


def _float_words(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values.astype(np.float32)).view(np.int32)


def _half_words(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values.astype(jnp.bfloat16)).view(np.int32)[..., 0]


@functools.cache
def table_words(problem: Problem) -> np.ndarray:
    """Words of all tables, int32 `(steps, words of a lane / 4, 32 lanes, 4)`.

    A lane reads in order, for every step: for each of its tiles of 8 points the fragments that
    evaluate, degree by degree, even ones first, and then the fragments that project likewise.
    """
    halves = problem.step_points // _TILE
    evaluating, projecting = [], []
    for degree in problem.input_degrees:
        for parity in (0, 1):
            words = _evaluating_words(problem, _evaluating(problem, degree, parity))
            evaluating.append(words.reshape(problem.steps, halves, *words.shape[1:]))
    for degree in problem.output_degrees:
        for parity in (0, 1):
            words = _projecting_words(problem, _projecting(problem, degree, parity))
            projecting.append(words)
    first = np.concatenate(evaluating, axis=2)  # step, tile, fragment, lane, word
    words = first.reshape(problem.steps, -1, 32, 2)
    words = np.concatenate([words, *projecting], axis=1)  # step, fragment, lane, word
    words = words.swapaxes(1, 2).reshape(problem.steps, 32, -1)
    if problem.mode == "tf32":
        words = rounded_to_tf32(words)
    missing = problem.step_words - words.shape[-1]
    words = np.concatenate([words, np.zeros((*words.shape[:2], missing), np.int32)], axis=2)
    words = words.reshape(problem.steps, 32, -1, 4).swapaxes(1, 2)
    return np.ascontiguousarray(words)
