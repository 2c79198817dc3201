"""Exact constructors against SciPy, in float32 and float64, tied and untied."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.linalg

from structlayers.butterfly import transforms
from structlayers.butterfly.operator import ButterflyOperator
from structlayers.testing import assert_close, error_ratio
from tests.butterfly.dense_oracle import dense_oracle

NORMS = ("backward", "ortho", "forward")
# constructor, SciPy's transform of rows
NORMED: dict[str, Callable[..., Any]] = {
    "dft": scipy.fft.fft,
    "inverse_dft": scipy.fft.ifft,
    "dct": scipy.fft.dct,
    "inverse_dct": scipy.fft.idct,
    "dst": scipy.fft.dst,
    "inverse_dst": scipy.fft.idst,
    "hartley": lambda x, norm: (lambda s: s.real - s.imag)(scipy.fft.fft(x, norm=norm)),
    "hadamard": lambda x, norm: (
        x
        @ scipy.linalg.hadamard(x.shape[1])
        / {"backward": 1, "ortho": np.sqrt(x.shape[1]), "forward": x.shape[1]}[norm]
    ),
}
REAL_FACTORS = ("hadamard",)


def matrix_of(operator: ButterflyOperator) -> np.ndarray:
    """The operator's matrix by the definition, factor by factor in float64."""
    matrix = dense_oracle(
        operator.twiddle,
        increasing_stride=operator.increasing_stride,
        alternating=operator.alternating,
        permutation=operator.permutation,
    )
    if operator.output_permutation is not None:
        matrix = matrix[np.asarray(operator.output_permutation)]
    rows, columns = operator.shape
    matrix = matrix[:rows, :columns]
    return matrix.real if operator.real_part else matrix


@jax.jit
def columns_of(operators: dict[str, ButterflyOperator]) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The operators as they run, each on the unit vectors, and their dense matrices."""
    result = {}
    for key, operator in operators.items():
        identity = jnp.eye(operator.shape[1], dtype=operator.twiddle.real.dtype)
        result[key] = (operator(identity).T, operator.to_dense())
    return result


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n", [1, 2, 8, 64])
@pytest.mark.parametrize("name", sorted(NORMED))
def test_all_normalizations(name: str, n: int, tied: bool) -> None:
    for norm in NORMS:
        exact = NORMED[name](np.eye(n), norm=norm).T
        operator = getattr(transforms, name)(n, norm=norm, tied=tied)
        assert operator.shape == (n, n)
        assert operator.twiddle.ndim == (5 if tied else 6)
        assert_close(f"{name} {norm}", matrix_of(operator), exact, 1e-7)


@pytest.mark.parametrize("x64", [False, True])
def test_as_they_run(x64: bool) -> None:
    n = 64
    with jax.enable_x64(x64):
        operators = {}
        for name in NORMED:
            real = np.float64 if x64 else np.float32
            dtype = np.result_type(real, np.complex64) if name not in REAL_FACTORS else real
            for tied in (False, True):
                make = getattr(transforms, name)
                operators[f"{name},{tied}"] = make(n, norm="ortho", tied=tied, dtype=dtype)
        columns = jax.tree.map(np.asarray, columns_of(operators))
    for key, values in columns.items():
        name = key.split(",")[0]
        exact = NORMED[name](np.eye(n), norm="ortho").T
        wanted = np.complex128 if x64 else np.complex64
        for value in values:
            assert value.dtype == (wanted if name.endswith("dft") else wanted(0).real.dtype)
            assert error_ratio(value, exact) < (5e-16 if x64 else 2e-7), key


def test_largest_size(rng: np.random.Generator) -> None:
    n = 16384
    x = rng.standard_normal((2, n)).astype(np.float32)
    for name in ("dft", "dct", "hadamard"):
        y = jax.jit(getattr(transforms, name)(n, tied=True).__call__)(x)
        wide = x.astype(np.float64)
        if name == "hadamard":
            half = scipy.linalg.hadamard(128)
            exact = (half @ wide.reshape(2, 128, 128) @ half).reshape(2, n)
        else:
            exact = NORMED[name](wide, norm="backward")
        assert_close(name, y, exact, 1e-6)


@pytest.mark.parametrize(("forward", "inverse"), [("dct", "inverse_dct"), ("dst", "inverse_dst")])
@pytest.mark.parametrize("norm", NORMS)
def test_inverses_undo(forward: str, inverse: str, norm: str) -> None:
    product = matrix_of(getattr(transforms, inverse)(32, norm=norm))
    product = product @ matrix_of(getattr(transforms, forward)(32, norm=norm))
    assert_close("round trip", product, np.eye(32), 5e-7)


@pytest.mark.parametrize("shape", [(1, 8), (8, 1), (2, 2), (4, 16), (32, 2)])
def test_dft2(shape: tuple[int, int]) -> None:
    n = shape[0] * shape[1]
    images = np.eye(n).reshape(n, *shape)
    for tied in (False, True):
        for norm in NORMS:
            operator = transforms.dft2(*shape, norm=norm, tied=tied)
            exact = scipy.fft.fft2(images, norm=norm).reshape(n, n).T
            assert_close("dft2", matrix_of(operator), exact, 2e-7)
            operator = transforms.inverse_dft2(*shape, norm=norm, tied=tied)
            exact = scipy.fft.ifft2(images, norm=norm).reshape(n, n).T
            assert_close("inverse_dft2", matrix_of(operator), exact, 2e-7)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 10, 64])
def test_circulant(n: int, tied: bool, rng: np.random.Generator) -> None:
    vector = rng.standard_normal(n)
    operator = transforms.circulant(vector, tied=tied)
    assert jax.eval_shape(operator, vector.astype(np.float32)).dtype == np.float32
    assert_close("circulant", matrix_of(operator), scipy.linalg.circulant(vector), 5e-7)
    vector = vector + 1j * rng.standard_normal(n)
    operator = transforms.circulant(jnp.asarray(vector, jnp.complex64), tied=tied)
    assert not operator.real_part
    assert_close("circulant", matrix_of(operator), scipy.linalg.circulant(vector), 5e-7)


def test_circulant_forms(rng: np.random.Generator) -> None:
    vector = rng.standard_normal(16)
    untied = transforms.circulant(vector)
    assert untied.permutation is None  # B B^T needs none
    assert untied.twiddle.shape == (1, 2, 4, 8, 2, 2)
    assert transforms.circulant(vector, tied=True).twiddle.shape == (1, 2, 15, 2, 2)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 5), (6, 1), (5, 5), (7, 12), (64, 33)])
def test_toeplitz(m: int, n: int, tied: bool, rng: np.random.Generator) -> None:
    column, row = rng.standard_normal(m), rng.standard_normal(n)
    row[0] = column[0]
    operator = transforms.toeplitz(column, row, tied=tied)
    assert operator.shape == (m, n)
    assert_close("toeplitz", matrix_of(operator), scipy.linalg.toeplitz(column, row), 5e-7)
    column = column + 1j * rng.standard_normal(m)
    exact = scipy.linalg.toeplitz(column)
    assert_close("hermitian", matrix_of(transforms.toeplitz(column, tied=tied)), exact, 5e-7)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("n", "levels"), [(1, None), (2, None), (16, None), (16, 0), (16, 2)])
def test_haar_wavelet(n: int, levels: int | None, tied: bool) -> None:
    averages, details = np.eye(n), []
    for _ in range(n.bit_length() - 1 if levels is None else levels):
        even, odd = averages[0::2], averages[1::2]
        averages, detail = (even + odd) / np.sqrt(2), (even - odd) / np.sqrt(2)
        details.insert(0, detail)
    exact = np.concatenate([averages, *details])
    value = matrix_of(transforms.haar_wavelet(n, levels=levels, tied=tied))
    assert_close("haar", value, exact, 2e-7)
    value = matrix_of(transforms.inverse_haar_wavelet(n, levels=levels, tied=tied))
    assert_close("inverse", value, exact.T, 2e-7)


@pytest.mark.parametrize("n", [1, 2, 4, 32])
def test_permutation_network_is_exact(n: int, rng: np.random.Generator) -> None:
    orders = [rng.permutation(n), np.arange(n), np.arange(n)[::-1].copy(), np.roll(np.arange(n), 1)]
    for order in orders:
        operator = transforms.permutation_network(order)
        assert operator.permutation is None
        assert operator.output_permutation is None
        assert operator.sizes.blocks == 2
        assert set(np.unique(operator.twiddle)) <= {0.0, 1.0}
        np.testing.assert_array_equal(matrix_of(operator), np.eye(n)[order])


def test_permutation_network_as_it_runs(rng: np.random.Generator) -> None:
    order = rng.permutation(1024)
    x = rng.standard_normal((2, 1024)).astype(np.float32)
    operator = transforms.permutation_network(order)
    np.testing.assert_array_equal(jax.jit(operator.__call__)(x), x[:, order])


def test_every_small_permutation() -> None:
    for order in itertools.permutations(range(4)):
        operator = transforms.permutation_network(np.array(order))
        np.testing.assert_array_equal(matrix_of(operator), np.eye(4)[list(order)])


def test_transform_composition(rng: np.random.Generator) -> None:
    n = 16
    operator = transforms.dct(n, norm="ortho")
    apply = jax.jit(operator.__call__)
    x = jnp.asarray(rng.standard_normal((2, 3, n)), jnp.float32)
    expected = scipy.fft.dct(np.asarray(x, np.float64), norm="ortho")
    assert_close("vmap", jax.vmap(apply)(x), expected, 1e-6)
    assert_close("as an argument", jax.jit(lambda op, v: op(v))(operator, x), expected, 1e-6)
    # the matrix is orthogonal: |T x|^2 has gradient 2 x and Hessian 2 I

    def energy(v: jax.Array) -> jax.Array:
        return jnp.sum(apply(v) ** 2)

    assert_close("gradient", jax.grad(energy)(x[0, 0]), 2 * x[0, 0], 1e-6)
    assert_close("Hessian", jax.hessian(energy)(x[0, 0]), 2 * np.eye(n), 1e-6)
    assert_close("jvp", jax.jvp(apply, (x,), (x,))[1], expected, 1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_exact_in_any_dtype(dtype: Any) -> None:
    operator = transforms.hadamard(64, norm="ortho", dtype=dtype)
    assert operator.twiddle.dtype == dtype
    x = jnp.eye(64, dtype=dtype)
    value = np.asarray(operator(x).astype(jnp.float32))
    np.testing.assert_array_equal(value, scipy.linalg.hadamard(64) / 8)
