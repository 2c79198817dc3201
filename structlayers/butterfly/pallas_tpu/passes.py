"""One pass over a tile of rows in VMEM, and its gradient.

Tiles are refs ``(planes, T, N)``. Weights are refs ``(planes, 1, P, R, R)``, transposed, of a
factor that mixes lanes, and ``(planes, 1, P, R R, s)`` of one across registers, entry ``(i, j)``
at ``i R + j``. Gradients of the latter are sums over rows 8 apart, ``(planes, 1, P, R R, 8, s)``:
eight rows are one register, so that nothing is summed within one.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from structlayers.butterfly.pallas_tpu.chain import LANES, Chain, Factor, Pass
from structlayers.butterfly.pallas_tpu.values import Value, product, total

SUBLANES = 8
# Rounds of a loop that are written out, so that the latency of one hides behind the next: of runs
# on the matrix unit, and of sets across registers. Compiled estimates, N = 2048 in bfloat16 forward
# and backward, v5e, batch 4096: 190 us for (8, 1), 174 for (8, 2), 146 for (16, 2).
_UNROLL_RUNS = 16
_UNROLL_SETS = 2


@dataclasses.dataclass(frozen=True)
class Tile:
    """What the passes over one tile share.

    Attributes:
        chain: the factors.
        planes: 1 for real values, 2 for complex ones.
        rows: T.
        row_step: rows that a pass across registers holds at a time.
        dtype: of the operands of matrix products.
        precision: of matrix products.
        unroll: whether loops are written out several rounds at a time; pointless when interpreted.
    """

    chain: Chain
    planes: int
    rows: int
    row_step: int
    dtype: Any
    precision: lax.Precision | None
    unroll: bool


@dataclasses.dataclass(frozen=True)
class Source:
    """A tile to read from; rows from `valid` on read as zero, where it is given."""

    ref: Any
    valid: Any = None

    def load(self, start: int, rows: int, lanes: Any) -> Value:
        """Rows ``start .. start + rows`` of some lanes, every plane."""
        planes = []
        for plane in range(self.ref.shape[0]):
            x = self.ref[plane, pl.ds(start, rows), lanes]
            if self.valid is not None:
                row = start + lax.broadcasted_iota(jnp.int32, x.shape, 0)
                x = jnp.where(row < self.valid, x, jnp.zeros_like(x))
            planes.append(x)
        return tuple(planes)


def _store(ref: Any, start: int, rows: int, lanes: Any, value: Value) -> None:
    for plane, x in enumerate(value):
        ref[plane, pl.ds(start, rows), lanes] = x.astype(ref.dtype)


def apply_pass(tile: Tile, step: Pass, weights: Sequence[Any], source: Source, target: Any) -> None:
    """Applies the factors of a pass to a tile; `target` may be the tile itself."""
    factors = [tile.chain.factors[index] for index in step.factors]
    refs = [weights[index] for index in step.factors]
    if factors[0].mixes_lanes:
        _multiply_lanes(tile, factors[0], refs[0], source, target)
        return

    def of_one_set(position: _Set) -> None:
        for start in range(0, tile.rows, tile.row_step):
            values = [_wide(source.load(start, tile.row_step, run)) for run in position.runs]
            for factor, ref in zip(factors, refs, strict=True):
                values = _mix(position, factor, ref, values)
            for run, value in zip(position.runs, values, strict=True):
                _store(target, start, tile.row_step, run, value)

    _for_sets(tile, step, of_one_set)


def pull_back_pass(
    tile: Tile,
    step: Pass,
    weights: Sequence[Any],
    source: Source,
    cotangent: Source,
    target: Any,
    gradients: Sequence[Any],
) -> None:
    """The gradient of `apply_pass`: writes that of its tile, adds up those of its weights.

    Args:
        tile: shared settings.
        step: the pass.
        weights: of all factors of the chain.
        source: the tile that the pass was applied to.
        cotangent: the gradient of its result.
        target: ref of the gradient of its tile; may be that of the cotangent.
        gradients: refs of the gradients of all weights, added to.
    """
    factors = [tile.chain.factors[index] for index in step.factors]
    refs = [weights[index] for index in step.factors]
    sums = [gradients[index] for index in step.factors]
    if factors[0].mixes_lanes:
        _pull_back_lanes(tile, factors[0], refs[0], source, cotangent, target, sums[0])
        return

    def of_one_set(position: _Set) -> None:
        for start in range(0, tile.rows, tile.row_step):
            values = [_wide(source.load(start, tile.row_step, run)) for run in position.runs]
            inputs = []
            for factor, ref in zip(factors, refs, strict=True):
                inputs.append(values)
                if len(inputs) < len(factors):
                    values = _mix(position, factor, ref, values)
            pulled = [_wide(cotangent.load(start, tile.row_step, run)) for run in position.runs]
            for factor, ref, gradient in zip(
                reversed(factors), reversed(refs), reversed(sums), strict=True
            ):
                values = inputs.pop()
                _add_outer(position, factor, gradient, pulled, values)
                pulled = _mix(position, factor, ref, pulled, transposed=True)
            for run, value in zip(position.runs, pulled, strict=True):
                _store(target, start, tile.row_step, run, value)

    _for_sets(tile, step, of_one_set)


def _wide(value: Value) -> Value:
    return tuple(x.astype(jnp.float32) for x in value)


def _for_each(tile: Tile, count: int, body: Callable[[Any], None], unroll: int) -> None:
    def step(index: Any, carry: Any) -> Any:
        body(index)
        return carry

    lax.fori_loop(0, count, step, 0, unroll=min(count, unroll) if tile.unroll else 1)


def _multiply_lanes(tile: Tile, factor: Factor, ref: Any, source: Source, target: Any) -> None:
    width = factor.radix

    def dot(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.dot(x, w, precision=tile.precision, preferred_element_type=jnp.float32)

    def of_one_run(p: Any) -> None:
        run = pl.ds(pl.multiple_of(p * width, LANES), width)
        x = tuple(part.astype(tile.dtype) for part in source.load(0, tile.rows, run))
        _store(target, 0, tile.rows, run, product(x, _matrix(factor, ref, p), dot))

    _for_each(tile, tile.chain.size // width, of_one_run, _UNROLL_RUNS)


def _pull_back_lanes(
    tile: Tile,
    factor: Factor,
    ref: Any,
    source: Source,
    cotangent: Source,
    target: Any,
    gradient: Any,
) -> None:
    width = factor.radix

    def contract(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
        return lax.dot_general(
            a,
            b,
            (((axis,), (axis,)), ((), ())),
            precision=tile.precision,
            preferred_element_type=jnp.float32,
        )

    def of_one_run(p: Any) -> None:
        run = pl.ds(pl.multiple_of(p * width, LANES), width)
        x = tuple(part.astype(tile.dtype) for part in source.load(0, tile.rows, run))
        dy = tuple(part.astype(tile.dtype) for part in cotangent.load(0, tile.rows, run))
        place = p if factor.copies > 1 else 0
        for plane, part in enumerate(product(x, dy, lambda a, b: contract(a, b, 0))):
            gradient[plane, 0, place] += part
        pulled = product(dy, _matrix(factor, ref, p), lambda a, b: contract(a, b, 1))
        _store(target, 0, tile.rows, run, pulled)

    _for_each(tile, tile.chain.size // width, of_one_run, _UNROLL_RUNS)


def _matrix(factor: Factor, ref: Any, p: Any) -> Value:
    place = p if factor.copies > 1 else 0
    return tuple(ref[plane, 0, place] for plane in range(ref.shape[0]))


@dataclasses.dataclass(frozen=True)
class _Set:
    """One set of runs of 128 lanes that a pass mixes with each other.

    Attributes:
        step: the pass.
        p: which run of ``stride * members`` values.
        lane: offset of the lanes in each of its parts.
    """

    step: Pass
    p: Any
    lane: Any

    @property
    def runs(self) -> list[Any]:
        """Where the lanes of each member are in a row."""
        step = self.step
        start = self.p * (step.members * step.stride) + self.lane
        return [self._run(start + member * step.stride) for member in range(step.members)]

    def mixed(self, factor: Factor) -> Iterator[tuple[list[int], Any, Any]]:
        """For each group of members that a factor mixes: the members, and where its weights are."""
        step = self.step
        apart = factor.stride // step.stride
        for group in range(step.members // (apart * factor.radix)):
            for offset in range(apart):
                first = group * apart * factor.radix + offset
                members = [first + j * apart for j in range(factor.radix)]
                copy = self.p * (step.members // (apart * factor.radix)) + group
                lanes = self._run(offset * step.stride + self.lane)
                yield members, copy if factor.copies > 1 else 0, lanes

    def _run(self, start: Any) -> Any:
        return pl.ds(pl.multiple_of(start, LANES), LANES)


def _for_sets(tile: Tile, step: Pass, body: Callable[[_Set], None]) -> None:
    runs = step.stride // LANES

    def of_one(index: Any) -> None:
        body(_Set(step, index // runs, index % runs * LANES))

    _for_each(tile, tile.chain.size // (step.members * LANES), of_one, _UNROLL_SETS)


def _mix(
    position: _Set, factor: Factor, ref: Any, values: Sequence[Value], transposed: bool = False
) -> list[Value]:
    """``out[i] = sum_j W[i, j] values[j]`` lane by lane; ``W[j, i]`` if transposed."""
    mixed = list(values)
    radix, planes = factor.radix, range(len(values[0]))
    for members, copy, lanes in position.mixed(factor):
        for i, member in enumerate(members):
            terms = []
            for j, other in enumerate(members):
                entry = j * radix + i if transposed else i * radix + j
                weight = tuple(ref[plane, 0, copy, pl.ds(entry, 1), lanes] for plane in planes)
                terms.append(product(weight, values[other]))
            mixed[member] = total(terms)
    return mixed


def _add_outer(
    position: _Set, factor: Factor, ref: Any, left: Sequence[Value], right: Sequence[Value]
) -> None:
    """Adds ``sum over rows left[i] right[j]`` to the gradient of every entry."""
    for members, copy, lanes in position.mixed(factor):
        for i, member in enumerate(members):
            for j, other in enumerate(members):
                entry = i * factor.radix + j
                for plane, part in enumerate(product(left[member], right[other])):
                    part = part.reshape(-1, SUBLANES, LANES).sum(0)
                    ref[plane, 0, copy, entry, :, lanes] += part
