"""Named shapes of the family's operations: the paper's figures, Hopper and TPU sizes, edges.

Tests, benchmarks and the TPU compile gate read this one list. Counts of operations, per vector
and block of size N:

- real ``3 N log2 N``: two multiplications and an addition per output of a 2x2 block;
- complex ``14 N log2 N``: a complex multiplication is 6 real operations, an addition 2;
- a factor of radix R: ``2 N R``, complex ``8 N R``;
- a dense matrix from a twiddle: one multiplication per entry, complex 6, and ``2 N**3`` (``8``)
  for each product of two blocks.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from structlayers._core.arg_spec import ArgSpec
from structlayers.butterfly.factors import twiddle_shape
from structlayers.butterfly.monarch.arg_specs import MONARCH_ARG_SPECS
from structlayers.butterfly.walsh.arg_specs import WALSH_ARG_SPECS

_PAPER = "Dao et al. 2019, arXiv:1903.05895, figure 4 (section 4.3)"
_TABLE = "Dao et al. 2019, arXiv:1903.05895, table 1 (section 4.2)"
_RECOVERY = "Dao et al. 2019, arXiv:1903.05895, figure 3 (section 4.1)"
_BANDWIDTH = "batch large enough that memory bandwidth decides"
_WIDTH_768 = "width 768 of BERT-base and GPT-2 small as 3 * 256"
_WIDTH_768_LANES = "the same as 256 * 3, runs of 256 neighbours first"
_EDGE = "edge case"


def _weights_dtype(dtype: str) -> str:
    """Half-precision data come with float32 parameters, as in mixed-precision training."""
    return "float32" if dtype in ("bfloat16", "float16") else dtype


def _multiply(
    n: int,
    batch: int,
    dtype: str,
    *,
    source: str,
    tags: Iterable[str],
    tied: bool = False,
    stacks: int = 1,
    blocks: int = 1,
    in_features: int | None = None,
    **static: Any,
) -> ArgSpec:
    complex_values = jnp.issubdtype(jnp.dtype(dtype), jnp.complexfloating)
    per_output = 14 if complex_values else 3
    form = f"s{stacks}_k{blocks}_" if (stacks, blocks) != (1, 1) else ""
    return ArgSpec(
        name=f"butterfly_n{n}_b{batch}_{form}{dtype}_{'tied' if tied else 'untied'}",
        op="butterfly_multiply",
        arrays=(
            jax.ShapeDtypeStruct((batch, in_features or n), dtype),
            jax.ShapeDtypeStruct(
                twiddle_shape(n, stacks=stacks, blocks=blocks, tied=tied), _weights_dtype(dtype)
            ),
        ),
        static=static,
        operations=per_output * batch * stacks * blocks * n * (n.bit_length() - 1),
        source=source,
        tags=frozenset(tags),
    )


def _to_dense(
    n: int, dtype: str, *, source: str, tags: Iterable[str], tied: bool = False, blocks: int = 1
) -> ArgSpec:
    complex_values = jnp.issubdtype(jnp.dtype(dtype), jnp.complexfloating)
    product, matmul = (6, 8) if complex_values else (1, 2)
    form = f"k{blocks}_" if blocks > 1 else ""
    return ArgSpec(
        name=f"to_dense_n{n}_{form}{dtype}_{'tied' if tied else 'untied'}",
        op="butterfly_to_dense",
        arrays=(jax.ShapeDtypeStruct(twiddle_shape(n, blocks=blocks, tied=tied), dtype),),
        static={},
        operations=product * blocks * n * n + matmul * (blocks - 1) * n**3,
        source=source,
        tags=frozenset(tags),
    )


def _block(
    radices: Sequence[int], batch: int, dtype: str, *, source: str, tags: Iterable[str]
) -> ArgSpec:
    n, stride, blocks = 1, 1, []
    for radix in radices:
        n *= radix
    for radix in radices:
        shape = (1, n // (radix * stride), stride, radix, radix)
        blocks.append(jax.ShapeDtypeStruct(shape, _weights_dtype(dtype)))
        stride *= radix
    return ArgSpec(
        name=f"block_r{'x'.join(map(str, radices))}_b{batch}_{dtype}",
        op="block_butterfly_multiply",
        arrays=(jax.ShapeDtypeStruct((batch, n), dtype), tuple(blocks)),
        static={},
        operations=2 * batch * n * sum(radices),
        source=source,
        tags=frozenset(tags),
    )


def multiply_spec(n: int, batch: int, dtype: str) -> ArgSpec:
    """An untied butterfly of any size, for sweeps over N that the list below does not hold whole.

    Args:
        n: Size, a power of two.
        batch: Number of vectors.
        dtype: Of the vectors; half precision comes with float32 weights.
    """
    return _multiply(n, batch, dtype, source=_PAPER, tags=("gpu", "cpu"))


_SMOKE = (
    _multiply(1, 3, "float32", source=_EDGE, tags=("smoke",)),
    _multiply(64, 16, "float32", source=_PAPER, tags=("smoke", "cpu", "gpu", "tpu")),
    _multiply(64, 16, "float32", source=_PAPER, tags=("smoke", "cpu"), tied=True),
    _multiply(64, 16, "complex64", source=_PAPER, tags=("smoke", "cpu")),
    _multiply(64, 16, "bfloat16", source=_PAPER, tags=("smoke", "cpu")),
    _multiply(
        64,
        5,
        "float32",
        source=_EDGE,
        tags=("smoke",),
        stacks=2,
        blocks=2,
        in_features=50,
        out_features=100,
        increasing_stride=False,
    ),
    _to_dense(64, "complex64", source=_RECOVERY, tags=("smoke", "cpu", "gpu")),
    _block((3, 16), 4, "float32", source=_WIDTH_768, tags=("smoke", "cpu")),
)

# batch 1 inference and batch 256 training of the paper's speed figure
_CPU = (
    *(_multiply(n, 1, "float32", source=_PAPER, tags=("cpu",)) for n in (64, 256, 1024, 4096)),
    *(_multiply(n, 256, "float32", source=_PAPER, tags=("cpu", "gpu")) for n in (256, 1024, 2048)),
    _multiply(1024, 256, "complex64", source=_PAPER, tags=("cpu", "gpu"), tied=True),
    _multiply(1024, 50, "float32", source=_TABLE, tags=("cpu", "gpu"), tied=True, blocks=2),
    _to_dense(1024, "complex64", source=_RECOVERY, tags=("cpu", "gpu", "tpu")),
    _to_dense(256, "complex64", source=_RECOVERY, tags=("cpu", "gpu"), blocks=2),
    _block((3, 256), 256, "float32", source=_WIDTH_768, tags=("cpu", "gpu")),
)

_GPU = (
    *(_multiply(n, 256, "float32", source=_PAPER, tags=("gpu",)) for n in (64, 512, 4096, 8192)),
    *(
        _multiply(n, 16384, dtype, source=_BANDWIDTH, tags=("gpu", "tpu") if n >= 512 else ("gpu",))
        for n in (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
        for dtype in ("float32", "bfloat16")
    ),
    *(
        _multiply(n, 16384, "float32", source=_BANDWIDTH, tags=("gpu",), tied=True)
        for n in (1024, 4096)
    ),
    *(
        _multiply(n, 4096, "complex64", source=_BANDWIDTH, tags=("gpu",))
        for n in (1024, 4096, 16384)
    ),
    _multiply(1024, 16, "float32", source=_PAPER, tags=("gpu",)),
    _block((3, 256), 16384, "bfloat16", source=_WIDTH_768, tags=("gpu",)),
)

_TPU = (
    _multiply(1024, 4096, "bfloat16", source=_BANDWIDTH, tags=("gpu", "tpu")),
    _multiply(2048, 4096, "bfloat16", source=_BANDWIDTH, tags=("gpu", "tpu"), tied=True),
    _multiply(4096, 4096, "float32", source=_BANDWIDTH, tags=("gpu", "tpu")),
    _multiply(16384, 1024, "bfloat16", source=_BANDWIDTH, tags=("gpu", "tpu")),
    _multiply(1024, 1024, "complex64", source=_BANDWIDTH, tags=("gpu", "tpu")),
    _block((3, 256), 4096, "bfloat16", source=_WIDTH_768, tags=("gpu", "tpu")),
    _block((256, 3), 4096, "bfloat16", source=_WIDTH_768_LANES, tags=("gpu", "tpu")),
)

ARG_SPECS: tuple[ArgSpec, ...] = (
    *_SMOKE,
    *_CPU,
    *_GPU,
    *_TPU,
    *MONARCH_ARG_SPECS,
    *WALSH_ARG_SPECS,
)
