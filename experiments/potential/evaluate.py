"""Errors of a potential as published: energies by molecule in meV, forces by component in meV/A."""

from typing import Any

import jax
import numpy as np

from experiments.potential.frames import Frames
from experiments.potential.train import Trainer, predict_all

PARITY_POINTS = 300


def errors(energy: np.ndarray, forces: np.ndarray, frames: Frames) -> dict[str, list[float]]:
    """Root mean square and mean absolute errors of every seed, in meV and meV/angstrom.

    Args:
        energy: predictions of all seeds, `(seeds, F)` in eV.
        forces: `(seeds, F, N, 3)` in eV/angstrom.
        frames: references.
    """
    off = 1000 * (energy.astype(np.float64) - np.asarray(frames.energy, np.float64))
    mask = np.asarray(frames.graph.atom_mask)
    away = 1000 * (forces.astype(np.float64) - np.asarray(frames.forces, np.float64))[:, mask]
    return {
        "energy_rmse": np.sqrt(np.mean(off**2, axis=1)).tolist(),
        "energy_mae": np.mean(np.abs(off), axis=1).tolist(),
        "force_rmse": np.sqrt(np.mean(away**2, axis=(1, 2))).tolist(),
        "force_mae": np.mean(np.abs(away), axis=(1, 2)).tolist(),
    }


def _parity(energy: np.ndarray, forces: np.ndarray, frames: Frames) -> dict[str, list[list[float]]]:
    """Some pairs (reference, prediction) of the first seed, spread evenly over the frames."""
    mask = np.asarray(frames.graph.atom_mask)
    pairs = {
        "energy": (np.asarray(frames.energy), energy[0]),
        "force": (np.asarray(frames.forces)[mask].ravel(), forces[0][mask].ravel()),
    }
    chosen = {}
    for name, (wanted, found) in pairs.items():
        places = np.linspace(0, len(wanted) - 1, min(len(wanted), PARITY_POINTS)).astype(int)
        rows = np.stack([wanted[places], found[places]], axis=1).astype(np.float64)
        chosen[name] = rows.round(5).tolist()
    return chosen


def _atoms(frames: Frames) -> np.ndarray:
    """Atoms of every frame, `(F,)`."""
    return np.asarray(frames.graph.atom_mask).sum(axis=1)


def predicted(
    trainer: Trainer, parameters: Any, frames: Frames, chunk: int, places: int
) -> tuple[np.ndarray, np.ndarray]:
    """What `predict_all` gives, of one program for all sets that are filled up to as many places.

    Args:
        trainer: the potential.
        parameters: of every seed.
        frames: the set, which is repeated in the places left over.
        chunk: frames predicted at once.
        places: at least as many as the set has frames.
    """
    order = np.arange(places) % frames.size
    filled = jax.tree.map(lambda leaf: np.asarray(leaf)[order], frames)
    energy, forces = predict_all(trainer, parameters, filled, chunk=min(chunk, places))
    return np.asarray(energy)[:, : frames.size], np.asarray(forces)[:, : frames.size]


def mean_residual(
    trainer: Trainer, parameters: Any, frames: Frames, chunk: int, places: int
) -> np.ndarray:
    """Energy by atom that the predictions of every seed lack on the mean: `(seeds,)`, in eV.

    With forces weighted as strongly as they are, the constant of the energy is learned last. It is
    a parameter of the potential, its `shift`, and has a best value in closed form.
    """
    energy, _ = predicted(trainer, parameters, frames, chunk, places)
    lacking = np.asarray(frames.energy, np.float64) - energy.astype(np.float64)
    return lacking.sum(axis=1) / _atoms(frames).sum()


def evaluate(
    trainer: Trainer,
    parameters: Any,
    frames: Frames,
    chunk: int,
    places: int,
    shift: np.ndarray,
) -> dict[str, Any]:
    """Errors of every seed on one set, and points for a parity plot.

    Args:
        trainer: the potential.
        parameters: of every seed.
        frames: the set.
        chunk: frames predicted at once.
        places: see `predicted`.
        shift: energy by atom to add to the predictions of every seed, `(seeds,)`.
    """
    energy, forces = predicted(trainer, parameters, frames, chunk, places)
    energy = energy + shift[:, None] * _atoms(frames)
    return {
        "frames": frames.size,
        **errors(energy, forces, frames),
        "parity": _parity(energy, forces, frames),
    }
