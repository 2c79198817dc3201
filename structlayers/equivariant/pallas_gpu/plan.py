"""Sizes of a launch, and where things lie in shared memory. Imports no Pallas."""

import dataclasses
import functools
from typing import Literal

from structlayers.equivariant.half_grid import half_grid
from structlayers.equivariant.pallas_gpu.groups import Group, groups
from structlayers.equivariant.pallas_gpu.rows import RowLayout, row_layouts, shared_layout
from structlayers.equivariant.pointwise import Product, grid_degree

type Mode = Literal["tf32", "3xtf32", "bf16"]

# by the word of `precision=`
MODES: dict[str, Mode] = {"tf32": "tf32", "3xtf32": "3xtf32", "bf16": "bf16"}

# rows
LARGEST_TILE = 32
# of an H100 or H200 (SXM)
MULTIPROCESSORS = 132
# 227 KB, less one that the driver takes for what the compiler puts there
SHARED_BYTES = 231_424
_WARP_REGISTERS = 64 * 1024 // 32
# of 255: the estimate leaves room for what it does not count
_REGISTERS = 240
# Up to so many steps are written out. More of them, or two between two branches, make ptxas load
# tables far ahead and spill what it holds.
_FEW_STEPS = 2


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is to be computed.

    Attributes:
        rows: number of rows R.
        degrees: of each input, the largest.
        products: the results.
        itemsize: bytes of a number in device memory: 4 for float32, 2 for bfloat16.
        mode: how tensor cores multiply.
        repeats: of each input, how many rows that follow each other are one row in device memory;
            a multiple of 32, or 1. None: 1 for all.
    """

    rows: int
    degrees: tuple[int, ...]
    products: tuple[Product, ...]
    itemsize: int
    mode: Mode
    repeats: tuple[int, ...] | None = None

    def repeat(self, number: int) -> int:
        """Of an input."""
        return 1 if self.repeats is None else self.repeats[number]

    def of_rows(self, rows: int, itemsize: int) -> "Problem":
        """The same for so many rows of numbers of so many bytes."""
        return dataclasses.replace(self, rows=rows, itemsize=itemsize, repeats=None)

    @property
    def grid_degree(self) -> int:
        """Degree to which the grid must be exact."""
        return grid_degree(self.degrees, self.products)

    @property
    def points(self) -> int:
        """Points of half the grid."""
        return len(half_grid(self.grid_degree)[1])

    @property
    def step_points(self) -> int:
        """Points of a step: the depth of the product that projects."""
        return 16 if self.mode == "bf16" else 8

    @property
    def steps(self) -> int:
        """Steps over the points, the last one filled up with points of no weight."""
        return -(-self.points // self.step_points)

    @property
    def step_groups(self) -> int:
        """Groups of coefficients in the depth of the product that evaluates."""
        return self.step_points // 4

    def input_groups(self, degree: int, parity: int) -> tuple[Group, ...]:
        """Of an input, whole depths."""
        return groups(degree, parity, self.step_groups)

    @staticmethod
    def output_groups(degree: int, parity: int) -> tuple[Group, ...]:
        """Of a result, whole tiles of 8 columns."""
        return groups(degree, parity, 2)

    @property
    def input_degrees(self) -> tuple[int, ...]:
        """Without repetition."""
        return tuple(sorted(set(self.degrees)))

    @property
    def output_degrees(self) -> tuple[int, ...]:
        """Without repetition."""
        return tuple(sorted({product.degree for product in self.products}))

    def fragments_in(self, degree: int) -> int:
        """Table fragments of two words by which 8 points of an input are evaluated."""
        return sum(len(self.input_groups(degree, p)) for p in (0, 1)) // self.step_groups

    def fragments_out(self, degree: int) -> int:
        """Table fragments by which a step is projected."""
        return sum(len(self.output_groups(degree, p)) for p in (0, 1)) // 2

    @property
    def step_words(self) -> int:
        """Words of the tables that a lane reads in a step, a multiple of four."""
        evaluate = sum(self.fragments_in(d) for d in self.input_degrees) * self.step_points // 8
        project = sum(self.fragments_out(d) for d in self.output_degrees)
        return -(-2 * (evaluate + project) // 4) * 4

    @property
    def table_bytes(self) -> int:
        """Of all tables."""
        return self.steps * self.step_words * 32 * 4


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a problem is launched. Every warp has tiles of `16 m` rows of its own.

    Attributes:
        problem: what is computed.
        fragments: m.
        warps: of a block.
        slots: tiles of each input that are under way or in use.
        whole: whether a result is staged tile by tile, else eight rows at a time.
        unrolled: steps over the points between two branches.
        split_once: whether operands of "3xtf32" are split before the steps, else in each.
        most_blocks: of the grid; a block fills a multiprocessor.
    """

    problem: Problem
    fragments: int
    warps: int
    slots: int
    whole: bool
    unrolled: int
    split_once: bool = False
    most_blocks: int = MULTIPROCESSORS

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * self.warps

    @property
    def tile_rows(self) -> int:
        """Rows of a tile."""
        return 16 * self.fragments

    @property
    def tiles(self) -> int:
        """Of all rows; the last one need not be full."""
        return -(-self.problem.rows // self.tile_rows)

    @property
    def blocks(self) -> int:
        """Size of the grid of blocks."""
        return min(self.most_blocks, -(-self.tiles // self.warps))

    @functools.cached_property
    def _layouts(self) -> tuple[RowLayout, ...]:
        problem = self.problem
        count, itemsize = len(problem.degrees), problem.itemsize
        degrees = (*problem.degrees, *(product.degree for product in problem.products))
        shared = [i < count and problem.repeat(i) > 1 for i in range(len(degrees))]
        own = tuple(degree for degree, one in zip(degrees, shared, strict=True) if not one)
        found = iter(row_layouts(own, self.fragments, itemsize, natural=not self.whole))
        return tuple(
            shared_layout(degree, self.fragments, itemsize) if one else next(found)
            for degree, one in zip(degrees, shared, strict=True)
        )

    @property
    def inputs(self) -> tuple[RowLayout, ...]:
        """Tile of each input."""
        return self._layouts[: len(self.problem.degrees)]

    @property
    def outputs(self) -> tuple[RowLayout, ...]:
        """Tile of each result."""
        return self._layouts[len(self.problem.degrees) :]

    @property
    def slot_bytes(self) -> int:
        """Tiles of all inputs."""
        return sum(layout.size for layout in self.inputs)

    @property
    def staging_bytes(self) -> int:
        """Of a warp's results."""
        if self.whole:
            return sum(layout.size for layout in self.outputs)
        return max(8 * layout.pitch for layout in self.outputs)

    @property
    def barrier_bytes(self) -> int:
        """One of the tables and one a slot, in units of 128 bytes."""
        return -(-8 * (1 + self.warps * self.slots) // 128) * 128

    @property
    def tables_at(self) -> int:
        """Where the tables start."""
        return self.barrier_bytes

    @property
    def warp_bytes(self) -> int:
        """Shared memory of a warp."""
        return self.slots * self.slot_bytes + self.staging_bytes

    @property
    def warps_at(self) -> int:
        """Where the memory of the warps starts."""
        return self.tables_at + self.problem.table_bytes

    @property
    def shared_bytes(self) -> int:
        """Of a block."""
        return self.warps_at + self.warps * self.warp_bytes

    @property
    def registers(self) -> int:
        """Estimate of what lives at once in a thread: operands, sums and 30 of all sorts."""
        problem, split = self.problem, self.problem.mode == "3xtf32"
        held = 4 * sum(problem.fragments_in(d) for d in problem.degrees)
        held *= 2 if split and self.split_once else 1
        kept = 4 * sum(problem.fragments_out(p.degree) for p in problem.products)
        grid = 8 * max(len(problem.degrees), len(problem.products) + 1)
        grid += 4 if split else 0
        grid += 4 if problem.mode == "bf16" else 0
        return self.fragments * (held + kept + grid) + (50 if split else 30)


def choose_plan(problem: Problem) -> Plan:
    """The launch of a problem.

    Raises:
        NotImplementedError: it fits in no launch; the message says what it needs.
    """
    found = [
        plan
        for fragments in (2, 1)
        for warps in (16, 12, 8, 4)
        if (plan := _fitted(problem, fragments, warps)) is not None
    ]
    if not found:
        plan = Plan(problem, 1, 4, 1, False, 1)
        raise NotImplementedError(
            f"degrees {problem.degrees} to {tuple(p.degree for p in problem.products)} need "
            f"{plan.shared_bytes} bytes of shared memory and about {plan.registers} registers a "
            f"thread; there are {SHARED_BYTES} and 255"
        )
    return max(found, key=_preference)


def _fitted(problem: Problem, fragments: int, warps: int) -> Plan | None:
    unrolled = problem.steps if problem.steps <= _FEW_STEPS else 1
    limit = min(_REGISTERS, _WARP_REGISTERS // warps // 8 * 8)
    for whole, slots in ((True, 3), (True, 2), (True, 1), (False, 2), (False, 1)):
        for split_once in (True, False) if problem.mode == "3xtf32" else (False,):
            plan = Plan(problem, fragments, warps, slots, whole, unrolled, split_once)
            if plan.registers <= limit and plan.shared_bytes <= SHARED_BYTES:
                return plan
    return None


def _preference(plan: Plan) -> tuple[bool, bool, bool, bool, int, int]:
    """Which of two launches is taken; measured, see kernels.md."""
    many, double = plan.warps >= 12, plan.fragments == 2
    first = many if plan.problem.mode == "bf16" else double
    return plan.warps >= 8, many and double, plan.split_once, first, plan.fragments, plan.warps
