"""butterfly_to_dense: the matrix of a butterfly in product form, and its derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.butterfly import (
    bit_reversal_permutation,
    butterfly_multiply,
    butterfly_to_dense,
    twiddle_shape,
)
from structlayers.testing import assert_close, assert_gradients_match
from tests.butterfly.dense_oracle import dense_oracle, random_twiddle


def dense_by_columns(twiddle, **options):
    """The same matrix from the reference product, a unit vector at a time."""
    n = twiddle.shape[2] + 1 if twiddle.ndim == 5 else 2 ** twiddle.shape[2]
    identity = jnp.eye(n, dtype=twiddle.dtype)
    return butterfly_multiply(identity, twiddle, implementation="reference", **options).T


@functools.partial(jax.jit, static_argnames=("increasing_stride", "alternating"))
def every_matrix(twiddles, permutation, increasing_stride, alternating):
    """All matrices of one test case in one compilation."""
    return {
        key: butterfly_to_dense(
            twiddle,
            increasing_stride=increasing_stride,
            alternating=alternating,
            permutation=permutation,
        )
        for key, twiddle in twiddles.items()
    }


@pytest.mark.parametrize(
    ("increasing_stride", "alternating", "permuted"),
    [(True, True, False), (False, True, True), (True, False, True)],
)
@pytest.mark.parametrize("n", [1, 2, 16])
def test_equals_the_definition(n, increasing_stride, alternating, permuted, rng):
    twiddles = {
        (tied, stacks, blocks, dtype): random_twiddle(
            rng, twiddle_shape(n, stacks=stacks, blocks=blocks, tied=tied), dtype
        )
        for tied in (True, False)
        for stacks, blocks in ((1, 1), (2, 3))
        for dtype in ("float32", "complex64")
    }
    options = {"increasing_stride": increasing_stride, "alternating": alternating}
    permutation = rng.permutation(n) if permuted else None
    matrices = every_matrix(twiddles, permutation, **options)
    for key, matrix in matrices.items():
        assert matrix.dtype == key[-1]
        expected = dense_oracle(twiddles[key], permutation=permutation, **options)
        assert_close(f"matrix {key}", matrix, expected, 2e-6)


def test_rows_are_cut_and_each_block_has_its_permutation(rng):
    n = 16
    orders = np.stack([bit_reversal_permutation(n), rng.permutation(n)])
    twiddle = random_twiddle(rng, twiddle_shape(n, stacks=2, blocks=2))
    to_dense = functools.partial(butterfly_to_dense, permutation=orders, out_features=19)
    matrix = jax.jit(to_dense)(twiddle)
    assert matrix.shape == (19, n)
    expected = dense_oracle(twiddle, permutation=orders, out_features=19)
    assert_close("matrix", matrix, expected, 2e-6)


@pytest.mark.parametrize(
    ("dtype", "tied", "blocks"),
    [
        ("float32", False, 1),
        ("float32", True, 2),
        ("complex64", True, 1),
        ("complex64", False, 2),
    ],
)
def test_gradients(dtype, tied, blocks, rng):
    n = 32
    twiddle = random_twiddle(rng, twiddle_shape(n, blocks=blocks, tied=tied), dtype)
    options = {"permutation": bit_reversal_permutation(n), "increasing_stride": False}
    assert_gradients_match(
        jax.jit(functools.partial(butterfly_to_dense, **options)),
        jax.jit(functools.partial(dense_by_columns, **options)),
        (twiddle,),
        2e-6,
    )


def test_float64_under_x64(rng):
    twiddle = rng.standard_normal(twiddle_shape(64, blocks=2)) / np.sqrt(2)
    with jax.enable_x64(True):
        matrix = np.asarray(jax.jit(butterfly_to_dense)(twiddle))
    assert matrix.dtype == np.float64
    assert_close("matrix", matrix, dense_oracle(twiddle), 1e-14)


def test_there_is_no_matrix_product_inside_a_block(rng):
    twiddle = random_twiddle(rng, twiddle_shape(64))

    def loss(twiddle):
        return jnp.sum(butterfly_to_dense(twiddle) ** 2)

    assert "dot_general" not in str(jax.make_jaxpr(jax.grad(loss))(twiddle))


def test_known_bit_reversal_has_no_scatter_in_its_gradient(rng):
    twiddle = random_twiddle(rng, twiddle_shape(64))

    def loss(twiddle):
        dense = butterfly_to_dense(twiddle, permutation=bit_reversal_permutation(64))
        return jnp.sum(dense**2)

    jaxpr = str(jax.make_jaxpr(jax.grad(loss))(twiddle))
    assert "gather" not in jaxpr
    assert "scatter" not in jaxpr


def test_vmap_scan_remat_and_second_derivatives(rng):
    n = 8
    twiddles = jnp.asarray(random_twiddle(rng, (3, *twiddle_shape(n))))
    target = jnp.asarray(rng.standard_normal((n, n)).astype(np.float32))

    @jax.jit
    def loss(twiddle):
        return jnp.mean((butterfly_to_dense(twiddle) - target) ** 2)

    gradient = jax.jit(jax.grad(loss))
    rows = jnp.stack([loss(twiddle) for twiddle in twiddles])
    assert_close("vmap", jax.jit(jax.vmap(loss))(twiddles), rows, 1e-6)
    remat = jax.jit(jax.grad(jax.checkpoint(loss)))(twiddles[0])
    assert_close("remat", remat, gradient(twiddles[0]), 1e-6)

    def step(twiddle, _):
        value, gradient = jax.value_and_grad(loss)(twiddle)
        return twiddle - 0.1 * gradient, value

    _, values = jax.lax.scan(step, twiddles[0], None, length=50)
    assert values[-1] < values[0]
    # Hessian-vector products forwards over backwards and backwards over backwards
    v = twiddles[1]
    _, forward = jax.jit(lambda t: jax.jvp(gradient, (t,), (v,)))(twiddles[0])
    backward = jax.jit(jax.grad(lambda t: jnp.vdot(gradient(t), v)))(twiddles[0])
    assert_close("Hessian", forward, backward, 2e-6)


def test_bad_arguments_are_refused(rng):
    twiddle = random_twiddle(rng, twiddle_shape(8))
    with pytest.raises(ValueError, match="twiddle must have shape"):
        butterfly_to_dense(twiddle[..., 0])
    with pytest.raises(ValueError, match="at most stacks"):
        butterfly_to_dense(twiddle, out_features=9)
    with pytest.raises(ValueError, match="permutation must have shape"):
        butterfly_to_dense(twiddle, permutation=np.arange(16))
    with pytest.raises(ValueError, match="precision"):
        butterfly_to_dense(twiddle, precision="exact")
    with pytest.raises(TypeError, match="got int32"):
        butterfly_to_dense(np.ones(twiddle.shape, np.int32))
