"""Named shapes of the family's operations: the paper's models and figure, sizes of fla's registry.

Operations are those of the recurrence, per token: `3 K V` for each key head (decay, outer product,
sum) and `2 K V` for each query head.
"""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from structlayers._core.arg_spec import ArgSpec

_FIGURE = "Yang et al. 2024, arXiv:2312.06635, figure 2: B = 32, H = 16, head size 64"
_MODEL_340M = "Yang et al. 2024, arXiv:2312.06635, section 5: 340M parameters, d = 1024, H = 4"
_MODEL_1B = "Yang et al. 2024, arXiv:2312.06635, section 5: 1.3B parameters, d = 2048, H = 4"
_FLA = "flash-linear-attention, benchmarks/ops/registry.py"
_RETNET = "Sun et al. 2023, arXiv:2307.08621: one gate a head"
_EDGE = "edge case"


def _operations(q: tuple[int, ...], k: tuple[int, ...], values: int) -> int:
    """For q `(..., H, K)` and k `(..., G, K)`."""
    return math.prod(q) * 2 * values + math.prod(k) * 3 * values


def _attention(
    batch: int,
    time: int,
    heads: int,
    key: int,
    value: int,
    dtype: str,
    *,
    source: str,
    tags: Iterable[str],
    groups: int | None = None,
    scalar_gate: bool = False,
) -> ArgSpec:
    groups = groups or heads
    q, k = (batch, time, heads, key), (batch, time, groups, key)
    kind = "scalar" if scalar_gate else "gla"
    shared = f"g{groups}" if groups != heads else ""
    return ArgSpec(
        name=f"{kind}_b{batch}_t{time}_h{heads}{shared}_k{key}_v{value}_{dtype}",
        op="gated_linear_attention",
        arrays=(
            jax.ShapeDtypeStruct(q, jnp.dtype(dtype)),
            jax.ShapeDtypeStruct(k, jnp.dtype(dtype)),
            jax.ShapeDtypeStruct((*k[:-1], value), jnp.dtype(dtype)),
            jax.ShapeDtypeStruct((*k[:-1], 1) if scalar_gate else k, jnp.float32),
        ),
        static={},
        operations=_operations(q, k, value),
        source=source,
        tags=frozenset(tags),
        row_arrays=(0, 1, 2, 3),
    )


def _step(
    batch: int, heads: int, key: int, value: int, dtype: str, *, source: str, tags: Iterable[str]
) -> ArgSpec:
    shape = (batch, heads, key)
    half = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    return ArgSpec(
        name=f"step_b{batch}_h{heads}_k{key}_v{value}_{dtype}",
        op="gated_linear_attention_step",
        arrays=(
            half,
            half,
            jax.ShapeDtypeStruct((batch, heads, value), jnp.dtype(dtype)),
            jax.ShapeDtypeStruct(shape, jnp.float32),
            jax.ShapeDtypeStruct((*shape, value), jnp.float32),
        ),
        static={},
        operations=_operations(shape, shape, value),
        source=source,
        tags=frozenset(tags),
        row_arrays=(0, 1, 2, 3, 4),
    )


def make_inputs(spec: ArgSpec, key: jax.Array) -> tuple[jax.Array, ...]:
    """Normal arrays; log gates `log sigmoid(x) / 16` of normal x, as at the start of training."""
    keys = jax.random.split(key, len(spec.arrays))
    arrays = [
        jax.random.normal(draw, shape.shape).astype(shape.dtype)
        for draw, shape in zip(keys, spec.arrays, strict=True)
    ]
    arrays[3] = jax.nn.log_sigmoid(arrays[3]) / 16
    return tuple(arrays)


ARG_SPECS: tuple[ArgSpec, ...] = (
    _attention(2, 1, 1, 1, 1, "float32", source=_EDGE, tags=("smoke",)),
    _attention(2, 63, 2, 16, 24, "float32", source=_EDGE, tags=("smoke", "cpu")),
    _attention(2, 20, 4, 16, 16, "bfloat16", source=_EDGE, tags=("smoke",), groups=2),
    _attention(1, 30, 2, 16, 32, "float32", source=_RETNET, tags=("smoke",), scalar_gate=True),
    _attention(1, 512, 4, 128, 256, "float32", source=_MODEL_340M, tags=("cpu",)),
    _attention(1, 2048, 4, 64, 64, "float32", source=_FIGURE, tags=("cpu",)),
    *(
        _attention(8, time, 4, 128, 256, "bfloat16", source=_MODEL_340M, tags=("gpu", "tpu"))
        for time in (2048, 8192)
    ),
    _attention(8, 2048, 4, 256, 512, "bfloat16", source=_MODEL_1B, tags=("gpu", "tpu")),
    _attention(8, 8192, 4, 256, 512, "bfloat16", source=_MODEL_1B, tags=("gpu",)),
    *(
        _attention(1, time, 4, 128, 256, "bfloat16", source=_MODEL_340M, tags=("gpu",))
        for time in (16384, 32768)
    ),
    _attention(32, 2048, 16, 64, 64, "bfloat16", source=_FIGURE, tags=("gpu", "tpu")),
    _attention(
        8, 2048, 4, 128, 256, "bfloat16", source=_RETNET, tags=("gpu", "tpu"), scalar_gate=True
    ),
    *(
        _attention(batch, time, heads, size, size, "bfloat16", source=_FLA, tags=("gpu",))
        for batch, time, heads, size in (
            (1, 8192, 96, 128),
            (2, 16384, 16, 128),
            (4, 2048, 16, 128),
            (4, 4096, 64, 128),
            (8, 2048, 32, 256),
            (8, 1024, 8, 64),
        )
    ),
    _step(3, 2, 16, 24, "float32", source=_EDGE, tags=("smoke",)),
    _step(8, 4, 128, 256, "float32", source=_MODEL_340M, tags=("cpu",)),
    *(
        _step(batch, 4, key, 2 * key, "bfloat16", source=source, tags=("gpu", "tpu"))
        for batch in (8, 64)
        for key, source in ((128, _MODEL_340M), (256, _MODEL_1B))
    ),
)
