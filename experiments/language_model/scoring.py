"""Likelihoods of continuations and greedy generation, for batches of token lists."""

from collections.abc import Iterator, Sequence
from itertools import batched

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from structlayers.models import LanguageModel, generate

SMALLEST = 32  # of the padded lengths, which double from here so that few programs are compiled


class Scorer:
    """A model that scores and continues lists of ids.

    Args:
        model: the model.
        max_length: tokens that it sees at most.
        batch: lists that are scored at once.
    """

    def __init__(self, model: LanguageModel, max_length: int, batch: int = 4):
        graph, self._state = nnx.split(model)
        self.model, self.max_length, self.batch = model, max_length, batch

        @jax.jit
        def score(state: nnx.State, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
            log_p = jax.nn.log_softmax(nnx.merge(graph, state)(tokens[:, :-1]))
            wanted = tokens[:, 1:]
            found = jnp.take_along_axis(log_p, wanted[..., None], axis=-1)[..., 0]
            return found, jnp.argmax(log_p, axis=-1).astype(wanted.dtype) == wanted

        self._score = score

    def likelihoods(
        self, pairs: Sequence[tuple[list[int], list[int]]]
    ) -> Iterator[tuple[float, bool]]:
        """For each context and continuation: `log p` of it, and whether it is the greedy one.

        A context that is too long loses tokens at its start.

        Raises:
            ValueError: an empty context, or a continuation longer than `max_length`.
        """
        for group in batched(pairs, self.batch):
            rows = [self._row(context, continuation) for context, continuation in group]
            size = _padded(max(map(len, rows)) - 1, self.max_length) + 1
            tokens = np.zeros((self.batch, size), np.int32)
            for index, row in enumerate(rows):
                tokens[index, : len(row)] = row
            log_p, greedy = map(np.asarray, self._score(self._state, tokens))
            for index, (row, (_, continuation)) in enumerate(zip(rows, group, strict=True)):
                places = slice(len(row) - 1 - len(continuation), len(row) - 1)
                total = log_p[index, places].sum(dtype=np.float64)
                yield float(total), bool(greedy[index, places].all())

    def continuation(self, context: list[int], count: int, end_of_text: int) -> list[int]:
        """The greedy continuation, at most `count` ids, up to the end of the text.

        The context loses tokens at its start so that all fit in `max_length`.

        Raises:
            ValueError: an empty context, or no room for it.
        """
        room = self.max_length - count
        if not context or room < 1:
            raise ValueError(
                f"context must have tokens and room before {count} new ones in {self.max_length}; "
                f"got {len(context)}"
            )
        kept = context[-room:]
        prompt = np.zeros((1, _padded(len(kept), room)), np.int32)
        prompt[0, : len(kept)] = kept
        words, counts = generate(
            self.model,
            prompt,
            np.array([len(kept)]),
            max_new_tokens=count,
            eos_id=end_of_text,
        )
        found = np.asarray(words)[0, : int(counts[0])].tolist()
        return found[:-1] if found[-1:] == [end_of_text] else found

    def _row(self, context: list[int], continuation: list[int]) -> list[int]:
        if not context or len(continuation) > self.max_length:
            raise ValueError(
                f"a context must have tokens, and a continuation at most {self.max_length}; got "
                f"{len(context)} and {len(continuation)}"
            )
        return (context + continuation)[-self.max_length - 1 :]


def _padded(length: int, most: int) -> int:
    """The next of the padded lengths."""
    size = SMALLEST
    while size < length:
        size *= 2
    return min(size, most)
