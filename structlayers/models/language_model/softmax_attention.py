"""Softmax attention with rotary positions, grouped heads and a cache of keys and values."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core.checks import is_known, require_choice, require_positive, require_shape
from structlayers._core.layers import PromoteDtype, require_features
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.gla.layers import timewise
from structlayers.gla.ops.arguments import check_segment_ids
from structlayers.models.language_model import parts

_LECUN_NORMAL = nnx.initializers.lecun_normal()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SoftmaxAttentionState:
    """Keys and values of the tokens before, in a cache of fixed length S; a pytree.

    Attributes:
        keys: `(*B, S, G, K)`, rotated.
        values: `(*B, S, G, K)`.
        position: int32 `(*B,)`, the number of tokens seen.
    """

    keys: jax.Array
    values: jax.Array
    position: jax.Array


class SoftmaxAttention(nnx.Module):
    """`y = o W_o`, `o_t = sum_(i <= t) softmax_i(q_t k_i / sqrt(K)) v_i` by heads.

    Queries and keys are rotated by their positions. `(2 + 2 G / H) d^2` parameters, `K = d / H`.

    Args:
        features: size d of the last axis.
        num_heads: heads H of queries.
        num_kv_heads: heads G of keys and values, a divisor of H; None is H.
        rope_theta: base of the rotary angles.
        dtype: the dtype of the computation; None is inferred from inputs and parameters. Softmax is
            computed in float32.
        param_dtype: real dtype of the parameters.
        precision: of the products; None is the highest (see `structlayers`' precision rules).
            With bfloat16 or float16, attention's float32 cotangents are multiplied at "default".
        kernel_init: initializer of the projections.
        promote_dtype: casts inputs and parameters to `dtype`.
        attention: whose `dot_product_attention` is called, "jax" (that of `jax.nn`), "cudnn" (the
            same by cuDNN: GPUs, bfloat16 and float16 only) or "tokamax".
        rngs: random keys; `params` is used.
        in_kernel_metadata: metadata, such as `out_sharding`, of the projections `(d, heads)`.
        out_kernel_metadata: metadata of the output projection `(heads, d)`.

    Raises:
        ValueError: a size below 1, heads that do not divide d, an odd `d / H`, or an unknown
            `attention`.
        ImportError: tokamax is asked for and not installed.

    Example:
        >>> layer = SoftmaxAttention(16, num_heads=2, rngs=nnx.Rngs(0))
        >>> x = jax.random.normal(jax.random.key(0), (3, 10, 16))
        >>> y, state = layer.prefill(x[:, :9], layer.initial_state(3, max_length=10))
        >>> last, state = layer.step(x[:, 9], state)
        >>> bool(jnp.allclose(last, layer(x)[:, 9], atol=1e-5))
        True

    References:
        Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.2.
        Ainslie et al., "GQA", 2023, arXiv:2305.13245 (grouped heads).
    """

    # its state has a place for every token: `initial_state` asks how many
    state_grows = True

    def __init__(
        self,
        features: int,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        rope_theta: float = 10000.0,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _LECUN_NORMAL,
        promote_dtype: PromoteDtype = dtypes.promote_dtype,
        attention: str = "jax",
        rngs: nnx.Rngs,
        in_kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        out_kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.features = require_positive("features", features)
        self.num_heads = require_positive("num_heads", num_heads)
        groups = num_heads if num_kv_heads is None else num_kv_heads
        self.num_kv_heads = require_positive("num_kv_heads", groups)
        parts.require_even_heads("features", features, num_heads)
        if num_heads % groups:
            raise ValueError(f"num_kv_heads must divide num_heads = {num_heads}, got {groups}")
        self.rope_theta = rope_theta
        self.attention = _attention(attention)
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = canonicalize_precision(precision)
        linear = partial(
            parts.projection,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=kernel_init,
            promote_dtype=promote_dtype,
            rngs=rngs,
        )
        shared = features // num_heads * groups
        self.query = linear(features, features, metadata=in_kernel_metadata)
        self.key = linear(features, shared, metadata=in_kernel_metadata)
        self.value = linear(features, shared, metadata=in_kernel_metadata)
        self.output = linear(features, features, metadata=out_kernel_metadata)

    def __call__(self, inputs: ArrayLike, *, segment_ids: ArrayLike | None = None) -> jax.Array:
        """Applies the layer to whole sequences.

        Args:
            inputs: `(*B, T, features)`.
            segment_ids: integers `(*B, T)` that do not decrease: tokens see their own segment only.

        Returns:
            `(*B, T, features)` in the promoted dtype.

        Raises:
            ValueError: another shape.
        """
        with jax.named_scope("structlayers.SoftmaxAttention"):
            x = timewise.sequences(inputs, self.features)
            q, k, v = self._heads(x, timewise.time_index((1,) * (x.ndim - 2) + x.shape[-2:-1]))
            mask = None
            if segment_ids is not None:
                ids = check_segment_ids(segment_ids, x.shape[:-1])
                mask = ids[..., :, None] == ids[..., None, :]
            return self._attend(q, k, v, mask, is_causal=True)

    def prefill(
        self,
        inputs: ArrayLike,
        state: SoftmaxAttentionState,
        *,
        lengths: ArrayLike | None = None,
    ) -> tuple[jax.Array, SoftmaxAttentionState]:
        """Applies the layer to prompts, or to the next piece of a sequence, and keeps the state.

        Args:
            inputs: `(*B, T, features)`.
            state: of the tokens before.
            lengths: integers `(*B,)` from 0 to T: the tokens that count in each prompt, from the
                left. Outputs of the others are 0, and no later token sees them. None is T.

        Returns:
            `(*B, T, features)`, and the next state. Outputs of tokens for which the cache has no
            place are NaN.

        Raises:
            ValueError: another shape, or more tokens than places, as far as it is known.
        """
        with jax.named_scope("structlayers.SoftmaxAttention"):
            x = timewise.sequences(inputs, self.features)
            counts, valid = timewise.counted(lengths, x.shape[:-1])
            self._check_state(state, x.shape[:-2])
            position, places = state.position + counts, state.keys.shape[-3]
            if is_known(position) and bool(jnp.any(position > places)):
                raise ValueError(
                    f"the cache has {places} places, got tokens up to {position.max()}: "
                    "make initial_state with a larger max_length"
                )
            index = state.position[..., None] + timewise.time_index(x.shape[:-1])
            q, k, v = self._heads(x, index)
            # places of tokens that do not count are written again before a query can see them
            keys, values = (_write(a, index, b) for a, b in ((state.keys, k), (state.values, v)))
            place = jnp.arange(places).reshape((1,) * index.ndim + (places,))
            outputs = self._attend(q, keys, values, place <= index[..., None])
            outputs = jnp.where((index < places)[..., None], outputs, jnp.nan)
            return (
                timewise.zero_uncounted(outputs, valid),
                SoftmaxAttentionState(keys, values, position),
            )

    def step(
        self, inputs: ArrayLike, state: SoftmaxAttentionState
    ) -> tuple[jax.Array, SoftmaxAttentionState]:
        """Applies the layer to one token.

        Args:
            inputs: `(*B, features)`.
            state: of the tokens before.

        Returns:
            `(*B, features)`, and the next state.

        Raises:
            ValueError: another shape, or no place left, as far as it is known.
        """
        require_features("inputs", inputs, self.features)
        outputs, state = self.prefill(jnp.asarray(inputs)[..., None, :], state)
        return outputs[..., 0, :], state

    def initial_state(
        self, *batch: int, max_length: int, dtype: Dtype | None = None
    ) -> SoftmaxAttentionState:
        """The state before the first token: an empty cache.

        Args:
            *batch: sizes of the batch axes.
            max_length: places S, for prompt and new tokens together.
            dtype: of the computation; None is that of the layer, or of its parameters.
        """
        width = self.features // self.num_heads
        shape = (*batch, require_positive("max_length", max_length), self.num_kv_heads, width)
        empty = jnp.zeros(shape, dtype or self.dtype or self.param_dtype)
        return SoftmaxAttentionState(empty, empty, jnp.zeros(batch, jnp.int32))

    def _check_state(self, state: SoftmaxAttentionState, batch: tuple[int, ...]) -> None:
        width = self.features // self.num_heads
        shape = (*batch, "S", self.num_kv_heads, width)
        require_shape("state.keys", state.keys, shape)
        require_shape("state.values", state.values, state.keys.shape)
        require_shape("state.position", state.position, batch)

    def _heads(self, x: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        q = timewise.split_heads(self.query(x), self.num_heads)
        k, v = (timewise.split_heads(f(x), self.num_kv_heads) for f in (self.key, self.value))
        q, k = (parts.rotate(a, index, self.rope_theta) for a in (q, k))
        return q, k, v

    def _attend(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        mask: jax.Array | None,
        *,
        is_causal: bool = False,
    ) -> jax.Array:
        """Attention and the output projection; mask `(*B, T, S)`."""
        *batch, time, _, _ = q.shape
        count = math.prod(batch)
        flat = (a.reshape(count, *a.shape[len(batch) :]) for a in (q, k, v))
        if mask is not None:
            mask = mask.reshape(count, 1, *mask.shape[len(batch) :])
        # no function has an argument for the precision; all promote bfloat16 by themselves
        wide = jnp.finfo(q.dtype).bits >= 32
        precision = jax.default_matmul_precision(self.precision.name.lower() if wide else "default")
        with precision, jax.numpy_dtype_promotion("standard"):
            out = self.attention(*flat, mask=mask, is_causal=is_causal)
        return self.output(out.reshape(*batch, time, self.features))


def _attention(name: str) -> Callable[..., jax.Array]:
    """The function of this name; both take the same arguments."""
    if require_choice("attention", name, ("jax", "cudnn", "tokamax")) != "tokamax":
        return jax.nn.dot_product_attention if name == "jax" else _cudnn_attention
    try:
        import tokamax  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise ImportError("attention='tokamax' needs tokamax: pip install tokamax") from error
    return tokamax.dot_product_attention


def _cudnn_attention(*args: jax.Array, **options: Any) -> jax.Array:
    return jax.nn.dot_product_attention(*args, **options, implementation="cudnn")


def _write(cache: jax.Array, index: jax.Array, new: jax.Array) -> jax.Array:
    """Puts `(*B, T, G, K)` at places `(*B, T)` of `(*B, S, G, K)`; those outside are left out."""
    *batch, time = index.shape
    count = math.prod(batch)
    flat = cache.reshape(count, *cache.shape[len(batch) :])
    rows = jnp.arange(count)[:, None]
    new = new.reshape(count, time, *new.shape[-2:]).astype(cache.dtype)
    return flat.at[rows, index.reshape(count, time)].set(new, mode="drop").reshape(cache.shape)
