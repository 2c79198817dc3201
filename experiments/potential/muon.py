"""Muon for the matrices of a potential that mix channels, AMSGrad for all its other parameters.

Blocks of one shape are one array, from all layers, paths, degrees and elements: the products that
make them orthogonal are as many as for one matrix.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.seeds import ParameterVector

# Names of parameters that are matrices in their last two axes. "radial" as the last of its names is
# the last layer of the radial networks, `(inner, paths, channels)`: in the first axis and the last.
_MATRICES = ("mix", "up", "skip", "update", "radial")
# Entries of an update have this root mean square, about that of AMSGrad's.
_SIZE = 0.2


class _Leaf(NamedTuple):
    """Parameters of one name, and the shape of their matrices, None where they are none."""

    shape: tuple[int, ...]
    matrix: tuple[int, int] | None
    last_layer: bool

    def blocks(self, values: jax.Array) -> jax.Array:
        """`(count, rows, columns)`."""
        assert self.matrix is not None
        moved = jnp.moveaxis(values, 0, 1) if self.last_layer else values
        return moved.reshape(-1, *self.matrix)

    def flat(self, values: jax.Array) -> jax.Array:
        """The reverse; both as vectors."""
        if self.last_layer:
            assert self.matrix is not None
            values = jnp.moveaxis(values.reshape(-1, *self.matrix), 0, 1).ravel()
        return values


def scale_by_muon(vector: ParameterVector[Any]) -> optax.GradientTransformation:
    r"""Updates `0.2 sqrt(max(m, n)) U V^T` of matrices `(m, n)` with momentum `U S V^T`.

    Momentum is Nesterov's, 0.95; `U V^T` is approximated by five steps of Newton and Schulz.

    Args:
        vector: the parameters, which are one vector for this transformation.

    References:
        Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
        kellerjordan.github.io/posts/muon. Liu et al., "Muon is Scalable for LLM Training", 2025,
        arXiv:2502.16982, equation 4 (the factor).
    """
    leaves = [_leaf(path, leaf.shape) for path, leaf in _named(vector.shapes)]
    shapes = sorted({leaf.matrix for leaf in leaves if leaf.matrix is not None})
    names = {shape: "x".join(map(str, shape)) for shape in shapes}
    dimensions = dict.fromkeys(names.values(), optax.contrib.MuonDimensionNumbers(1, 2))
    muon: Any = optax.contrib.scale_by_muon(weight_dimension_numbers=dimensions)
    others: Any = optax.scale_by_amsgrad()

    def split(values: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        arrays = list(zip(leaves, jax.tree.leaves(vector.arrays(values)), strict=True))
        rest = [array.ravel() for leaf, array in arrays if leaf.matrix is None]
        blocks = {
            name: jnp.concatenate([leaf.blocks(x) for leaf, x in arrays if leaf.matrix == shape])
            for shape, name in names.items()
        }
        return blocks, jnp.concatenate(rest)

    def join(blocks: dict[str, jax.Array], rest: jax.Array) -> jax.Array:
        found = {shape: blocks[name].ravel() for shape, name in names.items()} | {None: rest}
        parts = {}
        for shape, values in found.items():
            own = [leaf for leaf in leaves if leaf.matrix == shape]
            ends = list(itertools.accumulate(math.prod(leaf.shape) for leaf in own))
            cut = jnp.split(values, ends[:-1])
            parts[shape] = (leaf.flat(piece) for leaf, piece in zip(own, cut, strict=True))
        return jnp.concatenate([next(parts[leaf.matrix]) for leaf in leaves])

    def init(params: Any) -> Any:
        blocks, rest = split(params)
        return muon.init(blocks), others.init(rest)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        blocks, rest = split(updates)
        blocks, first = muon.update(blocks, state[0])
        rest, second = others.update(rest, state[1])
        scaled = {name: _SIZE * max(shape) ** 0.5 * blocks[name] for shape, name in names.items()}
        return join(scaled, rest), (first, second)

    return optax.GradientTransformation(init, update)


def _named(shapes: Any) -> Sequence[tuple[list[str], Any]]:
    found = jax.tree_util.tree_leaves_with_path(shapes)
    return [([str(getattr(entry, "key", "")) for entry in path], leaf) for path, leaf in found]


def _leaf(path: Sequence[str], shape: tuple[int, ...]) -> _Leaf:
    """What the parameters of this path are."""
    last_layer = path[-1] == "radial"
    # the first layer of the radial networks has few rows
    if not any(name in path for name in _MATRICES) or path[-2:] == ["kernels", "0"]:
        return _Leaf(shape, None, last_layer=False)
    return _Leaf(shape, (shape[0] if last_layer else shape[-2], shape[-1]), last_layer)
