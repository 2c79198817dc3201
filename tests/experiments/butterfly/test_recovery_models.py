"""Parts of the recovery experiment: permutations, baselines, errors, configs."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest

from experiments.butterfly.recovery import paper
from experiments.butterfly.recovery.baselines import (
    budget,
    largest_entries,
    low_rank_rmse,
    sparse_plus_low_rank_rmse,
    sparse_rmse,
)
from experiments.butterfly.recovery.config import (
    ApproximationConfig,
    ControlConfig,
    LearnedRecoveryConfig,
    RecoveryConfig,
)
from experiments.butterfly.recovery.models import (
    column_permutation,
    dense_matrix,
    draw_parameters,
    row_permutation,
)
from experiments.butterfly.targets import target_matrix
from structlayers.butterfly import is_permutation


@pytest.mark.parametrize("n", [2, 4, 8, 64])
@pytest.mark.parametrize("name", ["identity", "bit_reversal", "cosine", "mirror"])
def test_column_permutations_are_permutations(name, n):
    assert is_permutation(column_permutation(name, n))


@pytest.mark.parametrize("n", [2, 4, 16])
@pytest.mark.parametrize("name", ["identity", "parity"])
def test_row_permutations_are_permutations(name, n):
    assert is_permutation(row_permutation(name, n))


def test_permutations_by_hand():
    assert column_permutation("cosine", 8).tolist() == [0, 7, 4, 3, 2, 5, 6, 1]
    assert column_permutation("mirror", 6).tolist() == [0, 5, 1, 4, 2, 3]
    assert row_permutation("parity", 8).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


def test_unknown_permutations_are_named():
    name: Any = "spiral"
    with pytest.raises(ValueError, match=r"column_permutation.*'spiral'"):
        column_permutation(name, 8)
    with pytest.raises(ValueError, match=r"row_permutation.*'spiral'"):
        row_permutation(name, 8)


@pytest.mark.parametrize("is_complex", [False, True])
def test_two_blocks_are_the_product_with_the_permutation_between(is_complex):
    n, key = 8, jax.random.key(0)
    between = column_permutation("bit_reversal", n)
    both = draw_parameters(key, n, 2, False, is_complex, "float32", "gaussian")
    first, second = (dense_matrix(both[:, k : k + 1], is_complex, None) for k in range(2))
    expected = np.asarray(second) @ np.asarray(first)[between]
    actual = np.asarray(dense_matrix(both, is_complex, between))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def _brute_force_sparse(target, entries):
    n = len(target)
    errors = []
    for kept in itertools.combinations(range(n * n), entries):
        rest = target.copy().ravel()
        rest[list(kept)] = 0
        errors.append(np.linalg.norm(rest) / n)
    return min(errors)


def test_sparse_baseline_is_the_best_one():
    target = np.random.RandomState(1).randn(3, 3)
    assert sparse_rmse(target, 4) == pytest.approx(_brute_force_sparse(target, 4), rel=1e-12)
    assert sparse_rmse(target, 9) == 0


def test_low_rank_baseline_is_exact_at_its_rank():
    rng = np.random.RandomState(2)
    target = rng.randn(16, 2) @ rng.randn(2, 16)
    assert low_rank_rmse(target, 2 * 2 * 16) < 1e-14
    assert low_rank_rmse(target, 2 * 16) > 1e-2


def test_sparse_plus_low_rank_finds_both_parts():
    rng = np.random.RandomState(3)
    spikes = np.zeros((16, 16))
    spikes[rng.permutation(16), rng.permutation(16)] = 8 * rng.randn(16)
    target = np.outer(rng.randn(16), rng.randn(16)) + spikes
    spent = 2 * 16 + 16
    both = sparse_plus_low_rank_rmse(target, spent, rounds=30)
    assert both < 1e-3
    assert both < 0.02 * min(sparse_rmse(target, spent), low_rank_rmse(target, spent))


def test_sparse_plus_low_rank_is_never_worse_than_sparse():
    target = target_matrix("legendre", 32)
    assert sparse_plus_low_rank_rmse(target, budget(32), 3) <= sparse_rmse(target, budget(32))


def test_largest_entries_keeps_exactly_so_many():
    matrix = np.arange(-8.0, 8.0).reshape(4, 4)
    assert np.count_nonzero(largest_entries(matrix, 5)) == 5
    assert not largest_entries(matrix, 0).any()
    assert (largest_entries(matrix, 16) == matrix).all()


# Acceptance figures: the sparse baseline of the Legendre row at the butterfly's budget.
@pytest.mark.parametrize(
    ("n", "expected"), [(8, 1.9e-2), (16, 2.4e-2), (32, 1.8e-2), (64, 1.2e-2), (256, 4.1e-3)]
)
def test_legendre_goals_are_the_sparse_baseline(n, expected):
    (goal,) = ApproximationConfig(transform="legendre", sizes=(n,)).goals()
    assert goal.goal == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"transform": "fourier"}, "transform must be one of .*'fourier'"),
        ({"sizes": (8, 12)}, "sizes must be powers of two.*12"),
        ({"sizes": ()}, "sizes and dtypes"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"initializer": "fourier"}, "initializer 'fourier' needs blocks=2"),
    ],
)
def test_bad_configs_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        RecoveryConfig(**fields)


def test_bad_learned_configs_are_refused_by_name():
    with pytest.raises(ValueError, match="blocks must be 1"):
        LearnedRecoveryConfig(blocks=2)
    with pytest.raises(ValueError, match="restarts=8 and relax_steps=4"):
        LearnedRecoveryConfig(restarts=8, relax_steps=4)


def test_goals_hold_the_papers_numbers_and_the_lines():
    goals = {goal.metric: goal for goal in RecoveryConfig(recovery_steps_goal=500).goals()}
    assert goals["n1024/float32/rmse"].paper == 5.7e-5
    assert goals["n1024/float32/rmse"].goal == 1e-7
    assert goals["n0008/float64/relative_error"].goal == 1e-12
    assert goals["n0064/float32/seeds_recovered_in_500_steps"].direction == ">="
    (control,) = ControlConfig(transform="randn", sizes=(64,)).goals()
    assert control.goal == paper.rmse("randn", 64) == 1.1e-1
