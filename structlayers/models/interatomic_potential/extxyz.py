"""Structures from extended xyz files, with reference values under any names."""

from typing import Any

import numpy as np

from structlayers.models.interatomic_potential.structure import Structure


def read_extxyz(
    source: Any,
    *,
    energy: str | None = "energy",
    forces: str | None = "forces",
    stress: str | None = None,
) -> list[Structure]:
    r"""All frames of an extended xyz file, read by ASE; needs the extra "potentials".

    A value that is asked for has to be in every frame: none is left out or zero for want of a
    name. Numbers are taken as they are, in the units of the file.

    Args:
        source: path, or open text file.
        energy: key of the total energy in a frame's comment, such as "REF_energy"; None reads none.
        forces: name of the column of forces; None reads none.
        stress: key of the stress, energy by volume, 9 numbers; None reads none.

    Returns:
        The structures in the order of the file.

    Raises:
        ValueError: no frame, a frame without a value that was asked for, or what `Structure`
            refuses; names the frame. What is no extended xyz file, ASE refuses.

    Example:
        >>> import io
        >>> file = io.StringIO("1\nProperties=species:S:1:pos:R:3 E=-13.6\nH 0 0 0\n")
        >>> read_extxyz(file, energy="E", forces=None)[0].energy
        -13.6
    """
    import ase.io

    wanted = {"energy": energy, "forces": forces, "stress": stress}
    wanted = {name: key for name, key in wanted.items() if key is not None}
    found = []
    for index, atoms in enumerate(ase.io.iread(source, index=":", format="extxyz")):
        known = _values(atoms)
        if missing := {name: key for name, key in wanted.items() if key not in known}:
            name, key = next(iter(missing.items()))
            raise ValueError(
                f"frame {index} has no {key!r} for {name}, only {sorted(known)}: pass {name}=KEY, "
                f"or {name}=None to read none"
            )
        values = {name: known[key] for name, key in wanted.items()}
        if stress is not None and np.size(values["stress"]) == 9:
            values["stress"] = np.reshape(values["stress"], (3, 3))
        try:
            found.append(Structure.from_ase(atoms, **values))
        except ValueError as error:
            raise ValueError(f"frame {index}: {error}") from error
    if not found:
        raise ValueError(f"source must hold at least one frame, got none in {source}")
    return found


def _values(atoms: Any) -> dict[str, Any]:
    """What a frame holds but for its geometry; ASE keeps the names that it knows apart."""
    from ase.stress import voigt_6_to_full_3x3_stress

    known = {} if atoms.calc is None else dict(atoms.calc.results)
    if "stress" in known:
        known["stress"] = voigt_6_to_full_3x3_stress(np.asarray(known["stress"]))
    geometry = ("numbers", "positions")
    columns = {name: column for name, column in atoms.arrays.items() if name not in geometry}
    values = {**atoms.info, **columns, **known}
    return {n: v.item() if isinstance(v, np.generic) else v for n, v in values.items()}
