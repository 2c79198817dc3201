"""What the exact constructors refuse, and with which words."""

from typing import Any

import numpy as np
import pytest

from structlayers.butterfly import transforms

SIZED = ("dft", "inverse_dft", "dct", "inverse_dct", "dst", "inverse_dst", "hartley", "hadamard")
WAVELETS = ("haar_wavelet", "inverse_haar_wavelet")


@pytest.mark.parametrize("name", [*SIZED, *WAVELETS])
def test_sizes(name: str) -> None:
    make = getattr(transforms, name)
    with pytest.raises(ValueError, match="n must be a power of two, got 12"):
        make(12)
    for n in (0, -4):
        with pytest.raises(ValueError, match=f"n must be at least 1, got {n}"):
            make(n)
    with pytest.raises(ValueError, match="n2 must be a power of two, got 6"):
        transforms.dft2(4, 6)


@pytest.mark.parametrize("name", SIZED)
def test_norms(name: str) -> None:
    with pytest.raises(ValueError, match=r"norm must be one of 'backward', .* got 'unitary'"):
        getattr(transforms, name)(8, norm="unitary")


@pytest.mark.parametrize("name", [*SIZED, *WAVELETS])
def test_dtypes(name: str) -> None:
    make = getattr(transforms, name)
    with pytest.raises(ValueError, match="dtype must be floating point or complex, got int32"):
        make(8, dtype=np.int32)
    with pytest.raises(ValueError, match="complex128 needs JAX's 64-bit mode"):
        make(8, dtype=np.complex128)
    if name not in ("hadamard", *WAVELETS):
        with pytest.raises(ValueError, match=r"must be complex64 or complex128 .* got float32"):
            make(8, dtype=np.float32)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones((2, 2)), r"vector must have shape \(n,\) with n >= 1, got \(2, 2\)"),
        (np.ones(0), r"vector must have shape \(n,\) with n >= 1, got \(0,\)"),
        (np.array([1.0, np.nan]), "vector of shape .* has NaN or infinite entries"),
    ],
)
def test_circulant(vector: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transforms.circulant(vector)


def test_toeplitz() -> None:
    with pytest.raises(ValueError, match=r"row\[0\] and column\[0\] are the same entry, got 2\.0"):
        transforms.toeplitz(np.array([1.0, 2.0]), np.array([2.0, 1.0]))
    with pytest.raises(ValueError, match=r"row of shape .* has NaN or infinite entries"):
        transforms.toeplitz(np.array([1.0]), np.array([1.0, np.inf]))


@pytest.mark.parametrize("levels", [-1, 4])
def test_wavelet_levels(levels: int) -> None:
    message = rf"levels must be between 0 and log2\(n\) = 3, got {levels}"
    with pytest.raises(ValueError, match=message):
        transforms.haar_wavelet(8, levels=levels)


@pytest.mark.parametrize(
    ("order", "error", "message"),
    [
        (np.array([0, 1, 1, 3]), ValueError, "must hold each of 0 .. 3 once"),
        (np.array([0, 1, 2]), ValueError, "size of permutation must be a power of two, got 3"),
        (np.array([0.0, 1.0]), TypeError, "permutation must hold integers"),
        (np.array([[0, 1]]), ValueError, "permutation must have one axis"),
    ],
)
def test_permutation_network(order: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        transforms.permutation_network(order)


def test_complex_dtype_of_a_permutation_is_allowed() -> None:
    value: Any = transforms.permutation_network(np.array([1, 0]), dtype=np.complex64)
    assert value.twiddle.dtype == np.complex64
