"""A potential as one file: its config and its weights."""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from structlayers.models.interatomic_potential.config import InteratomicPotentialConfig
from structlayers.models.interatomic_potential.model import InteratomicPotential

_CONFIG = "config"


def save_potential(potential: InteratomicPotential, path: str | Path) -> None:
    """Writes config and weights to a NumPy archive, `.npz`, that `load_potential` reads.

    Args:
        potential: the potential.
        path: of the file, which is replaced.

    Example:
        >>> import tempfile
        >>> config = InteratomicPotentialConfig((1,), channels=2, lmax=1, num_interactions=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_potential(InteratomicPotential(config, rngs=nnx.Rngs(0)), f"{folder}/p.npz")
        ...     load_potential(f"{folder}/p.npz").config.channels
        2
    """
    fields: dict[str, Any] = {
        field.name: getattr(potential.config, field.name)
        for field in dataclasses.fields(potential.config)
    }
    fields["dtype"] = jnp.dtype(fields["dtype"]).name
    if isinstance(fields["precision"], jax.lax.Precision):
        fields["precision"] = fields["precision"].name.lower()
    # NumPy's archives know no bfloat16; float32 holds it exactly
    arrays: dict[str, Any] = {
        name: np.asarray(leaf, leaf.dtype if leaf.dtype.name == "float64" else np.float32)
        for name, leaf in _leaves(nnx.state(potential)).items()
    }
    with Path(path).open("wb") as file:
        np.savez(file, **arrays | {_CONFIG: np.asarray(json.dumps(fields))})


def load_potential(path: str | Path) -> InteratomicPotential:
    """The potential that `save_potential` wrote.

    Args:
        path: of the file.

    Returns:
        The potential, with its own config and dtype.

    Raises:
        FileNotFoundError: no file.
        ValueError: a file of another kind; weights missing, unexpected or of another shape, by
            name: nothing is loaded in part.

    Example:
        >>> load_potential("nowhere.npz")
        Traceback (most recent call last):
        ...
        FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.npz'
    """
    with Path(path).open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"path must be a file of save_potential, got {path}")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
    if _CONFIG not in arrays:
        raise ValueError(f"path must be a file of save_potential, got {path} without a config")
    stored: dict[str, Any] = json.loads(str(arrays.pop(_CONFIG)))
    fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in stored.items()}
    fields["dtype"] = jnp.dtype(fields["dtype"])
    config = InteratomicPotentialConfig(**fields)
    graphdef, state = nnx.split(
        nnx.eval_shape(lambda: InteratomicPotential(config, rngs=nnx.Rngs(0)))
    )
    wanted = {name: leaf.shape for name, leaf in _leaves(state).items()}
    found = {name: array.shape for name, array in arrays.items()}
    wrong = sorted(name for name in wanted.keys() | found if wanted.get(name) != found.get(name))
    if wrong:
        listed = ", ".join(
            f"{name} {found.get(name, 'missing')} for {wanted.get(name, 'nothing')}"
            for name in wrong
        )
        raise ValueError(f"weights of {path} do not fit its config: {listed}")
    loaded = [jnp.asarray(arrays[name], config.dtype) for name in wanted]
    structure = jax.tree.structure(state)
    return nnx.merge(graphdef, jax.tree.unflatten(structure, loaded))


def _leaves(state: Any) -> dict[str, Any]:
    """Arrays of a state by the path of their names, in the order of the tree."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}
