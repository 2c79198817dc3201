"""Rivals of the butterfly products: the dense matmul, the FFT, two batched matmuls, plain stages.

The dense matrix and the merged blocks are made outside the clock: a model that uses them would
hold them as its parameters.
"""

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.dense_rivals import dense_rivals
from experiments.bench.floors import compute_dtype
from experiments.bench.loop import Arrays
from experiments.bench.rivals import Contender, Rival
from structlayers import butterfly
from structlayers._core.arg_spec import ArgSpec
from structlayers._core.precision import accumulation_dtype, canonicalize_precision


def _complex_rows(x: jax.Array, *_: Any) -> Arrays:
    return (x.astype(jnp.complex64),)


def _require_equal_sizes(spec: ArgSpec, name: str) -> None:
    """Refuses shapes whose results are not shaped as the rows."""
    x = jax.tree.leaves(spec.arrays)[0]
    op = functools.partial(getattr(butterfly, spec.op), **spec.static)
    if jax.eval_shape(op, *spec.arrays).shape != x.shape:
        raise NotImplementedError(f"the {name} has as many outputs as inputs")


def _require_fft(spec: ArgSpec) -> None:
    """Refuses dtypes and shapes that an FFT of the same rows does not have."""
    if compute_dtype(spec.arrays) not in (jnp.float32, jnp.complex64):
        raise NotImplementedError("the FFT works in float32")
    _require_equal_sizes(spec, "FFT")


def _fft(spec: ArgSpec) -> Contender:
    _require_fft(spec)
    return Contender(_complex_rows, jnp.fft.fft)


def _torch_fft(spec: ArgSpec) -> Contender:
    _require_fft(spec)

    def run(x: Any) -> Any:
        torch: Any = importlib.import_module("torch")
        return torch.fft.fft(x)

    return Contender(_complex_rows, run)


def _copy(spec: ArgSpec) -> Contender:
    _require_equal_sizes(spec, "copy")
    return Contender(lambda x, *_: (x,), jnp.negative)


def _apply_stage(x: jax.Array, weights: jax.Array) -> jax.Array:
    """One factor: x (*B, S, N), weights (S, P, s, 2, 2) with P = 1 when tied."""
    stride = weights.shape[2]
    parts = x.reshape(*x.shape[:-1], -1, 2, stride)  # *B S P j k
    by_entry = weights.transpose(3, 4, 0, 1, 2).astype(x.dtype)  # i j S P k
    by_entry = by_entry.reshape(2, 2, *(1,) * (x.ndim - 2), *by_entry.shape[2:])
    upper, lower = parts[..., 0, :], parts[..., 1, :]
    rows = [by_entry[i, 0] * upper + by_entry[i, 1] * lower for i in range(2)]
    return jnp.stack(rows, axis=-2).reshape(x.shape)


def _num_levels(twiddle: Any) -> int:
    """log2 N, of a twiddle (S, K, M, N/2, 2, 2) or, tied, (S, K, N-1, 2, 2)."""
    return (twiddle.shape[2] + 1).bit_length() - 1 if twiddle.ndim == 5 else twiddle.shape[2]


def _stages(twiddle: jax.Array, block: int) -> list[jax.Array]:
    """Factors of one block by increasing stride, each (S, P, s, 2, 2)."""
    stages = []
    for level in range(_num_levels(twiddle)):
        stride = 2**level
        if twiddle.ndim == 5:
            stages.append(twiddle[:, block, None, stride - 1 : 2 * stride - 1])
        else:
            stages.append(twiddle[:, block, level].reshape(len(twiddle), -1, stride, 2, 2))
    return stages


def _num_outputs(spec: ArgSpec) -> int | None:
    return spec.static.get("out_features")


def _increasing(spec: ArgSpec, block: int) -> bool:
    turned = bool(spec.static.get("alternating", True)) and block % 2 == 1
    return bool(spec.static.get("increasing_stride", True)) != turned


def _permuted(spec: ArgSpec, x: jax.Array, block: int) -> jax.Array:
    permutation = spec.static.get("permutation")
    if permutation is None:
        return x
    permutation = jnp.asarray(permutation)
    return x[..., permutation if permutation.ndim == 1 else permutation[block]]


def _padded(x: jax.Array, size: int) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])])


def _result_dtype(x: jax.Array, weights: jax.Array) -> Any:
    """Half-precision data keep their dtype; otherwise complex if either is."""
    if accumulation_dtype(x.dtype) != x.dtype:
        return x.dtype
    return weights.dtype if jnp.issubdtype(weights.dtype, jnp.complexfloating) else x.dtype


def _stage_loop(spec: ArgSpec) -> Contender:
    def run(x: jax.Array, twiddle: jax.Array) -> jax.Array:
        stacks, blocks = twiddle.shape[:2]
        size = 2 ** _num_levels(twiddle)
        y = _padded(x, size)[..., None, :]
        y = jnp.broadcast_to(y, (*y.shape[:-2], stacks, size))
        for block in range(blocks):
            stages = _stages(twiddle, block)
            y = _permuted(spec, y, block)
            for weights in stages if _increasing(spec, block) else reversed(stages):
                y = _apply_stage(y, weights)
        return y.reshape(*y.shape[:-2], stacks * size)[..., : _num_outputs(spec)]

    def prepare(x: jax.Array, twiddle: jax.Array) -> Arrays:
        return x.astype(_result_dtype(x, twiddle)), twiddle

    return Contender(prepare, run)


def _merge(stages: Sequence[jax.Array], increasing: bool) -> jax.Array:
    """The blocks of a product of neighbouring factors: (P, s, R, R), S = 1.

    A unit vector in every block at once gives one column of all blocks.
    """
    size = 2 * max(stage.shape[1] * stage.shape[2] for stage in stages)
    stride, top = stages[0].shape[2], 2 * stages[-1].shape[2]
    radix = top // stride
    units = jnp.eye(radix, dtype=stages[0].dtype)[:, None, :, None]  # j P i k
    x = jnp.broadcast_to(units, (radix, size // top, radix, stride)).reshape(radix, 1, size)
    for weights in stages if increasing else reversed(stages):
        x = _apply_stage(x, weights)
    return x.reshape(radix, -1, radix, stride).transpose(1, 3, 2, 0)


def _two_matmuls(spec: ArgSpec) -> Contender:
    twiddle = spec.arrays[1]
    stacks, blocks = twiddle.shape[:2]
    levels = _num_levels(twiddle)
    if stacks != 1 or levels < 2:
        raise NotImplementedError("two matmuls a block need one stack and N >= 4")
    precision = canonicalize_precision(spec.static.get("precision"))
    size, half = 2**levels, levels // 2

    def prepare(x: jax.Array, twiddle: jax.Array) -> Arrays:
        merged = []
        for block in range(blocks):
            stages, increasing = _stages(twiddle, block), _increasing(spec, block)
            merged.append([_merge(part, increasing) for part in (stages[:half], stages[half:])])
        dtype = _result_dtype(x, twiddle)
        return x.astype(dtype), jax.tree.map(lambda w: w.astype(dtype), merged)

    def apply(x: jax.Array, weights: jax.Array) -> jax.Array:
        groups, stride, radix, _ = weights.shape
        parts = x.reshape(*x.shape[:-1], size // (radix * stride), radix, stride)
        equation = "...pjk,pkij->...pik"
        if groups == 1 < parts.shape[-3]:  # tied
            weights, equation = weights[0], "...pjk,kij->...pik"
        return jnp.einsum(equation, parts, weights, precision=precision).reshape(x.shape)

    def run(x: jax.Array, merged: list[list[jax.Array]]) -> jax.Array:
        x = _padded(x, size)
        for block, pair in enumerate(merged):
            x = _permuted(spec, x, block)
            for weights in pair if _increasing(spec, block) else reversed(pair):
                x = apply(x, weights)
        return x[..., : _num_outputs(spec)]

    return Contender(prepare, run)


def _monarch_by_bmm(spec: ArgSpec) -> Contender:
    precision = canonicalize_precision(spec.static.get("precision"))

    def run(x: jax.Array, blocks1: jax.Array, blocks2: jax.Array) -> jax.Array:
        (count1, _, width1), (count2, height2, width2) = blocks1.shape, blocks2.shape
        rows = _padded(x, count1 * width1).reshape(-1, count1, width1).transpose(1, 0, 2)
        rows = jnp.matmul(rows, blocks1.transpose(0, 2, 1), precision=precision)  # k B q
        rows = rows.transpose(1, 0, 2).reshape(-1, width2, count2).transpose(2, 0, 1)  # l B r
        rows = jnp.matmul(rows, blocks2.transpose(0, 2, 1), precision=precision)  # l B s
        out = rows.transpose(1, 2, 0).reshape(*x.shape[:-1], height2 * count2)
        return out[..., : _num_outputs(spec)]

    return Contender(lambda *arrays: arrays, run)


_DENSE = dense_rivals(butterfly)
_FFT = (
    Rival("fft", _fft, False, "complex FFT of the rows"),
    Rival("torch_fft", _torch_fft, False, "complex FFT of the rows, torch", "torch"),
)

RIVALS = {
    "butterfly_multiply": (
        *_DENSE,
        *_FFT,
        Rival("copy", _copy, False, "negation: the rows read once and written once"),
        Rival("two_matmuls", _two_matmuls, True, "two batched matmuls a block"),
        Rival("stage_loop", _stage_loop, True, "one pass a factor"),
    ),
    "block_butterfly_multiply": (*_DENSE, *_FFT),
    "hadamard_multiply": (*_DENSE, *_FFT),
    "sorf_multiply": (*_DENSE, *_FFT),
    "monarch_multiply": (
        *_DENSE,
        *_FFT,
        Rival("two_matmuls", _monarch_by_bmm, True, "two batched matmuls"),
    ),
}
