"""Tokens of a step of the grid, from the size of VMEM; imports no Pallas."""

import dataclasses

from structlayers._core.checks import next_power_of_two

LANES = 128
# Tokens of a chunk: a bfloat16 register holds 16 rows. 128 are estimated a quarter faster than 64
# on v5e; fewer than 64 are taken where they are asked for, or hold the sequence.
_LOWEST_CHUNK, _CHUNK_ASKED, _CHUNK = 16, 64, 128
# Chunks of a step: enough to hide what a step costs by itself.
_CHUNKS = (8, 4, 2, 1)
# Share of VMEM that a kernel plans for; the rest is the compiler's.
_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a sequence is cut.

    Attributes:
        chunk: tokens of a chunk, C.
        chunks: chunks of a step.
        steps: steps of a sequence.
    """

    chunk: int
    chunks: int
    steps: int

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.chunk * self.chunks


def padded(width: int) -> int:
    """Whole registers of lanes."""
    return -(-width // LANES) * LANES


def plan(
    time: int, shared: int, key: int, value: int, itemsize: int, chunk_size: int, vmem: int
) -> Layout:
    """The most chunks of a step that fit, for the backward kernel as for the forward one.

    Args:
        time: tokens of a sequence.
        shared: query heads of a state.
        key: K.
        value: V.
        itemsize: bytes of a value of q, k and v.
        chunk_size: what the operation was asked for, a power of two.
        vmem: bytes of VMEM.

    Raises:
        NotImplementedError: not even one chunk fits.
    """
    key, value = padded(key), padded(value)
    chunk = max(chunk_size, _LOWEST_CHUNK)
    if chunk >= _CHUNK_ASKED and time > _CHUNK_ASKED:
        chunk = _CHUNK
    limit = int(_SHARE * vmem)
    # q, k, v, output or its cotangent and three gradients, and two gates, each in two buffers
    per_token = 2 * (2 * itemsize * (shared * key + key + value) + itemsize * shared * value)
    per_token += 2 * 2 * 4 * key
    state = 4 * key * value
    needed = limit + 1
    for chunks in _CHUNKS:
        if chunks > 1 and chunks * chunk >= 2 * next_power_of_two(time):
            continue
        # the carried one, and in two buffers the initial, the final and that of the step
        needed = per_token * chunk * chunks + state * (chunks + 1 + 2 * 3)
        if needed <= limit:
            return Layout(chunk, chunks, -(-time // (chunk * chunks)))
    raise NotImplementedError(
        f"a state of {key} x {value} with {shared} query heads takes {needed / 2**20:.1f} MiB of "
        f"VMEM, {limit / 2**20:.1f} of {vmem >> 20} MiB are to be had"
    )
