"""Named shapes of the Hadamard products; a real transform takes `N log2 N` additions a vector."""

import jax
import jax.numpy as jnp

from structlayers._core.arg_spec import ArgSpec


def _hadamard(n: int, rows: int, dtype: str, source: str, tags: str) -> ArgSpec:
    return ArgSpec(
        name=f"hadamard_n{n}_b{rows}_{dtype}",
        op="hadamard_multiply",
        arrays=(jax.ShapeDtypeStruct((rows, n), jnp.dtype(dtype)),),
        static={},
        operations=rows * n * (n.bit_length() - 1) * (2 if dtype.startswith("complex") else 1),
        source=source,
        tags=frozenset(tags.split()),
    )


def _sorf(n: int, rows: int, dtype: str, source: str, tags: str, blocks: int = 3) -> ArgSpec:
    return ArgSpec(
        name=f"sorf_n{n}_b{rows}_{dtype}",
        op="sorf_multiply",
        arrays=(
            jax.ShapeDtypeStruct((rows, n), jnp.dtype(dtype)),
            jax.ShapeDtypeStruct((blocks, n), jnp.dtype("float32")),
        ),
        static={},
        operations=blocks * rows * n * n.bit_length(),
        source=source,
        tags=frozenset(tags.split()),
    )


_PAPER = "Yu et al. 2016, arXiv:1610.09072"
_QUANTISATION = "Ashkboos et al. 2024, arXiv:2404.00456: rotations of activations, width 4096"
_BANDWIDTH = "batch large enough that memory bandwidth decides"
_EDGE = "edge case"

WALSH_ARG_SPECS: tuple[ArgSpec, ...] = (
    _hadamard(1, 3, "float32", _EDGE, "smoke"),
    _hadamard(64, 16, "float32", _EDGE, "smoke cpu"),
    _hadamard(64, 16, "bfloat16", _EDGE, "smoke"),
    _sorf(64, 16, "float32", _PAPER, "smoke cpu"),
    _hadamard(256, 256, "float32", _PAPER, "cpu gpu"),
    _hadamard(1024, 256, "float32", _PAPER, "cpu gpu"),
    _hadamard(4096, 256, "float32", _QUANTISATION, "cpu gpu tpu"),
    _sorf(1024, 256, "float32", _PAPER, "cpu gpu tpu"),
    *(
        _hadamard(n, 16384, dtype, _BANDWIDTH, "gpu")
        for n in (256, 1024, 4096, 16384)
        for dtype in ("float32", "bfloat16")
    ),
    _hadamard(4096, 4096, "bfloat16", _QUANTISATION, "gpu tpu"),
    _sorf(4096, 16384, "bfloat16", _BANDWIDTH, "gpu"),
)
