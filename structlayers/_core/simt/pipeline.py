"""Steps of successive tiles side by side, one interval between two barriers after another."""

from collections.abc import Callable, Sequence

from structlayers._core.simt.machine import Int, Machine


def run_pipeline(
    machine: Machine, count: Int, depth: int, interval: Callable[[Int, range], None]
) -> None:
    """Calls ``interval(i, delays)`` for intervals in which a step of delay d has tile ``i - d``.

    A tile goes through the delays 0 .. depth. The first and the last intervals are emitted by
    themselves, without the steps that have no tile then. Where there are fewer tiles than delays,
    steps see tiles past the last one, in the same order as any other.

    Args:
        machine: what executes the steps.
        count: number of tiles, at least 1.
        depth: the last delay.
        interval: emits the steps of these delays.
    """
    for i in range(depth):
        interval(machine.constant(i), range(i + 1))

    def whole(i: Int, carried: Sequence[object]) -> Sequence[object]:
        interval(i, range(depth + 1))
        return []

    machine.loop(depth, count, 1, whole)
    end = (count * -1).minimum(-depth) * -1
    for i in range(depth):
        interval(end + i, range(i + 1, depth + 1))
