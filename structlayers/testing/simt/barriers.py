"""Barriers in shared memory, and what they count."""

import dataclasses
from typing import NamedTuple

import numpy as np


class Load(NamedTuple):
    """Words of shared memory, the warps that asked for them, and values."""

    words: np.ndarray
    warps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass
class Barrier:
    """A barrier in shared memory.

    Attributes:
        arrivals: that complete a phase, with their bytes.
        index: among the barriers of its block.
        given: for every warp of the block, and every barrier, the epoch before which what it did
            came before the arrivals so far.
        left: of the arrivals, still to come.
        handed: what had been given when the last phase was complete.
        due: bytes still to come.
        phases: completed.
        loads: that arrive when they are waited for, and for how many threads.
    """

    arrivals: int
    index: int
    given: np.ndarray
    left: int = dataclasses.field(init=False)
    handed: np.ndarray = dataclasses.field(init=False)
    due: int = 0
    phases: int = 0
    loads: list[tuple[list[Load], int]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.left, self.handed = self.arrivals, self.given

    def arrive(self, count: int, size: int = 0) -> None:
        """So many arrivals, which let it wait for so many bytes."""
        if self.left < count:
            raise ValueError("a barrier is armed again before its phase has completed")
        self.left, self.due = self.left - count, self.due + size
        self.complete()

    def complete(self) -> None:
        """Starts the next phase if nothing is to come in this one."""
        if self.left == 0 and self.due == 0:
            self.phases, self.left, self.handed = self.phases + 1, self.arrivals, self.given
