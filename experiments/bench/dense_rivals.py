"""The rival of every structured product: the matmul with its whole matrix.

The matrix is made outside the clock: a model that uses it would hold it as its parameter.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.ceilings import has_tf32
from experiments.bench.floors import compute_dtype, precision_name
from experiments.bench.loop import Arrays
from experiments.bench.rivals import Contender, Rival
from structlayers._core.arg_spec import ArgSpec
from structlayers._core.precision import accumulation_dtype, canonicalize_precision


def dense_rivals(package: ModuleType) -> tuple[Rival, ...]:
    """Dense matmuls beside an op `package.<spec.op>(x, *weights)` that is linear in x.

    At the spec's own precision, as TF32 where the device has it, and by torch.
    """

    def to_dense(spec: ArgSpec) -> Callable[..., Arrays]:
        """Preparation that gives (x, matrix (n, out)): the op applied to the identity."""
        op = functools.partial(getattr(package, spec.op), **spec.static)

        def prepare(x: jax.Array, *weights: Any) -> Arrays:
            wide = accumulation_dtype(x.dtype)
            matrix = op(jnp.eye(x.shape[-1], dtype=wide), *weights)
            dtype = matrix.dtype if wide == x.dtype else x.dtype
            return x.astype(dtype), matrix.astype(dtype)

        return prepare

    def matmul(spec: ArgSpec, precision: str | None = None) -> Contender:
        wanted = canonicalize_precision(precision or spec.static.get("precision"))
        return Contender(to_dense(spec), functools.partial(jnp.matmul, precision=wanted))

    def matmul_tf32(spec: ArgSpec) -> Contender:
        dtype = compute_dtype(spec.arrays)
        if precision_name(dtype, spec.static.get("precision")) != "highest":
            raise NotImplementedError("only beside float32 at precision highest")
        if not has_tf32(jax.devices()[0]):
            raise NotImplementedError("this device has no TF32")
        return matmul(spec, "default")

    def torch_matmul(spec: ArgSpec) -> Contender:
        def run(x: Any, matrix: Any) -> Any:
            return x @ matrix

        return Contender(to_dense(spec), run)

    return (
        Rival("matmul", matmul, True, "dense matrix"),
        Rival("matmul_tf32", matmul_tf32, True, "dense matrix", precision="default"),
        Rival("torch_matmul", torch_matmul, True, "dense matrix, torch", "torch"),
    )
