"""Molecules with energies and forces: acetylacetone, 3BPA and revised MD17, in eV and angstrom."""

import io
from dataclasses import dataclass

import ase.units
import numpy as np

from experiments.data.files import DataFile
from structlayers.models.interatomic_potential import Structure, read_extxyz

_BOTNET = "https://github.com/davkovacs/BOTNet-datasets, folder {}"
_RMD17 = (
    "https://github.com/andersx/rmd17-npz (the frames of split 01 of "
    "https://doi.org/10.6084/m9.figshare.12672038)"
)


def _botnet(folder: str, name: str, sha256: str) -> DataFile:
    return DataFile(f"botnet/{folder}", name, sha256, _BOTNET.format(folder))


ACAC_FILES = {
    name: _botnet("dataset_acac", f"{name}.xyz", sha256)
    for name, sha256 in {
        "isolated_atoms": "b74f321b453374621b447d65c60979f70df1b7182c8ee0215388b2c574f33823",
        "train_300K": "8f5706d6902360555a5be59395612d2afc3489a75688388a58e7275fdad68af3",
        "test_MD_300K": "2291f3186a3cc6a5e05e92952c84a9237ca53f862d78fd3316a769360719ec43",
        "test_MD_600K": "d5a5bba154ec43f915eb7529f86ec3af60e6f911743859daba030181a0378ff7",
    }.items()
}

BPA_FILES = {
    name: _botnet("dataset_3BPA", f"{name}.xyz", sha256)
    for name, sha256 in {
        "iso_atoms": "e12a2465a2612bf38fd5dabdf64d4b57fc58ce9610a858c54ea1142d517c053f",
        "train_300K": "d109971fab90e2231ad931a83eb704c8d940f5c7d7a8de27fe3b84ea18634c0a",
        "train_mixedT": "bc108532964b2ed259eaaabf82e5dfaffa5bda9ac384fc2afabcce192a49250b",
    }.items()
}

RMD17_FILES = {
    name: DataFile("rmd17", f"rmd17_{name}_01.npz", sha256, _RMD17)
    for name, sha256 in {
        "aspirin_train": "d460f0e43a1a9411b55cdcd9cdbeb9466ae62851ac91392516ab88e4ebc68143",
        "aspirin_test": "a3c3b61e782d01e6dd649a126004903f7873e8e7ee5034135abfdb8873be711d",
        "ethanol_train": "096946747b8d9dcfa042b44f8debbd3da387dfe1586b659e3be789cc4927316a",
        "ethanol_test": "c3594a0f93d5992e02f9eb671392fb2e5021b3fa4f902417886966d1e4f64e1e",
        "naphthalene_train": "940f41110785fb0d3fa5feac68800cf4c68bd05fd55d563d3adacf5247d7688a",
        "naphthalene_test": "80a19bca6aaa5cdf241007d6a7332e7b96a8e6ef362c1badcdb86a574ac3fe06",
    }.items()
}

# The frames of 3BPA's train_mixedT by temperature: the file is ordered.
MIXED_TEMPERATURES = {"300K": (0, 167), "600K": (167, 334), "1200K": (334, 500)}


@dataclass(frozen=True)
class MoleculeSet:
    """Frames to train on, and sets to test on.

    Attributes:
        train: frames to train and to validate on.
        tests: test sets by name.
        atomic_energies: of the isolated atoms, by atomic number; empty where none is published.
    """

    train: list[Structure]
    tests: dict[str, list[Structure]]
    atomic_energies: dict[int, float]


def _frames(file: DataFile, **keys: str | None) -> list[Structure]:
    return read_extxyz(io.StringIO(file.read().decode()), **keys)


def _isolated(file: DataFile) -> dict[int, float]:
    """Energy by atomic number, from frames of one atom."""
    frames = _frames(file, forces=None)
    return {int(s.numbers[0]): s.energy for s in frames if s.energy is not None}


def load_acac() -> MoleculeSet:
    """Acetylacetone: 500 frames at 300 K to train on, 650 at 300 K and 650 at 600 K to test on.

    Raises:
        DataError: a file is missing or another one.
    """
    sets = {name: _frames(file) for name, file in ACAC_FILES.items() if name != "isolated_atoms"}
    return MoleculeSet(
        sets["train_300K"],
        {"300K": sets["test_MD_300K"], "600K": sets["test_MD_600K"]},
        _isolated(ACAC_FILES["isolated_atoms"]),
    )


def load_bpa() -> MoleculeSet:
    """3BPA: 500 frames at 300 K to train on; tests are held-out frames of train_mixedT.

    They are not the published test sets. train_mixedT is ordered by temperature, and frames that
    train_300K also holds are left out.

    Raises:
        DataError: a file is missing or another one.
    """
    sets = {name: _frames(file) for name, file in BPA_FILES.items() if name != "iso_atoms"}
    seen = {s.positions.tobytes() for s in sets["train_300K"]}
    mixed = sets["train_mixedT"]
    tests = {
        name: [s for s in mixed[first:last] if s.positions.tobytes() not in seen]
        for name, (first, last) in MIXED_TEMPERATURES.items()
    }
    return MoleculeSet(sets["train_300K"], tests, _isolated(BPA_FILES["iso_atoms"]))


def load_rmd17(molecule: str) -> MoleculeSet:
    """Revised MD17, split 01: 1,000 frames to train and validate on, 1,000 to test on.

    Energies are of kcal/mol in the files; no energy of an isolated atom is published.

    Args:
        molecule: "aspirin", "ethanol" or "naphthalene".

    Raises:
        DataError: a file is missing or another one.
    """
    unit = ase.units.kcal / ase.units.mol

    def frames(part: str) -> list[Structure]:
        with np.load(io.BytesIO(RMD17_FILES[f"{molecule}_{part}"].read())) as arrays:
            numbers = arrays["nuclear_charges"].astype(np.int32)
            return [
                Structure(numbers, positions, energy=float(energy) * unit, forces=forces * unit)
                for positions, energy, forces in zip(
                    arrays["coords"], arrays["energies"], arrays["forces"], strict=True
                )
            ]

    return MoleculeSet(frames("train"), {"test": frames("test")}, {})


def morse(positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy and forces of Morse potentials between all pairs: `(n, 3)` to a number and `(n, 3)`.

    Depth 1 eV at 1.1 angstrom, decay 1.5 / angstrom.
    """
    offsets = positions[:, None] - positions[None]
    distances = np.linalg.norm(offsets, axis=-1) + np.eye(len(positions))
    decay = np.exp(-1.5 * (distances - 1.1))
    energy = np.sum(np.triu(decay**2 - 2 * decay, 1))
    slope = -3 * (decay**2 - decay)
    return float(energy), -np.sum((slope / distances)[..., None] * offsets, axis=1)


def synthetic_molecules(count: int = 12, seed: int = 0) -> MoleculeSet:
    """A molecule of five atoms shaken at random, under Morse potentials."""
    rng = np.random.default_rng(seed)
    numbers = np.array([6, 8, 1, 1, 1], np.int32)
    rest = np.array([[0, 0, 0], [1.2, 0, 0], [-0.6, 0.9, 0.3], [-0.6, -0.9, 0.3], [0.2, 0.1, 1.1]])

    def frame(size: float) -> Structure:
        positions = rest + size * rng.standard_normal(rest.shape)
        energy, forces = morse(positions)
        return Structure(numbers, positions, energy=energy, forces=forces)

    sizes = {"cold": 0.03, "hot": 0.06}
    tests = {name: [frame(size) for _ in range(count)] for name, size in sizes.items()}
    return MoleculeSet([frame(0.03) for _ in range(count)], tests, {1: 0.0, 6: 0.0, 8: 0.0})


def load_molecules(name: str) -> MoleculeSet:
    """A set by its name: "acac", "3bpa", "rmd17_MOLECULE" or "synthetic".

    Raises:
        DataError: a file is missing or another one.

    Example:
        >>> {name: len(frames) for name, frames in load_molecules("synthetic").tests.items()}
        {'cold': 12, 'hot': 12}
    """
    family, _, molecule = name.partition("_")
    if family == "rmd17":
        return load_rmd17(molecule)
    return {"acac": load_acac, "3bpa": load_bpa, "synthetic": synthetic_molecules}[name]()
