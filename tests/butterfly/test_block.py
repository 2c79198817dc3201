"""block_butterfly_multiply: factors of any radix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.butterfly import block_butterfly_multiply
from structlayers.testing import assert_close, assert_gradients_match
from tests.butterfly.dense_oracle import random_array

RADICES = [(1,), (5,), (3, 4), (2, 3, 5), (16, 2), (1, 6, 1)]


def random_blocks(rng, radices, *, stacks=1, tied=False, dtype="float32"):
    """Blocks by increasing stride, scaled so that the product keeps its size."""
    size, stride, blocks = int(np.prod(radices)), 1, []
    for radix in radices:
        copies = 1 if tied else size // (radix * stride)
        shape = (stacks, copies, stride, radix, radix)
        blocks.append(random_array(rng, shape, dtype) / np.sqrt(np.float32(radix)))
        stride *= radix
    return tuple(blocks)


def dense_from_blocks(blocks, increasing_stride):
    """The matrix, from the index formula."""
    size = int(np.prod([block.shape[-1] for block in blocks]))
    rows = []
    for stack in range(blocks[0].shape[0]):
        matrix = np.eye(size, dtype=np.complex128)
        for block in blocks if increasing_stride else blocks[::-1]:
            _, copies, stride, radix, _ = block.shape
            factor = np.zeros((size, size), np.complex128)
            for p in range(size // (radix * stride)):
                for k in range(stride):
                    index = p * radix * stride + np.arange(radix) * stride + k
                    factor[np.ix_(index, index)] = block[stack, p % copies, k]
            matrix = factor @ matrix
        rows.append(matrix)
    return np.concatenate(rows)


@pytest.mark.parametrize("implementation", ["xla", "reference", None])
@pytest.mark.parametrize("radices", RADICES)
def test_equals_the_definition(radices, implementation, rng):
    size = int(np.prod(radices))
    for tied, increasing_stride, dtype in (
        (False, True, "float32"),
        (True, False, "complex64"),
        (False, False, "complex64"),
    ):
        blocks = random_blocks(rng, radices, stacks=2, tied=tied, dtype=dtype)
        width = max(1, size - 1)
        x = random_array(rng, (3, width), dtype)
        multiply = functools.partial(
            block_butterfly_multiply,
            increasing_stride=increasing_stride,
            out_features=2 * size - 1,
            implementation=implementation,
        )
        out = jax.jit(multiply)(x, blocks)
        matrix = dense_from_blocks(blocks, increasing_stride)[: 2 * size - 1, :width]
        assert out.dtype == dtype
        assert_close("product", out, x @ matrix.T, 2e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_gradients(implementation, tied, rng):
    blocks = random_blocks(rng, (3, 8, 5), tied=tied)
    x = random_array(rng, (4, 2, 120))
    multiply = functools.partial(block_butterfly_multiply, increasing_stride=False)
    assert_gradients_match(
        jax.jit(functools.partial(multiply, implementation=implementation)),
        jax.jit(functools.partial(multiply, implementation="reference")),
        (x, blocks),
        2e-6,
    )


def test_half_precision_within_a_hundredth(rng):
    blocks = random_blocks(rng, (3, 256))
    x = jnp.asarray(random_array(rng, (8, 768)), jnp.bfloat16)
    assert_gradients_match(
        jax.jit(block_butterfly_multiply),
        jax.jit(functools.partial(block_butterfly_multiply, implementation="reference")),
        (x, blocks),
        1e-2,
    )


def test_empty_batch_and_one_vector(rng):
    blocks = random_blocks(rng, (3, 4))
    assert block_butterfly_multiply(np.zeros((0, 12), np.float32), blocks).shape == (0, 12)
    assert block_butterfly_multiply(np.zeros(5, np.float32), blocks).shape == (12,)


def test_bad_blocks_are_refused(rng):
    x, blocks = random_array(rng, (2, 12)), random_blocks(rng, (3, 4))
    with pytest.raises(ValueError, match="at least one array"):
        block_butterfly_multiply(x, ())
    with pytest.raises(ValueError, match=r"blocks\[1\] must have shape \(S, P, s, R, R\), got"):
        block_butterfly_multiply(x, (blocks[0], blocks[1][0]))
    with pytest.raises(
        ValueError, match=r"blocks\[0\] must have shape .* = \(1, 4 or 1, 1, 3, 3\)"
    ):
        block_butterfly_multiply(x, (blocks[0][:, :2], blocks[1]))
    with pytest.raises(ValueError, match=r"blocks\[0\]"):
        block_butterfly_multiply(x, blocks[::-1])
    with pytest.raises(ValueError, match="x must have between 1 and N = 12"):
        block_butterfly_multiply(random_array(rng, (2, 13)), blocks)
    with pytest.raises(ValueError, match="out_features"):
        block_butterfly_multiply(x, blocks, out_features=13)
    with pytest.raises(TypeError, match=r"blocks\[0\] must be floating point"):
        block_butterfly_multiply(x, (np.ones((1, 1, 1, 12, 12), np.int32),))
