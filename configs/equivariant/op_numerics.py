"""Exactness and rounding of the Gaunt products, symmetries, derivatives, grids that refuse.

What: the product on Gauss-Legendre, equiangular, spherical-design and Lebedev grids, separable,
antipodal and on the torus, against Gaunt coefficients from exact 3j symbols in float64, and against
each other, for all L2 <= L1 <= 6 and every L3 <= L1 + L2; its derivatives to third order;
bilinearity; e3nn's coefficients to L = 4; powers to the fourth; the cross product, and products
with weights of all paths to L = 4, by vector signals. Relative RMS errors and equivariance under
rotation and inversion of values and gradients of what the op chooses, in float32, 3xTF32, TF32 and
bfloat16 up to L = 8, and how many entries of two runs differ; the same of the kernel for Hopper
GPUs, where it serves. How many grids that are one point short are accepted, of how many; the
largest coefficient on a path of odd sum; transcendental operations in the programs; the largest
processor time to trace and compile values and gradients up to L = 8.

Paper: Luo et al. 2024, arXiv:2401.10216 (the product, and the torus).
Expected: float64 1e-12, derivatives and path weights 1e-10; float32 3e-7 and equivariance 1e-6;
3xTF32 1e-6, TF32 1e-3 and 1.2e-3, bfloat16 8e-3; equal bits in two runs; no small grid accepted;
odd sums exactly 0; nothing transcendental; 2 seconds of processor time to compile.
Hardware: any; 4 minutes on a 2-core CPU, where reduced precisions are those of rounded operands.
The kernel alone, on an H100 or H200:
python -m experiments run configs/equivariant/op_numerics.py --parts kernel --variant gpu --store
Command: python -m experiments run configs/equivariant/op_numerics.py --store
"""

from dataclasses import dataclass, replace
from typing import Self

from experiments.equivariant.op_numerics.experiment import PARTS, OpNumerics
from experiments.equivariant.op_numerics.rounding import KERNEL, PRECISIONS
from experiments.equivariant.op_numerics.signals import FORMS
from experiments.experiment import Goal

_LIMITS = {
    "highest": {
        "values": 3e-7,
        "gradients": 3e-7,
        "equivariance": 1e-6,
        "gradient_equivariance": 1e-6,
    },
    "3xtf32": {
        "values": 1e-6,
        "gradients": 1e-6,
        "equivariance": 1e-6,
        "gradient_equivariance": 1e-6,
    },
    "tf32": {
        "values": 1e-3,
        "gradients": 1e-3,
        "equivariance": 1.2e-3,
        "gradient_equivariance": 1.2e-3,
    },
    "bf16": {
        "values": 8e-3,
        "gradients": 8e-3,
        "equivariance": 8e-3,
        "gradient_equivariance": 8e-3,
    },
}
# for T = 1 to T: two of azimuths, from T = 2 on two of polar angles and one proof, one proof of a
# Lebedev rule, one by the op
_TRIED = 7


@dataclass(frozen=True)
class Config:
    """Which degrees, forms and precisions."""

    family: str = "equivariant"
    experiment: str = "op_numerics"
    lmax: int = 6
    """Largest L1 and L2 of the comparison with exact coefficients."""
    derivative_degrees: tuple[int, ...] = (1, 2, 4, 6)
    """L = L1 = L2 = L3 at which derivatives are compared."""
    rounding_degrees: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """L = L1 = L2 = L3 of the products in float32."""
    grid_degree: int = 24
    """Largest T at which grids of too few points are tried."""
    kernel_rows: int = 100_003
    """Rows of the kernel: several tiles for every warp of a GPU, the last one not full."""
    forms: tuple[str, ...] = FORMS
    """Kinds of grid, and other implementations."""
    precisions: tuple[str, ...] = PRECISIONS
    """Of the tables, for float32 signals; the kernel's are in bfloat16 for "bf16"."""
    parts: tuple[str, ...] = PARTS
    """What is measured."""

    def __post_init__(self) -> None:
        """Refuses names that are not there.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        for field, names in (("forms", FORMS), ("precisions", PRECISIONS), ("parts", PARTS)):
            for name in getattr(self, field):
                if name not in names:
                    raise ValueError(f"{field} must be among {', '.join(names)}; got {name!r}")

    def build(self) -> OpNumerics:
        """All measurements."""
        return OpNumerics(
            self.lmax,
            self.derivative_degrees,
            self.rounding_degrees,
            self.grid_degree,
            self.kernel_rows,
            self.forms,
            self.precisions,
            self.parts,
        )

    def goals(self) -> tuple[Goal, ...]:
        """Bounds of errors, and what must be exact."""
        goals = [Goal(f"float64/{form}", 1e-12, "<=") for form in (*self.forms, "agreement")]
        goals += [
            Goal(f"float64/derivative_{order}", 1e-10, "<=")
            for order in ("first", "second", "third")
        ]
        goals += [
            Goal(f"float64/{name}", 1e-12, "<=")
            for name in ("bilinearity", "e3nn_coefficients", "cross_product")
        ]
        goals += [Goal(f"float64/power{order}", 1e-12, "<=") for order in (2, 3, 4)]
        goals.append(Goal("float64/path_weights", 1e-10, "<="))
        for kernel in (False, True):
            for precision in self.precisions:
                if kernel and precision not in KERNEL:
                    continue
                prefix = f"kernel/{precision}" if kernel else precision
                goals += [
                    Goal(f"{prefix}/{name}", bound, "<=")
                    for name, bound in _LIMITS[precision].items()
                ]
                goals.append(Goal(f"{prefix}/changed", 0, "<="))
        goals += [
            Goal("small_grids", 0, "<="),
            Goal("small_grids_tried", _TRIED * self.grid_degree - 3, ">="),
            Goal("odd_sums", 0, "<="),
            Goal("odd_sums_on_grid", 1e-12, "<="),
            Goal("transcendentals", 0, "<="),
            Goal("compile_seconds", 2, "<="),
        ]
        return tuple(goals)

    def smoke(self) -> Self:
        """Degree 1 and two forms."""
        return replace(
            self,
            lmax=1,
            derivative_degrees=(1,),
            rounding_degrees=(1, 2),
            grid_degree=4,
            kernel_rows=70,
            forms=("gauss_legendre", "separable"),
        )


def get_config() -> Config:
    """All degrees."""
    return Config()
