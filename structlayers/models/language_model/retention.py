"""Retention: linear attention that forgets at a constant rate in each head."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core.checks import require_positive
from structlayers._core.layers import PromoteDtype, require_features
from structlayers._core.precision import (
    PrecisionLike,
    accumulation_dtype,
    canonicalize_precision,
)
from structlayers.gla import gated_linear_attention, gated_linear_attention_step
from structlayers.gla.layers import timewise
from structlayers.gla.layers.gates import constant_log_gate
from structlayers.models.language_model import parts

_LECUN_NORMAL = nnx.initializers.lecun_normal()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RetentionState:
    """The state of a `Retention` layer; a pytree. Its size does not grow with time.

    Attributes:
        recurrent: float32 (float64) `(*B, H, K, V)`.
        position: int32 `(*B,)`, the number of tokens seen.
    """

    recurrent: jax.Array
    position: jax.Array


class Retention(nnx.Module):
    """`y = (swish(x W_r) * norm(o)) W_o`, `S_t = g S_(t-1) + k_t v_t^T`, `o_t = q_t S_t / sqrt(K)`.

    Head h forgets by the constant `g = 1 - 2^(-5 - h)`. Queries and keys are rotated by their
    positions; the magnitudes that xPos adds to rotation are the decay itself. Each head of o is
    normalized by its root mean square, with one scale for all heads, in place of the group norm of
    the paper; a norm of each head makes the paper's further scalings of o vanish. `8 d^2`
    parameters.

    Args:
        features: size d of the last axis.
        num_heads: heads H.
        key_features: size of all queries together, `H K`; None is d.
        value_features: size of all outputs together, `H V`; None is `2 d`.
        rope_theta: base of the rotary angles.
        norm_epsilon: added to the mean square.
        dtype: the dtype of the computation; None is inferred from inputs and parameters. The norm
            and states are computed in float32 at least.
        param_dtype: real dtype of the parameters.
        precision: of the products; None is the highest (see `structlayers`' precision rules).
        kernel_init: initializer of the projections.
        promote_dtype: casts inputs and parameters to `dtype`.
        chunk_size: of `gated_linear_attention`; None chooses.
        implementation: of `gated_linear_attention`; None chooses.
        rngs: random keys; `params` is used.
        in_kernel_metadata: metadata, such as `out_sharding`, of the projections `(d, heads)`.
        out_kernel_metadata: metadata of the output projection `(heads, d)`.

    Raises:
        ValueError: a size below 1, sizes that heads do not divide, or an odd `K`.

    Example:
        >>> layer = Retention(16, num_heads=2, rngs=nnx.Rngs(0))
        >>> x = jax.random.normal(jax.random.key(0), (3, 10, 16))
        >>> y, state = layer.prefill(x[:, :9])
        >>> last, state = layer.step(x[:, 9], state)
        >>> bool(jnp.allclose(last, layer(x)[:, 9], atol=1e-5))
        True

    References:
        Sun, Dong, Huang, Ma, Xia, Xue, Wang, Wei, "Retentive Network: A Successor to Transformer
        for Large Language Models", 2023, arXiv:2307.08621, equations 5, 6 and 8.
    """

    def __init__(
        self,
        features: int,
        *,
        num_heads: int = 4,
        key_features: int | None = None,
        value_features: int | None = None,
        rope_theta: float = 10000.0,
        norm_epsilon: float = 1e-6,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _LECUN_NORMAL,
        promote_dtype: PromoteDtype = dtypes.promote_dtype,
        chunk_size: int | None = None,
        implementation: str | None = None,
        rngs: nnx.Rngs,
        in_kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        out_kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.features = require_positive("features", features)
        self.num_heads = require_positive("num_heads", num_heads)
        keys = features if key_features is None else key_features
        self.key_features = require_positive("key_features", keys)
        values = 2 * features if value_features is None else value_features
        self.value_features = require_positive("value_features", values)
        parts.require_even_heads("key_features", keys, num_heads)
        if values % num_heads:
            raise ValueError(
                f"value_features must be a multiple of num_heads = {num_heads}, got {values}"
            )
        self.rope_theta = rope_theta
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = canonicalize_precision(precision)
        self.chunk_size = chunk_size
        self.implementation = implementation
        linear = partial(
            parts.projection,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=kernel_init,
            promote_dtype=promote_dtype,
            rngs=rngs,
        )
        self.query = linear(features, keys, metadata=in_kernel_metadata)
        self.key = linear(features, keys, metadata=in_kernel_metadata)
        self.value = linear(features, values, metadata=in_kernel_metadata)
        self.output_gate = linear(features, values, metadata=in_kernel_metadata)
        self.norm = nnx.RMSNorm(
            values // num_heads, epsilon=norm_epsilon, param_dtype=param_dtype, rngs=rngs
        )
        self.output = linear(values, features, metadata=out_kernel_metadata)

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
        outputs, _ = self._apply(inputs, None, None, segment_ids)
        return outputs

    def prefill(
        self,
        inputs: ArrayLike,
        state: RetentionState | None = None,
        *,
        lengths: ArrayLike | None = None,
    ) -> tuple[jax.Array, RetentionState]:
        """Applies the layer to prompts, or to the next piece of a sequence, and keeps the state.

        Args:
            inputs: `(*B, T, features)`.
            state: of the tokens before; None where there are none.
            lengths: integers `(*B,)` from 0 to T: the tokens that count in each prompt, from the
                left. Outputs of the others are 0, and the state does not see them. None is T.

        Returns:
            `(*B, T, features)`, and the state after the last token of each prompt.

        Raises:
            ValueError: another shape.
        """
        return self._apply(inputs, state, lengths, None)

    def step(self, inputs: ArrayLike, state: RetentionState) -> tuple[jax.Array, RetentionState]:
        """Applies the layer to one token.

        Args:
            inputs: `(*B, features)`.
            state: of the tokens before, from `prefill`, `step` or `initial_state`.

        Returns:
            `(*B, features)`, and the next state.

        Raises:
            ValueError: another shape.
        """
        with jax.named_scope("structlayers.Retention"):
            require_features("inputs", inputs, self.features)
            x = jnp.asarray(inputs)[..., None, :]
            heads = self._heads(x, state.position[..., None])
            q, k, v = (part[..., 0, :, :] for part in heads)
            out, recurrent = gated_linear_attention_step(
                q,
                k,
                v,
                constant_log_gate(self.num_heads, k.ndim),
                state.recurrent,
                precision=self.precision,
            )
            outputs = self._outputs(x, out[..., None, :, :])[..., 0, :]
            return outputs, RetentionState(recurrent, state.position + 1)

    def initial_state(self, *batch: int, dtype: Dtype | None = None) -> RetentionState:
        """The state before the first token: zeros.

        Args:
            *batch: sizes of the batch axes.
            dtype: of the computation; None is that of the layer, or of its parameters.
        """
        widths = (size // self.num_heads for size in (self.key_features, self.value_features))
        return RetentionState(
            jnp.zeros(
                (*batch, self.num_heads, *widths),
                accumulation_dtype(dtype or self.dtype or self.param_dtype),
            ),
            jnp.zeros(batch, jnp.int32),
        )

    def _apply(
        self,
        inputs: ArrayLike,
        state: RetentionState | None,
        lengths: ArrayLike | None,
        segment_ids: ArrayLike | None,
    ) -> tuple[jax.Array, RetentionState]:
        with jax.named_scope("structlayers.Retention"):
            x = timewise.sequences(inputs, self.features)
            counts, valid = timewise.counted(lengths, x.shape[:-1])
            # without a state all sequences begin at 0: one row of positions is enough
            start = jnp.zeros((1,) * (x.ndim - 2), jnp.int32) if state is None else state.position
            index = timewise.time_index((*start.shape, x.shape[-2]))
            q, k, v = self._heads(x, start[..., None] + index)
            log_decay = constant_log_gate(self.num_heads, k.ndim)
            if valid is not None:
                # no key and no decay: the state stays
                k, log_decay = (jnp.where(valid[..., None, None], a, 0) for a in (k, log_decay))
            out, recurrent = gated_linear_attention(
                q,
                k,
                v,
                log_decay,
                initial_state=None if state is None else state.recurrent,
                output_final_state=True,
                segment_ids=segment_ids,
                chunk_size=self.chunk_size,
                precision=self.precision,
                implementation=self.implementation,
            )
            outputs = timewise.zero_uncounted(self._outputs(x, out), valid)
            return outputs, RetentionState(recurrent, start + counts)

    def _heads(self, x: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        q, k, v = (
            timewise.split_heads(f(x), self.num_heads) for f in (self.query, self.key, self.value)
        )
        q, k = (parts.rotate(a, index, self.rope_theta) for a in (q, k))
        return q, k, v

    def _outputs(self, x: jax.Array, out: jax.Array) -> jax.Array:
        """Norm, output gate and projection: `(*B, T, H, V)` to `(*B, T, features)`."""
        normalized = timewise.normalize(self.norm, out).reshape(*x.shape[:-1], self.value_features)
        return self.output(nnx.swish(self.output_gate(x)) * normalized)
