"""Clebsch-Gordan products: e3nn, the reference, gradients, parities, bad input."""

import functools
import re

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from structlayers.equivariant.ops.clebsch_gordan import (
    clebsch_gordan_tensor_product,
    dispatcher,
    irreps_paths,
)
from structlayers.equivariant.paths import count_paths, signal_table, tensor_product_paths
from structlayers.equivariant.wigner import gaunt
from structlayers.equivariant.xla import terms
from structlayers.testing import assert_equivariant, assert_gradients_match, error_ratio
from tests.equivariant.irreps_cases import irreps_array, rotate, rotation, signal

FAST = ("dense", "sparse")
FACTORS = [("0e + 1o", "1o + 1e"), ("0o + 3o", "2e")]


@pytest.mark.parametrize("irreps", FACTORS)
def test_equal_to_e3nn(irreps, rng):
    """Without the sum over paths: the whole tensor product, in e3nn's own order."""
    x, y = (irreps_array(rng, i, 5) for i in irreps)
    for normalization in ("component", "norm"):
        multiply = functools.partial(e3nn.tensor_product, irrep_normalization=normalization)
        wanted = jax.jit(multiply)(x, y)
        for implementation in (*FAST, "reference"):
            z = clebsch_gordan_tensor_product(
                x, y, sum_paths=False, normalization=normalization, implementation=implementation
            )
            assert z.irreps == wanted.irreps
            assert error_ratio(z.array, wanted.array) < 3e-7


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("shape", [None, (), (3,), (4, 3)])
@pytest.mark.parametrize("degrees", [(2, 1, 2), (0, 2, 1)])
def test_values_and_gradients(implementation, shape, degrees, rng):
    """Weights of none, of all rows, of some; leading axes that broadcast; in float32."""
    l1, l2, l3 = degrees
    count = len(tensor_product_paths(*(range(degree + 1) for degree in degrees)))
    args = [signal(rng, l1, 4, 1), signal(rng, l2, 3)]
    if shape is not None:
        args.append(jnp.asarray(rng.standard_normal((*shape, count)), jnp.float32))

    def product(name):
        return jax.jit(
            lambda x, y, w=None: clebsch_gordan_tensor_product(
                x, y, weights=w, lmax=l3, implementation=name
            )
        )

    assert_gradients_match(product(implementation), product("reference"), args, 5e-7)


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("degrees", [(1, 1, 2), (2, 1, 2)])
def test_third_derivative(implementation, degrees, rng):
    """Of x, of y and of the weights, in float64: the trilinear form itself."""
    l1, l2, l3 = degrees
    count = len(tensor_product_paths(*(range(degree + 1) for degree in degrees)))
    with jax.enable_x64(True):
        x, y = (jnp.asarray(rng.standard_normal((lmax + 1) ** 2)) for lmax in (l1, l2))
        weights = jnp.asarray(rng.standard_normal(count))

        def derivative(name):
            def product(x, y, w):
                return clebsch_gordan_tensor_product(x, y, weights=w, lmax=l3, implementation=name)

            third = jax.jacfwd(jax.jacrev(jax.jacfwd(product, 0), 1), 2)
            return jax.jit(third)(x, y, weights)

        assert error_ratio(derivative(implementation), derivative("reference")) < 1e-14


def test_derivatives_of_a_loss_by_many_terms(rng):
    """Forces and their gradient, in reverse mode alone, and forward over them."""
    with jax.enable_x64(True):
        x, y, dx = (jnp.asarray(rng.standard_normal((3, 9))) for _ in range(3))
        weights = jnp.asarray(rng.standard_normal(count_paths(2)))

        def derivatives(name):
            def loss(x, y, w):
                z = clebsch_gordan_tensor_product(x, y, weights=w, implementation=name)
                return jnp.sum(jnp.sin(z))

            def forces(x, y, w):
                return jnp.sum(jax.grad(loss)(x, y, w) ** 2)

            def third(x, y, w):
                return sum(jnp.sum(g**3) for g in jax.grad(forces, (0, 1, 2))(x, y, w))

            reverse = jax.grad(third, (0, 1, 2))(x, y, weights)
            return *reverse, jax.jvp(jax.grad(forces), (x, y, weights), (dx, y, weights))[1]

        found, wanted = (jax.jit(derivatives, static_argnums=0)(n) for n in ("sparse", "dense"))
        for one, other in zip(found, wanted, strict=True):
            assert error_ratio(one, other) < 1e-12


@pytest.mark.parametrize("result", range(4))
def test_terms_as_one_reduction(result, rng):
    """What other platforms than CPUs run, for the product and its transposes: unequal counts."""
    table = signal_table((3, 2, 3), dict.fromkeys([(3, 2, 3), (1, 2, 2), (0, 0, 0)], 0.5))
    form = terms.coupling_form(table)
    sizes, coupling = form.sizes, np.zeros(form.sizes)
    coupling[form.indices] = form.values
    axes = tuple(axis for axis in range(4) if axis != result)
    factors = [jnp.asarray(rng.standard_normal((5, 2, sizes[axis])), jnp.float32) for axis in axes]
    wanted = np.einsum("abi,abj,abk,ijkl->abl", *factors, coupling.transpose(*axes, result))
    for run in (terms._reduced, functools.partial(terms._reduced, warps=True), terms._looped):
        assert error_ratio(run(*factors, form=form, axes=axes, result=result), wanted) < 3e-7


def test_sums_on_a_gpu_fill_warps():
    """Of more than 16 terms always, shorter ones of few rows; a single term is no sum."""

    def slots(lmax: int, rows: int) -> int:
        x = jax.ShapeDtypeStruct((rows, (lmax + 1) ** 2), "float32")
        options = {"couplings": "even", "implementation": "sparse"}
        run = functools.partial(clebsch_gordan_tensor_product, **options)
        text = jax.jit(run).trace(x, x).lower(lowering_platforms=("cuda",)).as_text()
        (found,) = re.findall(r"reduce\(.* : \(tensor<\w+x\d+x(\d+)xf32>", text)
        return int(found)

    assert [slots(2, rows) for rows in (1, 1310, 1311)] == [32, 32, 10]
    assert [slots(3, rows) for rows in (1, 1400)] == [32, 32]


def test_many_terms_scatter_nothing_on_a_gpu():
    """Nor in derivatives, nor by a loop: kernels without atomics."""

    def product(x, y, w):
        return clebsch_gordan_tensor_product(x, y, weights=w, implementation="sparse")

    def forces(x, y, w):
        return jnp.sum(jax.grad(lambda x: jnp.sum(product(x, y, w) ** 2))(x) ** 2)

    shapes = [jax.ShapeDtypeStruct((5, size), "float32") for size in (16, 16, count_paths(3))]
    for run in (product, jax.grad(forces, (0, 1, 2))):
        text = jax.jit(run).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
        assert "stablehlo.gather" in text
        assert "stablehlo.scatter" not in text
        assert "stablehlo.while" not in text


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_many_terms_of_sharded_rows(kind, rng):
    """Values, and gradients of a factor that is the same for all rows; inside shard_map, too."""
    args = [signal(rng, 2, 4), signal(rng, 2, 1), rng.standard_normal((4, 19)).astype("float32")]

    def loss(*args):
        x, y, w = args
        z = clebsch_gordan_tensor_product(x, y, weights=w, implementation="sparse")
        return jnp.sum(z**2)

    gradients = jax.grad(loss, (0, 1, 2))
    wanted = gradients(*args)
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(kind,))
    specs = (PartitionSpec("rows"), PartitionSpec(), PartitionSpec("rows"))
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(arg, NamedSharding(mesh, spec))
            for arg, spec in zip(args, specs, strict=True)
        ]
        mapped = jax.shard_map(gradients, mesh=mesh, in_specs=specs, out_specs=specs)
        for run in (gradients, mapped):
            for one, other in zip(jax.jit(run)(*placed), wanted, strict=True):
                assert error_ratio(one, other) < 3e-7


def test_multiplicities_and_channel_weights(rng):
    """Every channel by itself, with its own path weights; one factor without channels."""
    x, y = irreps_array(rng, "4x0e + 4x1o", 5), irreps_array(rng, "0e + 1o + 2e", 5)
    irreps, paths = irreps_paths(x.irreps, y.irreps, lmax=2)
    weights = jnp.asarray(rng.standard_normal((5, 4, len(paths))), jnp.float32)
    z = clebsch_gordan_tensor_product(x, y, weights=weights, lmax=2)
    assert z.irreps == e3nn.Irreps([(4, ir) for ir in irreps])
    for channel in range(4):
        one = e3nn.IrrepsArray("0e + 1o", x.mul_to_axis().array[:, channel])
        alone = clebsch_gordan_tensor_product(one, y, weights=weights[:, channel, None], lmax=2)
        assert error_ratio(z.mul_to_axis().array[:, channel], alone.array) < 2e-7


@pytest.mark.parametrize("invert", [False, True])
def test_equivariance(invert, rng):
    x, y = irreps_array(rng, "2x0e + 2x1e + 2x2o", 6), irreps_array(rng, "2x1o + 2x2o", 6)
    matrix = rotation(rng)
    assert_equivariant(
        clebsch_gordan_tensor_product,
        (x, y),
        act_on_inputs=lambda *args: [rotate(arg, matrix, invert=invert) for arg in args],
        act_on_output=lambda z: rotate(z, matrix, invert=invert),
        bound=1e-6,
    )


def test_gaunt_normalization_is_the_product_of_functions(rng):
    """Even sums with Gaunt's factors, written out; odd sums are exactly zero."""
    x, y = (rng.standard_normal(9) for _ in range(2))
    with jax.enable_x64(True):
        z = clebsch_gordan_tensor_product(x, y, normalization="gaunt", lmax=3)
        odd = clebsch_gordan_tensor_product(x, y, normalization="gaunt", couplings="odd")
    wanted = np.zeros(16)
    for l1, l2, l3 in np.ndindex(3, 3, 4):
        first, second = x[l1**2 : (l1 + 1) ** 2], y[l2**2 : (l2 + 1) ** 2]
        part = np.einsum("i,j,ijk->k", first, second, gaunt(l1, l2, l3))
        wanted[l3**2 : (l3 + 1) ** 2] += part
    assert error_ratio(z, wanted) < 1e-14
    np.testing.assert_array_equal(odd, 0)


@pytest.mark.parametrize("couplings", ["even", "odd"])
def test_couplings_split_the_product(couplings, rng):
    x, y = signal(rng, 2, 3), signal(rng, 2, 3)
    part = clebsch_gordan_tensor_product(x, y, couplings=couplings)
    paths = tensor_product_paths(range(3), range(3), range(5), couplings=couplings)
    assert len(paths) == count_paths(2, couplings)
    assert error_ratio(part, clebsch_gordan_tensor_product(x, y, paths=paths)) == 0
    swapped = clebsch_gordan_tensor_product(y, x, couplings=couplings)
    sign = 1 if couplings == "even" else -1
    assert error_ratio(swapped, sign * part) < 2e-7


@pytest.mark.parametrize("implementation", FAST)
def test_half_precision_is_summed_in_float32(implementation, rng):
    x, y = (signal(rng, 2, 50).astype(jnp.bfloat16) for _ in range(2))
    z = clebsch_gordan_tensor_product(x, y, implementation=implementation)
    assert z.dtype == jnp.bfloat16
    wide = clebsch_gordan_tensor_product(x.astype(jnp.float32), y.astype(jnp.float32))
    assert error_ratio(z, wide) < 8e-3


@pytest.mark.parametrize("implementation", FAST)
def test_empty_batch_and_vmap(implementation, rng):
    empty = clebsch_gordan_tensor_product(
        jnp.zeros((0, 4)), jnp.ones(9), implementation=implementation
    )
    assert empty.shape == (0, 16)
    x, y = signal(rng, 1, 3), signal(rng, 2, 3)

    def product(x, y):
        return clebsch_gordan_tensor_product(x, y, implementation=implementation)

    assert error_ratio(jax.jit(jax.vmap(product))(x, y), product(x, y)) < 2e-7
    every = jax.vmap(jax.vmap(product, (None, 1), 1), (0, None))(x, y.T)
    assert error_ratio(every, product(x[:, None], y).swapaxes(1, 2)) < 2e-7


def test_choice():
    """Sparse of few terms, on a CPU with weights of rows, and where the tensor is too large."""
    shape = jax.ShapeDtypeStruct

    def chosen(lmax, weights, platform="gpu", rows=5):
        ranges = [range(lmax + 1), range(lmax + 1), range(2 * lmax + 1)]
        factors = dict.fromkeys(tensor_product_paths(*ranges), 1.0)
        x = shape((rows, (lmax + 1) ** 2), "float32")
        w = shape((weights, len(factors)), "float32")
        table = signal_table((lmax, lmax, 2 * lmax), factors)
        return dispatcher.choose(x, x, w, table=table, precision=None, platform=platform).name

    # on a GPU by the terms of all rows, 3,741 of each at L = 4
    assert [chosen(4, 1, rows=rows) for rows in (2, 427, 428)] == ["sparse", "sparse", "dense"]
    assert [chosen(4, rows, rows=rows) for rows in (2242, 2243)] == ["sparse", "dense"]
    assert [chosen(lmax, 1, rows=1) for lmax in (2, 3, 4)] == ["sparse", "dense", "sparse"]
    assert [chosen(8, 1, "tpu"), chosen(8, 5, "tpu")] == ["dense", "sparse"]
    assert [chosen(3, 1, "cpu"), chosen(3, 5, "cpu")] == ["dense", "sparse"]
    assert [chosen(1, 5, on) for on in ("cpu", "gpu", "tpu")] == ["sparse", "sparse", "dense"]
    x, weights = jnp.zeros((5, 81)), jnp.zeros((5, count_paths(8)))
    # all paths together have as many components as the outer product, 81^2
    with pytest.raises(NotImplementedError, match=f"its tensor would have {81**4} entries"):
        clebsch_gordan_tensor_product(x, x, weights=weights, implementation="dense")


X, Y = np.ones((2, 4), np.float32), np.ones((2, 9), np.float32)
IRREPS = e3nn.IrrepsArray("4x0e + 2x1o", jnp.ones((2, 10)))
SCALARS = e3nn.IrrepsArray("2x0e", jnp.ones((2, 2)))
NOTHING = e3nn.IrrepsArray("0x0e", jnp.ones((2, 0)))


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        (
            (X[:, :3], Y),
            {},
            ValueError,
            r"x must have shape \(\*B, \(L \+ 1\)\^2\), .* got \(2, 3\)",
        ),
        ((X, Y.astype(int)), {}, TypeError, "y must be real floating point, got int32"),
        ((X, Y + 1j), {}, TypeError, "y must be real floating point, got complex64"),
        ((X, Y[:1].repeat(3, 0)), {}, ValueError, r"broadcast, got x \(2, 4\), y \(3, 9\)"),
        (
            (X, Y),
            {"weights": np.ones(3, np.float32)},
            ValueError,
            r"weights must have shape \(\.\.\., 10\)",
        ),
        ((X, Y), {"paths": [(1, 1, 3)]}, ValueError, r"paths must couple .* got \(1, 1, 3\)"),
        ((X, Y), {"paths": [(2, 1, 1)]}, ValueError, "paths must couple degrees up to 1, 2 and 3"),
        ((X, Y), {"couplings": "natural"}, ValueError, "couplings must be one of 'all'"),
        ((X, Y), {"normalization": "integral"}, ValueError, "normalization must be one of"),
        ((X, Y), {"lmax": -1}, ValueError, "lmax must be at least 0, got -1"),
        ((X, Y), {"irreps_out": "0e"}, ValueError, "are for irreps arrays"),
        ((X, IRREPS), {}, TypeError, "x and y must both be IrrepsArray, or both"),
        ((IRREPS, SCALARS), {}, ValueError, "x must have irreps of one multiplicity, got 4x0e"),
        ((SCALARS, e3nn.IrrepsArray("3x1o", jnp.ones((2, 9)))), {}, ValueError, "got 2 and 3"),
        ((NOTHING, NOTHING), {}, ValueError, "x must have irreps of one multiplicity, got 0x0e"),
        ((SCALARS, SCALARS), {"irreps_out": "1o"}, ValueError, "nothing is left of the product"),
        ((SCALARS, SCALARS), {"paths": [(0, 0, 0)]}, ValueError, "paths is for arrays"),
    ],
)
def test_bad_input(args, options, error, message):
    with pytest.raises(error, match=message):
        clebsch_gordan_tensor_product(*args, **options)
