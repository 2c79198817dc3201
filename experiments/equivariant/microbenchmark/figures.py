"""The figures on efficiency of Luo et al. 2024: interactions, convolutions, many bodies."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.inputs import draw_tree
from experiments.bench.registry import find_operation
from experiments.bench.rivals import Rival
from experiments.equivariant.microbenchmark.cases import Case, Job, jax_precision, make_rival
from structlayers._core.arg_spec import ArgSpec
from structlayers.equivariant.arg_specs import power_spec, product_spec
from structlayers.equivariant.harmonics import spherical_harmonics
from structlayers.equivariant.ops.clebsch_gordan import clebsch_gordan_tensor_product
from structlayers.equivariant.ops.many_body import many_body_product
from structlayers.equivariant.ops.symmetric_contraction import (
    symmetric_contraction,
    symmetric_path_counts,
)
from structlayers.equivariant.signals import Parity, lmax_of, pack

_SOURCE = "Luo et al. 2024, arXiv:2401.10216, section 4.1"
_GRIDS = ("xla", "antipodal", "separable", "pallas_gpu")
_COEFFICIENTS = ("clebsch_gordan", "sparse")
_CHANNELS = 128
_BATCH = 32
_NAMES = {word: f"clebsch_gordan_{word}" for word in ("dense", "sparse")}


def feature_case(lmax: int, precision: str) -> Case:
    """Two features of 128 channels, 0..L x 0..L to 0..2 L."""
    make = functools.partial(_product, lmax, (1, _CHANNELS), precision)
    return Case("feature", "L", lmax, f"b1x{_CHANNELS}_{precision}", make)


def convolution_case(lmax: int, precision: str) -> Case:
    """One feature with the harmonics of one direction, 0..L x 0..L to 0..2 L."""
    make = functools.partial(_product, lmax, (1,), precision, make_inputs=_directions)
    return Case("convolution", "L", lmax, f"b1_{precision}", make)


def bodies_case(lmax: int, precision: str) -> Case:
    """Three bodies of degree L to degree L, batch 32, 128 channels."""
    make = functools.partial(_bodies, lmax, 3, precision)
    return Case("many_body", "L", lmax, f"b{_BATCH}x{_CHANNELS}_{precision}", make)


def order_case(order: int, precision: str) -> Case:
    """Bodies of degree 1, nu of them, batch 32, 128 channels."""
    make = functools.partial(_bodies, 1, order, precision)
    return Case("order", "nu", order, f"b{_BATCH}x{_CHANNELS}_{precision}", make)


CASES: Mapping[str, Callable[[int, str], Case]] = {
    "feature": feature_case,
    "convolution": convolution_case,
    "many_body": bodies_case,
    "order": order_case,
}
"""Panels, as functions of a place on their axis and a precision."""


def _directions(spec: ArgSpec, key: jax.Array) -> tuple[jax.Array, ...]:
    """A signal, and the harmonics of a random direction."""
    x = draw_tree(key, spec.arrays[0], "x")
    y = spec.arrays[1]
    points = np.asarray(jax.random.normal(jax.random.fold_in(key, 1), (y.shape[0], 3)))
    return x, jnp.asarray(spherical_harmonics(lmax_of("x", x), points), y.dtype)


def _product(lmax: int, lead: tuple[int, ...], precision: str, make_inputs: Any = None) -> Job:
    spec = product_spec(lead, (lmax, lmax, 2 * lmax), "float32", source=_SOURCE, tags=("gpu",))
    spec = replace(spec, static={**spec.static, "precision": precision})
    rivals = tuple(
        _clebsch_gordan(name, implementation, precision) for implementation, name in _NAMES.items()
    )
    operation = replace(find_operation(spec.op), make_inputs=make_inputs)
    return Job(operation, spec, (*_GRIDS, *_COEFFICIENTS), rivals, tuple(_NAMES.values()))


def _clebsch_gordan(name: str, implementation: str, precision: str) -> Rival:
    word = jax_precision(precision)
    run = functools.partial(
        clebsch_gordan_tensor_product,
        couplings="even",
        normalization="gaunt",
        implementation=implementation,
        precision=word,
    )
    return make_rival(name, run, "the same product by coupling tensors", word)


def _bodies(lmax: int, order: int, precision: str) -> Job:
    rows = (_BATCH, _CHANNELS)
    spec = power_spec(rows, lmax, order, lmax, "float32", source=_SOURCE, tags=("gpu",))
    weights = jax.ShapeDtypeStruct((_CHANNELS, order, lmax + 1), "float32")
    spec = replace(
        spec,
        arrays=(*spec.arrays, weights),
        static={**spec.static, "precision": precision},
    )

    def own(x: jax.Array, weights: jax.Array, **static: Any) -> jax.Array:
        return many_body_product(x, weights=weights, **static)

    operation = replace(find_operation(spec.op), function=own, make_inputs=None)
    rival = _symmetric_contraction(lmax, order, precision)
    return Job(operation, spec, _GRIDS, (rival,), (rival.name,))


def _symmetric_contraction(lmax: int, order: int, precision: str) -> Rival:
    import e3nn_jax as e3nn

    word = jax_precision(precision)
    irreps = e3nn.s2_irreps(lmax)
    counts = symmetric_path_counts(irreps, irreps, order)

    def prepare(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
        ones = (jnp.ones((weights.shape[0], number), x.dtype) for number in counts)
        return pack(x, Parity(1, -1)).array, *ones

    def run(x: jax.Array, *weights: jax.Array) -> jax.Array:
        wide = e3nn.IrrepsArray([(_CHANNELS, ir) for _, ir in irreps], x)
        return symmetric_contraction(wide, weights, irreps_out=irreps, precision=word).array

    note = "all symmetric couplings, a weight for each and channel"
    return make_rival("symmetric_contraction", run, note, word, prepare)
