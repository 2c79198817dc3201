"""Muon for the matrices of a potential that mix channels, AMSGrad for all its other parameters.

The matrices of every layer, path, degree and element are filled up to one size and stand in one
array, so the products that make them orthogonal are as many as for one matrix.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.seeds import ParameterVector

# Names of parameters that are matrices in their last two axes. "radial" as the last of its names is
# the last layer of the radial networks, `(inner, paths, channels)`: in the first axis and the last.
_MATRICES = ("mix", "up", "skip", "update", "radial")
# Entries of an update have this root mean square, about that of AMSGrad's.
_SIZE = 0.2


@dataclass(frozen=True)
class _Leaf:
    """Parameters of one name, and the number of matrices they are and the shape of each, or 0."""

    size: int
    count: int = 0
    matrix: tuple[int, int] = (0, 0)
    last_layer: bool = False

    def blocks(self, values: jax.Array, size: tuple[int, int]) -> jax.Array:
        """`(count, *size)`, filled up with zeros."""
        moved = jnp.moveaxis(values, 0, 1) if self.last_layer else values
        gaps = [(0, large - own) for large, own in zip(size, self.matrix, strict=True)]
        return jnp.pad(moved.reshape(-1, *self.matrix), ((0, 0), *gaps))

    def update(self, blocks: jax.Array) -> jax.Array:
        """Of such matrices that are orthogonal, the update as a vector."""
        rows, columns = self.matrix
        found = _SIZE * max(rows, columns) ** 0.5 * blocks[:, :rows, :columns]
        return (jnp.moveaxis(found, 0, 1) if self.last_layer else found).ravel()


def scale_by_muon(vector: ParameterVector[Any]) -> optax.GradientTransformation:
    r"""Updates `0.2 sqrt(max(m, n)) U V^T` of matrices `(m, n)` with momentum `U S V^T`.

    Momentum is Nesterov's, 0.95; `U V^T` is approximated by five steps of Newton and Schulz, which
    leave rows and columns of zeros as they are.

    Args:
        vector: the parameters, which are one vector for this transformation.

    References:
        Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
        kellerjordan.github.io/posts/muon. Liu et al., "Muon is Scalable for LLM Training", 2025,
        arXiv:2502.16982, section 2.2 (the factor).
    """
    leaves = [_leaf(path, leaf.shape) for path, leaf in _named(vector.shapes)]
    matrices = [leaf for leaf in leaves if leaf.count]
    others = [leaf for leaf in leaves if not leaf.count]
    rows, columns = (max(sizes) for sizes in zip(*(leaf.matrix for leaf in leaves), strict=True))
    muon: Any = optax.contrib.scale_by_muon(
        weight_dimension_numbers=optax.contrib.MuonDimensionNumbers(1, 2)
    )
    amsgrad: Any = optax.scale_by_amsgrad()

    def split(values: jax.Array) -> tuple[jax.Array, jax.Array]:
        arrays = list(zip(leaves, jax.tree.leaves(vector.arrays(values)), strict=True))
        blocks = [leaf.blocks(x, (rows, columns)) for leaf, x in arrays if leaf.count]
        rest = [x.ravel() for leaf, x in arrays if not leaf.count]
        return jnp.concatenate(blocks), jnp.concatenate(rest)

    def join(blocks: jax.Array, rest: jax.Array) -> jax.Array:
        cut = jnp.split(blocks, list(itertools.accumulate(leaf.count for leaf in matrices))[:-1])
        scaled = (leaf.update(piece) for leaf, piece in zip(matrices, cut, strict=True))
        plain = iter(jnp.split(rest, list(itertools.accumulate(leaf.size for leaf in others))[:-1]))
        return jnp.concatenate([next(scaled if leaf.count else plain) for leaf in leaves])

    def init(params: Any) -> Any:
        blocks, rest = split(params)
        return muon.init(blocks), amsgrad.init(rest)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        blocks, rest = split(updates)
        blocks, first = muon.update(blocks, state[0])
        rest, second = amsgrad.update(rest, state[1])
        return join(blocks, rest), (first, second)

    return optax.GradientTransformation(init, update)


def _named(shapes: Any) -> Sequence[tuple[list[str], Any]]:
    found = jax.tree_util.tree_leaves_with_path(shapes)
    return [([str(getattr(entry, "key", "")) for entry in path], leaf) for path, leaf in found]


def _leaf(path: Sequence[str], shape: tuple[int, ...]) -> _Leaf:
    """What the parameters of this path are."""
    last_layer = path[-1] == "radial"
    # the first layer of the radial networks has few rows
    if not any(name in path for name in _MATRICES) or path[-2:] == ["kernels", "0"]:
        return _Leaf(math.prod(shape))
    matrix = (shape[0] if last_layer else shape[-2], shape[-1])
    return _Leaf(math.prod(shape), math.prod(shape) // math.prod(matrix), matrix, last_layer)
