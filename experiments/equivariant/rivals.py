"""Rivals of the Gaunt product: Clebsch-Gordan products by cuEquivariance, e3j and e3nn-jax."""

import functools
import importlib
import importlib.util
import math
from collections.abc import Callable
from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.rivals import Contender, Rival
from structlayers._core.arg_spec import ArgSpec
from structlayers._core.dispatch import current_platform
from structlayers.equivariant.paths import tensor_product_paths
from structlayers.equivariant.tables import dense_gaunt
from structlayers.equivariant.wigner import gaunt


def _degrees(spec: ArgSpec) -> tuple[int, int, int]:
    l1, l2 = (math.isqrt(array.shape[-1]) - 1 for array in spec.arrays)
    return l1, l2, spec.static["lmax"]


def _paths(degrees: tuple[int, int, int]) -> tuple[tuple[int, int, int], ...]:
    """Triples of degrees with a Gaunt coefficient."""
    return tensor_product_paths(*(range(lmax + 1) for lmax in degrees), couplings="even")


def _require_channels(spec: ArgSpec) -> int:
    x, y = spec.arrays
    if x.ndim < 2 or x.shape[:-1] != y.shape[:-1]:
        raise NotImplementedError("it multiplies channels with channels, as many of each")
    if x.dtype != jnp.float32:
        raise NotImplementedError(f"measured in float32, not {x.dtype}")
    return x.shape[-2]


@functools.cache
def _segmented(degrees: tuple[int, int, int], channels: int) -> Any:
    """The same product as a polynomial of cuEquivariance: a weight of every path and channel."""
    cue: Any = importlib.import_module("cuequivariance")
    product = cue.SegmentedTensorProduct.from_subscripts("u,iu,ju,ku+ijk")
    for operand, lmax in enumerate(degrees, start=1):
        for degree in range(lmax + 1):
            product.add_segment(operand, (2 * degree + 1, channels))
    for number, path in enumerate(_paths(degrees)):
        product.add_segment(0, (channels,))
        product.add_path(number, *path, c=gaunt(*path))
    return cue.SegmentedPolynomial.eval_last_operand(product.flatten_coefficient_modes())


def _cuequivariance(method: str) -> Callable[[ArgSpec], Contender]:
    def make(spec: ArgSpec) -> Contender:
        if importlib.util.find_spec("cuequivariance_jax") is None:
            raise NotImplementedError("cuequivariance-jax is not installed")
        channels = _require_channels(spec)
        degrees = _degrees(spec)
        rows = math.prod(spec.arrays[0].shape[:-2])
        size = (degrees[2] + 1) ** 2 * channels

        def prepare(*signals: jax.Array) -> tuple[jax.Array, ...]:
            weights = jnp.ones((1, channels * len(_paths(degrees))), jnp.float32)
            flat = (x.swapaxes(-1, -2).reshape(rows, -1) for x in signals)  # channels last
            return weights, *flat

        def run(*operands: jax.Array) -> jax.Array:
            cuex: Any = importlib.import_module("cuequivariance_jax")
            (out,) = cuex.segmented_polynomial(
                _segmented(degrees, channels),
                list(operands),
                [jax.ShapeDtypeStruct((rows, size), jnp.float32)],
                method=method,
            )
            return out.reshape(rows, -1, channels).swapaxes(-1, -2)

        return Contender(prepare, run)

    return make


@functools.cache
def _e3j_product(degrees: tuple[int, int, int], method: str) -> Any:
    """The same product as a tensor product of e3j, by its own table of coefficients."""
    core: Any = importlib.import_module("e3j.core")
    config: Any = importlib.import_module("e3j.utils.config")
    sparse: Any = importlib.import_module("e3j.utils.sparse")
    table = dense_gaunt(*degrees)
    left, right, out = np.nonzero(table)
    values = table[left, right, out].astype(np.float32)
    shape = (table.shape[2], *table.shape[:2])
    first, second, third = (str(e3nn.s2_irreps(lmax)).replace("1x", "") for lmax in degrees)
    return core.TensorProduct(
        (first, second),
        third,
        coef=sparse.sparse_coo(values, np.stack([out, left, right], axis=-1), shape),
        layout="TRAILING_CHANNELS",
        mode="MAP",
        config=config.Config(tensor_product=method),
    )


def _e3j(spec: ArgSpec) -> Contender:
    if importlib.util.find_spec("e3j") is None:
        raise NotImplementedError("e3j is not installed")
    channels = _require_channels(spec)
    on_gpu = current_platform() == "gpu"
    if on_gpu and channels % 128:
        raise NotImplementedError(f"its kernel takes multiples of 128 channels, not {channels}")
    product = _e3j_product(_degrees(spec), "FUSED_MOSAIC_GPU" if on_gpu else "UNFUSED")

    def prepare(*signals: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(
            x.reshape(-1, channels, x.shape[-1]).swapaxes(-1, -2) for x in signals
        )  # channels last

    return Contender(prepare, product)


def _e3nn(spec: ArgSpec) -> Contender:
    _require_channels(spec)
    l1, l2, l3 = _degrees(spec)
    left, right = (e3nn.s2_irreps(lmax) for lmax in (l1, l2))
    wanted = [irrep for _, irrep in e3nn.s2_irreps(l3)]

    def run(x: jax.Array, y: jax.Array) -> jax.Array:
        product = e3nn.tensor_product(
            e3nn.IrrepsArray(left, x), e3nn.IrrepsArray(right, y), filter_ir_out=wanted
        )
        return product.array

    return Contender(lambda *arrays: arrays, run)


RIVALS = {
    "gaunt_tensor_product": (
        Rival(
            "cuequivariance",
            _cuequivariance("uniform_1d"),
            True,
            "cuEquivariance uniform_1d, a weight of every even path and channel",
            precision="highest",
        ),
        Rival(
            "e3j",
            _e3j,
            False,
            "e3j TensorProduct (Pallas on a GPU) of the same coefficients, channels last",
            precision="highest",
        ),
        Rival(
            "e3nn",
            _e3nn,
            False,
            "e3nn-jax tensor_product, even paths side by side",
            precision="default",
        ),
    ),
}
