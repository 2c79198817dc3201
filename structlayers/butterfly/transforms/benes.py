"""Any permutation as the butterfly `B B^T`: a Beneš network routed by the looping algorithm."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from structlayers._core.checks import require_power_of_two
from structlayers.butterfly.operator import ButterflyOperator
from structlayers.butterfly.permutations import inverse_permutation, require_permutation
from structlayers.butterfly.transforms.build import (
    make_operator,
    require_twiddle_dtype,
)


def permutation_network(
    permutation: ArrayLike, *, dtype: DTypeLike = jnp.float32
) -> ButterflyOperator:
    """The permutation `y = x[permutation]` as two blocks whose 2 x 2 blocks pass or swap.

    The switches of stride N/2 at the input and at the output let every pair `(i, i + N/2)` send
    one element through each half of the network, which is again such a network: strides N/2 .. 1,
    then 1 .. N/2. The paths through the halves are a two-colouring of the cycles made by the input
    and output pairs; one exists for every permutation, all cycles of a level are coloured at once.

    Args:
        permutation: integers `(n,)`, n a power of two.
        dtype: real or complex floating point; the entries are 0 and 1, exact in any.

    Returns:
        The operator, `(*B, n)` to `(*B, n)`, exact.

    Raises:
        ValueError: not a permutation, n not a power of two, or a bad `dtype`.

    Example:
        >>> operator = permutation_network(np.array([2, 0, 3, 1]))
        >>> operator(jnp.array([10.0, 20.0, 30.0, 40.0])).tolist()
        [30.0, 10.0, 40.0, 20.0]

    References:
        Beneš, "Mathematical theory of connecting networks and telephone traffic", 1965.
        Waksman, "A permutation network", 1968. Dao et al., "Kaleidoscope: an efficient, learnable
        representation for all structured linear maps", 2020, arXiv:2012.14966, appendix.
    """
    require_permutation("permutation", permutation)
    order = np.asarray(permutation).astype(np.int64)
    if order.ndim != 1:
        raise ValueError(f"permutation must have one axis, got shape {order.shape}")
    n = require_power_of_two("size of permutation", order.size)
    dtype = require_twiddle_dtype(dtype, complex_values=False)
    inputs: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    half = n // 2
    while half >= 1:
        out_side, in_side = _sides(order, half)
        inputs.append(_switches(in_side, half))
        outputs.append(_switches(out_side, half))
        # where each element enters and leaves the inner networks, one per half
        index = np.arange(n)
        into = (index & ~half) | (in_side * half)
        out_of = (index & ~half) | (out_side * half)
        inner = np.empty_like(order)
        inner[out_of] = into[order]
        order = inner
        half //= 2
    return make_operator([inputs[::-1], outputs[::-1]], dtype=dtype, increasing_stride=False)


def _sides(order: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    """Which half (0 or 1) every output comes from and every input goes to, `(n,)` each."""
    n = order.size
    index = np.arange(n)
    inverse = inverse_permutation(order)
    # two steps along a cycle: to the output's partner, then to the output of its input's partner
    step = inverse[order[index ^ half] ^ half]
    smallest = index
    reach = step
    for _ in range(n.bit_length()):  # the least index on each orbit, by doubling the reach
        smallest = np.minimum(smallest, smallest[reach])
        reach = reach[reach]
    out_side = (smallest > smallest[index ^ half]).astype(np.int64)
    in_side = np.empty_like(out_side)
    in_side[order] = out_side
    return out_side, in_side


def _switches(side: np.ndarray, stride: int) -> np.ndarray:
    """2 x 2 blocks `(n/2, 2, 2)` that swap where the first element of a pair has side 1."""
    swap = side.reshape(-1, 2, stride)[:, 0].reshape(-1, 1, 1) == 1
    return np.where(swap, np.array([[0.0, 1.0], [1.0, 0.0]]), np.eye(2))
