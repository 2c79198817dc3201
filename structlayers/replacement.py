"""Swap the `flax.nnx.Linear` layers of a model for others of the same size."""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import jax
from flax import nnx

type Path = tuple[str | int, ...]
type Where = str | Callable[[Path, nnx.Linear], bool]

_LISTED = 20  # linears that an error message lists


def replace_linear(
    model: nnx.Module, where: Where, make: Callable[[nnx.Linear], nnx.Module]
) -> nnx.Module:
    """Replaces every chosen `nnx.Linear` of `model` by `make(linear)`, in place.

    Everything is made and checked before the first attribute is set: after an error the model is as
    it was. A linear shared by several parents is made once and stays shared; it is replaced when
    `where` chooses it at any of its paths. Optimiser states made before the call do not fit after.

    Args:
        model: any nnx module; linears are found in attributes, `nnx.List`, `nnx.Dict`,
            `nnx.Sequential` and any pytree (tuple, dict, dataclass) held by `nnx.data`.
        where: `where(path, linear) -> bool` with a path such as `("blocks", 0, "mlp", "up")`, or a
            glob over the path joined by "/": `*` stands for a part of one component, `**` for any
            number of components (`"**"` is every linear, `"blocks/*/mlp/**"` those of the MLPs).
        make: takes the linear, returns the module in its place, which must map `(*B, in_features)`
            to `(*B, out_features)`. The linear itself may be returned, or be a part of the result.

    Returns:
        `model`, changed; or, where `model` is itself a chosen linear, what was made of it.

    Raises:
        ValueError: nothing was chosen (the message lists the linears there are), the sizes of a
            new module differ, or a kernel is stacked (made by `nnx.vmap`) and has no single size.
        TypeError: `model` is no nnx module, `where` is neither, or `make` returned no module.

    Example:
        >>> from flax import nnx
        >>> from structlayers import replace_linear
        >>> from structlayers.butterfly import MonarchLinear
        >>> rngs = nnx.Rngs(0)
        >>> head = nnx.Linear(16, 4, rngs=rngs)
        >>> model = nnx.Sequential(nnx.Linear(8, 16, rngs=rngs), nnx.relu, head)
        >>> model = replace_linear(model, "layers/0", MonarchLinear.from_linear)
        >>> [type(layer).__name__ for layer in model.layers if isinstance(layer, nnx.Module)]
        ['MonarchLinear', 'Linear']
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model must be a flax.nnx.Module, got {type(model).__name__}")
    chooses = _predicate(where)
    found = list(_linears(model, (), set()))
    chosen: dict[int, tuple[Path, nnx.Linear]] = {}
    for path, linear in found:
        if chooses(path, linear):
            chosen.setdefault(id(linear), (path, linear))
    if not chosen:
        raise ValueError(f"where={where!r} chose none of {_listing(found)}")
    made = {key: _made(path, linear, make) for key, (path, linear) in chosen.items()}
    _assign(model, made, set())
    return made.get(id(model), model)


def _predicate(where: Where) -> Callable[[Path, nnx.Linear], bool]:
    """`where` as a function; globs are compared component by component."""
    if isinstance(where, str):
        pattern = where.split("/") if where else []
        return lambda path, linear: _matches([str(key) for key in path], pattern)
    if not callable(where):
        raise TypeError(f"where must be a function (path, linear) or a glob, got {where!r}")
    return where


def _matches(parts: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _is_stop(value: Any) -> bool:
    return isinstance(value, nnx.Pytree | nnx.Variable)


def _attributes(node: nnx.Pytree) -> Iterator[tuple[str, Any]]:
    """The user's attributes of a module, without Flax's own records."""
    yield from ((k, v) for k, v in list(vars(node).items()) if not k.startswith("_pytree__"))


def _key(node: nnx.Pytree, name: str) -> str | int:
    return int(name) if isinstance(node, nnx.List) and name.isdigit() else name


def _plain(key: Any) -> str | int:
    """The name or index inside one of jax's path entries."""
    for field in ("key", "idx", "name"):
        if hasattr(key, field):
            value = getattr(key, field)
            return value if isinstance(value, int) else str(value)
    return str(key)


def _linears(node: nnx.Pytree, path: Path, seen: set[int]) -> Iterator[tuple[Path, nnx.Linear]]:
    """Every (path, linear) edge; modules that are shared, or part of a cycle, are entered once."""
    if isinstance(node, nnx.Linear):
        yield path, node
        return
    if id(node) in seen:
        return
    seen.add(id(node))
    for name, value in _attributes(node):
        leaves = jax.tree_util.tree_leaves_with_path(value, is_leaf=_is_stop)
        for inner, leaf in leaves:
            if isinstance(leaf, nnx.Pytree):
                place = (*path, _key(node, name), *map(_plain, inner))
                yield from _linears(leaf, place, seen)


def _listing(found: list[tuple[Path, nnx.Linear]]) -> str:
    if not found:
        return "the model's linears: it has no nnx.Linear"
    lines = [f"{_name(path)} ({m.in_features} -> {m.out_features})" for path, m in found[:_LISTED]]
    more = f", and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"the model's {len(found)} linears: {', '.join(lines)}{more}"


def _name(path: Path) -> str:
    return repr("/".join(map(str, path)))


def _made(path: Path, linear: nnx.Linear, make: Callable[[nnx.Linear], nnx.Module]) -> nnx.Module:
    sizes = (linear.in_features, linear.out_features)
    if linear.kernel.shape != sizes:
        raise ValueError(
            f"the linear at {_name(path)} has a kernel of shape {linear.kernel.shape}, wanted "
            f"{sizes}: replace the linear before it is stacked by nnx.vmap or nnx.scan"
        )
    try:
        new = make(linear)
    except Exception as error:
        error.add_note(f"in replace_linear, at {_name(path)} ({sizes[0]} -> {sizes[1]})")
        raise
    if not isinstance(new, nnx.Module):
        raise TypeError(
            f"make must return a flax.nnx.Module, got {type(new).__name__} for {_name(path)}"
        )
    if new is not linear:
        _check_sizes(path, linear, new)
    return new


def _check_sizes(path: Path, linear: nnx.Linear, new: nnx.Module) -> None:
    """Runs the new module on shapes alone; no number is computed and no state changes."""
    x = jax.ShapeDtypeStruct((2, linear.in_features), linear.dtype or linear.param_dtype)
    wanted = (2, linear.out_features)
    graphdef, state = nnx.split(new)
    try:
        out = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, x)
    except Exception as error:
        raise ValueError(
            f"make returned a {type(new).__name__} that does not take inputs of shape {x.shape} at "
            f"{_name(path)} ({linear.in_features} -> {linear.out_features}): {error}"
        ) from error
    shape = getattr(out, "shape", None)
    if shape != wanted:
        raise ValueError(
            f"make returned a {type(new).__name__} that maps {x.shape} to {shape} at "
            f"{_name(path)}, wanted {wanted}"
        )


def _assign(node: nnx.Pytree, made: dict[int, nnx.Module], seen: set[int]) -> None:
    """Puts the new modules in every place that holds an old one."""
    if id(node) in seen or id(node) in made:
        return
    seen.add(id(node))
    for name, value in _attributes(node):
        leaves, treedef = jax.tree.flatten(value, is_leaf=_is_stop)
        for leaf in leaves:
            if isinstance(leaf, nnx.Pytree):
                _assign(leaf, made, seen)
        if any(id(leaf) in made for leaf in leaves):
            new = jax.tree.unflatten(treedef, [made.get(id(leaf), leaf) for leaf in leaves])
            setattr(node, name, new if isinstance(value, nnx.Pytree) else nnx.data(new))
