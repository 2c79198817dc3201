"""The sizes and options of a language model, and presets from papers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.typing import Dtype

from structlayers._core.checks import require_choice, require_positive
from structlayers._core.layers import require_real_dtype
from structlayers._core.precision import PrecisionLike, canonicalize_precision

# Names of the axes of parameters, for sharding: the words, the residual stream, all heads of a
# token mixer together, and the hidden features of a channel mixer.
LOGICAL_AXES = ("vocab", "embed", "heads", "mlp")

REMAT_POLICIES = (
    "nothing_saveable",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
)


@dataclasses.dataclass(frozen=True)
class LanguageModelConfig:
    """Sizes and options of a `LanguageModel`; hashable.

    Attributes:
        vocab_size: number of words.
        features: size d of the residual stream.
        num_layers: number of blocks, each a token mixer and a channel mixer.
        num_heads: heads of every token mixer.
        num_kv_heads: heads of keys and values; None is `num_heads`. Not for "retention".
        key_features: size of all queries together; None is the mixer's own default (d/2 for "gla",
            d for "retention"). Not for "softmax", where it is d.
        value_features: size of all outputs of heads; None is the mixer's own default (d for "gla",
            2 d for "retention"). Not for "softmax".
        mixer: a name in `TOKEN_MIXERS`, or a tuple of names that layers take in turn.
        channel_mixer: a name in `CHANNEL_MIXERS`.
        hidden_ratio: r; the channel mixer has `2/3 r d` hidden features, rounded up to 256.
        hidden_features: hidden features of the channel mixer; None is by `hidden_ratio`.
        gate: of "gla": "channel", "scalar", "constant" or "none".
        gate_rank: inner size of the gate's projection in "gla".
        gate_logit_normalizer: tau of "gla".
        conv_size: taps of the short convolutions of "gla"; None is none.
        rope_theta: base of the rotary angles of "softmax" and "retention".
        attention: whose function "softmax" calls, "jax", "cudnn" or "tokamax".
        tie_embeddings: whether the output layer is the transposed embedding.
        norm_epsilon: added to mean squares.
        init_std: standard deviation of embeddings and projections at the start.
        dtype: of the computation; None is `param_dtype`. Norms, gates, states and logits are
            computed in float32 at least.
        param_dtype: real dtype of the parameters.
        precision: of float32 products; None is the highest.
        chunk_size: of `gated_linear_attention`; None chooses.
        implementation: of `gated_linear_attention`; None chooses.
        sequence_axis: an axis of the mesh that shards T, for models of "gla" alone, called inside
            `jax.shard_map`; see `GatedLinearAttention`. None is no axis.
        remat: what the backward pass keeps of a block, by the name of a policy in
            `jax.checkpoint_policies`: "nothing_saveable", "dots_saveable" or
            "dots_with_no_batch_dims_saveable". None keeps all.
        axis_rules: pairs of a logical axis ("vocab", "embed", "heads", "mlp") and the axis of the
            mesh that shards it. Parameters then carry `out_sharding` metadata, and are made under
            `jax.set_mesh`. Axes not named are not sharded; None is no metadata.

    Raises:
        ValueError: a size below 1, an unknown policy or logical axis, or a precision that is none.
        TypeError: a dtype that is not real floating point.

    Example:
        >>> config = LanguageModelConfig(vocab_size=100, features=64, num_layers=2, num_heads=4)
        >>> config.hidden, config.layer_mixers
        (256, ('gla', 'gla'))
    """

    vocab_size: int
    features: int
    num_layers: int
    num_heads: int = 4
    num_kv_heads: int | None = None
    key_features: int | None = None
    value_features: int | None = None
    mixer: str | tuple[str, ...] = "gla"
    channel_mixer: str = "swiglu"
    hidden_ratio: int | float = 4
    hidden_features: int | None = None
    gate: str = "channel"
    gate_rank: int = 16
    gate_logit_normalizer: int | float = 16
    conv_size: int | None = None
    rope_theta: float = 10000.0
    attention: str = "jax"
    tie_embeddings: bool = False
    norm_epsilon: float = 1e-6
    init_std: float = 0.02
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    chunk_size: int | None = None
    implementation: str | None = None
    sequence_axis: str | None = None
    remat: str | None = None
    axis_rules: tuple[tuple[str, str | None], ...] | None = None

    def __post_init__(self):
        for name in ("vocab_size", "features", "num_layers", "num_heads"):
            require_positive(name, getattr(self, name))
        if self.hidden_features is not None:
            require_positive("hidden_features", self.hidden_features)
        elif not self.hidden_ratio > 0:
            raise ValueError(f"hidden_ratio must be above 0, got {self.hidden_ratio}")
        if not self.layer_mixers:
            raise ValueError("mixer must name at least one token mixer, got ()")
        require_choice("remat", self.remat, (None, *REMAT_POLICIES))
        require_real_dtype("dtype", self.dtype)
        require_real_dtype("param_dtype", self.param_dtype)
        canonicalize_precision(self.precision)
        for name, _ in self.axis_rules or ():
            require_choice("a logical axis in axis_rules", name, LOGICAL_AXES)

    @property
    def layer_mixers(self) -> tuple[str, ...]:
        """The name of every layer's token mixer, `(num_layers,)`."""
        names = (self.mixer,) if isinstance(self.mixer, str) else self.mixer
        return tuple(names[i % len(names)] for i in range(self.num_layers if names else 0))

    @property
    def hidden(self) -> int:
        """Hidden features of the channel mixer."""
        if self.hidden_features is not None:
            return self.hidden_features
        return -(-int(self.features * self.hidden_ratio * 2 / 3) // 256) * 256

    @property
    def compute_dtype(self) -> Dtype:
        """The dtype of the computation."""
        return self.param_dtype if self.dtype is None else self.dtype

    @property
    def remat_policy(self) -> Callable[..., Any] | None:
        """The policy of `jax.checkpoint`, or None for no checkpoint."""
        return None if self.remat is None else getattr(jax.checkpoint_policies, self.remat)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "LanguageModelConfig":
        """A configuration from a paper, with some fields changed.

        Args:
            name: "gla-340M" (341.7 million parameters, tied embeddings) or "gla-1.3B" (1.366
                billion), both of 24 layers and four heads with a vocabulary of 32000.
            **changes: fields to set.

        Returns:
            The configuration.

        Raises:
            ValueError: an unknown name.

        Example:
            >>> LanguageModelConfig.preset("gla-1.3B", remat="dots_saveable").hidden
            5632

        References:
            Yang, Wang, Shen, Panda, Kim, "Gated Linear Attention Transformers with
            Hardware-Efficient Training", 2024, arXiv:2312.06635, section 5.1.
        """
        return dataclasses.replace(
            PRESETS[require_choice("preset", name, tuple(PRESETS))], **changes
        )

    def metadata(self, *axes: str | None) -> dict[str, Any]:
        """Sharding metadata of a parameter whose axes have these logical names."""
        if self.axis_rules is None:
            return {}
        # An axis without a rule would be taken for an axis of the mesh.
        rules = dict.fromkeys(LOGICAL_AXES) | dict(self.axis_rules)
        return {"out_sharding": axes, "sharding_rules": tuple(rules.items())}


PRESETS = {
    "gla-340M": LanguageModelConfig(
        vocab_size=32000, features=1024, num_layers=24, tie_embeddings=True
    ),
    "gla-1.3B": LanguageModelConfig(vocab_size=32000, features=2048, num_layers=24),
}
