"""The TPU compile gate: does a function compile for each TPU generation, and what would it cost.

It runs libtpu's ahead-of-time compiler on a machine without a TPU. README.md says what is read
from the compiler, what is estimated from it, and what it cannot tell.
"""

from structlayers.testing.tpu.driver import TpuCompiler as TpuCompiler
from structlayers.testing.tpu.driver import (
    TpuCompilerUnavailableError as TpuCompilerUnavailableError,
)
from structlayers.testing.tpu.driver import compile_for_tpu as compile_for_tpu
from structlayers.testing.tpu.driver import missing_compiler as missing_compiler
from structlayers.testing.tpu.driver import skip_without_compiler as skip_without_compiler
from structlayers.testing.tpu.rows import GateRow as GateRow
from structlayers.testing.tpu.rows import KernelSchedule as KernelSchedule
from structlayers.testing.tpu.rows import Loop as Loop
from structlayers.testing.tpu.targets import ALL as ALL
from structlayers.testing.tpu.targets import TARGETS as TARGETS
from structlayers.testing.tpu.targets import Target as Target

__all__ = [
    "ALL",
    "TARGETS",
    "GateRow",
    "KernelSchedule",
    "Loop",
    "Target",
    "TpuCompiler",
    "TpuCompilerUnavailableError",
    "compile_for_tpu",
    "missing_compiler",
    "skip_without_compiler",
]
