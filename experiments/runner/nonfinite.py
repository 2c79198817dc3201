"""Finds NaN and infinity in a state pytree, by name."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def path_names(tree: Any) -> list[str]:
    """Readable name of each leaf, e.g. "params.twiddle" or "opt.0.mu".

    Example:
        >>> path_names({"params": {"w": 1, "b": (2, 3)}})
        ['params.b.0', 'params.b.1', 'params.w']
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator=".") or "state" for path, _ in paths]


def nonfinite_leaves(state: Any, allowed: frozenset[str] = frozenset()) -> list[str]:
    """Leaves that hold NaN or infinity, each as "name (3 of 16 entries; first NaN at [0, 2])".

    Args:
        state: pytree of jax or numpy arrays; integers, booleans and PRNG keys cannot be bad.
        allowed: names, or prefixes of names up to a dot, that are not looked at; "*": all.

    Returns:
        one description a leaf, empty where all is finite.
    """
    if "*" in allowed:
        return []
    named = [
        (name, leaf)
        for name, leaf in zip(path_names(state), jax.tree.leaves(state), strict=True)
        if not is_allowed(name, allowed) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    groups: dict[frozenset[jax.Device], list[tuple[str, jax.Array]]] = {}  # one jit call each
    for name, leaf in named:
        if isinstance(leaf, jax.Array):
            groups.setdefault(frozenset(leaf.sharding.device_set), []).append((name, leaf))
    finite = {name: _finite_numpy(leaf) for name, leaf in named if isinstance(leaf, np.ndarray)}
    for group in groups.values():
        flags = np.asarray(_finite_flags([leaf for _, leaf in group]))
        finite |= {name: bool(flag) for (name, _), flag in zip(group, flags, strict=True)}
    return [_describe(name, leaf) for name, leaf in named if not finite[name]]


def nonfinite_scalars(
    scalars: Mapping[str, float], allowed: frozenset[str] = frozenset()
) -> list[str]:
    """Logged scalars that are NaN or infinite, each as "name = nan"."""
    return [
        f"{name} = {value}"
        for name, value in scalars.items()
        if not math.isfinite(value) and not is_allowed(name, allowed)
    ]


def is_allowed(name: str, allowed: frozenset[str]) -> bool:
    """Whether `name`, a dotted prefix of it, or "*" is in `allowed`.

    Example:
        >>> is_allowed("fit.loss", frozenset({"fit"})), is_allowed("fitness", frozenset({"fit"}))
        (True, False)
    """
    parts = name.split(".")
    prefixes = (".".join(parts[: end + 1]) for end in range(len(parts)))
    return "*" in allowed or any(prefix in allowed for prefix in prefixes)


@jax.jit
def _finite_flags(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])


def _finite_numpy(leaf: np.ndarray) -> bool:
    if leaf.dtype.kind not in "fc":  # bfloat16 and float8
        leaf = leaf.astype(np.float32)
    return bool(np.isfinite(leaf).all())


def _describe(name: str, leaf: Any) -> str:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return name
    array = np.asarray(leaf)
    if array.dtype.kind not in "fc":
        array = array.astype(np.float32)
    bad = ~np.isfinite(array)
    first = tuple(int(index[0]) for index in np.nonzero(bad)) if array.ndim else ()
    kind = "NaN" if np.isnan(array[first]) else "infinity"
    return f"{name} ({int(bad.sum())} of {array.size} entries; first {kind} at {list(first)})"
