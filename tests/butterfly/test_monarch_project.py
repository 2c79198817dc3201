"""Monarch matrices: shapes, dense form, projection, conversion to and from block butterflies."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.butterfly import block_butterfly_multiply, blocks_to_monarch, monarch_to_blocks
from structlayers.butterfly.monarch import monarch_shapes, monarch_to_dense, project_to_monarch
from structlayers.butterfly.monarch.shapes import MonarchSizes, block_terms
from structlayers.butterfly.ops.monarch import monarch_multiply
from structlayers.testing import assert_close, error_ratio
from tests.butterfly.dense_oracle import random_array

# outputs, inputs, number of blocks, rank of a block
PROJECTIONS = (
    (6, 8, 2, 1),
    (7, 9, 3, None),
    (12, 7, (4, 3), None),
    (7, 12, (3, 4), 2),
    (16, 16, 4, 1),
    (20, 20, 4, 3),
    (5, 5, 8, None),
    (8, 8, 2, 7),
    (1, 1, 1, 1),
)


@functools.partial(jax.jit, static_argnums=(1, 2))
def project(matrix, num_blocks, block_rank):
    blocks1, blocks2 = project_to_monarch(matrix, num_blocks, block_rank=block_rank)
    rows, columns = matrix.shape
    return monarch_to_dense(blocks1, blocks2, in_features=columns, out_features=rows)


def pair_ranks(outputs, inputs, num_blocks, block_rank):
    """Largest rank of block (l, k) of the matrix, counted value by value."""
    (k, q, p), (ell, s, _) = monarch_shapes(inputs, outputs, num_blocks, block_rank=block_rank)
    ranks = np.zeros((ell, k), int)
    for m in range(k * q):
        ranks[m % ell, m // q] += 1
    return ranks, s, p


def test_shapes() -> None:
    assert monarch_shapes(768, 3072, 4) == ((4, 192, 192), (4, 768, 192))
    assert monarch_shapes(3072, 768, 4) == ((4, 192, 768), (4, 192, 192))
    assert monarch_shapes(10, 6, 3) == ((3, 2, 4), (3, 2, 2))
    assert monarch_shapes(64, 64, 8, block_rank=1) == ((8, 8, 8), (8, 8, 8))
    assert monarch_shapes(8, 8, (4, 2), block_rank=3) == ((4, 6, 2), (2, 4, 12))
    for inputs, outputs, k, ell in itertools.product((1, 5, 12), (1, 7, 9), (1, 2, 6), (1, 4)):
        (k_, q, p), (ell_, s, r) = monarch_shapes(inputs, outputs, (k, ell))
        assert (k_, ell_) == (k, ell)
        assert k * q == ell * r
        assert inputs <= k * p < inputs + k
        assert outputs <= s * ell < outputs + ell


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 4, 2), ValueError, "in_features must be at least 1, got 0"),
        ((4, -1, 2), ValueError, "out_features must be at least 1, got -1"),
        ((4, 4, 0), ValueError, "num_blocks must be at least 1, got 0"),
        ((4, 4, (2, 0)), ValueError, "num_blocks must be at least 1, got 0"),
    ],
)
def test_bad_shapes(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        monarch_shapes(*arguments)


@pytest.mark.parametrize("sizes", [(4, 6, 3), (2, 3, 6), (2, 6, 4), (3, 4, 6), (5, 1, 5)])
def test_block_terms(sizes: tuple[int, int, int]) -> None:
    k, q, ell = sizes
    terms, valid = block_terms(MonarchSizes(k, q, 1, ell, 1, k * q // ell))
    found = {(a, b): sorted(terms[a, b][valid[a, b]]) for a in range(k) for b in range(ell)}
    for (a, b), members in found.items():
        assert members == [m for m in range(k * q) if m // q == a and m % ell == b]


@jax.jit
def matrices_and_columns(factors):
    """Dense matrices, corners of them, and the products with the unit vectors."""
    result = []
    for blocks1, blocks2 in factors:
        identity = jnp.eye(blocks1.shape[0] * blocks1.shape[2], dtype=blocks1.dtype)
        columns = monarch_multiply(identity, blocks1, blocks2, implementation="reference")
        corner = monarch_to_dense(blocks1, blocks2, in_features=4, out_features=2)
        result.append((monarch_to_dense(blocks1, blocks2), corner, columns.T))
    return result


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_dense_is_the_product(dtype: str, rng: np.random.Generator) -> None:
    factors = [
        (random_array(rng, (k, q, 5), dtype), random_array(rng, (ell, 3, r), dtype))
        for k, q, ell, r in ((4, 6, 3, 8), (2, 3, 6, 1), (2, 6, 4, 3), (3, 4, 6, 2))
    ]
    for dense, corner, columns in matrices_and_columns(factors):
        assert_close("dense", dense, columns, 3e-7)
        assert_close("corner", corner, columns[:2, :4], 3e-7)
    with pytest.raises(ValueError, match="in_features must be at most k p = 15, got 16"):
        monarch_to_dense(*factors[-1], in_features=16)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_projection_is_the_best(dtype: str, rng: np.random.Generator) -> None:
    for outputs, inputs, num_blocks, block_rank in PROJECTIONS:
        matrix = random_array(rng, (outputs, inputs), dtype)
        ranks, s, p = pair_ranks(outputs, inputs, num_blocks, block_rank)
        ell, k = ranks.shape
        padded = np.zeros((s * ell, k * p), np.complex128)
        padded[:outputs, :inputs] = matrix
        best = 0.0  # the singular values that no block has the rank for
        for a, b in itertools.product(range(ell), range(k)):
            values = np.linalg.svd(padded[a::ell, b * p : (b + 1) * p], compute_uv=False)
            best += float(np.sum(values[ranks[a, b] :] ** 2))
        value = project(jnp.asarray(matrix), num_blocks, block_rank)
        error = float(np.linalg.norm(np.asarray(value) - matrix) ** 2)
        size = float(np.linalg.norm(matrix) ** 2)
        assert error == pytest.approx(best, rel=1e-5, abs=1e-12 * size)
        again = project(value, num_blocks, block_rank)
        assert_close("idempotent", again, value, 2e-6)


def test_no_rank_one_matrix_is_nearer(rng: np.random.Generator) -> None:
    # brute force over directions of one 2 x 2 block, the others are like it
    matrix = rng.standard_normal((4, 4)).astype(np.float32)
    value = np.asarray(project(jnp.asarray(matrix), 2, 1))
    angles = np.linspace(0, np.pi, 2001)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    for a, b in itertools.product(range(2), range(2)):
        block = matrix[a::2, 2 * b : 2 * b + 2].astype(np.float64)
        residual = np.linalg.norm(value[a::2, 2 * b : 2 * b + 2] - block) ** 2
        best = np.linalg.norm(block) ** 2 - np.max(np.sum((block @ directions) ** 2, axis=0))
        assert residual <= best + 1e-6
        assert residual == pytest.approx(best, abs=1e-5)


@jax.jit
def members_and_projections(factors):
    """For every case the member that the factors make, and the factors of its projection."""
    result = []
    for (rows, columns, num_blocks, block_rank), pair in zip(PROJECTIONS, factors, strict=True):
        member = monarch_to_dense(*pair, in_features=columns, out_features=rows)
        blocks = project_to_monarch(member, num_blocks, block_rank=block_rank)
        again = monarch_to_dense(*blocks, in_features=columns, out_features=rows)
        result.append((member, blocks, again))
    return result


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_members_are_kept(dtype: str, rng: np.random.Generator) -> None:
    shapes = [monarch_shapes(i, o, k, block_rank=rank) for o, i, k, rank in PROJECTIONS]
    factors = [[random_array(rng, shape, dtype) for shape in pair] for pair in shapes]
    results = members_and_projections(factors)
    for pair, (member, (blocks1, blocks2), again) in zip(shapes, results, strict=True):
        assert (blocks1.shape, blocks2.shape) == pair
        assert blocks1.dtype == blocks2.dtype == dtype
        assert_close("member", again, member, 2e-6)


def test_double_precision_and_transformations(rng: np.random.Generator) -> None:
    with jax.enable_x64(True):
        factors = [rng.standard_normal(shape) for shape in monarch_shapes(32, 24, 4, block_rank=2)]
        member = monarch_to_dense(*factors, in_features=32, out_features=24)
        assert error_ratio(project(member, 4, 2), member) < 5e-15
    matrices = jnp.asarray(rng.standard_normal((2, 6, 8)), jnp.float32)
    together = jax.jit(jax.vmap(lambda m: project(m, 2, 1)))(matrices)
    for matrix, value in zip(matrices, together, strict=True):
        assert_close("vmap", value, project(matrix, 2, 1), 1e-6)


def test_half_precision(rng: np.random.Generator) -> None:
    matrix = jnp.asarray(rng.standard_normal((8, 8)), jnp.bfloat16)
    blocks1, blocks2 = project_to_monarch(matrix, 2)
    assert blocks1.dtype == blocks2.dtype == jnp.bfloat16
    value = monarch_to_dense(blocks1, blocks2).astype(jnp.float32)
    wide = project(matrix.astype(jnp.float32), 2, None)
    assert error_ratio(value, wide) < 1e-2


def test_bad_matrices() -> None:
    with pytest.raises(ValueError, match=r"matrix must have shape \(out, in\), .* got \(4,\)"):
        project_to_monarch(jnp.ones(4), 2)
    with pytest.raises(ValueError, match=r"none of them 0, got \(0, 4\)"):
        project_to_monarch(jnp.ones((0, 4)), 2)
    with pytest.raises(TypeError, match="matrix must be floating point or complex, got int32"):
        project_to_monarch(jnp.ones((4, 4), jnp.int32), 2)
    with pytest.raises(ValueError, match="block_rank must be at least 1, got 0"):
        project_to_monarch(jnp.ones((4, 4)), 2, block_rank=0)


def test_two_factor_block_butterfly(rng: np.random.Generator) -> None:
    blocks1, blocks2 = random_array(rng, (3, 5, 5)), random_array(rng, (5, 3, 3))
    x = random_array(rng, (4, 15))
    chain = monarch_to_blocks(blocks1, blocks2)
    y = monarch_multiply(x, blocks1, blocks2)
    assert_close("chain", block_butterfly_multiply(x, chain), y, 1e-6)
    back = blocks_to_monarch(chain)
    np.testing.assert_array_equal(back[0], blocks1)
    np.testing.assert_array_equal(back[1], blocks2)


def test_a_butterfly_is_a_monarch_matrix() -> None:
    # the DFT after bit reversal: sqrt(N) blocks of rank one hold it exactly
    n = 64
    reversal = [int(f"{i:06b}"[::-1], 2) for i in range(n)]
    matrix = np.fft.fft(np.eye(n))[:, reversal].astype(np.complex64)
    assert error_ratio(project(jnp.asarray(matrix), 8, 1), matrix) < 1e-6
    assert error_ratio(project(jnp.asarray(matrix[:, ::-1].copy()), 4, 1), matrix) > 0.1
