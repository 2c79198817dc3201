"""Perplexity and bits per byte of a held-out text."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from experiments.language_model.mesh import batch_parts
from experiments.language_model.token_file import TokenFile
from experiments.language_model.train import Trainer, token_losses

TOKENS = 1 << 15  # of a batch


@dataclass(frozen=True)
class Evaluation:
    """How well a text is predicted.

    Attributes:
        losses: float64 `(T,)`, sums of `-log p` over windows by place in the window, in nats.
        counts: int64 `(T,)`, how many tokens each sum has.
        text_bytes: bytes of UTF-8 of the text; 0 where only a part was read.
    """

    losses: np.ndarray
    counts: np.ndarray
    text_bytes: int

    @property
    def perplexity(self) -> float:
        """`exp` of the mean loss of a token."""
        return math.exp(self.losses.sum() / self.counts.sum())

    @property
    def bits_per_byte(self) -> float:
        """All losses in bits, divided by the bytes of the text: the same for any vocabulary."""
        return float(self.losses.sum()) / math.log(2) / self.text_bytes

    def by_place(self, width: int) -> list[float]:
        """Perplexity of the tokens in each stretch of `width` places of the window."""
        edges = range(0, len(self.losses), width)
        return [
            math.exp(self.losses[start : start + width].sum() / total)
            for start in edges
            if (total := self.counts[start : start + width].sum())
        ]


@partial(jax.jit, static_argnames="trainer")
def _sums(trainer: Trainer, parameters: Any, tokens: jax.Array, counted: jax.Array) -> jax.Array:
    losses = token_losses(trainer.merge(parameters), tokens, trainer.loss_chunk)
    return jnp.sum(jnp.where(counted, losses, 0), axis=0)


def evaluate(
    trainer: Trainer,
    parameters: Any,
    file: TokenFile,
    end_of_text: int,
    context: int,
    max_windows: int | None = None,
) -> Evaluation:
    """Predicts every token of a text once, in windows of T tokens side by side.

    The first token is predicted from `end_of_text`, the first of a later window from the last of
    the one before: T tokens are seen at most.

    Args:
        trainer: the model and its mesh.
        parameters: of the model, on the mesh.
        file: the text.
        end_of_text: id of the vocabulary.
        context: T.
        max_windows: read only so many from the start; None is all.

    Returns:
        Sums over all windows.

    Raises:
        ValueError: the text is empty.
    """
    if not len(file):
        raise ValueError(f"{file.path} has no tokens; expected at least one to predict")
    whole = -(-len(file) // context)
    windows = whole if max_windows is None else min(max_windows, whole)
    count = min(len(file), windows * context)
    parts = batch_parts(trainer.mesh)
    rows = -(-max(min(TOKENS // context, windows), 1) // parts) * parts
    losses, counts = np.zeros(context), np.zeros(context, np.int64)
    sharding = NamedSharding(trainer.mesh, PartitionSpec(("data", "fsdp")))
    for first in range(0, windows, rows):
        start = first * context
        size = rows * context
        ids = file.tokens[max(start - 1, 0) : min(start + size, count)].astype(np.int32)
        if not start:
            ids = np.concatenate([np.array([end_of_text], np.int32), ids])
        counted = np.arange(size).reshape(rows, context) < len(ids) - 1
        ids = np.pad(ids, (0, size + 1 - len(ids)))
        inputs, last = ids[:-1].reshape(rows, context), ids[context::context, None]
        tokens, mask = (
            jax.make_array_from_callback(part.shape, sharding, part.__getitem__)
            for part in (np.concatenate([inputs, last], axis=1), counted)
        )
        with trainer.on_mesh():
            losses += np.asarray(_sums(trainer, parameters, tokens, mask), np.float64)
        counts += counted.sum(axis=0)
    return Evaluation(losses, counts, file.text_bytes if windows == whole else 0)
