"""The recovery experiment's targets against SciPy and the definitions."""

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import scipy.special

from experiments.butterfly.targets import TARGETS, target_matrix
from structlayers.testing import error_ratio


@pytest.mark.parametrize("n", [1, 2, 8, 64, 512])
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_matches_scipy(name: str, n: int) -> None:
    identity, root = np.eye(n), np.sqrt(n)
    spectrum = scipy.fft.fft(identity, axis=0)
    expected = {
        "dft": spectrum / root,
        "inverse_dft": scipy.fft.ifft(identity, axis=0) * root,
        "dct": scipy.fft.dct(identity, axis=0) / root,
        "dst": scipy.fft.dst(identity, axis=0) / root,
        "hadamard": scipy.linalg.hadamard(n) / root,
        "hartley": (spectrum.real - spectrum.imag) / root,
        "convolution": scipy.linalg.circulant(np.random.RandomState(0).randn(n)) / root,
        "legendre": np.stack(
            [scipy.special.eval_legendre(k, np.linspace(-1, 1, n + 2)[1:-1]) for k in range(n)]
        )
        / root,
        "randn": np.random.RandomState(0).randn(n, n) / root,
    }[name]
    target = target_matrix(name, n)
    assert target.shape == (n, n)
    assert target.dtype == (np.complex128 if name.endswith("dft") else np.float64)
    # n rounded steps of the Legendre recurrence; elsewhere one rounding of an angle
    bound = n * np.finfo(np.float64).eps if name == "legendre" else 1e-14
    assert error_ratio(target, expected) <= bound


@pytest.mark.parametrize("name", ["dft", "inverse_dft", "hadamard", "hartley"])
def test_unitary(name: str) -> None:
    target = target_matrix(name, 64)
    assert error_ratio(target @ target.conj().T, np.eye(64)) < 1e-14


def test_seed() -> None:
    for name in ("convolution", "randn"):
        assert not np.array_equal(target_matrix(name, 8, 1), target_matrix(name, 8))
        np.testing.assert_array_equal(target_matrix(name, 8, 0), target_matrix(name, 8))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"name must be one of .*'dft'.* got 'fft'"):
        target_matrix("fft", 8)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        target_matrix("dft", 0)
    with pytest.raises(ValueError, match="n must be a power of two, got 12"):
        target_matrix("hadamard", 12)
