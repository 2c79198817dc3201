"""How exact the exact constructors are: every transform against SciPy, by size and precision.

The error is `||T - T'||_F / ||T||_F` of the operator as it runs: applied to the identity up to
`full_size`, and estimated without bias from random normal vectors above.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import scipy.fft
import scipy.linalg

from experiments.experiment import Results, Scalars
from structlayers.butterfly import transforms
from structlayers.butterfly.operator import ButterflyOperator
from structlayers.testing import error_ratio

type Reference = Callable[[np.ndarray], np.ndarray]
"""Rows `(rows, n)` in float64 / complex128 to their transforms `(rows, m)`."""


@dataclass(frozen=True)
class Case:
    """One constructor and its reference.

    Attributes:
        make: operator by `(n, **options)`, options being `dtype` and, if it has two forms, `tied`.
        reference: reference by n.
        is_complex: whether the factors are complex.
        takes_complex: whether it is measured on complex inputs.
        has_tied: whether there is a tied form.
    """

    make: Callable[..., ButterflyOperator]
    reference: Callable[[int], Reference]
    is_complex: bool = True
    takes_complex: bool = False
    has_tied: bool = True


def _hartley(x: np.ndarray) -> np.ndarray:
    spectrum = scipy.fft.fft(x)
    return spectrum.real - spectrum.imag


def _hadamard(x: np.ndarray) -> np.ndarray:
    rows, columns = _sides(x.shape[1])  # H_n is the Kronecker product of two smaller ones
    parts = x.reshape(-1, rows, columns)
    y = scipy.linalg.hadamard(rows) @ parts @ scipy.linalg.hadamard(columns)
    return y.reshape(x.shape)


def _haar(x: np.ndarray) -> np.ndarray:
    details = []
    while x.shape[1] > 1:
        even, odd = x[:, 0::2], x[:, 1::2]
        x, detail = (even + odd) / np.sqrt(2), (even - odd) / np.sqrt(2)
        details.append(detail)
    return np.concatenate([x, *reversed(details)], axis=1)


def _inverse_haar(y: np.ndarray) -> np.ndarray:
    x = y[:, :1]
    while x.shape[1] < y.shape[1]:
        detail = y[:, x.shape[1] : 2 * x.shape[1]]
        x = np.stack([x + detail, x - detail], axis=-1).reshape(len(y), -1) / np.sqrt(2)
    return x


def _sides(n: int) -> tuple[int, int]:
    rows = 2 ** (n.bit_length() // 2)
    return rows, n // rows


def _dft2(transform: Callable[..., np.ndarray]) -> Callable[[int], Reference]:
    def of_size(n: int) -> Reference:
        return lambda x: transform(x.reshape(-1, *_sides(n))).reshape(-1, n)

    return of_size


def _normal(n: int, salt: int) -> np.ndarray:
    return np.random.default_rng([n, salt]).standard_normal(n)


def _circulant(n: int) -> Reference:
    spectrum = scipy.fft.fft(_normal(n, 1).astype(np.longdouble))
    return lambda x: scipy.fft.ifft(spectrum * scipy.fft.fft(x.astype(np.longdouble))).real


def _toeplitz_entries(n: int) -> tuple[np.ndarray, np.ndarray]:
    column, row = _normal(n, 1), _normal(n, 2)
    row[0] = column[0]
    return column, row


def _toeplitz(n: int) -> Reference:
    column, row = (entries.astype(np.longdouble) for entries in _toeplitz_entries(n))
    spectrum = scipy.fft.fft(np.concatenate([column, np.zeros(1), row[:0:-1]]))

    def multiply(x: np.ndarray) -> np.ndarray:
        padded = np.concatenate([x, np.zeros_like(x)], axis=1).astype(np.longdouble)
        return scipy.fft.ifft(spectrum * scipy.fft.fft(padded)).real[:, :n]

    return multiply


def _permutation(n: int) -> np.ndarray:
    return np.random.default_rng([n, 3]).permutation(n)


def _always(reference: Reference) -> Callable[[int], Reference]:
    return lambda n: reference


CASES: Mapping[str, Case] = {
    "dft": Case(transforms.dft, _always(scipy.fft.fft), takes_complex=True),
    "inverse_dft": Case(transforms.inverse_dft, _always(scipy.fft.ifft), takes_complex=True),
    "dft2": Case(
        lambda n, **options: transforms.dft2(*_sides(n), **options),
        _dft2(scipy.fft.fft2),
        takes_complex=True,
    ),
    "inverse_dft2": Case(
        lambda n, **options: transforms.inverse_dft2(*_sides(n), **options),
        _dft2(scipy.fft.ifft2),
        takes_complex=True,
    ),
    "dct": Case(transforms.dct, _always(scipy.fft.dct)),
    "inverse_dct": Case(transforms.inverse_dct, _always(scipy.fft.idct)),
    "dst": Case(transforms.dst, _always(scipy.fft.dst)),
    "inverse_dst": Case(transforms.inverse_dst, _always(scipy.fft.idst)),
    "hartley": Case(transforms.hartley, _always(_hartley)),
    "hadamard": Case(transforms.hadamard, _always(_hadamard), is_complex=False),
    "haar_wavelet": Case(transforms.haar_wavelet, _always(_haar), is_complex=False),
    "inverse_haar_wavelet": Case(
        transforms.inverse_haar_wavelet, _always(_inverse_haar), is_complex=False
    ),
    "circulant": Case(
        lambda n, **options: transforms.circulant(_normal(n, 1), **options), _circulant
    ),
    "toeplitz": Case(
        lambda n, **options: transforms.toeplitz(*_toeplitz_entries(n), **options), _toeplitz
    ),
    "permutation": Case(
        lambda n, **options: transforms.permutation_network(_permutation(n), **options),
        lambda n: lambda x: x[:, _permutation(n)],
        is_complex=False,
        has_tied=False,
    ),
}
"""Every constructor by name; its inverse, where it has one, is a case of its own."""


def constructor_error(
    name: str, n: int, dtype: str, *, tied: bool, full_size: int = 512, vectors: int = 32
) -> float:
    """Relative Frobenius error of one operator, as it runs in its own precision.

    Args:
        name: key of `CASES`.
        n: size.
        dtype: "float32" or "float64" (needs jax's 64-bit mode); complex where the factors are.
        tied: which form.
        full_size: largest n at which the whole matrix is compared.
        vectors: number of random vectors above.

    Returns:
        The error.
    """
    case = CASES[name]
    wide = {"float32": "complex64", "float64": "complex128"}[dtype]
    options: dict[str, Any] = {"dtype": wide if case.is_complex else dtype}
    if case.has_tied:
        options["tied"] = tied
    operator = case.make(n, **options)
    if n <= full_size:
        x = np.eye(n)
    else:
        rng = np.random.default_rng([n, 4])
        x = rng.standard_normal((vectors, n))
        if case.takes_complex:
            x = x + 1j * rng.standard_normal((vectors, n))
    x = x.astype(wide if case.takes_complex else dtype)
    y = np.asarray(jax.jit(operator.__call__)(x))
    exact = case.reference(n)(x.astype(np.complex128 if case.takes_complex else np.float64))
    return error_ratio(y, exact)


@dataclass(frozen=True)
class ConstructorPhase:
    """One constructor in one precision, one size a step.

    Attributes:
        case: key of `CASES`.
        dtype: "float32" or "float64".
        sizes: the sizes, one a step.
    """

    case: str
    dtype: str
    sizes: tuple[int, ...]
    chunk: int = 1

    @property
    def name(self) -> str:
        """Case and precision."""
        return f"{self.case}_{self.dtype}"

    @property
    def num_steps(self) -> int:
        """Number of sizes."""
        return len(self.sizes)

    def init(self) -> dict[str, np.ndarray]:
        """Errors to be filled in, `(sizes, 2)`: untied and tied."""
        return {"errors": np.zeros((len(self.sizes), 2))}

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], Scalars]:
        """Measures the next sizes."""
        errors = np.array(state["errors"])
        for i in range(step, step + num):
            for column, tied in enumerate((False, True)):
                if tied and not CASES[self.case].has_tied:
                    continue
                errors[i, column] = constructor_error(
                    self.case, self.sizes[i], self.dtype, tied=tied
                )
        last = step + num - 1
        scalars = {"n": float(self.sizes[last]), "error": float(errors[last].max())}
        return {"errors": errors}, scalars

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """Errors by size, and the largest."""
        errors = np.asarray(state["errors"])
        forms = ("untied", "tied") if CASES[self.case].has_tied else ("untied",)
        by_form = {
            form: {str(n): float(error) for n, error in zip(self.sizes, errors[:, i], strict=True)}
            for i, form in enumerate(forms)
        }
        return {"case": self.case, "dtype": self.dtype, "max": float(errors.max()), **by_form}


@dataclass(frozen=True)
class ConstructorExactness:
    """All constructors in all precisions.

    Attributes:
        cases: keys of `CASES`.
        dtypes: "float32", "float64".
        sizes: sizes N.
    """

    cases: tuple[str, ...]
    dtypes: tuple[str, ...]
    sizes: tuple[int, ...]

    def phases(self) -> Sequence[ConstructorPhase]:
        """One phase for each constructor and precision."""
        return [
            ConstructorPhase(case, dtype, self.sizes)
            for case in self.cases
            for dtype in self.dtypes
        ]

    def finish(self, results: Results) -> dict[str, float]:
        """`<case>/<dtype>/max_error`, over all sizes and both forms."""
        return {
            f"{result['case']}/{result['dtype']}/max_error": result["max"]
            for result in results.values()
        }
