"""Products of the tensor cores in TF32, three times TF32, and bfloat16.

Operands are those of `Machine.tensor_product_tf32` and, for bfloat16, of `Machine.tensor_product`.
A left operand has, for rows ``g`` and ``g + 8``, one value a lane of each of its groups of four
coefficients, or of its points.
"""

from collections.abc import Sequence
from typing import Any

from structlayers._core.simt.machine import Machine
from structlayers.equivariant.pallas_gpu.plan import Mode


class Arithmetic:
    """Operands and products of one mode."""

    def __init__(self, machine: Machine, mode: Mode, *, split_once: bool):
        self.machine, self.mode, self.split_once = machine, mode, split_once

    def start(self) -> Any:
        """Sums of a tile of 16 x 8 before the first product."""
        m = self.machine
        return [[m.zero() for _ in range(4)] for _ in range(2 if self.mode == "3xtf32" else 1)]

    def finish(self, parts: Any) -> list[Any]:
        """The sums as float32."""
        if len(parts) == 1:
            return list(parts[0])
        return [self.machine.add(x, y) for x, y in zip(*parts, strict=True)]

    def held(self, values: Sequence[Any]) -> Any:
        """A left operand of four float32, as it is kept: rows g, g + 8, then the same again."""
        if self.mode == "tf32":
            return self._rounded(values)
        return self._split(values) if self.split_once else values

    def left(self, held: Any) -> Any:
        """A left operand as a product takes it."""
        if self.mode == "3xtf32" and not self.split_once:
            return self._split(held, again=True)
        return held

    def made(self, values: Sequence[Any]) -> Any:
        """A left operand of values that were just made."""
        return self._rounded(values) if self.mode == "tf32" else self._split(values)

    def right(self, words: Sequence[Any]) -> Any:
        """A right operand of two words of a table."""
        if self.mode != "3xtf32":
            return words
        return self._split([self.machine.float(word) for word in words])

    def multiply(self, parts: Any, left: Any, right: Any) -> Any:
        """``parts + left @ right``.

        Tensor cores round sums towards zero: in "3xtf32" the small products have sums of their own.
        """
        m = self.machine
        if self.mode == "bf16":
            return [m.tensor_product(parts[0], left, right)]
        if self.mode == "tf32":
            return [m.tensor_product_tf32(parts[0], left, right)]
        (left_high, left_low), (right_high, right_low) = left, right
        high, low = parts
        low = m.tensor_product_tf32(low, left_low, right_high)
        low = m.tensor_product_tf32(low, left_high, right_low)
        return [m.tensor_product_tf32(high, left_high, right_high), low]

    def add_product(self, sums: Sequence[Any], left: Any, right: Any) -> list[Any]:
        """The same for sums over many steps, which "3xtf32" adds in float32."""
        if self.mode != "3xtf32":
            return list(self.multiply([sums], left, right)[0])
        m = self.machine
        (left_high, left_low), (right_high, right_low) = left, right
        found = [m.zero() for _ in range(4)]
        for one, other in (
            (left_low, right_high),
            (left_high, right_low),
            (left_high, right_high),
        ):
            found = m.tensor_product_tf32(found, one, other)
        return [m.add(x, y) for x, y in zip(sums, found, strict=True)]

    def _rounded(self, values: Sequence[Any]) -> list[Any]:
        m = self.machine
        return [m.bits(m.round_tf32(value)) for value in values]

    def _split(self, values: Sequence[Any], *, again: bool = False) -> tuple[list[Any], list[Any]]:
        """TF32 and what they lack, of which the tensor cores see the first 11 bits."""
        m = self.machine
        high = [m.round_tf32(value, again=again) for value in values]
        low = [m.add(x, m.negate(h)) for x, h in zip(values, high, strict=True)]
        return [m.bits(h) for h in high], [m.bits(x) for x in low]


def add_signals(
    machine: Machine, first: Sequence[Sequence[Any]], second: Sequence[Sequence[Any]]
) -> list[list[Any]]:
    """Sum of two signals, given by their even and odd parts."""
    return [
        [machine.add(x, y) for x, y in zip(one, other, strict=True)]
        for one, other in zip(first, second, strict=True)
    ]


def scale_signal(machine: Machine, signal: Sequence[Sequence[Any]], scale: int) -> Any:
    """A signal times a number."""
    if scale == 1:
        return signal
    factor = machine.number(float(scale))
    return [[machine.multiply(x, factor) for x in part] for part in signal]


def multiply_signals(
    machine: Machine, first: Sequence[Sequence[Any]], second: Sequence[Sequence[Any]]
) -> list[list[Any]]:
    """Even and odd part of the product of two signals, given by theirs."""
    m = machine
    (even, odd), (other_even, other_odd) = first, second

    def sums(a: Sequence[Any], b: Sequence[Any], c: Sequence[Any], d: Sequence[Any]) -> list[Any]:
        return [m.fma(w, x, m.multiply(y, z)) for w, x, y, z in zip(a, b, c, d, strict=True)]

    return [sums(even, other_even, odd, other_odd), sums(even, other_odd, odd, other_even)]
