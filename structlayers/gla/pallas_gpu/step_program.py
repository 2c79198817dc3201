"""One token of decoding in one pass over the state: `S' = a * S + k v^T`, `o = s q S'`.

A block has some columns of one state and all of its rows. A row's columns belong to neighbouring
threads, four to each; a thread has every so many rows, loads a batch of them before it needs the
first, and stores each in its place once it has been decayed and read. So the state is in flight
nearly all the time; gates, keys and queries, a thousandth of its bytes, wait in shared memory.

The blocks of a state form a cluster where outputs are normalized: each sends the sum of its squares
to all. Sums are formed in the same order in every run.
"""

from collections.abc import Sequence
from typing import Any

from structlayers._core.simt.machine import Int, IntLike, Machine
from structlayers.gla.pallas_gpu.step_plan import Plan


class Program:
    """The block's program for one plan.

    Inputs are q `(N, H, K)`, k `(N, G, K)`, v `(N, G, V)`, gates `(N, G, K)` and the state
    `(N, G, K, V)`, which is written too; with a norm also the output gate `(N, H, V)` and the
    norm's scale `(V,)` in float32. The output is `(N, H, V)`.
    """

    def __init__(self, plan: Plan, machine: Machine, inputs: Sequence[Any], out: Any):
        self.plan, self.machine, self.out = plan, machine, out
        self.q, self.k, self.v, self.gates, self.state, *self.epilogue = inputs
        m = machine
        if plan.cluster_size > 1:
            self.head, self.tile = m.cluster(), m.rank()
        else:
            self.head, self.tile = m.cluster().divide(plan.tiles), m.cluster().modulo(plan.tiles)
        self.lane = m.thread().modulo(plan.lanes)
        self.group = m.thread().divide(plan.lanes)
        self.first_column = self.tile * plan.columns

    def run(self) -> None:
        """All rows of this block's columns."""
        plan, m = self.plan, self.machine
        ahead = self.load_rows(0)
        if plan.cluster_size > 1:
            with m.when(m.thread().equals(0)):
                m.barrier_init(0)
        self.prepare()
        m.synchronize()
        if plan.cluster_size > 1:
            m.cluster_arrive()
        values = self.numbers(self.v, self.head * plan.value + self.column(), 4, plan.half)
        sums = [m.zero()] * (4 * plan.queries)

        def batch(number: IntLike, rows: Sequence[Any], sums: Sequence[Any]) -> list[Any]:
            for i in range(plan.batch_rows):
                row = rows[4 * i : 4 * i + 4]
                sums = self.update(self.row(number, i), row, values, sums)
            return list(sums)

        def turn(number: Int, carried: Sequence[Any]) -> list[Any]:
            split = 4 * plan.batch_rows
            ahead = self.load_rows(number + 1)
            return ahead + batch(number, carried[:split], carried[split:])

        last = plan.rows // plan.batch_rows - 1
        carried = m.loop(0, last, 1, turn, [*ahead, *sums])
        split = 4 * plan.batch_rows
        self.finish(batch(last, carried[:split], carried[split:]))

    def column(self) -> Int:
        """The first of this thread's columns of the state."""
        return self.first_column + self.lane * 4

    def row(self, batch: IntLike, index: int) -> Int:
        """The row that is this thread's number `index` of a batch."""
        plan, m = self.plan, self.machine
        number = batch if isinstance(batch, Int) else m.constant(batch)
        return self.group + (number * plan.batch_rows + index) * plan.groups

    def numbers(self, array: Any, first: Int, count: int, half: bool) -> list[Any]:
        """Consecutive float32 from an array of bfloat16 or float32."""
        m = self.machine
        if not half:
            return [m.float(word) for word in m.load_global(array, first * 4, count)]
        words = m.load_global(array, first * 2, count // 2)
        return [number for word in words for number in m.unpack(word)]

    def load_rows(self, batch: IntLike) -> list[Any]:
        """This thread's columns of its rows of a batch, row after row."""
        plan, m = self.plan, self.machine
        start = self.head * (plan.key * plan.value) + self.column()
        places = [start + self.row(batch, i) * plan.value for i in range(plan.batch_rows)]
        return [
            m.float(word)
            for place in places
            for word in m.load_global(self.state, place * 4, 4, constant=False)
        ]

    def prepare(self) -> None:
        """Decay, key and scaled queries of every row to shared memory, two rows a thread."""
        plan, m = self.plan, self.machine
        scale = m.number(plan.scale)
        for start in range(0, plan.key // 2, plan.threads):
            pair = m.thread() + start
            with m.when(pair < plan.key // 2):
                at = self.head * plan.key + pair * 2
                gates = self.numbers(self.gates, at, 2, plan.half_gates)
                rows = [[self.decay(gate)] for gate in gates]
                columns = [self.numbers(self.k, at, 2, plan.half)]
                for query in range(plan.queries):
                    at = (self.head * plan.queries + query) * plan.key + pair * 2
                    numbers = self.numbers(self.q, at, 2, plan.half)
                    columns.append([m.multiply(scale, x) for x in numbers])
                for i, row in enumerate(rows):
                    row += [column[i] for column in columns]
                    row += [m.zero()] * (plan.row_words - len(row))
                    place = (pair * 2 + i) * (4 * plan.row_words) + plan.rows_at
                    for word in range(0, plan.row_words, 4):
                        m.store_shared(place + 4 * word, [m.bits(x) for x in row[word : word + 4]])

    def decay(self, gate: Any) -> Any:
        """What is left of a row: `exp(gate)`, or `sigmoid(gate)^(1 / tau)`."""
        plan, m = self.plan, self.machine
        if plan.gate_normalizer is None:
            return m.unary("exp", gate)
        # log sigmoid(x) = min(x, 0) - log(1 + exp(-|x|)): nothing overflows
        size = m.unary("abs", gate)
        negative = m.multiply(m.number(0.5), m.add(gate, m.negate(size)))
        rest = m.unary("log1p", m.unary("exp", m.negate(size)))
        log = m.add(negative, m.negate(rest))
        return m.unary("exp", m.multiply(m.number(1 / plan.gate_normalizer), log))

    def update(
        self, at: Int, row: Sequence[Any], values: Sequence[Any], sums: Sequence[Any]
    ) -> list[Any]:
        """Decays a row, adds the new term, stores it and adds it to the outputs."""
        plan, m = self.plan, self.machine
        place = at * (4 * plan.row_words) + plan.rows_at
        decay, key, *queries = (
            m.float(word)
            for start in range(0, plan.row_words, 4)
            for word in m.load_shared(place + 4 * start, 4)
        )
        new = [m.fma(decay, x, m.multiply(key, v)) for x, v in zip(row, values, strict=True)]
        line = self.head * plan.key + at
        m.store_global(
            self.state, line, 4 * plan.value, self.column() * 4, [m.bits(x) for x in new]
        )
        return [m.fma(queries[i // 4], new[i % 4], total) for i, total in enumerate(sums)]

    def finish(self, sums: Sequence[Any]) -> None:
        """Adds the outputs of all groups up; a thread then has two columns of one query head."""
        plan, m = self.plan, self.machine
        for query in range(plan.queries):
            place = (self.group * plan.queries + query) * plan.columns + self.lane * 4
            words = [m.bits(x) for x in sums[4 * query : 4 * query + 4]]
            m.store_shared(place * 4 + plan.partial_at, words)
        m.synchronize()
        items = plan.queries * plan.columns // 2
        item = m.thread().minimum(items - 1)
        query, column = item.divide(plan.columns // 2), item.modulo(plan.columns // 2) * 2
        outputs = [m.zero()] * 2
        for group in range(plan.groups):
            words = m.load_shared(item * 8 + (plan.partial_at + 8 * items * group), 2)
            outputs = [m.add(x, m.float(word)) for x, word in zip(outputs, words, strict=True)]
        line = self.head * plan.queries + query
        if self.epilogue:
            outputs = self.normalize(outputs, item, query, line, column)
        words = [m.pack(*outputs)] if plan.half else [m.bits(x) for x in outputs]
        size = 2 if plan.half else 4
        with m.when(m.thread() < items):
            offset = (self.first_column + column) * size
            m.store_global(self.out, line, plan.value * size, offset, words)

    def normalize(
        self, outputs: list[Any], item: Int, query: Int, line: Int, column: Int
    ) -> list[Any]:
        """`swish(g) * w * o / sqrt(mean of squares + epsilon)` over all blocks of the cluster."""
        plan, m = self.plan, self.machine
        gate, scale = self.epilogue
        column = self.first_column + column
        gates = self.numbers(gate, line * plan.value + column, 2, plan.half)
        scales = self.numbers(scale, column, 2, False)
        m.store_shared(item * 8 + plan.outputs_at, [m.bits(x) for x in outputs])
        m.synchronize()
        self.share_squares()
        total = m.zero()
        for block in range(plan.cluster_size):
            (word,) = m.load_shared(query * 4 + (plan.slots_at + 16 * block), 1)
            total = m.add(total, m.float(word))
        mean = m.multiply(m.number(1 / plan.value), total)
        inverse = m.unary("rsqrt", m.add(mean, m.number(plan.norm_epsilon or 0.0)))
        one = m.number(1.0)
        swishes = [m.divide(g, m.add(one, m.unary("exp", m.negate(g)))) for g in gates]
        return [
            m.multiply(m.multiply(x, m.multiply(inverse, w)), swish)
            for x, w, swish in zip(outputs, scales, swishes, strict=True)
        ]

    def share_squares(self) -> None:
        """Sends this block's sums of squares, one for each query head, to its cluster."""
        plan, m = self.plan, self.machine
        words = [m.word(0)] * 4
        for query in range(plan.queries):
            total = m.zero()
            for start in range(0, plan.columns, 4):
                place = plan.outputs_at + 4 * (query * plan.columns + start)
                for word in m.load_shared(m.constant(place), 4):
                    total = m.fma(m.float(word), m.float(word), total)
            words[query] = m.bits(total)
        if plan.cluster_size == 1:  # the grid has no clusters, whose instructions would be illegal
            with m.when(m.thread().equals(0)):
                m.store_shared(m.constant(plan.slots_at), words)
            m.synchronize()
            return
        m.cluster_wait()
        with m.when(m.thread().equals(0)):
            m.barrier_expect(0, 16 * plan.cluster_size)
        with m.when(m.thread() < plan.cluster_size):
            slot = self.tile * 16 + plan.slots_at
            m.store_to_peer(m.thread(), slot, words, 0)
        m.reconverge()
        m.barrier_wait(0, 0)


def program(plan: Plan) -> Any:
    """The program of a plan, for `launch` or `simulate`."""

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        Program(plan, machine, inputs, outputs[0]).run()

    return run
