"""Rivals of gated linear attention: softmax attention of the same width, and fla's kernels.

Attention has queries, keys and values of `V` features a head, as many in all as the op has values:
a layer of the same model dimension. Where `V` is not 128, what cuDNN is fastest at, it stands there
with heads of 128 features too.
"""

import functools
import importlib
import importlib.util
import math
from collections.abc import Callable
from typing import Any, Literal

import jax

from experiments.bench.rivals import Contender, Rival
from structlayers._core.arg_spec import ArgSpec

_USUAL = 128  # features of a head in most transformers
_CUDNN_LARGEST = 256
_WEIGHTS = 2**33  # attention weights that XLA's attention may hold, 4 bytes each


def _attention(
    spec: ArgSpec, implementation: Literal["xla", "cudnn"], size: int | None = None
) -> Contender:
    """Causal attention of heads of `size` features, by default `V`."""
    *batch, time, heads, values = spec.arrays[2].shape
    size = size or values
    if heads * values % size:
        raise NotImplementedError(f"{heads * values} features are no heads of {size}")
    shape = (math.prod(batch), time, heads * values // size, size)

    def prepare(q: jax.Array, *_: jax.Array) -> tuple[jax.Array, ...]:
        keys = jax.random.split(jax.random.key(0), 3)
        return tuple(jax.random.normal(key, shape, q.dtype) for key in keys)

    attend = functools.partial(jax.nn.dot_product_attention, is_causal=True)
    return Contender(prepare, functools.partial(attend, implementation=implementation))


def _xla_attention(spec: ArgSpec) -> Contender:
    *batch, time, heads, _ = spec.arrays[2].shape
    weights = math.prod(batch) * heads * time**2
    if weights > _WEIGHTS:
        raise NotImplementedError(f"it would hold {weights} weights, over {_WEIGHTS}")
    return _attention(spec, "xla")


def _require_cudnn(spec: ArgSpec, size: int) -> None:
    if jax.default_backend() != "gpu":
        raise NotImplementedError("cuDNN needs an NVIDIA GPU")
    if str(spec.arrays[0].dtype) not in ("bfloat16", "float16"):
        raise NotImplementedError("cuDNN's attention takes bfloat16 and float16")
    if size > _CUDNN_LARGEST:
        raise NotImplementedError(f"cuDNN's heads have {_CUDNN_LARGEST} features at most")


def _cudnn_attention(spec: ArgSpec) -> Contender:
    _require_cudnn(spec, spec.arrays[2].shape[-1])
    return _attention(spec, "cudnn")


def _cudnn_attention_usual(spec: ArgSpec) -> Contender:
    if spec.arrays[2].shape[-1] <= _USUAL:
        raise NotImplementedError(f"heads have no more than {_USUAL} features")
    _require_cudnn(spec, _USUAL)
    return _attention(spec, "cudnn", _USUAL)


def _require_fla(spec: ArgSpec) -> None:
    if importlib.util.find_spec("fla") is None:
        raise NotImplementedError("flash-linear-attention is not installed")
    q, k, *_, gate = spec.arrays[:4]
    if q.ndim > 4 or q.shape != k.shape or gate.shape != k.shape:
        raise NotImplementedError("fla takes one key head for each query head, gates of K channels")


def _fla(name: str) -> Callable[[ArgSpec], Contender]:
    def make(spec: ArgSpec) -> Contender:
        _require_fla(spec)

        def run(q: Any, k: Any, v: Any, log_gate: Any) -> Any:
            ops: Any = importlib.import_module("fla.ops.gla")
            return getattr(ops, name)(q, k, v, log_gate)[0]

        return Contender(lambda *arrays: arrays, run)

    return make


def _fla_step(spec: ArgSpec) -> Contender:
    _require_fla(spec)

    def prepare(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        return *(array[:, None] for array in arrays[:4]), arrays[4]

    def run(q: Any, k: Any, v: Any, log_gate: Any, state: Any) -> Any:
        ops: Any = importlib.import_module("fla.ops.gla")
        out, _ = ops.fused_recurrent_gla(
            q, k, v, log_gate, initial_state=state, output_final_state=True
        )
        return out[:, 0]

    return Contender(prepare, run)


RIVALS = {
    "gated_linear_attention": (
        Rival("xla_attention", _xla_attention, False, "causal attention of XLA, equal d and heads"),
        Rival("cudnn_attention", _cudnn_attention, False, "causal, cuDNN, equal d and heads"),
        Rival(
            "cudnn_attention_128",
            _cudnn_attention_usual,
            False,
            "causal, cuDNN, equal d, heads of 128",
        ),
        Rival("fla", _fla("chunk_gla"), True, "fla's chunk_gla", "torch"),
    ),
    "gated_linear_attention_step": (
        Rival("fla", _fla_step, False, "fla's fused_recurrent_gla of one token", "torch"),
    ),
}
