"""Conversions between the forms of a butterfly, and its algebra."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.butterfly import (
    bit_reversal_permutation,
    block_butterfly_multiply,
    blocks_to_monarch,
    butterfly_compose,
    butterfly_conjugate,
    butterfly_kronecker,
    butterfly_multiply,
    butterfly_to_dense,
    butterfly_transpose,
    flip_stride_order,
    fold_diagonal,
    merge_blocks,
    merge_butterfly,
    monarch_to_blocks,
    split_blocks,
    tie_butterfly,
    twiddle_shape,
    untie_butterfly,
)
from structlayers.testing import assert_close, error_ratio
from tests.butterfly.dense_oracle import dense_oracle, random_array, random_twiddle


@functools.partial(jax.jit, static_argnames=("increasing_stride", "alternating"))
def to_dense(twiddle, **options):
    """The matrix of a converted twiddle."""
    return butterfly_to_dense(twiddle, **options)


def monarch_oracle(x, blocks1, blocks2):
    """The layout of monarch_multiply, step by step."""
    k, _, p = blocks1.shape
    width, s, r = blocks2.shape
    x = np.einsum("kqp,bkp->bkq", blocks1, x.reshape(-1, k, p))
    x = x.reshape(-1, r, width).transpose(0, 2, 1)
    x = np.einsum("lsr,blr->bls", blocks2, x)
    return x.transpose(0, 2, 1).reshape(-1, s * width)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("n", [1, 2, 16])
def test_tying(n, dtype, rng):
    tied = random_twiddle(rng, twiddle_shape(n, stacks=2, blocks=2, tied=True), dtype)
    untied = untie_butterfly(tied)
    assert untied.shape == twiddle_shape(n, stacks=2, blocks=2)
    assert_close("same matrix", to_dense(untied), dense_oracle(tied), 2e-6)
    np.testing.assert_array_equal(tie_butterfly(untied), tied)
    assert untie_butterfly(untied) is untied
    np.testing.assert_array_equal(tie_butterfly(tied), tied)


def test_tying_averages_the_copies(rng):
    untied = random_twiddle(rng, twiddle_shape(8))
    tied = tie_butterfly(untied)
    np.testing.assert_allclose(tied[0, 0, 0], untied[0, 0, 0].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(tied[0, 0, 1], untied[0, 0, 1, 0::2].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(tied[0, 0, 2], untied[0, 0, 1, 1::2].mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(tied[0, 0, 3:], untied[0, 0, 2])


@pytest.mark.parametrize("alternating", [True, False])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_transpose_and_conjugate(blocks, alternating, rng):
    n = 8
    for tied in (True, False):
        twiddle = random_twiddle(rng, twiddle_shape(n, blocks=blocks, tied=tied), "complex64")
        flips = not alternating or blocks % 2 == 1
        matrix = dense_oracle(twiddle, increasing_stride=True, alternating=alternating)
        transposed = to_dense(
            butterfly_transpose(twiddle), increasing_stride=not flips, alternating=alternating
        )
        assert_close("transpose", transposed, matrix.T, 2e-6)
        conjugated = to_dense(butterfly_conjugate(twiddle), alternating=alternating)
        assert_close("conjugate", conjugated, matrix.conj(), 2e-6)
    real = random_twiddle(rng, twiddle_shape(n))
    np.testing.assert_array_equal(butterfly_conjugate(real), real)


def test_compose(rng):
    n = 8
    first = random_twiddle(rng, twiddle_shape(n, blocks=2))
    second = random_twiddle(rng, twiddle_shape(n))
    product = to_dense(butterfly_compose(first, second))
    assert_close("product", product, dense_oracle(second) @ dense_oracle(first), 2e-6)
    with pytest.raises(ValueError, match="at least one"):
        butterfly_compose()
    with pytest.raises(ValueError, match=r"twiddles\[1\]"):
        butterfly_compose(first, random_twiddle(rng, twiddle_shape(16)))
    with pytest.raises(ValueError, match="complex64"):
        butterfly_compose(first, second.astype(np.complex64))


@pytest.mark.parametrize(("tied", "increasing_stride"), [(True, True), (False, False)])
@pytest.mark.parametrize("sizes", [(4, 8), (1, 4), (4, 1), (2, 2), (1, 1)])
def test_kronecker(sizes, tied, increasing_stride, rng):
    first, second = (random_twiddle(rng, twiddle_shape(n, blocks=2, tied=tied)) for n in sizes)
    product = butterfly_kronecker(first, second)
    assert product.shape == twiddle_shape(sizes[0] * sizes[1], blocks=2, tied=tied)
    options = {"increasing_stride": increasing_stride}
    matrix = to_dense(product, **options)
    expected = np.kron(dense_oracle(first, **options), dense_oracle(second, **options))
    assert_close("Kronecker product", matrix, expected, 2e-6)


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("increasing_stride", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
def test_fold_diagonal(blocks, increasing_stride, side, rng):
    n, stacks = 8, 2
    twiddle = random_twiddle(rng, twiddle_shape(n, stacks=stacks, blocks=blocks), "complex64")
    for alternating in (True, False):
        options = {"increasing_stride": increasing_stride, "alternating": alternating}
        matrix = dense_oracle(twiddle, **options).reshape(stacks, n, n)
        for diagonal in (
            random_array(rng, (n,), "float32"),
            random_array(rng, (stacks, n), "complex64"),
        ):
            folded = fold_diagonal(twiddle, diagonal, side=side, **options)
            scale = np.broadcast_to(diagonal, (stacks, n))
            scale = scale[:, None, :] if side == "input" else scale[:, :, None]
            expected = (matrix * scale).reshape(stacks * n, n)
            assert_close("matrix", to_dense(folded, **options), expected, 2e-6)


@pytest.mark.parametrize("n", [1, 2, 4, 32])
def test_flip_stride_order(n, rng):
    twiddle = random_twiddle(rng, twiddle_shape(n, stacks=2, blocks=2))
    order = bit_reversal_permutation(n)
    for increasing_stride in (True, False):
        matrix = dense_oracle(twiddle, increasing_stride=increasing_stride).reshape(2, n, n)
        flipped = to_dense(flip_stride_order(twiddle), increasing_stride=not increasing_stride)
        expected = matrix[:, order][:, :, order].reshape(2 * n, n)
        assert_close("P B P", flipped, expected, 2e-6)


@pytest.mark.parametrize(
    ("tied", "increasing_stride"), [(False, True), (False, False), (True, True), (True, False)]
)
@pytest.mark.parametrize("radices", [None, (8, 4), (2, 16), (2, 1, 16), (2, 2, 2, 2, 2)])
def test_merge_and_split(radices, tied, increasing_stride, rng):
    n = 32
    options = {"increasing_stride": increasing_stride}
    twiddle = random_twiddle(rng, twiddle_shape(n, stacks=2, tied=tied), "complex64")
    merge = functools.partial(merge_butterfly, radices=radices, **options)
    blocks = jax.jit(merge)(twiddle)
    assert [block.shape[-1] for block in blocks] == list(radices or (n,))
    assert all(block.shape[1] == 1 for block in blocks) or not tied
    x = random_array(rng, (5, n), "complex64")
    out = block_butterfly_multiply(x, blocks, **options)
    assert_close("merged", out, x @ dense_oracle(twiddle, **options).T, 2e-6)

    split, residual = jax.jit(functools.partial(split_blocks, tied=tied, **options))(blocks)
    assert split.shape == twiddle.shape
    assert residual < 1e-6
    again = to_dense(split, **options)
    assert_close("round trip", again, dense_oracle(twiddle, **options), 1e-6)


def test_round_trip_at_a_large_size(rng):
    twiddle = jnp.asarray(random_twiddle(rng, twiddle_shape(1024)))
    blocks = merge_butterfly(twiddle, (32, 32))
    split, residual = jax.jit(split_blocks)(blocks)
    assert residual < 1e-6
    x = random_array(rng, (4, 1024))
    assert_close("product", butterfly_multiply(x, split), butterfly_multiply(x, twiddle), 2e-6)


def test_split_reports_what_is_no_butterfly(rng):
    blocks = (random_array(rng, (1, 2, 1, 8, 8)), random_array(rng, (1, 1, 8, 2, 2)))
    split, residual = split_blocks(blocks)
    merged = merge_butterfly(split, (8, 2))
    assert residual > 0.1
    assert error_ratio(merged[0], blocks[0]) == pytest.approx(float(residual), rel=1e-4)
    zeros, none = split_blocks((np.zeros((1, 1, 1, 4, 4), np.float32),))
    np.testing.assert_array_equal(zeros, 0)
    assert none == 0


def test_split_of_shared_blocks_into_an_untied_twiddle(rng):
    tied = random_twiddle(rng, twiddle_shape(16, tied=True))
    split, residual = split_blocks(merge_butterfly(tied, (4, 4)))
    assert split.shape == twiddle_shape(16)
    assert residual < 1e-6
    assert_close("matrix", to_dense(split), dense_oracle(tied), 1e-6)


@pytest.mark.parametrize("increasing_stride", [True, False])
def test_merge_blocks_of_mixed_radices(increasing_stride, rng):
    blocks = (
        random_array(rng, (2, 10, 1, 3, 3)),
        random_array(rng, (2, 1, 3, 2, 2)),
        random_array(rng, (2, 1, 6, 5, 5)),
    )
    x = random_array(rng, (4, 30))
    expected = block_butterfly_multiply(x, blocks, increasing_stride=increasing_stride)
    for groups in ((2, 1), (1, 2), (3,), (1, 1, 1)):
        merged = merge_blocks(blocks, groups, increasing_stride=increasing_stride)
        assert len(merged) == len(groups)
        out = block_butterfly_multiply(x, merged, increasing_stride=increasing_stride)
        assert_close(f"groups {groups}", out, expected, 2e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("radix", [2, 4, 8])
def test_monarch_both_ways(radix, tied, rng):
    n = 16
    twiddle = random_twiddle(rng, twiddle_shape(n, tied=tied))
    blocks = merge_butterfly(twiddle, (radix, n // radix))
    first, second = blocks_to_monarch(blocks)
    assert first.shape == (n // radix, radix, radix)
    assert second.shape == (radix, n // radix, n // radix)
    x = random_array(rng, (3, n))
    out = monarch_oracle(x, np.asarray(first), np.asarray(second))
    assert_close("Monarch", out, x @ dense_oracle(twiddle).T, 2e-6)
    back = monarch_to_blocks(first, second)
    assert_close("and back", block_butterfly_multiply(x, back), out, 2e-6)


def test_conversions_pass_gradients(rng):
    twiddle = jnp.asarray(random_twiddle(rng, twiddle_shape(16)))

    def loss(twiddle):
        (low, high) = merge_butterfly(fold_diagonal(twiddle, jnp.arange(1.0, 17.0)), (4, 4))
        first, second = blocks_to_monarch((low, high))
        return jnp.sum(first**2) + jnp.sum(second**2) + jnp.sum(tie_butterfly(twiddle) ** 2)

    gradient = jax.jit(jax.grad(loss))(twiddle)
    assert gradient.shape == twiddle.shape
    direction = jnp.asarray(random_twiddle(rng, twiddle_shape(16)))
    small = 1e-3
    difference = (loss(twiddle + small * direction) - loss(twiddle - small * direction)) / 2e-3
    np.testing.assert_allclose(jnp.vdot(gradient, direction), difference, rtol=2e-3)


def test_bad_arguments_are_refused(rng):
    twiddle = random_twiddle(rng, twiddle_shape(8))
    tied = random_twiddle(rng, twiddle_shape(8, tied=True))
    diagonal = np.ones(8, np.float32)
    blocks = merge_butterfly(twiddle, (4, 2))
    for function in (
        untie_butterfly,
        tie_butterfly,
        butterfly_transpose,
        butterfly_conjugate,
        butterfly_compose,
        flip_stride_order,
        merge_butterfly,
    ):
        with pytest.raises(ValueError, match="must have shape"):
            function(twiddle[0])
        with pytest.raises(TypeError, match="got int32"):
            function(np.ones(twiddle.shape, np.int32))
    with pytest.raises(ValueError, match="must be untied"):
        flip_stride_order(tied)
    with pytest.raises(ValueError, match="must be untied"):
        fold_diagonal(tied, diagonal)
    with pytest.raises(ValueError, match=r"diagonal must have shape \(8,\) or \(1, 8\)"):
        fold_diagonal(twiddle, diagonal[:4])
    with pytest.raises(ValueError, match="side must be one of"):
        fold_diagonal(twiddle, diagonal, side="left")
    with pytest.raises(TypeError, match="diagonal must be real for a real twiddle"):
        fold_diagonal(twiddle, diagonal.astype(np.complex64))
    with pytest.raises(ValueError, match="one stack"):
        butterfly_kronecker(np.concatenate([twiddle, twiddle]), twiddle)
    with pytest.raises(ValueError, match="blocks, tying and dtype"):
        butterfly_kronecker(twiddle, tied)
    with pytest.raises(ValueError, match="one block to merge"):
        merge_butterfly(np.concatenate([twiddle, twiddle], axis=1))
    with pytest.raises(ValueError, match="radices must have product N = 8"):
        merge_butterfly(twiddle, (4, 4))
    with pytest.raises(ValueError, match="radix must be a power of two"):
        merge_butterfly(twiddle, (3, 3))
    with pytest.raises(ValueError, match="groups must be positive with sum 2"):
        merge_blocks(blocks, (1, 2))
    with pytest.raises(ValueError, match="P = 1 for a tied twiddle"):
        split_blocks(blocks, tied=True)
    with pytest.raises(ValueError, match=r"radix of blocks\[0\] must be a power of two"):
        split_blocks((random_array(rng, (1, 1, 1, 3, 3)),))
    with pytest.raises(ValueError, match="two factors of one stack"):
        blocks_to_monarch(merge_butterfly(twiddle, (2, 2, 2)))
    with pytest.raises(ValueError, match="must have shapes"):
        monarch_to_blocks(np.ones((2, 3, 3), np.float32), np.ones((2, 2, 2), np.float32))
