"""The mesh of devices, and how parameters, optimiser state and batches lie on it."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.errors import CommandError

SEQUENCE = "sequence"
AXES = ("data", "fsdp", "tensor", SEQUENCE)
# Logical axes of the model's parameters on the axes of the mesh.
AXIS_RULES = (("embed", "fsdp"), ("heads", "tensor"), ("mlp", "tensor"), ("vocab", "tensor"))
BATCH = PartitionSpec(None, ("data", "fsdp"), None)  # steps of accumulation, windows, time


@dataclass(frozen=True)
class MeshShape:
    """Devices along each axis of the mesh.

    Attributes:
        data: copies of the model, each with its part of the batch; None is as many as there are
            devices left.
        fsdp: parts of the batch whose devices hold a part of each parameter and of the optimiser's
            state, and gather parameters when they are used.
        tensor: parts of heads, hidden features and vocabulary.
        sequence: parts of the time axis in training, for models of "gla" alone; each device has a
            run of every sequence, and they exchange states.
    """

    data: int | None = None
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1

    def __post_init__(self) -> None:
        """Refuses sizes below 1, and what cannot be compiled.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        for axis in AXES:
            size = getattr(self, axis)
            if size is not None and size < 1:
                raise ValueError(f"mesh.{axis} must be at least 1, got {size}")
        if min(self.fsdp, self.tensor, self.sequence) > 1:
            raise ValueError(
                "one of mesh.fsdp, mesh.tensor and mesh.sequence must be 1: XLA cannot partition "
                f"the embedding over all three; got {self}"
            )

    def make(self, devices: list[jax.Device] | None = None) -> Mesh:
        """The mesh.

        Args:
            devices: all by default.

        Raises:
            CommandError: the sizes do not fit the number of devices. One process may leave devices
                unused, several may not.

        Example:
            >>> dict(MeshShape(data=1).make().shape)
            {'data': 1, 'fsdp': 1, 'tensor': 1, 'sequence': 1}
        """
        devices = jax.devices() if devices is None else devices
        others = self.fsdp * self.tensor * self.sequence
        data = len(devices) // others if self.data is None else self.data
        used = data * others
        exact = self.data is None or jax.process_count() > 1
        if not 0 < used <= len(devices) or (exact and used != len(devices)):
            raise CommandError(f"{self} does not fit {len(devices)} devices")
        sizes = (data, self.fsdp, self.tensor, self.sequence)
        kinds = (AxisType.Auto,) * len(AXES)
        return jax.make_mesh(sizes, AXES, kinds, devices=devices[:used])


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts a batch is cut."""
    return math.prod(mesh.shape[axis] for axis in ("data", "fsdp"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(mesh: Mesh, parameters: nnx.State) -> Any:
    """Shardings by the metadata of the parameters, as a pure dictionary.

    Args:
        mesh: with the axes `AXES`.
        parameters: abstract or not, made with `AXIS_RULES`.

    Raises:
        CommandError: an axis of the mesh does not divide that of a parameter; it is named.
    """
    specs = nnx.to_pure_dict(nnx.get_partition_spec(parameters))
    shapes = nnx.to_pure_dict(parameters)

    def sharding(path: Any, leaf: Any, spec: PartitionSpec) -> NamedSharding:
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                name = jax.tree_util.keystr(path, simple=True, separator=".")
                raise CommandError(
                    f"mesh.{axis} = {mesh.shape[axis]} does not divide parameter {name} of shape "
                    f"{leaf.shape}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, shapes, specs)


def optimizer_shardings(
    mesh: Mesh, optimizer: optax.GradientTransformation, state: Any, parameters: Any
) -> Any:
    """Shardings of an optimiser's state: that of each parameter for what is kept for it."""
    return optax.tree.map_params(
        optimizer.init,
        lambda _, sharding: sharding,
        state,
        parameters,
        transform_non_params=lambda _: replicated(mesh),
    )
