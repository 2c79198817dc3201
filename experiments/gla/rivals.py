"""Rivals of gated linear attention: causal softmax attention of the same shape."""

import jax

from experiments.bench.rivals import Contender, Rival
from structlayers._core.arg_spec import ArgSpec


def _softmax_attention(spec: ArgSpec) -> Contender:
    q, _, v, _ = spec.arrays
    if q.shape[-1] != v.shape[-1]:
        raise NotImplementedError("softmax attention has keys and values of one size")

    def prepare(q: jax.Array, k: jax.Array, v: jax.Array, _: jax.Array) -> tuple[jax.Array, ...]:
        return q, k, v

    def run(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    return Contender(prepare, run)


RIVALS = {
    "gated_linear_attention": (
        Rival("softmax_attention", _softmax_attention, False, "causal, quadratic in T"),
    )
}
