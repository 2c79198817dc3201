"""The layers of structlayers as Flax Linen modules.

Each name is called like the nnx class of the same name, without `rngs` and with Linen's `name`; the
result initialises and applies, alone or inside a compact module, with the same parameter names.

Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from structlayers import linen as sl
    >>> model = sl.MonarchLinear(8, 4, num_blocks=2)
    >>> variables = model.init(jax.random.key(0), jnp.ones((1, 8)))
    >>> sorted(variables["params"])
    ['bias', 'blocks1', 'blocks2']
    >>> model.apply(variables, jnp.ones((5, 8))).shape
    (5, 4)
"""

from collections.abc import Callable
from functools import partial

from flax import linen, nnx

from structlayers.butterfly import layers as butterfly
from structlayers.equivariant import layers as equivariant
from structlayers.gla import layers as gla
from structlayers.structured import layers as structured

__all__ = [
    "ButterflyLinear",
    "CirculantLinear",
    "FastfoodLinear",
    "GatedLinearAttention",
    "GauntConvolution",
    "GauntManyBody",
    "GauntTensorProduct",
    "LDRLinear",
    "LearnedPermutation",
    "LowRankLinear",
    "MonarchLinear",
    "OrthogonalButterfly",
    "ToeplitzLikeLinear",
]

type LinenLayer = Callable[..., linen.Module]

ButterflyLinear: LinenLayer = partial(nnx.bridge.to_linen, butterfly.ButterflyLinear)
CirculantLinear: LinenLayer = partial(nnx.bridge.to_linen, structured.CirculantLinear)
FastfoodLinear: LinenLayer = partial(nnx.bridge.to_linen, structured.FastfoodLinear)
GatedLinearAttention: LinenLayer = partial(nnx.bridge.to_linen, gla.GatedLinearAttention)
GauntConvolution: LinenLayer = partial(nnx.bridge.to_linen, equivariant.GauntConvolution)
GauntManyBody: LinenLayer = partial(nnx.bridge.to_linen, equivariant.GauntManyBody)
GauntTensorProduct: LinenLayer = partial(nnx.bridge.to_linen, equivariant.GauntTensorProduct)
LDRLinear: LinenLayer = partial(nnx.bridge.to_linen, structured.LDRLinear)
LearnedPermutation: LinenLayer = partial(nnx.bridge.to_linen, butterfly.LearnedPermutation)
LowRankLinear: LinenLayer = partial(nnx.bridge.to_linen, structured.LowRankLinear)
MonarchLinear: LinenLayer = partial(nnx.bridge.to_linen, butterfly.MonarchLinear)
OrthogonalButterfly: LinenLayer = partial(nnx.bridge.to_linen, butterfly.OrthogonalButterfly)
ToeplitzLikeLinear: LinenLayer = partial(nnx.bridge.to_linen, structured.ToeplitzLikeLinear)
