"""Sequences in segments, which are run at once for what they do to the state before them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from structlayers.gla.pallas_gpu.layout import CHUNK, MULTIPROCESSORS, VALUE_TILE, Sizes

# Chunks that a segment should have at least.
_SEGMENT_CHUNKS = 8
# Two are run one after the other in the time of one, and their states are added up beside that.
_LEAST_SEGMENTS = 4
# Segments whose states are added up in one kernel of XLA.
_UNROLLED = 8


def segment_count(batch: int, time: int, heads: int, value: int, *, twice: bool = False) -> int:
    """In how many segments sequences are cut, so that there are blocks of threads for all.

    Each is run from a state of zero first, for its final state; then with the state it starts from.

    Args:
        batch: B.
        time: T.
        heads: H.
        value: V.
        twice: whether one segment would be run twice as well.
    """
    blocks = batch * heads * value // VALUE_TILE
    count, chunks = 1, time // CHUNK
    while (
        time % CHUNK == 0
        and chunks % (2 * count) == 0
        and chunks // (2 * count) >= _SEGMENT_CHUNKS
        and 2 * count * blocks <= MULTIPROCESSORS
    ):
        count *= 2
    return count if twice or count >= _LEAST_SEGMENTS else 1


class Segments(NamedTuple):
    """What launches have found of the segments of sequences, in the order of time.

    Run from the end, states are their gradients.

    Attributes:
        images: int32 `(B, N, words)`, what `prepare` makes of chunks.
        added: float32 `(B, segments, heads, K, V)`, what each leaves of a state of zero.
        decays: `(B, segments, heads, K, 1)`, what each leaves of the state before it.
    """

    images: jax.Array
    added: jax.Array
    decays: jax.Array

    def run(self, state: jax.Array | None, *, reverse: bool = False) -> tuple[jax.Array, jax.Array]:
        """The state after all segments, `(B, heads, K, V)`, and those before each.

        Args:
            state: before the first, of this size, or None for zeros.
            reverse: whether the last segment is the first.
        """
        added, decays = (jnp.moveaxis(x, 1, 0) for x in (self.added, self.decays))
        state = jnp.zeros_like(added[0]) if state is None else state.reshape(added.shape[1:])

        def step(
            state: jax.Array, segment: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array]:
            added, decay = segment
            return decay * state + added, state

        unroll = min(len(added), _UNROLLED)
        final, starts = lax.scan(step, state, (added, decays), reverse=reverse, unroll=unroll)
        return final, jnp.moveaxis(starts, 0, 1)

    def log_decay(self) -> jax.Array:
        """Of all segments, `(B, heads, K, 1)`."""
        return jnp.log(jnp.prod(self.decays, 1))


def decays_of(image: jax.Array, sizes: Sizes, *, transposed: bool) -> jax.Array:
    """Of all segments, `(segments of B, heads, K)`: key heads, or query heads if transposed."""
    decay = lax.bitcast_convert_type(image[:, sizes.decay_at // 4 :], jnp.float32)
    decay = jnp.prod(decay.reshape(sizes.batch, sizes.heads, sizes.chunks, -1), axis=2)
    if transposed:
        return decay
    return decay.reshape(sizes.batch, sizes.groups, sizes.shared, sizes.key)[:, :, 0]
