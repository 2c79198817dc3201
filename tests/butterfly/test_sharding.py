"""Batches sharded over eight virtual devices give what one device gives."""

import functools

import numpy as np
import pytest

from structlayers.butterfly import (
    bit_reversal_permutation,
    block_butterfly_multiply,
    butterfly_multiply,
    merge_butterfly,
    twiddle_shape,
)
from structlayers.testing import assert_sharded_equals_single
from tests.butterfly.dense_oracle import random_array, random_twiddle


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("implementation", ["xla", "dense"])
def test_butterfly_multiply(implementation, axis, rng):
    n = 64
    twiddle = random_twiddle(rng, twiddle_shape(n, stacks=2, blocks=2), "complex64")
    x = random_array(rng, (8, 16, 60) if axis == 0 else (3, 16, 60))
    multiply = functools.partial(
        butterfly_multiply,
        permutation=bit_reversal_permutation(n),
        out_features=100,
        implementation=implementation,
    )
    assert_sharded_equals_single(multiply, (x, twiddle), (axis, None), bound=2e-6)


def test_block_butterfly_multiply(rng):
    blocks = merge_butterfly(random_twiddle(rng, twiddle_shape(64)), (8, 8))
    x = random_array(rng, (16, 64))
    assert_sharded_equals_single(
        block_butterfly_multiply, (x, tuple(map(np.asarray, blocks))), (0, None), bound=2e-6
    )
