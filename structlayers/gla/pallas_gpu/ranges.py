"""Ranges of chunks, one launch each, of the backward pass of long sequences.

The gradients of states are the largest array that lives only during that pass. A range of chunks of
every sequence writes them where those of the range before were, when these have been read.
"""

import math

from structlayers.gla.pallas_gpu.layout import Sizes

# Blocks of a short range leave multiprocessors idle when it ends, and what they hold is small.
_LEAST_CHUNKS = 64
_RANGES = 4


def ranges_of(sizes: Sizes, *, wanted: bool) -> list[range]:
    """Chunks of each launch, in the order of time: all in one, or in ranges if that is worth it.

    Pairs of chunks are not parted: all ranges but the last have the same even number of chunks,
    and that one no more.

    Args:
        sizes: of the call.
        wanted: whether memory counts more than launches.
    """
    chunks = sizes.chunks
    if not wanted or chunks < _LEAST_CHUNKS:
        return [range(chunks)]
    length = 2 * math.ceil(chunks / (2 * _RANGES))
    return [range(first, min(first + length, chunks)) for first in range(0, chunks, length)]
