"""A decoder of pre-norm blocks, with the token mixer and the channel mixer of a configuration."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from structlayers._core.checks import is_known, require_choice
from structlayers._core.precision import accumulation_dtype, canonicalize_precision
from structlayers.gla.layers import timewise
from structlayers.gla.sequence_axis import SequenceAxis
from structlayers.gla.xla.products import product_for
from structlayers.models.language_model.config import LanguageModelConfig
from structlayers.models.language_model.mixers import CHANNEL_MIXERS, TOKEN_MIXERS


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LanguageModelCache:
    """What a `LanguageModel` keeps between tokens; a pytree.

    Attributes:
        layers: the state of every block's token mixer.

    Example:
        >>> jax.tree.leaves(LanguageModelCache((jnp.zeros(2),)))[0].shape
        (2,)
    """

    layers: tuple[Any, ...]


class DecoderBlock(nnx.Module):
    """`x = x + mixer(norm(x))`, then `x = x + channel_mixer(norm(x))`.

    Args:
        config: sizes and options.
        layer: the number of the block, which chooses among several mixers.
        rngs: random keys; `params` is used.

    Raises:
        ValueError: an unknown mixer, or sizes that do not fit it.
    """

    def __init__(self, config: LanguageModelConfig, layer: int, *, rngs: nnx.Rngs):
        mixer = require_choice("mixer", config.layer_mixers[layer], tuple(TOKEN_MIXERS))
        channels = require_choice("channel_mixer", config.channel_mixer, tuple(CHANNEL_MIXERS))
        self.mixer_norm = _norm(config, rngs)
        # mixers are known by their contract, not by a class
        self.mixer: Any = TOKEN_MIXERS[mixer](config, rngs)
        self.channel_norm = _norm(config, rngs)
        self.channel_mixer: Any = CHANNEL_MIXERS[channels](config, rngs)

    def __call__(
        self,
        x: jax.Array,
        *,
        segment_ids: ArrayLike | None = None,
        places: jax.Array | None = None,
    ) -> jax.Array:
        """Applies the block to whole sequences `(*B, T, d)`.

        With places, int32 `(*B, P)`, outputs are made there alone: `(*B, P, d)`.
        """
        x = x + self.mixer(timewise.normalize(self.mixer_norm, x), segment_ids=segment_ids)
        return self._mix_channels(x if places is None else timewise.take_tokens(x, places))

    def prefill(
        self, x: jax.Array, state: Any, *, lengths: ArrayLike | None = None
    ) -> tuple[jax.Array, Any]:
        """Applies the block to prompts `(*B, T, d)` of these lengths, and gives the next state."""
        mixed, state = self.mixer.prefill(
            timewise.normalize(self.mixer_norm, x), state, lengths=lengths
        )
        return self._mix_channels(x + mixed), state

    def step(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """Applies the block to one token `(*B, d)`, and gives the next state."""
        mixed, state = self.mixer.step(timewise.normalize(self.mixer_norm, x), state)
        return self._mix_channels(x + mixed), state

    def _mix_channels(self, x: jax.Array) -> jax.Array:
        return x + self.channel_mixer(timewise.normalize(self.channel_norm, x))


class LanguageModel(nnx.Module):
    """A decoder: embedding, pre-norm blocks, a last norm, and logits of the next word.

    Norms are root mean square, in float32. Logits are `norm(x) E^T` with tied embeddings, else
    `norm(x) W`, in float32 at least.

    Args:
        config: sizes and options.
        rngs: random keys; `params` is used.

    Raises:
        ValueError: an unknown mixer, or sizes that do not fit it.

    Example:
        >>> config = LanguageModelConfig(vocab_size=50, features=16, num_layers=2, num_heads=2)
        >>> model = LanguageModel(config, rngs=nnx.Rngs(0))
        >>> tokens = jnp.array([[3, 1, 4, 1, 5]])
        >>> cache = model.initial_cache(1, max_length=5)
        >>> logits, cache = model.prefill(tokens[:, :4], cache)
        >>> last, cache = model.step(tokens[:, 4], cache)
        >>> bool(jnp.allclose(last, model(tokens)[:, 4], atol=1e-5))
        True

    References:
        Yang, Wang, Shen, Panda, Kim, "Gated Linear Attention Transformers with Hardware-Efficient
        Training", 2024, arXiv:2312.06635, sections 4.4 and 5.1.
    """

    def __init__(self, config: LanguageModelConfig, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(config.init_std)
        self.config = config
        self.embedding = nnx.Embed(
            config.vocab_size,
            config.features,
            dtype=config.param_dtype,
            param_dtype=config.param_dtype,
            embedding_init=init,
            embedding_metadata=config.metadata("vocab", "embed"),
            rngs=rngs,
        )
        self.blocks = nnx.List(
            DecoderBlock(config, layer, rngs=rngs) for layer in range(config.num_layers)
        )
        self.norm = _norm(config, rngs)
        self.head: nnx.Linear | None = nnx.data(None)
        if not config.tie_embeddings:
            self.head = nnx.Linear(
                config.features,
                config.vocab_size,
                use_bias=False,
                dtype=config.dtype,
                param_dtype=config.param_dtype,
                kernel_init=init,
                kernel_metadata=config.metadata("embed", "vocab"),
                rngs=rngs,
            )

    def __call__(self, tokens: ArrayLike, *, segment_ids: ArrayLike | None = None) -> jax.Array:
        """Logits of the word after each token.

        Args:
            tokens: integers `(*B, T)`; one outside the vocabulary gives NaN.
            segment_ids: integers `(*B, T)` that do not decrease: tokens see their own segment only.

        Returns:
            float32 (float64) `(*B, T, vocab_size)`.

        Raises:
            TypeError: not integers.
            ValueError: another shape.
        """
        with jax.named_scope("structlayers.LanguageModel"):
            return self.logits(self.hidden(tokens, segment_ids=segment_ids))

    def hidden(
        self,
        tokens: ArrayLike,
        *,
        segment_ids: ArrayLike | None = None,
        places: ArrayLike | None = None,
    ) -> jax.Array:
        """The residual stream after the last block and norm.

        Args:
            tokens: as for `__call__`.
            segment_ids: as for `__call__`.
            places: integers `(*B, P)` from 0 to T - 1: the tokens whose features are wanted, for
                which alone the last channel mixer runs; not with a `sequence_axis`. None is all.

        Returns:
            `(*B, T, d)` or `(*B, P, d)`.

        Raises:
            TypeError: not integers.
            ValueError: another shape, or places where ranks share the sequences.
        """
        tokens = _tokens(tokens, 1)
        wanted = None if places is None else self._places(places, tokens)
        x = self._embed(tokens)

        def apply(block: DecoderBlock, x: jax.Array, places: jax.Array | None) -> jax.Array:
            return block(x, segment_ids=segment_ids, places=places)

        policy = self.config.remat_policy
        if policy is not None:
            apply = jax.checkpoint(apply, policy=policy)
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            x = apply(block, x, wanted if index == last else None)
        return timewise.normalize(self.norm, x)

    def _places(self, places: ArrayLike, tokens: jax.Array) -> jax.Array:
        """Checked places in tokens `(*B, T)`."""
        if self.config.sequence_axis is not None:
            raise ValueError("places must be None with a sequence_axis: ranks share the tokens")
        array = jnp.asarray(places)
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(f"places must be integers, got {array.dtype}")
        if array.shape[:-1] != tokens.shape[:-1] or array.ndim != tokens.ndim:
            raise ValueError(
                f"places must have shape {(*tokens.shape[:-1], 'P')}, got {array.shape}"
            )
        return array.astype(jnp.int32)

    def _embed(self, tokens: jax.Array) -> jax.Array:
        """Rounded after the look-up: a frequent word's gradients are added up in `param_dtype`."""
        tokens = jnp.where(tokens < 0, self.config.vocab_size, tokens)  # not counted from the end
        return self.embedding(tokens).astype(self.config.compute_dtype)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Logits `(*B, vocab_size)` of normalized features `(*B, d)`, float32 at least.

        bfloat16 features meet bfloat16 weights, and cotangents are rounded to it, too.
        """
        # an embedding is not transposed: its gradient is added to that of the look-up
        kernel, axes = self.embedding.embedding[...], "vd"
        if self.head is not None:
            kernel, axes = self.head.kernel[...], "dv"
        product = product_for(hidden.dtype, canonicalize_precision(self.config.precision))
        wide = accumulation_dtype(hidden.dtype)
        lead = "abcefghijlmnopqrstu"[: hidden.ndim - 1]
        return product(f"{lead}d,{axes}->{lead}v", hidden.astype(wide), kernel.astype(wide))

    def prefill(
        self,
        tokens: ArrayLike,
        cache: LanguageModelCache,
        *,
        lengths: ArrayLike | None = None,
    ) -> tuple[jax.Array, LanguageModelCache]:
        """Reads prompts, or the next pieces of sequences.

        Args:
            tokens: integers `(*B, T)`, T at least 1.
            cache: of the tokens before.
            lengths: integers `(*B,)` from 1 to T: the tokens that count, from the left; the others
                may be any integers. See `align_left` for prompts padded at the left. None is T.

        Returns:
            Logits of the word after each prompt, `(*B, vocab_size)`, and the next cache.

        Raises:
            TypeError: not integers.
            ValueError: another shape, known lengths out of range, or a full cache.
        """
        with jax.named_scope("structlayers.LanguageModel"):
            tokens = _tokens(tokens, 1)
            name = self.config.sequence_axis
            axis = None if name is None else SequenceAxis(name)
            counts, valid = timewise.counted(lengths, tokens.shape, axis)
            if is_known(counts) and bool(np.any(np.asarray(counts) < 1)):
                raise ValueError(f"lengths must be at least 1, got {np.asarray(counts).tolist()}")
            # padding may be outside the vocabulary, and NaN spreads through products with zeros
            x, states = timewise.zero_uncounted(self._embed(tokens), valid), []
            for block, state in self._with_states(cache):
                x, state = block.prefill(x, state, lengths=lengths)
                states.append(state)
            last = timewise.take_tokens(x, counts[..., None] - 1, axis)[..., 0, :]
            logits = self.logits(timewise.normalize(self.norm, last))
            return logits, LanguageModelCache(tuple(states))

    def step(
        self, tokens: ArrayLike, cache: LanguageModelCache
    ) -> tuple[jax.Array, LanguageModelCache]:
        """Reads one token of every sequence.

        Args:
            tokens: integers `(*B,)`.
            cache: of the tokens before.

        Returns:
            Logits of the next word, `(*B, vocab_size)`, and the next cache.

        Raises:
            TypeError: not integers.
            ValueError: another shape, or a full cache, as far as it is known.
        """
        with jax.named_scope("structlayers.LanguageModel"):
            x, states = self._embed(_tokens(tokens, 0)), []
            for block, state in self._with_states(cache):
                x, state = block.step(x, state)
                states.append(state)
            logits = self.logits(timewise.normalize(self.norm, x))
            return logits, LanguageModelCache(tuple(states))

    def _with_states(self, cache: LanguageModelCache) -> Iterator[tuple[DecoderBlock, Any]]:
        """Blocks, each with the state of its token mixer."""
        if len(cache.layers) != len(self.blocks):
            raise ValueError(
                f"cache must hold the states of {len(self.blocks)} layers, got {len(cache.layers)}"
            )
        return zip(self.blocks, cache.layers, strict=True)

    def initial_cache(self, *batch: int, max_length: int) -> LanguageModelCache:
        """The cache before the first token.

        Args:
            *batch: sizes of the batch axes.
            max_length: how many tokens, of prompt and continuation together, it can hold; states of
                fixed size do not depend on it.
        """
        dtype = self.config.compute_dtype
        states = []
        for block in self.blocks:
            grows = getattr(block.mixer, "state_grows", False)
            size = {"max_length": max_length} if grows else {}
            states.append(block.mixer.initial_state(*batch, dtype=dtype, **size))
        return LanguageModelCache(tuple(states))


def _norm(config: LanguageModelConfig, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(
        config.features, epsilon=config.norm_epsilon, param_dtype=config.param_dtype, rngs=rngs
    )


def _tokens(tokens: ArrayLike, least: int) -> jax.Array:
    """Integers with at least so many axes."""
    array = jnp.asarray(tokens)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"tokens must be integers, got {array.dtype}")
    if array.ndim < least:
        raise ValueError(f"tokens must have shape (*B, T), got {array.shape}")
    return array
