"""Equivariant polynomials: counts of MACE, the definition written out, gradients, parity."""

from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.equivariant.ops.symmetric_contraction import (
    symmetric_contraction,
    symmetric_path_counts,
)
from structlayers.testing import assert_equivariant, assert_gradients_match, error_ratio
from tests.equivariant.irreps_cases import irreps_array, rotate, rotation

IRREPS, OUT = "0e + 1o + 1e", "0e + 1o"


def draw(rng, irreps, out, order, *lead):
    counts = symmetric_path_counts(irreps, out, order)
    return [jnp.asarray(rng.standard_normal((*lead, n)), jnp.float32) for n in counts]


def written_out(x, weights, irreps, out):
    """Tensors of d^nu entries, one einsum an order."""
    parts: dict[str, Any] = {str(ir): 0.0 for _, ir in e3nn.Irreps(out)}
    for order, weight in enumerate(weights, 1):
        basis = e3nn.reduced_symmetric_tensor_product_basis(
            irreps, order, keep_ir=[ir for _, ir in e3nn.Irreps(out)]
        )
        factors = "abc"[:order]
        start = 0
        for (paths, ir), at in zip(basis.irreps, basis.irreps.slices(), strict=True):
            tensor = np.asarray(basis.array)[..., at].reshape(
                *(x.shape[-1],) * order, paths, ir.dim
            )
            tensor = jnp.asarray(tensor, x.dtype)
            equation = ",".join(f"...{f}" for f in factors) + f",{factors}pm,...p->...m"
            used = weight[..., start : start + paths]
            terms = [x] * order
            parts[str(ir)] = parts[str(ir)] + jnp.einsum(
                equation, *terms, tensor, used, precision="highest"
            )
            start += paths
    return jnp.concatenate(list(parts.values()), axis=-1)


def test_counts_of_paths():
    """Degrees 0..3 to 0..2: 49 paths in one, two and three factors."""
    counts = symmetric_path_counts("0e + 1o + 2e + 3o", "0e + 1o + 2e", 3)
    assert counts == (3, 12, 34)
    assert sum(counts) == 49


def test_values_and_gradients(rng):
    weights = draw(rng, IRREPS, OUT, 3, 4)
    x = jnp.asarray(rng.standard_normal((5, 4, 7)), jnp.float32)

    def fast(x, weights):
        array = e3nn.IrrepsArray(IRREPS, x)
        stacked = symmetric_contraction(array.axis_to_mul(), weights, irreps_out=OUT)
        return stacked.mul_to_axis().array

    assert_gradients_match(
        jax.jit(fast),
        jax.jit(lambda x, weights: written_out(x, weights, IRREPS, OUT)),
        (x, weights),
        1e-6,
    )


def test_derivatives_to_third_order(rng):
    """Of powers of one vector, in float64; forward over reverse, too."""
    counts = symmetric_path_counts(OUT, OUT, 3)
    with jax.enable_x64(True):
        x, dx = (jnp.asarray(rng.standard_normal((3, 2, 4))) for _ in range(2))
        weights = [jnp.asarray(rng.standard_normal(n)) for n in counts]

        def derivatives(product):
            def forces(x):
                return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(product(x))))(x) ** 2)

            third = jax.grad(lambda x: jnp.sum(jax.grad(forces)(x) ** 3))
            forward = jax.jit(lambda x, dx: jax.jvp(jax.grad(forces), (x,), (dx,))[1])
            return jax.jit(third)(x), forward(x, dx)

        found = derivatives(
            lambda x: symmetric_contraction(x, weights, irreps_out=OUT, irreps_in=OUT)
        )
        wanted = derivatives(lambda x: written_out(x, weights, OUT, OUT))
        for one, other in zip(found, wanted, strict=True):
            assert error_ratio(one, other) < 1e-12


def test_derivatives_scatter_nothing():
    """On a GPU scattered additions are atomic."""
    counts = symmetric_path_counts(IRREPS, OUT, 3)
    x, *weights = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((5, 7), *zip(counts)))

    def forces(x, *weights):
        def energy(x):
            z = symmetric_contraction(x, weights, irreps_out=OUT, irreps_in=IRREPS)
            return jnp.sum(z**2)

        return jnp.sum(jax.grad(energy)(x) ** 2)

    run = jax.jit(jax.grad(forces, tuple(range(4))))
    text = run.trace(x, *weights).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.gather" in text
    assert "stablehlo.scatter" not in text


@pytest.mark.parametrize("invert", [False, True])
def test_equivariance(invert, rng):
    """With pseudotensors among inputs and outputs."""
    x, out = irreps_array(rng, "2x0e + 2x1o + 2x1e", 6), "0o + 1e + 2o"
    weights = draw(rng, "0e + 1o + 1e", out, 3)
    matrix = rotation(rng)
    assert_equivariant(
        lambda x: symmetric_contraction(x, weights, irreps_out=out),
        (x,),
        act_on_inputs=lambda x: [rotate(x, matrix, invert=invert)],
        act_on_output=lambda z: rotate(z, matrix, invert=invert),
        bound=2e-6,
    )


def test_half_precision_and_empty(rng):
    weights = draw(rng, IRREPS, OUT, 2)
    x = irreps_array(rng, IRREPS, 50)
    half = e3nn.IrrepsArray(IRREPS, x.array.astype(jnp.bfloat16))
    y = symmetric_contraction(half, weights, irreps_out=OUT)
    assert y.array.dtype == jnp.bfloat16
    assert error_ratio(y.array, symmetric_contraction(x, weights, irreps_out=OUT).array) < 2e-2
    assert symmetric_contraction(x[:0], weights, irreps_out=OUT).shape == (0, 4)


def test_arrays_with_their_irreps(rng):
    weights = draw(rng, IRREPS, OUT, 2)
    x = irreps_array(rng, IRREPS, 5, 3)
    wanted = symmetric_contraction(x.axis_to_mul(), weights, irreps_out=OUT)
    found = symmetric_contraction(x.array, weights, irreps_out=OUT, irreps_in=IRREPS)
    np.testing.assert_array_equal(found, wanted.mul_to_axis().array)
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., C, .*got \(5, 3, 2\)"):
        symmetric_contraction(x.array[..., :2], weights, irreps_out=OUT, irreps_in=IRREPS)
    with pytest.raises(ValueError, match="irreps_out has 3e, which"):
        symmetric_contraction(x.array, weights, irreps_out="0e + 3e", irreps_in=IRREPS)
    with pytest.raises(TypeError, match="irreps_in must be None for an IrrepsArray"):
        symmetric_contraction(x, weights, irreps_out=OUT, irreps_in=IRREPS)


X = e3nn.IrrepsArray("2x0e + 2x1o", jnp.ones((3, 8)))


@pytest.mark.parametrize(
    ("x", "weights", "out", "error", "message"),
    [
        (X.array, [jnp.ones(1)], "0e", TypeError, "x must be an e3nn_jax.IrrepsArray"),
        (X, [jnp.ones(2)], "0e", ValueError, r"weights\[0\] must have shape \(\.\.\., 1\)"),
        (X, [jnp.ones(0)], "3o", ValueError, "irreps_out has 3o, which 2x0e\\+2x1o does not give"),
        (X, [jnp.ones((7, 1))], "0e", ValueError, "leading axes must broadcast"),
        (X, [], "0e", ValueError, "order must be at least 1, got 0"),
    ],
)
def test_bad_input(x, weights, out, error, message):
    with pytest.raises(error, match=message):
        symmetric_contraction(x, weights, irreps_out=out)
