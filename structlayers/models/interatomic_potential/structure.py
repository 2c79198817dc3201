"""Atoms on the host, before they become a graph: what a structure holds and which are refused."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from structlayers._core.checks import require_shape


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """Atoms in float64, with the reference values where they are known; NumPy arrays once made.

    Units are those of the data; the models of this package use electronvolt and angstrom.

    Attributes:
        numbers: atomic numbers, `(n,)` integers, n >= 1.
        positions: `(n, 3)`.
        cell: rows are the lattice vectors, `(3, 3)`; None is no cell.
        periodic: along which lattice vectors the structure repeats.
        energy: total energy; None is unknown.
        forces: `(n, 3)`; None is unknown.
        stress: `(3, 3)`, energy by volume; None is unknown.

    Raises:
        ValueError: an array of another shape, no atom at all, positions or reference values that
            are not finite, or a periodic direction without a cell of volume.

    Example:
        >>> water = Structure([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
        >>> len(water), water.periodic
        (3, (False, False, False))
    """

    numbers: Any
    positions: Any
    cell: Any = None
    periodic: tuple[bool, bool, bool] = (False, False, False)
    energy: float | None = None
    forces: Any = None
    stress: Any = None

    def __post_init__(self) -> None:
        numbers = np.asarray(self.numbers)
        if numbers.ndim != 1 or not numbers.size or numbers.dtype.kind not in "iu":
            raise ValueError(
                f"numbers must be at least one atomic number, shape (n,) of integers, "
                f"got {numbers.dtype} of shape {numbers.shape}"
            )
        _set(self, "numbers", numbers.astype(np.int32))
        wanted = {"positions": (len(numbers), 3), "forces": (len(numbers), 3)}
        wanted |= {"cell": (3, 3), "stress": (3, 3)}
        for name, shape in wanted.items():
            if (value := getattr(self, name)) is not None:
                value = np.asarray(value, np.float64)
                require_shape(name, value, shape)
                _set(self, name, value)
        for name in ("energy", "forces", "stress"):
            if (value := getattr(self, name)) is not None and not np.isfinite(value).all():
                raise ValueError(f"{name} must be finite, got {value}")
        bad = np.flatnonzero(~np.isfinite(self.positions).all(axis=1))
        if bad.size:
            raise ValueError(
                f"positions must be finite; atom {bad[0]} is at {self.positions[bad[0]]} "
                f"({bad.size} such atoms in all)"
            )
        if any(self.periodic) and not self.volume > 0:
            raise ValueError(
                f"cell must span a volume where the structure is periodic {self.periodic}, "
                f"got {None if self.cell is None else self.cell.tolist()}"
            )

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def volume(self) -> float:
        """Volume of the cell; 0 without one."""
        return 0.0 if self.cell is None else float(abs(np.linalg.det(self.cell)))

    @classmethod
    def from_ase(cls, atoms: Any, **values: Any) -> "Structure":
        """The structure of an `ase.Atoms`; reference values are given by name.

        Args:
            atoms: an `ase.Atoms`. Lattice vectors that are zero where it does not repeat, as those
                of layers and wires, become unit vectors across the others.
            **values: `energy`, `forces` or `stress`.
        """
        periodic = tuple(atoms.pbc.tolist())
        cell = np.asarray(atoms.cell)
        if any(periodic) and cell[list(periodic)].any(axis=1).all():
            cell = np.asarray(atoms.cell.complete())
        return cls(
            np.asarray(atoms.numbers),
            np.asarray(atoms.positions),
            cell=cell if any(periodic) or np.linalg.det(cell) else None,
            periodic=periodic,
            **values,
        )


def _set(structure: Structure, name: str, value: Any) -> None:
    object.__setattr__(structure, name, value)


def species_of(numbers: np.ndarray, species: Sequence[int]) -> np.ndarray:
    """Place of each atomic number in a model's list of elements, `(n,)` int32.

    Args:
        numbers: atomic numbers, `(n,)`.
        species: the elements that the model was trained on, ascending.

    Raises:
        ValueError: an element that is not among them, an element never seen in training; species
            that do not ascend.

    Example:
        >>> species_of(np.array([8, 1, 1]), (1, 6, 8)).tolist()
        [2, 0, 0]
    """
    known = np.asarray(species)
    if not (known.ndim == 1 and known.size and np.all(np.diff(known) > 0)):
        raise ValueError(f"species must be ascending atomic numbers, got {species}")
    unknown = sorted(set(np.asarray(numbers).tolist()) - set(known.tolist()))
    if unknown:
        raise ValueError(
            f"the atomic numbers {unknown} are of elements never seen in training; "
            f"the model knows {known.tolist()}"
        )
    return np.searchsorted(known, numbers).astype(np.int32)
