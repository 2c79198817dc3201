"""The microbenchmark of Xie et al. 2025: one channel, SISO, SIMO and MIMO, all products.

A factor of one degree L is a signal whose other degrees are zero for the products that take whole
signals; Clebsch-Gordan products take the irrep itself.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.registry import find_operation
from experiments.bench.rivals import Rival
from experiments.equivariant.microbenchmark.cases import (
    Case,
    Counts,
    Job,
    count,
    jax_precision,
    make_rival,
)
from structlayers.equivariant.arg_specs import product_spec
from structlayers.equivariant.expressivity import setting_degrees
from structlayers.equivariant.ops.clebsch_gordan import clebsch_gordan_tensor_product
from structlayers.equivariant.ops.gaunt import gaunt_tensor_product
from structlayers.equivariant.ops.matrix import matrix_table, matrix_tensor_product
from structlayers.equivariant.ops.vector_signal import (
    vector_signal_table,
    vector_signal_tensor_product,
)
from structlayers.equivariant.paths import Path, tensor_product_paths

PRODUCTS = (
    "xla",
    "antipodal",
    "separable",
    "pallas_gpu",
    "clebsch_gordan",
    "sparse",
    "fourier_2d",
    "clebsch_gordan_dense",
    "clebsch_gordan_sparse",
    "clebsch_gordan_sparse_even",
    "matrix",
    "vector_signal",
)
"""Implementations of `gaunt_tensor_product`, and other products."""

_SOURCE = "Xie et al. 2025, arXiv:2506.13523, microbenchmark"
_BASELINES = ("clebsch_gordan_dense", "clebsch_gordan_sparse_even")

type Degrees = tuple[Sequence[int], Sequence[int], Sequence[int]]
type Run = Callable[..., jax.Array]


def freedom_case(setting: str, lmax: int, rows: int, names: Sequence[str], precision: str) -> Case:
    """The products of one setting and degree.

    Args:
        setting: "siso", "simo" or "mimo".
        lmax: L.
        rows: batch.
        names: of `PRODUCTS`.
        precision: a word of `gaunt_tensor_product`.
    """
    found = _Setting(setting, lmax, rows, precision)
    return Case(setting, "L", lmax, f"b{rows}_{precision}", lambda: found.job(tuple(names)))


def between(product: Run, degrees: Degrees) -> Run:
    """A product of whole signals on the given degrees alone, one after the other."""
    *factors, third = degrees

    def run(*arrays: jax.Array, **static: Any) -> jax.Array:
        signals = [
            jnp.pad(x, ((0, 0), (degrees[0] ** 2, 0)))
            for x, degrees in zip(arrays, factors, strict=True)
        ]
        return product(*signals, **{"lmax": third[-1], **static})[:, third[0] ** 2 :]

    return run


@dataclass(frozen=True)
class _Setting:
    name: str
    lmax: int
    rows: int
    precision: str

    @property
    def degrees(self) -> Degrees:
        return setting_degrees(self.name, self.lmax)

    def paths(self, couplings: str) -> tuple[Path, ...]:
        return tensor_product_paths(*self.degrees, couplings=couplings)

    def job(self, names: tuple[str, ...]) -> Job:
        first, second, third = self.degrees
        largest = (first[-1], second[-1], third[-1])
        spec = product_spec((self.rows,), largest, "float32", source=_SOURCE, tags=("gpu",))
        sizes = [sum(2 * degree + 1 for degree in degrees) for degrees in (first, second)]
        spec = replace(
            spec,
            name=f"{self.name}_l{self.lmax}_b{self.rows}_float32",
            arrays=tuple(jax.ShapeDtypeStruct((self.rows, size), "float32") for size in sizes),
            static={"lmax": third[-1], "precision": self.precision},
        )
        operation = replace(
            find_operation(spec.op),
            function=between(gaunt_tensor_product, self.degrees),
            make_inputs=None,
        )
        found = [self._rival(name) for name in names if name in _RIVALS]
        return Job(
            operation,
            spec,
            tuple(name for name in names if name not in _RIVALS),
            tuple(rival for rival, _ in found),
            _BASELINES,
            count(self.paths("even"), weight_of_each=False),
            {rival.name: counts for rival, counts in found},
            len(self.paths("all")),
        )

    def _rival(self, name: str) -> tuple[Rival, Counts]:
        run, note, counts = _RIVALS[name](self)
        return make_rival(name, run, note, jax_precision(self.precision)), counts

    def kept(self, paths: Sequence[Path]) -> list[Path]:
        """Of the paths of whole signals those between the degrees."""
        return sorted(set(paths) & set(self.paths("all")))


def _fourier(setting: _Setting) -> tuple[Run, str, Counts]:
    product = functools.partial(
        gaunt_tensor_product,
        implementation="fourier",
        precision=jax_precision(setting.precision),
    )
    counts = count(setting.paths("even"), weight_of_each=False)
    return between(product, setting.degrees), "convolution of Fourier series on the torus", counts


def _clebsch_gordan(
    setting: _Setting, implementation: str, couplings: str
) -> tuple[Run, str, Counts]:
    import e3nn_jax as e3nn

    paths = setting.paths(couplings)
    options: dict[str, Any] = {
        "couplings": couplings,
        "implementation": implementation,
        "precision": jax_precision(setting.precision),
    }
    first, second, third = ([f"{degree}e" for degree in found] for found in setting.degrees)

    def run(x: jax.Array, y: jax.Array) -> jax.Array:
        if not paths:
            raise NotImplementedError(f"there is no path of {couplings} sum")
        if setting.name == "mimo":
            return clebsch_gordan_tensor_product(x, y, **options)
        arrays = (
            e3nn.IrrepsArray("+".join(irreps), array) for irreps, array in ((first, x), (second, y))
        )
        return clebsch_gordan_tensor_product(*arrays, irreps_out="+".join(third), **options).array

    note = f"{couplings} couplings, a weight for each path"
    return run, note, count(paths, weight_of_each=True)


def _matrix(setting: _Setting) -> tuple[Run, str, Counts]:
    product = functools.partial(matrix_tensor_product, precision=jax_precision(setting.precision))
    first, second, third = setting.degrees
    largest = (first[-1], second[-1], third[-1])
    table = matrix_table(largest, -(-max(largest) // 2), "all")
    counts = count(setting.kept(table.paths), weight_of_each=False)
    return between(product, setting.degrees), "matrices of one spin", counts


def _vector_signal(setting: _Setting) -> tuple[Run, str, Counts]:
    product = functools.partial(vector_signal_tensor_product, precision=setting.precision)
    first, second, third = setting.degrees
    table = vector_signal_table((first[-1], second[-1], third[-1]), (-1, -1, -1))
    counts = count(setting.kept(table.paths), weight_of_each=False)
    return between(product, setting.degrees), "cross products of vector signals", counts


_RIVALS: dict[str, Callable[[_Setting], tuple[Run, str, Counts]]] = {
    "fourier_2d": _fourier,
    "clebsch_gordan_dense": lambda s: _clebsch_gordan(s, "dense", "all"),
    "clebsch_gordan_sparse": lambda s: _clebsch_gordan(s, "sparse", "all"),
    "clebsch_gordan_sparse_even": lambda s: _clebsch_gordan(s, "sparse", "even"),
    "matrix": _matrix,
    "vector_signal": _vector_signal,
}
