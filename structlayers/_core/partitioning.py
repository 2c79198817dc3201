"""Running a function per shard of its batch, where XLA cannot partition it by itself.

A Pallas call is opaque to XLA. Given operands sharded over the batch, the compiler gathers them on
every device, or refuses ("Mosaic kernels cannot be automatically partitioned", TPU). The
batch-like axes of an op are independent, so each device can run the kernel on its own shard with
the weights replicated; `partition_over_batch` arranges that. What it does depends on where it is
called, and needs nothing from the caller except in the last line:

- inside `jax.shard_map`: the function as it is;
- explicit sharding (``jax.set_mesh`` with ``AxisType.Explicit``): `jax.shard_map` over the mesh
  axes that the types of the arguments name;
- `jax.jit` with sharded inputs on an automatic mesh: a custom partitioning rule; on one device it
  compiles to the function itself;
- the same on several TPU devices, where the rule is never called (jax#38196): the
  compiler stops with "Custom emitter for CustomSPMDPartitioning not found". There, call inside
  `jax.shard_map`, use an explicit mesh, or name the axes with `shard_batch_over`.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from structlayers._core.context import bound

type OutputKind = Literal["batch", "sum"]
type LeafFunction = Callable[..., tuple[jax.Array, ...]]
type AxisNames = tuple[str, ...]

_batch_axes: ContextVar[AxisNames | None] = ContextVar("batch_axes", default=None)


@contextlib.contextmanager
def shard_batch_over(*axis_names: str) -> Generator[None]:
    """Shards the first batch axis over these axes of the current mesh, by `jax.shard_map`.

    For automatic meshes on TPU, where the sharding of the inputs cannot be seen. It acts while a
    function is traced, inside ``jax.set_mesh(mesh)``; batches that the axes do not divide are
    computed whole on every device.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
        >>> with jax.set_mesh(mesh), shard_batch_over("data"):
        ...     print(partition_over_batch(jnp.negative, batched=(True,))(jnp.ones(2)))
        [-1. -1.]
    """
    with bound(_batch_axes, axis_names):
        yield


def batch_sharding_is_known() -> bool:
    """Whether the sharding of a batch can be known while tracing: TPU kernels need to know it.

    True on one device, inside `jax.shard_map`, under an explicit mesh, and where `shard_batch_over`
    names the axes. Elsewhere inputs may turn out to be sharded over a mesh of several TPUs, where
    the compiler stops at a kernel (jax#38196): a dispatcher that was asked for no implementation
    by name then takes one that XLA can partition.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
        >>> with jax.set_mesh(mesh):
        ...     batch_sharding_is_known()
        True
    """
    mesh = jax.sharding.get_abstract_mesh()
    return bool(
        jax.device_count() == 1
        or _batch_axes.get() is not None
        or mesh.manual_axes
        or AxisType.Explicit in mesh.axis_types
    )


def partition_over_batch(
    fn: Callable[..., Any],
    *,
    batched: Sequence[bool],
    outputs: Any = "batch",
    num_batch_axes: int = 1,
) -> Callable[..., Any]:
    """Makes `fn` run per shard of its leading batch axes, with the other arguments replicated.

    The result composes with jit, vmap, scan, remat and reverse-mode differentiation of any order.
    Gradients of replicated arguments are summed over the shards. On an automatic mesh the backward
    pass differentiates `fn` from its arguments, so intermediate values are computed again; an op
    whose backward pass needs them partitions its forward and backward kernels separately, inside
    its own `jax.custom_vjp`. Forward mode works in `jax.shard_map` and on explicit meshes only, and
    where `fn` itself has it.

    Args:
        fn: a module-level function of pytrees of arrays, positional. It sees a shard of the
            batched arguments and must treat their batch axes independently. Keyword arguments are
            static and hashable.
        batched: for each positional argument, whether all its arrays lead with the batch axes.
            Arguments that do not are replicated, gathered where they are sharded.
        outputs: "batch" where an output leads with the batch axes; "sum" where it is a sum over
            the batch, such as the gradient of a weight, added up over the shards. One word, or a
            prefix of the pytree that `fn` returns.
        num_batch_axes: how many leading axes are batch axes. With 0, `fn` sees one axis of size 1.

    Returns:
        A function of the same arguments.

    Raises:
        ValueError: when called: arguments that do not match `batched`, or batch axes that differ.

    Example:
        >>> scale = partition_over_batch(lambda x, w: x * w[None], batched=(True, False))
        >>> print(scale(jnp.ones((2, 2)), jnp.arange(2.0)))
        [[0. 1.]
         [0. 1.]]
    """
    batched = tuple(batched)
    if num_batch_axes == 0:
        return _without_batch(
            partition_over_batch(fn, batched=batched, outputs=outputs), batched, outputs
        )

    @functools.wraps(fn)
    def call(*args: Any, **static: Any) -> Any:
        if len(args) != len(batched):
            raise ValueError(f"batched names {len(batched)} arguments, got {len(args)}")
        leaves, tree = jax.tree.flatten(args)
        leaves = [jnp.asarray(leaf) for leaf in leaves]
        marks = jax.tree.broadcast(batched, args)
        arg_dims = tuple(
            tuple(range(num_batch_axes)) if mark else () for mark in jax.tree.leaves(marks)
        )
        _check_batch_axes(leaves, arg_dims, num_batch_axes)
        of_leaves, flat = _flat_function(fn, tuple(sorted(static.items())), tree)
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        out_shapes = jax.eval_shape(of_leaves, *shapes)
        kinds = jax.tree.leaves(jax.tree.broadcast(outputs, out_shapes))
        if not set(kinds) <= {"batch", "sum"}:
            raise ValueError(f"outputs must be 'batch' or 'sum', got {outputs!r}")
        out_dims = tuple(tuple(range(num_batch_axes)) if k == "batch" else () for k in kinds)
        outs = _run(_Local(flat, arg_dims, out_dims), leaves)
        return jax.tree.unflatten(jax.tree.structure(out_shapes), outs)

    return call


def _without_batch(
    run: Callable[..., Any], batched: tuple[bool, ...], outputs: Any
) -> Callable[..., Any]:
    """The function of arguments that lack the one batch axis of `run`."""

    @functools.wraps(run)
    def call(*args: Any, **static: Any) -> Any:
        marks = jax.tree.broadcast(batched, args)
        rows = jax.tree.map(lambda x, mark: jnp.asarray(x)[None] if mark else x, args, marks)
        found = run(*rows, **static)
        kinds = jax.tree.broadcast(outputs, found)
        return jax.tree.map(lambda x, kind: x[0] if kind == "batch" else x, found, kinds)

    return call


@dataclasses.dataclass(frozen=True)
class _Local:
    """A function of arrays, and which batch dimensions their leading axes stand for.

    `arg_dims[i]` labels the leading axes of array i. Axes of one label are sharded alike; the
    axes after them are replicated. An output is summed over the labels that it lacks.
    """

    fn: LeafFunction
    arg_dims: tuple[tuple[int, ...], ...]
    out_dims: tuple[tuple[int, ...], ...]

    @property
    def labels(self) -> frozenset[int]:
        return frozenset(label for dims in self.arg_dims for label in dims)

    def per_shard(self, axes: Mapping[int, AxisNames]) -> LeafFunction:
        """What one device runs, when the mesh axes `axes` shard the labels."""

        def body(*leaves: jax.Array) -> tuple[jax.Array, ...]:
            outs = []
            for out, dims in zip(self.fn(*leaves), self.out_dims, strict=True):
                summed = sorted(self.labels - set(dims))
                names = [name for label in summed for name in axes.get(label, ())]
                outs.append(jax.lax.psum(out, tuple(names)) if names else out)
            return tuple(outs)

        return body

    def vmapped(self, mapped: tuple[bool, ...]) -> "_Local":
        """The function with one more batch dimension, in front of the `mapped` arguments."""
        label = max(self.labels, default=-1) + 1
        return _Local(
            _vmap(self.fn, tuple(0 if m else None for m in mapped)),
            tuple(
                (label, *dims) if m else dims for m, dims in zip(mapped, self.arg_dims, strict=True)
            ),
            tuple((label, *dims) for dims in self.out_dims),
        )

    def pullback(self, args: tuple[int, ...], outs: tuple[int, ...]) -> "_Local":
        """The gradients of arguments `args` from all arguments and cotangents of `outs`."""
        return _Local(
            _pullback(self.fn, args, outs),
            (*self.arg_dims, *(self.out_dims[i] for i in outs)),
            tuple(self.arg_dims[i] for i in args),
        )


# The functions below are made once for equal arguments: JAX's caches go by identity.


@functools.lru_cache(maxsize=1024)
def _flat_function(
    fn: Callable[..., Any], static: tuple[tuple[str, Any], ...], tree: Any
) -> tuple[Callable[..., Any], LeafFunction]:
    """`fn` as a function of leaves: as it returns, and with its output flattened."""

    def of_leaves(*leaves: jax.Array) -> Any:
        return fn(*jax.tree.unflatten(tree, leaves), **dict(static))

    def flat(*leaves: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(jax.tree.leaves(of_leaves(*leaves)))

    return of_leaves, flat


@functools.lru_cache(maxsize=1024)
def _vmap(fn: LeafFunction, in_axes: tuple[int | None, ...]) -> LeafFunction:
    return jax.vmap(fn, in_axes)


@functools.lru_cache(maxsize=1024)
def _pullback(fn: LeafFunction, args: tuple[int, ...], outs: tuple[int, ...]) -> LeafFunction:
    def gradients(*leaves_and_cotangents: jax.Array) -> tuple[jax.Array, ...]:
        split = len(leaves_and_cotangents) - len(outs)
        leaves, cotangents = leaves_and_cotangents[:split], leaves_and_cotangents[split:]

        def of_differentiated(*picked: jax.Array) -> list[jax.Array]:
            full = list(leaves)
            for position, leaf in zip(args, picked, strict=True):
                full[position] = leaf
            results = fn(*full)
            return [results[i] for i in outs]

        _, pull = jax.vjp(of_differentiated, *(leaves[i] for i in args))
        return pull(list(cotangents))

    return gradients


def _check_batch_axes(
    leaves: Sequence[jax.Array], arg_dims: Sequence[tuple[int, ...]], num_batch_axes: int
) -> None:
    shapes = [leaf.shape for leaf, dims in zip(leaves, arg_dims, strict=True) if dims]
    if len({shape[:num_batch_axes] for shape in shapes}) > 1 or any(
        len(shape) < num_batch_axes for shape in shapes
    ):
        raise ValueError(
            f"batched arguments must share their {num_batch_axes} leading axes, got shapes {shapes}"
        )


def _run(local: _Local, leaves: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    mesh = jax.sharding.get_abstract_mesh()
    named = _batch_axes.get()
    if named is not None:
        if mesh.empty:
            raise ValueError("shard_batch_over needs a current mesh: enter jax.set_mesh(mesh)")
        size = math.prod(mesh.shape[name] for name in named)
        batches = [x.shape[0] for x, dims in zip(leaves, local.arg_dims, strict=True) if dims]
        axes = {0: named} if batches and batches[0] % size == 0 else {}
        return _shard_mapped(local, mesh, tuple(axes.items()))(*leaves)
    if mesh.manual_axes:
        return local.fn(*vary_alike(leaves))
    typed = [jax.typeof(leaf).sharding for leaf in leaves]
    explicit = next((s.mesh for s in typed if AxisType.Explicit in s.mesh.axis_types), None)
    if explicit is None:
        return _automatic(local)(*leaves)
    axes = _sharded_labels(local, [s.spec for s in typed], [x.shape for x in leaves], explicit)
    resharded = [
        jax.sharding.reshard(leaf, NamedSharding(explicit, _spec(dims, axes)))
        for leaf, dims in zip(leaves, local.arg_dims, strict=True)
    ]
    return _shard_mapped(local, explicit, tuple(axes.items()))(*resharded)


def varying_axes(*operands: Any) -> frozenset[str]:
    """The manual mesh axes along which any array differs, as `jax.shard_map` keeps account.

    Args:
        *operands: arrays or `jax.ShapeDtypeStruct`.

    Example:
        >>> varying_axes(jnp.ones(3))
        frozenset()
    """
    return frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in operands))


def vary_alike[T](arrays: T) -> T:
    """A pytree of arrays marked as varying over the same manual axes.

    Kernels demand it of operands. So does a `jax.custom_vjp` whose backward pass leaves it to the
    caller to add up over shards what is the same on all of them: a gradient must vary as its
    argument does, and the transpose of this is the sum over the axes along which that did not.

    Example:
        >>> [x.shape for x in vary_alike([jnp.ones(2), jnp.ones(())])]
        [(2,), ()]
    """
    leaves, tree = jax.tree.flatten(arrays)
    everything = varying_axes(*leaves)
    missing = [tuple(sorted(everything - varying_axes(leaf))) for leaf in leaves]
    alike = [
        jax.lax.pcast(leaf, names, to="varying") if names else leaf
        for leaf, names in zip(leaves, missing, strict=True)
    ]
    return jax.tree.unflatten(tree, alike)


def result_struct(
    shape: Sequence[int], dtype: DTypeLike, *operands: jax.Array
) -> jax.ShapeDtypeStruct:
    """The ``out_shape`` of a Pallas call that also serves inside `jax.shard_map`.

    There an output has to say over which mesh axes it varies: over those of the operands.

    Example:
        >>> result_struct((2, 3), "float32", jnp.ones(3)).shape
        (2, 3)
    """
    axes = jax.sharding.ManualAxisType(varying=varying_axes(*operands))
    return jax.ShapeDtypeStruct(tuple(shape), dtype, manual_axis_type=axes)


@functools.lru_cache(maxsize=1024)
def _shard_mapped(
    local: _Local, mesh: AbstractMesh, axes: tuple[tuple[int, AxisNames], ...]
) -> LeafFunction:
    """The function under `jax.shard_map`, batch dimension `axes[i][0]` over axes `axes[i][1]`."""
    return jax.jit(
        jax.shard_map(
            local.per_shard(dict(axes)),
            mesh=mesh,
            in_specs=tuple(_spec(dims, dict(axes)) for dims in local.arg_dims),
            out_specs=tuple(_spec(dims, dict(axes)) for dims in local.out_dims),
            # Pallas results carry no type of variation over the mesh.
            check_vma=False,
        )
    )


@functools.lru_cache(maxsize=1024)
def _automatic(local: _Local) -> LeafFunction:
    """The function with its own rules for partitioning, batching and differentiation.

    A custom partitioning has no batching rule and no derivative, so each is given around it.
    """

    def partition(mesh: Mesh, args: Any, results: Any) -> Any:
        axes = _sharded_labels(
            local, [arg.sharding.spec for arg in args], [arg.shape for arg in args], mesh
        )
        arg_shardings = tuple(NamedSharding(mesh, _spec(dims, axes)) for dims in local.arg_dims)
        out_shardings = tuple(NamedSharding(mesh, _spec(dims, axes)) for dims in local.out_dims)
        return mesh, local.per_shard(axes), out_shardings, arg_shardings

    partitioned = custom_partitioning(local.fn)
    partitioned.def_partition(partition, sharding_rule=functools.partial(_sharding_rule, local))

    @custom_vmap
    def batchable(*leaves: jax.Array) -> tuple[jax.Array, ...]:
        return partitioned(*leaves)

    @batchable.def_vmap
    def _(axis_size: int, mapped: Sequence[bool], *leaves: jax.Array) -> Any:
        del axis_size
        outs = _automatic(local.vmapped(tuple(mapped)))(*leaves)
        return outs, (True,) * len(local.out_dims)

    @jax.custom_vjp
    def differentiable(*leaves: jax.Array) -> tuple[jax.Array, ...]:
        return batchable(*leaves)

    def forward(*leaves: jax.Array) -> Any:
        return differentiable(*leaves), leaves

    def backward(leaves: tuple[jax.Array, ...], cotangents: Sequence[jax.Array]) -> Any:
        args = tuple(i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact))
        outs = tuple(i for i, c in enumerate(cotangents) if jnp.issubdtype(c.dtype, jnp.inexact))
        pull = _automatic(local.pullback(args, outs))
        gradients = pull(*leaves, *(cotangents[i] for i in outs))
        result: list[jax.Array | None] = [None] * len(leaves)
        for position, gradient in zip(args, gradients, strict=True):
            result[position] = gradient
        return tuple(result)

    differentiable.defvjp(forward, backward)
    return jax.jit(differentiable, inline=True)


def _sharding_rule(local: _Local, mesh: Mesh, arg_types: Any, out_types: Any) -> Any:
    """The einsum-like rule: batch dimensions pass through, all other axes stay whole."""
    del mesh
    whole: list[str] = []

    def factors(dims: tuple[int, ...], rank: int) -> str:
        rest = [f"r{len(whole) + i}" for i in range(rank - len(dims))]
        whole.extend(rest)
        return " ".join([*(f"b{label}" for label in dims), *rest])

    args = [factors(dims, t.rank) for dims, t in zip(local.arg_dims, arg_types, strict=True)]
    outs = [factors(dims, t.rank) for dims, t in zip(local.out_dims, out_types, strict=True)]
    rule = f"{', '.join(args)} -> {', '.join(outs)}"
    return rule, {"need_replication_factors": tuple(whole)}


def _sharded_labels(
    local: _Local, specs: Sequence[P], shapes: Sequence[tuple[int, ...]], mesh: Any
) -> dict[int, AxisNames]:
    """The mesh axes that shard each batch dimension; axes that do not divide it are left out."""
    axes: dict[int, AxisNames] = {}
    used: set[str] = set()
    for spec, shape, dims in zip(specs, shapes, local.arg_dims, strict=True):
        for label, size, entry in zip(dims, shape, spec, strict=False):
            names = entry if isinstance(entry, tuple) else (entry,) if entry else ()
            divides = size % math.prod(mesh.shape[name] for name in names) == 0
            if names and divides and label not in axes and not used & set(names):
                axes[label] = names
                used |= set(names)
    return axes


def _spec(dims: tuple[int, ...], axes: Mapping[int, AxisNames]) -> P:
    return P(*(axes.get(label) for label in dims))
