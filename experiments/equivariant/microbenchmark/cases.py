"""What is timed at one degree: an op's implementations, its rivals, what each can express."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from experiments.bench.registry import Operation
from experiments.bench.rivals import Contender, Rival
from structlayers._core.arg_spec import ArgSpec
from structlayers.equivariant.expressivity import degree_weight_freedom
from structlayers.equivariant.paths import Path

# What `precision=` may be for every product: words of JAX.
_WORDS = ("default", "high", "highest")


@dataclass(frozen=True)
class Counts:
    """What a product can express.

    Attributes:
        interactions: paths that it has.
        degrees_of_freedom: of its path weights.
    """

    interactions: int
    degrees_of_freedom: int


def count(paths: Sequence[Path], *, weight_of_each: bool) -> Counts:
    """Counts of a product that has these paths.

    Args:
        paths: triples of degrees.
        weight_of_each: whether each path has a weight of its own, else each degree.

    Example:
        >>> count([(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)], weight_of_each=False)
        Counts(interactions=4, degrees_of_freedom=4)
    """
    return Counts(len(paths), len(paths) if weight_of_each else degree_weight_freedom(paths))


@dataclass(frozen=True)
class Job:
    """All that is timed together.

    Attributes:
        operation: the op, perhaps with another function.
        spec: its shape.
        implementations: of the op, beside the one that it chooses.
        rivals: products of the same irreps.
        baselines: rivals with the op's own couplings.
        own: what the op expresses; None where it is not counted.
        counts: the same of rivals, by name.
        paths: number of all paths between the degrees; None where it is not counted.
    """

    operation: Operation
    spec: ArgSpec
    implementations: tuple[str, ...]
    rivals: tuple[Rival, ...]
    baselines: tuple[str, ...]
    own: Counts | None = None
    counts: Mapping[str, Counts] = field(default_factory=dict)
    paths: int | None = None


@dataclass(frozen=True)
class Case:
    """One place on one axis.

    Attributes:
        panel: what the axis belongs to, "mimo" for one.
        axis: what is counted along it: "L" or "nu".
        at: the place.
        rest: rows and precision, for the key.
        prepare: makes the job; tables are made here.
    """

    panel: str
    axis: str
    at: int
    rest: str
    prepare: Callable[[], Job]

    @property
    def key(self) -> str:
        """E.g. "mimo_l10_b10000_tf32"."""
        return f"{self.panel}_{self.axis.lower()}{self.at}_{self.rest}"


def jax_precision(word: str) -> str:
    """The word where JAX knows it, else "default": XLA's nearest on tensor cores.

    Example:
        >>> jax_precision("highest"), jax_precision("tf32")
        ('highest', 'default')
    """
    return word if word in _WORDS else "default"


def make_rival(
    name: str,
    run: Callable[..., jax.Array],
    note: str,
    precision: str,
    prepare: Callable[..., Any] = lambda *arrays: arrays,
) -> Rival:
    """A rival on the op's own arrays, refused where its first trace is.

    Args:
        name: of its rows.
        run: what is timed.
        note: what it is.
        precision: for its rows.
        prepare: makes its arrays of the op's.
    """

    def make(spec: ArgSpec) -> Contender:
        jax.eval_shape(lambda *arrays: run(*prepare(*arrays)), *spec.arrays)
        return Contender(prepare, run)

    return Rival(name, make, False, note, precision=precision)
