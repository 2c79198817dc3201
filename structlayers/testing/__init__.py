"""Helpers for testing ops: error ratios, gradients, equivariance, sharding, TPU compilation.

They are shipped, so that code which builds on an op can be tested the way the op is.
"""

from structlayers.testing.equivariance import assert_equivariant as assert_equivariant
from structlayers.testing.errors import assert_close as assert_close
from structlayers.testing.errors import error_ratio as error_ratio
from structlayers.testing.gradients import assert_gradients_match as assert_gradients_match
from structlayers.testing.sharding import (
    assert_sharded_equals_single as assert_sharded_equals_single,
)

__all__ = [
    "assert_close",
    "assert_equivariant",
    "assert_gradients_match",
    "assert_sharded_equals_single",
    "error_ratio",
]
