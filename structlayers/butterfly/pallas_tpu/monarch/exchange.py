"""Values of a tile that change registers, in words of 32 bits.

Group i holds, in every run of 128 lanes, values of all groups t, and those of group t have to come
together. Where the value for t lies in lane `t - i` modulo G, register t takes lane e from register
`t - e`: for every bit of e a choice between two registers, `log2(G)` choices a register and no
motion across lanes. One rotation of each register then puts the outputs in their places.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from structlayers.butterfly.pallas_tpu.chain import LANES
from structlayers.butterfly.pallas_tpu.monarch.groups import Groups

# Registers that an exchange holds at once, of the 64 that there are.
_REGISTERS = 32
_SUBLANES = 8
# Rounds of an exchange that are written out, so that one hides the latencies of the next.
_UNROLL = 2


def exchange(tiles: Sequence[jax.Array], *, back: bool = False) -> list[jax.Array]:
    """Register t with lane e from register `t - e` modulo their number; `t + e` if back."""
    tiles, count = list(tiles), len(tiles)
    lane = lax.broadcasted_iota(jnp.int32, tiles[0].shape, 1)
    for step in (2**bit for bit in range(count.bit_length() - 1)):
        move, apart = (lane & step) != 0, -step if back else step
        tiles = [jnp.where(move, tiles[(t - apart) % count], tiles[t]) for t in range(count)]
    return tiles


def to_outputs(tiles: Sequence[jax.Array]) -> list[jax.Array]:
    """From the columns of all second groups to runs of outputs."""
    # run t takes lane e from group e - t
    tiles = exchange(tiles, back=True)
    return [_rotated(tiles[-t % len(tiles)], -t) for t in range(len(tiles))]


def from_outputs(tiles: Sequence[jax.Array]) -> list[jax.Array]:
    """The inverse of `to_outputs`."""
    turned = [_rotated(tile, t) for t, tile in enumerate(tiles)]
    return exchange([turned[-t % len(tiles)] for t in range(len(tiles))])


def _rotated(tile: jax.Array, lanes: int) -> jax.Array:
    return pltpu.roll(tile, lanes % LANES, 1) if lanes else tile


def move(
    count: int,
    source: Any,
    target: Any,
    between: Callable[[Sequence[jax.Array]], list[jax.Array]],
    lanes: Iterator[tuple[Sequence[int], Sequence[int]]],
    *,
    unroll: bool,
    valid: Any = None,
) -> None:
    """Loads one run of lanes of each group, rearranges them, and stores them.

    Args:
        count: G.
        source: ref of rows, or of words of 32 bits.
        target: ref of as many; may be the source.
        between: the rearrangement, of registers of 32 bits.
        lanes: where the runs are, and where they go.
        unroll: whether rounds are written out; pointless when interpreted.
        valid: rows from it on read as zero, where it is given.
    """
    rows = min(_words(source), _words(target))
    height = min(rows, max(1, _REGISTERS // count) * _SUBLANES)
    places = list(lanes)

    def of_rows(index: Any, carry: Any) -> Any:
        start = pl.multiple_of(index * height, height)
        for runs, goals in places:
            moved = between([_load_words(source, start, height, lane, valid) for lane in runs])
            for lane, words in zip(goals, moved, strict=True):
                _store_words(target, start, height, lane, words)
        return carry

    lax.fori_loop(
        0,
        rows // height,
        of_rows,
        0,
        unroll=min(rows // height, _UNROLL) if unroll else 1,
    )


def _words(ref: Any) -> int:
    """Rows of a ref when seen in words of 32 bits: two rows of bfloat16 are one."""
    return ref.shape[0] * ref.dtype.itemsize // 4


def _load_words(ref: Any, start: Any, rows: int, lane: int, valid: Any) -> jax.Array:
    apart = 4 // ref.dtype.itemsize
    return pltpu.bitcast(_load(ref, start * apart, rows * apart, lane, LANES, valid), jnp.uint32)


def _store_words(ref: Any, start: Any, rows: int, lane: int, words: jax.Array) -> None:
    apart = 4 // ref.dtype.itemsize
    place = pl.ds(pl.multiple_of(start * apart, rows * apart), rows * apart)
    ref[place, pl.ds(lane, LANES)] = pltpu.bitcast(words, ref.dtype)


def _load(ref: Any, start: Any, rows: int, lane: Any, lanes: int, valid: Any = None) -> jax.Array:
    if not isinstance(start, int):
        start = pl.multiple_of(start, rows)
    x = ref[pl.ds(start, rows), pl.ds(lane, lanes)]
    if valid is None:
        return x
    row = start + lax.broadcasted_iota(jnp.int32, x.shape, 0)
    return jnp.where(row < valid, x, jnp.zeros_like(x))


def load_all(ref: Any, dtype: Any, lane: Any, lanes: int, valid: Any = None) -> jax.Array:
    """All rows of some lanes, from words of 32 bits where the ref holds those."""
    return pltpu.bitcast(_load(ref, 0, ref.shape[0], lane, lanes, valid), dtype)


def store_all(ref: Any, dtype: Any, lane: Any, x: jax.Array) -> None:
    """The inverse of `load_all`, of values rounded to `dtype`."""
    ref[:, pl.ds(lane, x.shape[1])] = pltpu.bitcast(x.astype(dtype), ref.dtype)


def middle_lanes(groups: Groups) -> Iterator[tuple[list[int], list[int]]]:
    """Runs of values between the factors, one of each group, and where the exchange puts them."""
    for lane in range(0, groups.middle, LANES):
        runs = [group * groups.middle + lane for group in range(groups.count)]
        yield runs, runs


def output_lanes(groups: Groups) -> Iterator[tuple[list[int], list[int]]]:
    """Columns of second groups, and the runs of outputs that they become."""
    for lane in range(0, groups.outputs, LANES):
        columns = [group * groups.outputs + lane for group in range(groups.count)]
        yield columns, [lane * groups.count + t * LANES for t in range(groups.count)]
