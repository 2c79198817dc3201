"""The closed form: hierarchical factorization of known matrices and random members, and its time.

Each case is a matrix that a butterfly represents exactly. Two errors are taken, both as
`||T - B P||_F / ||T||_F`: the one that `factorize_butterfly` reports, and that of the operator as
it runs in its own precision, applied to the identity up to N = 512 and estimated without bias from
random normal vectors above. The larger counts.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.butterfly.targets import target_matrix
from experiments.experiment import Results, Scalars
from structlayers.butterfly.factorize import factorize_butterfly
from structlayers.butterfly.permutations import bit_reversal_permutation
from structlayers.testing import error_ratio

COMPLEX = {"float32": "complex64", "float64": "complex128"}

CASES = {
    "dft": "unitary DFT, bit reversal given",
    "inverse_dft": "unitary inverse DFT, bit reversal given",
    "hadamard": "orthogonal Hadamard matrix",
    "member_real": "product of real factors with independent normal entries",
    "member_complex": "product of complex factors with independent normal entries",
    "member_unitary": "product of factors of Haar unitary 2 x 2 blocks",
    "member_decreasing": "as member_complex, multiplied by decreasing stride",
    "member_tied": "as member_complex with one set of blocks a level, recovered in tied form",
}
"""What is factorized, by name."""


def random_member(
    n: int, *, is_complex: bool, unitary: bool = False, tied: bool = False, seed: int = 0
) -> np.ndarray:
    """A random product of butterfly factors by increasing stride, in float64 or complex128.

    Args:
        n: size, a power of two.
        is_complex: whether the entries are complex.
        unitary: orthonormalize the 2 x 2 blocks.
        tied: one set of blocks for all copies of a level.
        seed: of the blocks.

    Returns:
        `(n, n)`; every factor keeps the second moment of its input.
    """
    rng = np.random.default_rng([n, seed])
    product = np.eye(n, dtype=np.complex128 if is_complex else np.float64)
    for level in range(n.bit_length() - 1):
        s = 2**level
        blocks = rng.standard_normal((1 if tied else n // (2 * s), s, 2, 2)) / np.sqrt(2)
        if is_complex:
            blocks = (blocks + 1j * rng.standard_normal(blocks.shape) / np.sqrt(2)) / np.sqrt(2)
        if unitary:
            blocks, triangle = np.linalg.qr(blocks)
            diagonal = np.diagonal(triangle, axis1=-2, axis2=-1)
            blocks = blocks * (diagonal / np.abs(diagonal))[..., None, :]  # Haar, not QR's signs
        parts = product.reshape(-1, 2, s, n)  # p j k, columns
        columns = blocks.transpose(3, 0, 2, 1)[..., None]  # j p i k 1
        product = (columns[0] * parts[:, :1] + columns[1] * parts[:, 1:]).reshape(n, n)
    return product


def case_matrix(name: str, n: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The matrix of a case and the options that `factorize_butterfly` needs for it."""
    if name in ("dft", "inverse_dft"):
        return target_matrix(name, n), {"permutation": bit_reversal_permutation(n)}
    if name == "hadamard":
        return target_matrix(name, n), {}
    if name == "member_decreasing":
        return random_member(n, is_complex=True).T, {"increasing_stride": False}
    tied = name == "member_tied"
    matrix = random_member(
        n, is_complex=name != "member_real", unitary=name == "member_unitary", tied=tied
    )
    return matrix, {"tied": tied}


def closed_form_error(name: str, n: int, dtype: str) -> float:
    """The larger of the reported and the evaluated error; float64 needs jax's 64-bit mode."""
    matrix, options = case_matrix(name, n)
    wanted = COMPLEX[dtype] if np.iscomplexobj(matrix) else dtype
    matrix = matrix.astype(wanted)
    operator, reported = factorize_butterfly(matrix, dtype=wanted, **options)
    x = np.eye(n) if n <= 512 else np.random.default_rng([n, 5]).standard_normal((32, n))
    x = x.astype(dtype)
    evaluated = np.asarray(jax.jit(operator.__call__)(x))
    wide = matrix.astype(np.complex128 if np.iscomplexobj(matrix) else np.float64)
    return max(reported, error_ratio(evaluated, x.astype(wide.dtype) @ wide.T))


@dataclass(frozen=True)
class ClosedFormPhase:
    """One case in one precision, one size a step.

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
        """Errors to be filled in."""
        return {"errors": np.zeros(len(self.sizes))}

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], Scalars]:
        """Factorizes at the next sizes."""
        errors = np.array(state["errors"])
        for i in range(step, step + num):
            errors[i] = closed_form_error(self.case, self.sizes[i], self.dtype)
        last = step + num - 1
        return {"errors": errors}, {"n": float(self.sizes[last]), "error": float(errors[last])}

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """Errors by size, and the largest."""
        errors = np.asarray(state["errors"])
        by_size = {str(n): float(error) for n, error in zip(self.sizes, errors, strict=True)}
        metrics = {f"{self.case}/{self.dtype}/max_error": float(errors.max())}
        return {"errors": by_size, "metrics": metrics}


@dataclass(frozen=True)
class TimePhase:
    """Seconds to factorize the DFT of one size, one run a step.

    Attributes:
        dtype: "float32" or "float64".
        n: size.
        num_steps: runs; their median counts.
    """

    dtype: str
    n: int
    num_steps: int
    chunk: int = 1

    @property
    def name(self) -> str:
        """Precision and size."""
        return f"time_{self.dtype}_n{self.n:04d}"

    def init(self) -> dict[str, np.ndarray]:
        """Seconds to be filled in."""
        return {"seconds": np.zeros(self.num_steps)}

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], Scalars]:
        """Times the next runs, the making of the matrix left out."""
        seconds = np.array(state["seconds"])
        matrix, options = case_matrix("dft", self.n)
        matrix = matrix.astype(COMPLEX[self.dtype])
        factorize_butterfly(matrix, **options)  # not timed: first use of numpy's and jax's parts
        for i in range(step, step + num):
            start = time.perf_counter()
            operator, _ = factorize_butterfly(matrix, **options)
            operator.twiddle.block_until_ready()
            seconds[i] = time.perf_counter() - start
        return {"seconds": seconds}, {"seconds": float(seconds[step + num - 1])}

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """The median, and all runs."""
        seconds = np.asarray(state["seconds"])
        metrics = {f"dft/{self.dtype}/seconds_n{self.n:04d}": float(np.median(seconds))}
        return {"seconds": seconds.tolist(), "metrics": metrics}


@dataclass(frozen=True)
class ClosedForm:
    """All cases in all precisions, and the times.

    Attributes:
        cases: keys of `CASES`.
        dtypes: "float32", "float64".
        sizes: sizes N.
        timed_size: size at which the time is taken.
        runs: timed runs.
    """

    cases: tuple[str, ...]
    dtypes: tuple[str, ...]
    sizes: tuple[int, ...]
    timed_size: int
    runs: int

    def phases(self) -> Sequence[ClosedFormPhase | TimePhase]:
        """One phase for each case and precision, then the times."""
        errors = [
            ClosedFormPhase(case, dtype, self.sizes) for case in self.cases for dtype in self.dtypes
        ]
        return [*errors, *(TimePhase(dtype, self.timed_size, self.runs) for dtype in self.dtypes)]

    def finish(self, results: Results) -> dict[str, float]:
        """`<case>/<dtype>/max_error` over all sizes, and `dft/<dtype>/seconds_n<size>`."""
        return {name: value for r in results.values() for name, value in r["metrics"].items()}
