"""`short_convolution`: a causal convolution of each channel with a few taps."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_real, require_shape
from structlayers._core.precision import accumulation_dtype
from structlayers.gla.ops.arguments import check_segment_ids


def short_convolution(
    x: ArrayLike,
    kernel: ArrayLike,
    *,
    history: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
) -> jax.Array:
    """Causal depthwise convolution: `y_t = sum_w kernel_w * x_(t - W + 1 + w)`.

    `2 W D` operations a token. The last tap meets the token itself.

    Args:
        x: `(*B, T, D)`, real.
        kernel: `(W, D)` of the same dtype.
        history: the `W - 1` tokens before x, `(*B, W - 1, D)` of the same dtype; zeros if None.
        segment_ids: integers `(*B, T)` that do not decrease: tokens see their own segment only;
            `history` belongs to the first.

    Returns:
        `(*B, T, D)` in the dtype of x; sums in float32 at least.

    Raises:
        TypeError: a dtype that does not fit.
        ValueError: a shape that does not fit, or ids that decrease.

    Example:
        >>> x = jnp.arange(4.0)[:, None]
        >>> short_convolution(x, jnp.array([[1.0], [10.0]]))[:, 0].tolist()
        [0.0, 10.0, 21.0, 32.0]

    References:
        Yang, Wang, Zhang, Shen, Kim, "Parallelizing Linear Transformers with the Delta Rule over
        Sequence Length", 2024, arXiv:2406.06484 (the variant "GLA + conv").
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    require_real("x", x)
    if x.ndim < 2:
        raise ValueError(f"x must have shape (*B, T, D), got {x.shape}")
    *batch, time, width = x.shape
    require_shape("kernel", kernel, ("W", width))
    taps = kernel.shape[0]
    if taps < 1:
        raise ValueError(f"kernel must have shape (W, D) with W >= 1, got {kernel.shape}")
    shape = (*batch, taps - 1, width)
    history = jnp.zeros(shape, x.dtype) if history is None else jnp.asarray(history)
    require_shape("history", history, shape)
    for name, array in (("kernel", kernel), ("history", history)):
        if array.dtype != x.dtype:
            raise TypeError(f"{name} must have the dtype of x, {x.dtype}, got {array.dtype}")
    wide = accumulation_dtype(x.dtype)
    taps_of = kernel.astype(wide).reshape(taps, *(1,) * len(batch), 1, width)
    tokens = jnp.concatenate([history, x], axis=-2).astype(wide)
    ids = None
    if segment_ids is not None:
        ids = check_segment_ids(segment_ids, (*batch, time))
        ids = jnp.pad(ids, [(0, 0)] * len(batch) + [(taps - 1, 0)], mode="edge")
    out = jnp.zeros(x.shape, wide)
    for tap in range(taps):
        term = taps_of[tap] * tokens[..., tap : tap + time, :]
        if ids is not None:
            own = ids[..., tap : tap + time] == ids[..., taps - 1 :]
            term = jnp.where(own[..., None], term, 0)
        out = out + term
    return out.astype(x.dtype)
