"""Products of signals on the sphere, row by row: evaluate, multiply, project.

A warp takes a tile of rows into the registers of left operands, evaluates the signals at 8 points
after another, even and odd degrees apart, multiplies them there, and adds to the coefficients of
the product what these points give. A value at a point lives in one register and nowhere else:
sums of the tensor cores stand where their left operands have to, but for the order of the points,
and that order is in the tables.

At the antipode of a point odd parts change sign. So half of the points will do, and the even part
of a product of signals, e e' + o o', only has even degrees, the odd one, e o' + o e', odd ones.
"""

import functools
from collections.abc import Sequence
from typing import Any

from structlayers._core.simt.machine import Int, IntLike, Machine
from structlayers.equivariant.pallas_gpu.arithmetic import (
    Arithmetic,
    add_signals,
    multiply_signals,
    scale_signal,
)
from structlayers.equivariant.pallas_gpu.plan import Plan
from structlayers.equivariant.pallas_gpu.rows import RowLayout
from structlayers.equivariant.pallas_gpu.staging import Offsets, Staging
from structlayers.equivariant.pointwise import Product

_PARITIES = (0, 1)


class _Reader:
    """Words of the tables in the order in which a lane needs them."""

    def __init__(self, machine: Machine, address: Int):
        self._machine, self._address = machine, address
        self._words: list[Any] = []

    def pair(self) -> list[Any]:
        """The next two."""
        if not self._words:
            self._words = self._machine.load_shared(self._address, 4)
            self._address = self._address + 4 * 4 * 32
        pair, self._words = self._words[:2], self._words[2:]
        return pair


class Program:
    """The block's program for one plan."""

    def __init__(
        self,
        plan: Plan,
        machine: Machine,
        table: Any,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
    ):
        self.plan, self.machine, self.table = plan, machine, table
        self.problem = plan.problem
        self.staging = Staging(plan, machine, inputs, outputs)
        self.arithmetic = Arithmetic(machine, self.problem.mode, split_once=plan.split_once)
        self.fragments = range(plan.fragments)

    def run(self) -> None:
        """All tiles of this block."""
        plan, m, staging = self.plan, self.machine, self.staging
        with m.when(m.thread().equals(0)):
            for barrier in range(1 + plan.warps * plan.slots):
                m.barrier_init(8 * barrier)
        m.synchronize()
        with m.when(m.thread().equals(0)):
            size, zero = self.problem.table_bytes, m.constant(0)
            m.barrier_expect(0, size)
            m.copy_in(m.constant(plan.tables_at), self.table, zero, 0, zero, size, 0)
        m.reconverge()
        for slot in range(plan.slots):
            staging.fetch(m.constant(slot))
        self.offsets: dict[RowLayout, Offsets] = {}
        for layout in (*plan.inputs, *plan.outputs):
            self.offsets[layout] = Offsets(m, layout, self.problem.itemsize)
        m.barrier_wait(0, 0)

        def tile(step: Int, carried: Sequence[Any]) -> Sequence[Any]:
            held = self.hold(staging.arrived(step))
            m.reconverge()
            staging.fetch(step + plan.slots)
            sums = self.all_points(held)
            staging.release()
            for number, product in enumerate(self.problem.products):
                self.store(step, number, product, sums[number])
            return carried

        m.loop(0, staging.tile_count(), 1, tile)
        staging.release()

    # operands --------------------------------------------------------------------------------

    def hold(self, slot: Int) -> list[Any]:
        """Left operands of all inputs: by input, parity, depth and fragment of rows."""
        held, at = [], 0
        for layout, degree in zip(self.plan.inputs, self.problem.degrees, strict=True):
            held.append([self._hold_parity(slot + at, layout, degree, p) for p in _PARITIES])
            at += layout.size
        return held

    def _hold_parity(self, tile: Int, layout: RowLayout, degree: int, parity: int) -> list[Any]:
        depth, offsets = self.problem.step_groups, self.offsets[layout]
        groups = self.problem.input_groups(degree, parity)
        found = []
        for first in range(0, len(groups), depth):
            addresses = [tile + offsets(group) for group in groups[first : first + depth]]
            chosen = self.fragments[:1] if layout.shared else self.fragments
            operands = [self._operand(addresses, layout, one) for one in chosen]
            found.append(operands * (len(self.fragments) // len(chosen)))
        return found

    def _operand(self, addresses: Sequence[Int], layout: RowLayout, fragment: int) -> Any:
        """Of a lane's coefficient of each group, for rows g and g + 8 of a fragment."""
        halves = range(1 if layout.shared else 2)
        pairs = [(2 * fragment + half) * layout.pair_pitch for half in halves]
        same = 2 // len(halves)
        if self.problem.mode != "bf16":
            values = [[self._value(address + pair) for pair in pairs] for address in addresses]
            return self.arithmetic.held([value for both in values for value in both * same])
        words = [
            [self._word(low + pair, high + pair) for pair in pairs]
            for low, high in zip(addresses[::2], addresses[1::2], strict=True)
        ]
        return [word for both in words for word in both * same]

    def _value(self, address: Int) -> Any:
        m = self.machine
        if self.problem.itemsize == 4:
            return m.float(m.load_shared(address, 1)[0])
        return m.float(m.word_of(m.integer_of(m.load_shared_half(address)) << 16))

    def _word(self, low: Int, high: Int) -> Any:
        """Two bfloat16."""
        m = self.machine
        if self.problem.itemsize == 4:
            return m.pack(self._value(low), self._value(high))
        words = [m.integer_of(m.load_shared_half(address)) for address in (low, high)]
        return m.word_of((words[1] << 16) + words[0])

    # points ----------------------------------------------------------------------------------

    def all_points(self, held: Sequence[Any]) -> list[list[list[Any]]]:
        """Sums of each result, by fragment of rows and tile of 8 coefficients."""
        plan, problem, m = self.plan, self.problem, self.machine
        shape = [problem.fragments_out(product.degree) for product in problem.products]
        start = self.plan.tables_at + m.lane() * 16
        size = 4 * 32 * problem.step_words

        def nest(flat: Sequence[Any]) -> list[list[list[Any]]]:
            values = iter(flat)
            return [
                [[[next(values) for _ in range(4)] for _ in range(count)] for _ in self.fragments]
                for count in shape
            ]

        def steps(index: IntLike, count: int, flat: Sequence[Any]) -> Sequence[Any]:
            sums = nest(flat)
            for step in range(count):
                self.points(start + (index * size + step * size), held, sums)
            return [x for product in sums for rows in product for tile in rows for x in tile]

        whole = problem.steps // plan.unrolled
        flat: Sequence[Any] = [m.zero() for _ in range(4 * plan.fragments * sum(shape))]
        if whole > 1:

            def body(index: Int, carried: Sequence[Any]) -> Sequence[Any]:
                return steps(index, plan.unrolled, carried)

            flat = m.loop(0, whole * plan.unrolled, plan.unrolled, body, flat)
        rest = problem.steps - (whole if whole > 1 else 0) * plan.unrolled
        return nest(steps(problem.steps - rest, rest, flat))

    def points(self, table: Int, held: Sequence[Any], sums: list[list[list[Any]]]) -> None:
        """Adds what the points of a step give."""
        problem, m = self.problem, self.machine
        reader = _Reader(m, table)
        tiles = [self._products(reader, held) for _ in range(problem.step_points // 8)]
        left = [
            [
                [self._made([t[i][one][p] for t in tiles]) for p in _PARITIES]
                for one in self.fragments
            ]
            for i in range(len(problem.products))
        ]
        for degree in problem.output_degrees:
            at = 0
            for parity in _PARITIES:
                for _ in range(len(problem.output_groups(degree, parity)) // 2):
                    self._project(reader, left, sums, degree, parity, at)
                    at += 1

    def _project(
        self, reader: _Reader, left: Any, sums: Any, degree: int, parity: int, tile: int
    ) -> None:
        right = self.arithmetic.right(reader.pair())
        for i, product in enumerate(self.problem.products):
            if product.degree == degree:
                for one in self.fragments:
                    acc = sums[i][one][tile]
                    sums[i][one][tile] = self.arithmetic.add_product(
                        acc, left[i][one][parity], right
                    )

    def _made(self, tiles: Sequence[Sequence[Any]]) -> Any:
        """A left operand of sums that stand in one or two tiles of 8 points."""
        m = self.machine
        if self.problem.mode == "bf16":
            return [m.pack(t[2 * row], t[2 * row + 1]) for t in tiles for row in range(2)]
        ((a, b, c, d),) = tiles
        return self.arithmetic.made([a, c, b, d])

    def _products(self, reader: _Reader, held: Sequence[Any]) -> list[list[list[list[Any]]]]:
        """Values of each result at 8 points, by fragment of rows and parity."""
        signals, m = self._evaluate(reader, held), self.machine
        # by fragment and factors: products that others begin with
        made: dict[tuple[int, tuple[int, ...]], Any] = {}

        def monomial(one: int, factors: tuple[int, ...]) -> Any:
            if (one, factors) not in made:
                last = [signals[factors[-1]][p][one] for p in _PARITIES]
                if len(factors) > 1:
                    last = multiply_signals(m, monomial(one, factors[:-1]), last)
                made[one, factors] = last
            return made[one, factors]

        def value(one: int, product: Product) -> Any:
            terms = [scale_signal(m, monomial(one, t.factors), t.scale) for t in product.terms]
            return functools.reduce(functools.partial(add_signals, m), terms)

        return [
            [value(one, product) for one in self.fragments] for product in self.problem.products
        ]

    def _evaluate(self, reader: _Reader, held: Sequence[Any]) -> list[list[list[Any]]]:
        """Inputs at 8 points, by input, parity and fragment of rows."""
        arithmetic, degrees = self.arithmetic, self.problem.degrees
        signals: list[list[list[Any]]] = [[[], []] for _ in held]
        for degree in self.problem.input_degrees:
            chosen = [i for i, one in enumerate(degrees) if one == degree]
            for parity in _PARITIES:
                sums = {(i, one): arithmetic.start() for i in chosen for one in self.fragments}
                for depth in range(len(held[chosen[0]][parity])):
                    right = arithmetic.right(reader.pair())
                    for i, one in sums:
                        left = arithmetic.left(held[i][parity][depth][one])
                        sums[i, one] = arithmetic.multiply(sums[i, one], left, right)
                for i in chosen:
                    signals[i][parity] = [arithmetic.finish(sums[i, n]) for n in self.fragments]
        return signals

    # results ---------------------------------------------------------------------------------

    def store(self, step: Int, number: int, product: Product, sums: list[list[Any]]) -> None:
        """A tile of a result."""
        offsets = self.offsets[self.plan.outputs[number]]
        groups = [g for p in _PARITIES for g in self.problem.output_groups(product.degree, p)]

        def write(pair: int, at: Int) -> None:
            for tile, values in enumerate(sums[pair // 2]):
                first = 2 * (pair % 2)
                self._write(at, offsets, groups[2 * tile : 2 * tile + 2], values[first : first + 2])

        self.staging.store(step, number, write)

    def _write(self, at: Int, offsets: Offsets, groups: Sequence[Any], values: Any) -> None:
        m = self.machine
        if self.problem.itemsize == 4:
            for group, value in zip(groups, values, strict=True):
                m.store_shared(at + offsets(group), [m.bits(value)])
            return
        word = m.pack(*values)
        m.store_shared_half(at + offsets(groups[0]), word)
        high = m.word_of(m.integer_of(word) >> 16)
        m.store_shared_half(at + offsets(groups[1]), high)


def program(plan: Plan) -> Any:
    """The program of a plan, for `launch` or `simulate`; the table is the first array."""

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        Program(plan, machine, inputs[0], inputs[1:], outputs).run()

    return run
