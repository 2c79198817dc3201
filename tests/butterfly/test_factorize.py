"""Closed-form factorization: exact on members, good near them, honest elsewhere."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from structlayers.butterfly import transforms
from structlayers.butterfly.factorize import factorize_butterfly
from structlayers.butterfly.permutations import bit_reversal_permutation
from structlayers.testing import error_ratio
from tests.butterfly.dense_oracle import dense_oracle, random_twiddle


def random_member(rng, n, dtype, *, unitary=False, tied=False, increasing_stride=True):
    """A random product of factors in double precision, by the definition."""
    levels = n.bit_length() - 1
    shape = (1, 1, n - 1, 2, 2) if tied else (1, 1, levels, n // 2, 2, 2)
    twiddle = random_twiddle(rng, shape, dtype)
    if unitary:
        twiddle = np.linalg.qr(twiddle)[0]
    return dense_oracle(twiddle, increasing_stride=increasing_stride)


def oracle_of(operator) -> np.ndarray:
    return dense_oracle(
        operator.twiddle,
        increasing_stride=operator.increasing_stride,
        permutation=operator.permutation,
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n", [2, 4, 8, 16, 64, 128])
def test_known_transforms(n: int, tied: bool) -> None:
    reversal = bit_reversal_permutation(n)
    dft = scipy.linalg.dft(n)
    for matrix, permutation in (
        (dft, reversal),
        (dft.conj() / n, reversal),
        (scipy.linalg.hadamard(n), None),
    ):
        operator, reported = factorize_butterfly(matrix, permutation=permutation, tied=tied)
        assert operator.twiddle.ndim == (5 if tied else 6)
        assert operator.shape == (n, n)
        assert reported < 1e-7
        assert abs(error_ratio(oracle_of(operator), matrix) - reported) < 1e-12
        with jax.enable_x64(True):
            operator, reported = factorize_butterfly(matrix, permutation=permutation, tied=tied)
            twiddle = np.asarray(operator.twiddle)
        if np.iscomplexobj(matrix):
            assert twiddle.dtype == np.complex128
            assert reported < 1e-14


def test_textbook_factors() -> None:
    n = 64
    operator, _ = factorize_butterfly(scipy.linalg.dft(n), permutation=bit_reversal_permutation(n))
    np.testing.assert_allclose(operator.twiddle, transforms.dft(n).twiddle, atol=1e-6)
    operator, error = factorize_butterfly(scipy.linalg.hadamard(n) / 8, tied=True)
    assert error == 0.0
    assert set(np.unique(np.abs(operator.twiddle))) == {0.5, 1.0}


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("n", [2, 4, 8, 32, 64])
def test_random_members(n: int, dtype: str, rng: np.random.Generator) -> None:
    forms = itertools.product((False, True), (False, True), (False, True))
    for unitary, tied, increasing in forms:
        matrix = random_member(
            rng, n, dtype, unitary=unitary, tied=tied, increasing_stride=increasing
        )
        for ask_tied in {False, tied}:
            with jax.enable_x64(True):
                operator, reported = factorize_butterfly(
                    matrix, tied=ask_tied, increasing_stride=increasing, dtype=dtype
                )
                value = oracle_of(operator)
            assert operator.increasing_stride is increasing
            assert reported < 2e-15
            assert error_ratio(value, matrix) < 2e-15
        single = {"float64": "float32", "complex128": "complex64"}[dtype]
        operator, reported = factorize_butterfly(
            matrix.astype(single), tied=tied, increasing_stride=increasing
        )
        assert operator.twiddle.dtype == single
        assert reported < 2e-7


def test_large_dft_is_fast() -> None:
    n = 1024
    matrix = scipy.linalg.dft(n).astype(np.complex64)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        operator, reported = factorize_butterfly(matrix, permutation=bit_reversal_permutation(n))
        seconds.append(time.process_time() - start)
        assert reported < 1e-7
    assert min(seconds) < 1.0  # of this process, so that other work on the machine does not count
    x = np.random.default_rng(0).standard_normal((3, n)).astype(np.float32)
    assert error_ratio(jax.jit(operator.__call__)(x), np.fft.fft(x.astype(np.float64))) < 5e-7


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_noise_stays_small(dtype: str, tied: bool, rng: np.random.Generator) -> None:
    n = 64
    for unitary in (False, True):
        matrix = random_member(rng, n, dtype, unitary=unitary, tied=tied)
        noise = rng.standard_normal((n, n))
        noise *= np.linalg.norm(matrix) / np.linalg.norm(noise)
        for level in (1e-2, 1e-4, 1e-6):
            _, error = factorize_butterfly(matrix + level * noise, tied=tied)
            # the noise itself has norm `level`; the projection keeps some of it
            assert 0.5 * level < error < 1.1 * level + 1e-7


def test_non_members_get_their_best_effort(rng: np.random.Generator) -> None:
    matrix = rng.standard_normal((32, 32))
    operator, reported = factorize_butterfly(matrix)
    assert 0.5 < reported < 1.0
    assert abs(error_ratio(oracle_of(operator), matrix) - reported) < 1e-6
    # more freedom can only help
    assert factorize_butterfly(matrix, tied=True)[1] > reported
    # a DFT without its permutation is no butterfly
    assert factorize_butterfly(scipy.linalg.dft(32))[1] > 0.5


def test_size_four_is_the_best_approximation(rng: np.random.Generator) -> None:
    # one split: four independent 2 x 2 matrices, each replaced by its best rank-one matrix
    matrix = rng.standard_normal((4, 4))
    blocks = matrix.reshape(2, 2, 2, 2).transpose(1, 2, 0, 3)  # i0 j1 i1 j0
    residual = np.linalg.svd(blocks)[1][..., 1]
    best = np.linalg.norm(residual) / np.linalg.norm(matrix)
    assert factorize_butterfly(matrix)[1] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_degenerate_members(tied: bool, rng: np.random.Generator) -> None:
    n = 16
    sparse = np.zeros((n, n))
    sparse[3, 11] = -2.0
    for matrix in (np.zeros((n, n)), np.eye(n), np.ones((n, n)), sparse, -np.eye(n)[::-1]):
        operator, error = factorize_butterfly(matrix, tied=tied)
        assert np.isfinite(operator.twiddle).all()
        assert error < (1.0 if tied and matrix is sparse else 1e-7)
    if not tied:
        diagonal = np.diag(rng.standard_normal(n))
        assert factorize_butterfly(diagonal)[1] < 1e-7


def test_dominant_direction_is_found() -> None:
    # the longest row is itself a singular direction, but not the dominant one
    block = np.array([[1.2, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0.1]])
    matrix = np.zeros((4, 4, 4, 4))  # i1 i0 j1 j0
    matrix[:, 0, 0, :] = block
    _, error = factorize_butterfly(matrix.reshape(16, 16))
    assert error == pytest.approx(np.sqrt((1.2**2 + 0.01) / (1.2**2 + 2.01)), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_extreme_scales(scale: float) -> None:
    with jax.enable_x64(True):
        operator, error = factorize_butterfly(scale * scipy.linalg.hadamard(16))
        assert error < 1e-14
        assert error_ratio(operator.to_dense(), scale * scipy.linalg.hadamard(16)) < 1e-14


@pytest.mark.parametrize(
    "dtype", [np.float16, jnp.bfloat16, np.float32, np.complex64, np.int8, np.uint16, np.bool_]
)
def test_input_dtypes(dtype) -> None:
    matrix = jnp.asarray(np.ones((8, 8)), dtype)
    operator, error = factorize_butterfly(matrix)
    wanted = dtype if jnp.issubdtype(dtype, jnp.inexact) else np.float32
    assert operator.twiddle.dtype == wanted
    assert error == 0.0


def test_one_by_one() -> None:
    operator, error = factorize_butterfly(np.array([[-2.5]]))
    assert operator.shape == (1, 1)
    assert error == 0.0
    assert operator(jnp.array([2.0])).tolist() == [-5.0]


@pytest.mark.parametrize(
    ("matrix", "options", "message"),
    [
        (np.ones((4, 8)), {}, r"matrix has shape \(4, 8\); a square matrix"),
        (np.ones(4), {}, r"matrix has shape \(4,\); a square matrix"),
        (np.ones((6, 6)), {}, "matrix has size 6; a power of two was wanted"),
        (np.ones((0, 0)), {}, "matrix has size 0; a power of two was wanted"),
        (np.full((2, 2), np.nan), {}, "NaN or infinite entries"),
        (np.array([[1, 0], [0, np.inf]]), {}, "NaN or infinite entries"),
        (1j * np.ones((2, 2)), {"dtype": np.float32}, "dtype must be complex64 or complex128"),
        (np.ones((2, 2)), {"dtype": np.float64}, "float64 needs JAX's 64-bit mode"),
        (np.ones((2, 2)), {"dtype": np.int32}, "dtype must be floating point or complex"),
        (np.ones((4, 4)), {"permutation": np.array([0, 1, 1, 2])}, "must hold each of 0 .. 3"),
        (np.ones((4, 4)), {"permutation": np.array([0, 1])}, "permutation must have"),
    ],
)
def test_bad_input(matrix, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        factorize_butterfly(matrix, **options)


def test_traced_values_are_refused() -> None:
    with pytest.raises(TypeError, match="matrix is a traced value"):
        jax.jit(lambda m: factorize_butterfly(m)[0].twiddle)(jnp.eye(4))
