"""Named shapes of Monarch products, from the papers that use them."""

import math

import jax
import jax.numpy as jnp

from structlayers._core.arg_spec import ArgSpec
from structlayers.butterfly.monarch.shapes import monarch_shapes


def _spec(
    name: str,
    batch: tuple[int, ...],
    in_features: int,
    out_features: int,
    num_blocks: int,
    dtype: str,
    source: str,
    tags: str,
    block_rank: int | None = None,
) -> ArgSpec:
    shape1, shape2 = monarch_shapes(in_features, out_features, num_blocks, block_rank=block_rank)
    per_multiply = 8 if dtype.startswith("complex") else 2
    rows, weights = math.prod(batch), math.prod(shape1) + math.prod(shape2)
    arrays = ((*batch, in_features), shape1, shape2)
    return ArgSpec(
        name=name,
        op="monarch_multiply",
        arrays=tuple(jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape in arrays),
        static={"out_features": out_features},
        operations=per_multiply * rows * weights,
        source=source,
        tags=frozenset(tags.split()),
    )


_GPT2 = "Dao et al. 2022, arXiv:2204.00595: GPT-2 small with 4 blocks"
_BERT = "Dao et al. 2022, arXiv:2204.00595: BERT large with 4 blocks"
_SQUARE = "Dao et al. 2022, arXiv:2204.00595, section 3.1: sqrt(N) blocks"

MONARCH_ARG_SPECS: tuple[ArgSpec, ...] = (
    _spec("monarch_10_to_6_k3_float32", (5,), 10, 6, 3, "float32", "odd sizes", "smoke cpu"),
    _spec("monarch_n64_k8_b32_complex64", (32,), 64, 64, 8, "complex64", _SQUARE, "smoke cpu gpu"),
    _spec("monarch_n256_k16_b256_float32", (256,), 256, 256, 16, "float32", _SQUARE, "cpu gpu tpu"),
    *(
        _spec(f"monarch_n{n}_k{k}_b{rows}_{dtype}", (rows,), n, n, k, dtype, _SQUARE, "gpu tpu")
        for n, k, rows in ((1024, 32, 16384), (4096, 64, 16384), (16384, 128, 2048))
        for dtype in ("float32", "bfloat16")
    ),
    *(
        _spec(f"monarch_gpt2_{a}_to_{b}_bfloat16", (8, 1024), a, b, 4, "bfloat16", _GPT2, "gpu tpu")
        for a, b in ((768, 3072), (3072, 768))
    ),
    *(
        _spec(f"monarch_bert_{a}_to_{b}_bfloat16", (32, 512), a, b, 4, "bfloat16", _BERT, "gpu tpu")
        for a, b in ((1024, 4096), (4096, 1024))
    ),
)
