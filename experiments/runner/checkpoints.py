"""Orbax checkpoints of a phase's state: complete or absent, restored exactly.

A checkpoint is the folder `checkpoints/<phase>/<step>`, made under another name and renamed when
it is whole. Each leaf is stored under its path in the state; beside the arrays lies a JSON
record with the run's fingerprint and each leaf's shape and dtype, so that a checkpoint of
another config is refused before anything is read into the wrong place.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import CommandError
from experiments.runner.nonfinite import path_names

KEEP = 2  # the newest may be the one that a crash interrupts on a file system without rename


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: `checkpoints` in the work folder.
        fingerprint: of the run's config.
    """

    folder: Path
    fingerprint: str

    def steps(self, phase: str) -> list[int]:
        """Steps of the complete checkpoints of a phase, ascending."""
        return sorted(
            int(path.name)
            for path in (self.folder / phase).glob("*")
            if path.name.isdecimal() and (path / "_CHECKPOINT_METADATA").exists()
        )

    def path(self, phase: str, step: int) -> Path:
        """Folder of one checkpoint."""
        return self.folder / phase / f"{step:08d}"

    def save(self, phase: str, step: int, state: Any, record: dict[str, Any]) -> Path:
        """Saves the state and drops all but the newest checkpoints of the phase.

        Args:
            phase: name of the phase.
            step: steps done in it.
            state: pytree of arrays.
            record: JSON-able things to keep beside it.

        Returns:
            The checkpoint's folder.
        """
        path = self.path(phase, step)
        encoded = {
            key: _encode(leaf)
            for key, leaf in zip(_keys(state), jax.tree.leaves(state), strict=True)
            if leaf.size
        }
        meta = {
            **record,
            "fingerprint": self.fingerprint,
            "phase": phase,
            "step": step,
            "leaves": describe(state),
        }
        if not (path / "_CHECKPOINT_METADATA").exists():
            ocp = _orbax()
            with _checkpointer() as checkpointer:
                checkpointer.save(
                    path.absolute(),
                    args=ocp.args.Composite(
                        state=ocp.args.PyTreeSave(encoded), record=ocp.args.JsonSave(meta)
                    ),
                )
        self.prune(phase)
        return path

    def restore(self, phase: str, step: int, template: Any) -> tuple[Any, dict[str, Any]]:
        """Reads a checkpoint back.

        Args:
            phase: name of the phase.
            step: which one, out of `steps`.
            template: a state of the same structure, e.g. of `Phase.init()`: gives tree, shapes,
                dtypes, placement, and which leaves are numpy arrays or PRNG keys.

        Returns:
            the state and the record it was saved with.

        Raises:
            CommandError: the checkpoint is of another config, of another structure, or damaged.
        """
        path = self.path(phase, step)
        ocp = _orbax()
        leaves, treedef = jax.tree.flatten(template)
        try:
            with _checkpointer() as checkpointer:
                meta = checkpointer.restore(
                    path.absolute(), args=ocp.args.Composite(record=ocp.args.JsonRestore())
                )["record"]
                self._check(path, meta, template)
                targets = {
                    key: _target(leaf)
                    for key, leaf in zip(_keys(template), leaves, strict=True)
                    if leaf.size
                }
                restored = checkpointer.restore(
                    path.absolute(),
                    args=ocp.args.Composite(
                        state=ocp.args.PyTreeRestore(
                            targets,
                            restore_args=jax.tree.map(_restore_args, targets),
                        )
                    ),
                )["state"]
        except CommandError:
            raise
        except Exception as error:
            raise CommandError(
                f"checkpoint {path} cannot be read ({type(error).__name__}: {error}); expected a "
                "complete Orbax checkpoint. Move that folder away to continue from an older one"
            ) from error
        state = [
            _decode(restored[key], leaf) if leaf.size else leaf
            for key, leaf in zip(_keys(template), leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, state), meta

    def prune(self, phase: str, keep: int = KEEP) -> None:
        """Removes all but the newest `keep` checkpoints of a phase (process 0 does it)."""
        if jax.process_index() == 0:
            for step in self.steps(phase)[:-keep]:
                _remove(self.path(phase, step))

    def clean(self) -> None:
        """Removes what an interrupted save or removal left behind (process 0, before a run)."""
        for path in self.folder.glob("*/*"):
            if ".orbax-checkpoint-tmp" in path.name or path.name.startswith(".removed"):
                shutil.rmtree(path, ignore_errors=True)

    def _check(self, path: Path, meta: dict[str, Any], template: Any) -> None:
        if meta["fingerprint"] != self.fingerprint:
            raise CommandError(
                f"checkpoint {path} is of another config: fingerprint {meta['fingerprint']}, "
                f"this run has {self.fingerprint}. Nothing was changed; choose another --workdir"
            )
        wanted, found = describe(template), meta["leaves"]
        for name in sorted(set(wanted) | set(found)):
            if wanted.get(name) != found.get(name):
                raise CommandError(
                    f"checkpoint {path} does not fit the phase's state: leaf {name} is "
                    f"{found.get(name, 'absent')} in the checkpoint, expected "
                    f"{wanted.get(name, 'absent')}; the experiment's code has changed since"
                )


def describe(state: Any) -> dict[str, str]:
    """Shape and dtype of each leaf, by name, e.g. {"params.w": "float32[3, 4]"}.

    Raises:
        TypeError: a leaf is no array, or there is none; the message names it.
    """
    leaves = jax.tree.leaves(state)
    if not leaves:
        raise TypeError("the state has no arrays; expected a pytree with at least one")
    described = {}
    for name, key, leaf in zip(path_names(state), _keys(state), leaves, strict=True):
        numeric = isinstance(leaf, jax.Array) or (
            isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "OSUMm"
        )
        if not numeric:
            raise TypeError(
                f"state leaf {name} is {type(leaf).__name__}; expected a jax or numpy array"
            )
        described[key] = f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]"
    return described


def strong(state: Any) -> Any:
    """The state as a file gives it back: without weak types, NumPy's scalars as arrays."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and getattr(leaf, "weak_type", False):
            return jax.lax.convert_element_type(leaf, leaf.dtype)
        # arithmetic on NumPy arrays of no dimension gives scalars
        return np.asarray(leaf) if isinstance(leaf, np.generic) else leaf

    return jax.tree.map(one, state)


def _orbax() -> Any:
    import orbax.checkpoint  # a second of import, needed at the first save or restore only

    return orbax.checkpoint


def _checkpointer() -> Any:
    ocp = _orbax()
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler())


def _keys(tree: Any) -> list[str]:
    """Leaf names that are safe as Orbax keys, and unique."""
    keys: list[str] = []
    taken: set[str] = set()
    for name in path_names(tree):
        key = base = re.sub(r"[^A-Za-z0-9_.\-]", "_", name)
        count = 1
        while key in taken:
            key, count = f"{base}~{count}", count + 1
        taken.add(key)
        keys.append(key)
    return keys


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _on_host(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) or leaf.is_fully_addressable


def _encode(leaf: Any) -> Any:
    """What Orbax stores: a copy on the host, or the array itself where it spans processes."""
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf) if _on_host(leaf) else leaf


def _target(leaf: Any) -> Any:
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.empty(leaf.shape, leaf.dtype) if _on_host(leaf) else leaf


def _restore_args(target: Any) -> Any:
    ocp = _orbax()
    if isinstance(target, np.ndarray):
        return ocp.RestoreArgs(restore_type=np.ndarray, dtype=target.dtype)
    return ocp.ArrayRestoreArgs(
        sharding=target.sharding, global_shape=target.shape, dtype=target.dtype
    )


def _decode(value: Any, like: Any) -> Any:
    """The restored value with the type and the placement of the template's leaf."""
    if isinstance(like, np.ndarray):
        return np.array(value, like.dtype)
    if isinstance(value, np.ndarray):
        value = _place(value, like)
    if _is_key(like):
        return jax.random.wrap_key_data(value, impl=jax.random.key_impl(like))
    return value


def _place(value: np.ndarray, like: jax.Array) -> jax.Array:
    if not like.committed:
        return jnp.array(value, copy=True)
    sharding = like.sharding if not _is_key(like) else jax.random.key_data(like).sharding
    return jax.device_put(value, sharding, may_alias=False)


def _remove(path: Path) -> None:
    """Renamed first, so that no half-removed folder looks like a checkpoint."""
    hidden = path.with_name(f".removed-{path.name}")
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
