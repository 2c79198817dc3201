"""A layer that mixes tokens by gated linear attention: training, prefill and decoding."""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core.checks import require_choice, require_positive
from structlayers._core.layers import PromoteDtype, require_features, require_real_dtype
from structlayers._core.precision import (
    PrecisionLike,
    accumulation_dtype,
    canonicalize_precision,
)
from structlayers.gla.layers import timewise
from structlayers.gla.layers.convolution import ShortConvolution, inputs_before, last_inputs
from structlayers.gla.layers.gates import GATES, constant_log_gate, log_sigmoid
from structlayers.gla.layers.state import GatedLinearAttentionState
from structlayers.gla.ops import (
    gated_linear_attention,
    gated_linear_attention_decode,
    gated_linear_attention_step,
    sequence_parallel_gated_linear_attention,
)
from structlayers.gla.ops.step import decode_dispatcher
from structlayers.gla.sequence_axis import SequenceAxis

_LECUN_NORMAL = nnx.initializers.lecun_normal()


class GatedLinearAttention(nnx.Module):
    """`y = (swish(x W_r) * norm(o)) W_o` with o by gated linear attention over the axis of time.

    Queries, keys and values are `x W_q`, `x W_k`, `x W_v`, without a feature map. The gate of every
    key channel is `sigmoid(x W_1 W_2 + b)^(1 / tau)`, with `W_1` of low rank. Each head of o is
    normalized by its root mean square, with one scale for all heads. About `4 d^2` parameters.

    Args:
        features: size d of the last axis.
        num_heads: heads H of queries and outputs.
        num_kv_heads: heads G of keys, values and gates, a divisor of H; None is H.
        key_features: size of all queries together, `H K`; None is `d / 2`.
        value_features: size of all outputs together, `H V`; None is d.
        gate: "channel" as above, or an ablation of it (table 4): "scalar", the same with one gate
            for each head; "constant", the gate `1 - 2^(-5 - h)` of head h, without parameters;
            "none".
        gate_rank: inner size of the gate's projection.
        gate_logit_normalizer: tau; larger remembers longer.
        conv_size: taps W of a short convolution of queries, keys and values, each followed by
            swish; None is no convolution.
        norm_epsilon: added to the mean square.
        dtype: the dtype of the computation; None is inferred from inputs and parameters. Gates,
            the norm and states are computed in float32 at least.
        param_dtype: real dtype of the parameters.
        precision: of the products; None is the highest (see `structlayers`' precision rules).
        kernel_init: initializer of the projections.
        promote_dtype: casts inputs and parameters to `dtype`.
        chunk_size: of `gated_linear_attention`; None chooses.
        implementation: of `gated_linear_attention`, and of `gated_linear_attention_decode` where
            that has one of the name; None chooses.
        sequence_axis: an axis of the mesh that shards T: whole sequences and prompts are then
            called inside `jax.shard_map`, with this rank's run of every sequence, states and
            `lengths` alike on all ranks. Ranks exchange states, and the last inputs of short
            convolutions. None is no axis.
        rngs: random keys; `params` is used.
        in_kernel_metadata: metadata, such as `out_sharding`, of the projections `(d, heads)`.
        out_kernel_metadata: metadata of the output projection `(heads, d)`.

    Raises:
        ValueError: a size below 1, sizes that heads do not divide, an unknown gate, or a normalizer
            or an epsilon out of range.
        TypeError: `param_dtype` is not real floating point.

    Example:
        >>> layer = GatedLinearAttention(16, num_heads=2, rngs=nnx.Rngs(0))
        >>> x = jax.random.normal(jax.random.key(0), (3, 10, 16))
        >>> y, state = layer.prefill(x[:, :9])
        >>> last, state = layer.step(x[:, 9], state)
        >>> bool(jnp.allclose(last, layer(x)[:, 9], atol=1e-5))
        True

    References:
        Yang, Wang, Shen, Panda, Kim, "Gated Linear Attention Transformers with Hardware-Efficient
        Training", 2024, arXiv:2312.06635, section 4.4 and table 4. Released code:
        github.com/fla-org/flash-linear-attention (class GatedLinearAttention).
    """

    def __init__(
        self,
        features: int,
        *,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        key_features: int | None = None,
        value_features: int | None = None,
        gate: str = "channel",
        gate_rank: int = 16,
        gate_logit_normalizer: int | float = 16,
        conv_size: int | None = None,
        norm_epsilon: float = 1e-6,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _LECUN_NORMAL,
        promote_dtype: PromoteDtype = dtypes.promote_dtype,
        chunk_size: int | None = None,
        implementation: str | None = None,
        sequence_axis: str | None = None,
        rngs: nnx.Rngs,
        in_kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        out_kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.features = require_positive("features", features)
        self.num_heads = require_positive("num_heads", num_heads)
        groups = num_heads if num_kv_heads is None else num_kv_heads
        self.num_kv_heads = require_positive("num_kv_heads", groups)
        keys = features // 2 if key_features is None else key_features
        self.key_features = require_positive("key_features", keys)
        values = features if value_features is None else value_features
        self.value_features = require_positive("value_features", values)
        for name in ("num_kv_heads", "key_features", "value_features"):
            _require_division(name, getattr(self, name), num_heads)
        if not gate_logit_normalizer > 0:
            raise ValueError(f"gate_logit_normalizer must be above 0, got {gate_logit_normalizer}")
        if not norm_epsilon >= 0:
            raise ValueError(f"norm_epsilon must be at least 0, got {norm_epsilon}")
        require_real_dtype("param_dtype", param_dtype)
        self.gate = require_choice("gate", gate, GATES)
        self.gate_rank = require_positive("gate_rank", gate_rank)
        self.gate_logit_normalizer = gate_logit_normalizer
        self.conv_size = None if conv_size is None else require_positive("conv_size", conv_size)
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = canonicalize_precision(precision)
        self.promote_dtype = promote_dtype
        self.chunk_size = chunk_size
        self.implementation = implementation
        self.sequence_axis = sequence_axis

        def linear(inputs: int, outputs: int, *, bias: bool = False, out: bool = False) -> Any:
            return nnx.Linear(
                inputs,
                outputs,
                use_bias=bias,
                dtype=dtype,
                param_dtype=param_dtype,
                precision=self.precision,
                kernel_init=kernel_init,
                promote_dtype=promote_dtype,
                kernel_metadata=out_kernel_metadata if out else in_kernel_metadata,
                rngs=rngs,
            )

        shared_keys, shared_values = (size * groups // num_heads for size in (keys, values))
        self.query = linear(features, keys)
        self.key = linear(features, shared_keys)
        self.value = linear(features, shared_values)
        self.gate_down: nnx.Linear | None = nnx.data(None)
        self.gate_up: nnx.Linear | None = nnx.data(None)
        if gate in ("channel", "scalar"):
            self.gate_down = linear(features, gate_rank)
            channels = shared_keys if gate == "channel" else groups
            self.gate_up = linear(gate_rank, channels, bias=True)
        self.output_gate = linear(features, values)
        self.norm = nnx.RMSNorm(
            values // num_heads, epsilon=norm_epsilon, param_dtype=param_dtype, rngs=rngs
        )
        self.output = linear(values, features, out=True)
        sizes = (keys, shared_keys, shared_values)
        self.convolutions = nnx.data(None)
        if conv_size is not None:
            self.convolutions = nnx.List(
                ShortConvolution(
                    size, conv_size, param_dtype=param_dtype, promote_dtype=promote_dtype, rngs=rngs
                )
                for size in sizes
            )

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
        state: GatedLinearAttentionState | None = None,
        *,
        lengths: ArrayLike | None = None,
    ) -> tuple[jax.Array, GatedLinearAttentionState]:
        """Applies the layer to prompts, or to the next piece of a sequence, and keeps the state.

        Args:
            inputs: `(*B, T, features)`.
            state: of the tokens before; None where there are none.
            lengths: integers `(*B,)` from 0 to T: the tokens that count in each prompt, from the
                left. Outputs of the others are 0, and the state does not see them. None is T.

        Returns:
            `(*B, T, features)`, and the state after the last token of each prompt.

        Raises:
            ValueError: another shape, or the state of another layer.
        """
        return self._apply(inputs, state, lengths, None)

    def step(
        self, inputs: ArrayLike, state: GatedLinearAttentionState
    ) -> tuple[jax.Array, GatedLinearAttentionState]:
        """Applies the layer to one token.

        Args:
            inputs: `(*B, features)`.
            state: of the tokens before, from `prefill`, `step` or `initial_state`.

        Returns:
            `(*B, features)`, and the next state.

        Raises:
            ValueError: another shape, or the state of another layer.
        """
        with jax.named_scope("structlayers.GatedLinearAttention"):
            require_features("inputs", inputs, self.features)
            x = jnp.asarray(inputs)[..., None, :]
            (q, k, v), seen = self._heads(x, self._history(state), None)
            q, k, v = (part[..., 0, :, :] for part in (q, k, v))
            run = self._decode if self.gate == "channel" else self._step
            outputs, recurrent = run(x, q, k, v, state.recurrent)
            return outputs, self._next_state(recurrent, seen, None)

    def _decode(
        self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, state: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Outputs `(*B, features)` and state, from x `(*B, 1, features)`, q, k, v and the state."""
        logits, output_gate = self._gate_logits(x), self._output_gate(x)
        norm_scale = self.norm.scale
        assert norm_scale is not None
        known = {entry.name for entry in decode_dispatcher.implementations}
        out, recurrent = gated_linear_attention_decode(
            q,
            k,
            v,
            logits[..., 0, :, :],
            state,
            output_gate[..., 0, :, :],
            norm_scale[...],
            gate_logit_normalizer=self.gate_logit_normalizer,
            norm_epsilon=self.norm.epsilon,
            precision=self.precision,
            implementation=self.implementation if self.implementation in known else None,
        )
        return self.output(out.reshape(*out.shape[:-2], self.value_features)), recurrent

    def _step(
        self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, state: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The same with gates that are not of every channel."""
        log_gate = self._log_gate(x)
        gate = None if log_gate is None else log_gate[..., 0, :, :]
        out, recurrent = gated_linear_attention_step(q, k, v, gate, state, precision=self.precision)
        return self._outputs(x, out[..., None, :, :])[..., 0, :], recurrent

    def initial_state(self, *batch: int, dtype: Dtype | None = None) -> GatedLinearAttentionState:
        """The state before the first token: zeros.

        Args:
            *batch: sizes of the batch axes.
            dtype: of the computation; None is that of the layer, or of its parameters.
        """
        dtype = dtype or self.dtype or self.param_dtype
        widths = self._width(self.key_features), self._width(self.value_features)
        shape = (*batch, self.num_kv_heads, *widths)
        return GatedLinearAttentionState(
            jnp.zeros(shape, accumulation_dtype(dtype)),
            tuple(conv.zeros(*batch, dtype=dtype) for conv in self.convolutions or ()),
        )

    def _width(self, size: int) -> int:
        return size // self.num_heads

    def _apply(
        self,
        inputs: ArrayLike,
        state: GatedLinearAttentionState | None,
        lengths: ArrayLike | None,
        segment_ids: ArrayLike | None,
    ) -> tuple[jax.Array, GatedLinearAttentionState]:
        with jax.named_scope("structlayers.GatedLinearAttention"):
            x = timewise.sequences(inputs, self.features)
            name = self.sequence_axis
            axis = None if name is None else SequenceAxis(name)
            counts, valid = timewise.counted(lengths, x.shape[:-1], axis)
            history = None if state is None else self._history(state)
            (q, k, v), seen = self._heads(x, history, segment_ids, axis)
            log_gate = self._log_gate(x)
            if valid is not None:
                # no key and no decay: the state stays
                kept = valid[..., None, None]
                k = jnp.where(kept, k, 0)
                log_gate = None if log_gate is None else jnp.where(kept, log_gate, 0)
            attend: Any = gated_linear_attention
            if name is not None:
                attend = functools.partial(sequence_parallel_gated_linear_attention, axis_name=name)
            out, recurrent = attend(
                q,
                k,
                v,
                log_gate,
                initial_state=None if state is None else state.recurrent,
                output_final_state=True,
                segment_ids=segment_ids,
                chunk_size=self.chunk_size,
                precision=self.precision,
                implementation=self.implementation,
            )
            outputs = timewise.zero_uncounted(self._outputs(x, out), valid)
            whole = valid is None and axis is None
            return outputs, self._next_state(recurrent, seen, None if whole else counts, axis)

    def _heads(
        self,
        x: jax.Array,
        history: Sequence[jax.Array] | None,
        segment_ids: ArrayLike | None,
        axis: SequenceAxis | None = None,
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Queries, keys and values by heads, and what the convolutions saw, history in front."""
        parts, seen = [self.query(x), self.key(x), self.value(x)], []
        if self.convolutions is not None:
            if axis is not None:
                history = inputs_before(axis, parts, history, self._kept, segment_ids)
            for i, conv in enumerate(self.convolutions):
                parts[i], inputs = conv(parts[i], history[i] if history else None, segment_ids)
                seen.append(inputs)
        counts = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        heads = [
            timewise.split_heads(part, count) for part, count in zip(parts, counts, strict=True)
        ]
        return heads, seen

    def _history(self, state: GatedLinearAttentionState) -> tuple[jax.Array, ...]:
        """What the convolutions saw before, one array for each of them."""
        count = len(self.convolutions or ())
        if len(state.history) != count:
            raise ValueError(
                f"state.history must hold {count} arrays, one for each short convolution, got "
                f"{len(state.history)}"
            )
        return state.history

    @property
    def _kept(self) -> int:
        """How many inputs of a convolution the next call needs."""
        return (self.conv_size or 1) - 1

    def _gate_logits(self, x: jax.Array) -> jax.Array:
        """`x W_1 W_2 + b`, `(*B, T, G, K)`, or `(*B, T, G, 1)` of scalar gates."""
        assert self.gate_down is not None
        assert self.gate_up is not None
        return timewise.split_heads(self.gate_up(self.gate_down(x)), self.num_kv_heads)

    def _log_gate(self, x: jax.Array) -> jax.Array | None:
        """Log gates `(*B, T, G, K)` of x, 1 in place of sizes they do not depend on."""
        if self.gate == "constant":
            return constant_log_gate(self.num_kv_heads, x.ndim + 1)
        if self.gate == "none":
            return None
        logits = self._gate_logits(x)
        logits = logits.astype(accumulation_dtype(logits.dtype))
        return log_sigmoid(logits) / self.gate_logit_normalizer

    def _output_gate(self, x: jax.Array) -> jax.Array:
        """`x W_r`, `(*B, T, H, V)`."""
        return timewise.split_heads(self.output_gate(x), self.num_heads)

    def _outputs(self, x: jax.Array, out: jax.Array) -> jax.Array:
        """Norm, output gate and projection: `(*B, T, H, V)` to `(*B, T, features)`."""
        gated = nnx.swish(self._output_gate(x)) * timewise.normalize(self.norm, out)
        return self.output(gated.reshape(*x.shape[:-1], self.value_features))

    def _next_state(
        self,
        recurrent: jax.Array,
        seen: list[jax.Array],
        lengths: jax.Array | None,
        axis: SequenceAxis | None = None,
    ) -> GatedLinearAttentionState:
        history = (last_inputs(part, self._kept, lengths, axis) for part in seen)
        return GatedLinearAttentionState(recurrent, tuple(history))


def _require_division(name: str, size: int, num_heads: int) -> None:
    divides = num_heads % size == 0 if name == "num_kv_heads" else size % num_heads == 0
    if not divides:
        relation = "divide" if name == "num_kv_heads" else "be a multiple of"
        raise ValueError(f"{name} must {relation} num_heads = {num_heads}, got {size}")
