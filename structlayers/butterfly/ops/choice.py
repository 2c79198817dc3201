"""Which implementation of `butterfly_multiply` runs, and the measurements that say so."""

import math
from typing import Any

from structlayers._core.partitioning import batch_sharding_is_known
from structlayers.butterfly.factors import twiddle_sizes

# Break-even between "dense" (the matrix is made in every call) and "xla", in milliseconds, forward
# and forward + backward; jax 0.11.2, untied, one block, precision highest.
#
#                          2 cores of the H200's host CPU                   H200
#              batch 256 float32    batch 256 complex64   batch 1 float32   batch 16384 float32
#      N       dense       xla      dense       xla       dense    xla      dense       xla
#      16    .025 .040  .026 .083  .044 .077  .044 .093  .009 .017 .011 .017
#      32    .040 .061  .046 .179  .084 .163  .081 .170
#      64    .069 .134  .051 .269  .261 .442  .170 .394  .031 .055 .013 .032  .047 .076  .040 .091
#     128    .193 .432  .102 .373  .683 1.77  .405 .957                       .051 .056  .043 .086
#     256    .586 .992  .210 .580  3.08 5.44  1.09 2.42  .235 .547 .023 .096  .061 .145  .085 .181
#    1024    4.96 9.08  .816 3.11  30.1 65.4  4.77 12.0  2.10 6.61 .062 .426
#
# H200 times under 0.1 ms are mostly launches.
_DENSE_UP_TO = {"cpu": 32, "gpu": 256, "tpu": 256}
_DENSE_UP_TO_HALF_PRECISION = {"gpu": 512, "tpu": 512}

# Rows from which the kernel of Hopper is the fastest, by dtype and N. Device time of whole calls in
# microseconds, making of weights and matrices included; jax 0.11.2, one H200, untied, one block,
# forward, precision highest. Lines with a star are from before the last changes of the kernels,
# which took 1 to 4 us off; dense is one product with a matrix that is made in every call.
#
#                 16 rows               256 rows             1024 rows             16384 rows
#              pallas dense   xla    pallas dense   xla    pallas dense   xla    pallas dense   xla
#   bfloat16  [1 row]
#       64      [3.4    1.9   1.9]      1.8   3.0   3.0                           2.9   4.2   4.3
#      128      [3.6    2.9   2.9]      2.1   5.8   5.9                           4.3   6.4   6.4
#      256      [2.3    3.1   2.0]      2.4   6.7   4.9                           6.7   9.3  24.6
#      512      *6.4   5.8   4.4       3.6   7.4   6.1       3.9   6.9   8.3      12.0  19.5  37.4
#     1024      *8.3   8.5   5.4       4.5  12.9   8.5       5.1  11.4   9.7      21.3  51.0  62.8
#     2048     *11.1  12.9   8.2       7.7  21.7  10.4       8.4  21.7  14.9      44.6   193   112
#     4096                            21.5  45.9  14.4      29.5  71.3  24.6       145   707   219
#     8192                            25.3   136  20.8      41.4         39.5       281  2839   446
#    16384                            42.7         42.3      66.0         83.4       548         888
#   float32
#       64      [3.4    1.9   1.9]      2.7   4.2   4.2                           3.5   8.5   8.5
#      128      [4.1    2.9   2.9]      3.8   7.7   7.7                           5.9  22.0  22.3
#      256       2.4   6.2   4.1      *2.5   8.5   6.0                           11.8  54.4  50.6
#      512       3.9   8.2   4.6      *4.0  11.9   9.5                           20.3   188  98.3
#     1024       4.5  12.9   6.0      *4.7  25.1  11.7                           40.8   710   169
#     2048       4.5  22.3   9.4      *4.9  63.3  18.7                           77.8         352
#     4096      (5.3         5.3)      8.5         27.0                            318         736
#    16384      (6.0        20.2)     24.9         93.8                           1267        3872
#   complex64, pallas and xla, 16 and 4096 rows: 256: 3.5 8.3, 8.4 30.0; 512: 4.0 10.6, 16.4 52.4;
#   1024: 4.1 9.4, 25.8 94.0. One row and 256: 2048: 7.7 3.6, 11.1 22.1; 16384: 8.8 15.4, 51.6 223.
#
# In brackets: one row; at N = 64 and 128 a copy fills up the row of four or two vectors. Weights
# of bfloat16 N = 4096 and above are now made 9 to 17 us faster; only the last column is as now.
_ONE_PASS_FROM_ROWS = {
    "bfloat16": dict.fromkeys((64, 128, 256, 512, 2048), 256)
    | {1024: 128, 4096: 2048, 8192: 2048, 16384: 1024},
    "float32": {64: 256, 128: 256} | dict.fromkeys((256, 512, 1024, 2048, 4096, 8192, 16384), 1),
    "complex64": {64: 256, 128: 256, 256: 1, 512: 1, 1024: 1}
    | {2048: 256, 4096: 256, 8192: 256, 16384: 1},
}

# TPU: compiled estimates (no TPU took part) in milliseconds, forward, of the whole program with
# what is made of the twiddle; batch 16384, untied, jax 0.12.0, libtpu 0.0.52.
#
#                        v5e bfloat16, float32                        v6e bfloat16, float32
#      N       dense         xla       pallas_tpu          dense         xla       pallas_tpu
#     256    .091 .123    .211 .165    .042 .060         .049 .058    .121 .098    .030 .040
#     512    .173 .369    .403 .316    .070 .105         .090 .134    .228 .182    .037 .057
#    1024    .385 1.41    .776 .854    .111 .185         .179 .465    .433 .500    .063 .098
#
# At N = 128 all three are one product with a 128 x 128 matrix. Where the kernel cannot serve, the
# limits are those of two passes against one product.
_TPU_KERNEL_ABOVE = 128


def prefer(
    x: Any, twiddle: Any, permutation: Any, *, platform: str, **static: Any
) -> tuple[tuple[str, str], ...]:
    """The platform's kernel where it pays, else dense up to the break-even size, groups above.

    Few rows on a CPU go factor by factor at every size.
    """
    from structlayers.butterfly.xla import goes_by_level

    del permutation, static
    sizes = twiddle_sizes(twiddle.shape)
    size, rows = sizes.size, math.prod(x.shape[:-1])
    if goes_by_level(rows, sizes, platform):
        return (("xla", f"{rows} rows of N = {size} do not pay for merging"),)
    order = [*prefer_one_pass(x, size, platform=platform)]
    if platform == "tpu" and size > _TPU_KERNEL_ABOVE and batch_sharding_is_known():
        why = f"N = {size} is above {_TPU_KERNEL_ABOVE}, the break-even size by compiled estimates"
        order.append(("pallas_tpu", why))
    limit = _DENSE_UP_TO.get(platform, 32)
    if x.dtype.itemsize < 4:
        limit = _DENSE_UP_TO_HALF_PRECISION.get(platform, limit)
    if platform == "cpu" and x.dtype.kind == "f" and rows >= 64:
        limit = 2 * limit
    name, relation = ("dense", "at most") if size <= limit else ("xla", "above")
    order.append((name, f"N = {size} is {relation} {limit}, the break-even size on {platform}"))
    return tuple(order)


def prefer_one_pass(x: Any, size: int, *, platform: str) -> tuple[tuple[str, str], ...]:
    """The kernel for Hopper, from its measured break-even on."""
    rows = math.prod(x.shape[:-1])
    enough = _ONE_PASS_FROM_ROWS.get(x.dtype.name, {}).get(size)
    if platform != "gpu" or enough is None or rows < enough:
        return ()
    return (("pallas_gpu", f"{rows} rows of N = {size} reach its break-even, {enough}"),)


def check_pallas_gpu(x: Any, twiddle: Any, permutation: Any, *, platform: str, **_: Any) -> None:
    """Whether the kernels for Hopper serve.

    Raises:
        NotImplementedError: they do not; the message says why.
    """
    from structlayers.butterfly.pallas_gpu.support import check_butterfly

    del permutation
    check_butterfly(x, twiddle, platform=platform)


def check_pallas_tpu(x: Any, twiddle: Any, permutation: Any, *, platform: str, **_: Any) -> None:
    """Whether the kernels for TPU serve.

    Raises:
        NotImplementedError: they do not; the message says why.
    """
    from structlayers.butterfly.pallas_tpu.support import check_butterfly

    del permutation
    check_butterfly(x, twiddle, platform=platform)
