"""Matrix algebra on twiddles: what of it stays a butterfly of the same size, or the next one."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_choice, require_inexact
from structlayers.butterfly.factors import block_directions, twiddle_sizes
from structlayers.butterfly.permutations import bit_reversal_permutation


def _check(twiddle: ArrayLike, name: str = "twiddle") -> jax.Array:
    twiddle = jnp.asarray(twiddle)
    require_inexact(name, twiddle)
    twiddle_sizes(twiddle.shape, name)
    return twiddle


def butterfly_transpose(twiddle: ArrayLike) -> jax.Array:
    """Twiddle of the transposed matrix, of each stack by itself.

    Every 2x2 block is transposed and the K blocks come in reverse order. The direction of a
    transposed block is the other one: the result multiplies with ``increasing_stride`` negated if
    K is odd or the directions do not alternate, and as before if they alternate and K is even.

    Args:
        twiddle: Tied or untied twiddle.

    Returns:
        Array of the same shape.

    Raises:
        TypeError: If the twiddle holds integers.
        ValueError: If no butterfly has its shape.

    Example:
        >>> from structlayers.butterfly import butterfly_to_dense
        >>> twiddle = jnp.arange(16.0).reshape(1, 1, 2, 2, 2, 2)
        >>> transposed = butterfly_to_dense(
        ...     butterfly_transpose(twiddle), increasing_stride=False
        ... )
        >>> bool((transposed == butterfly_to_dense(twiddle).T).all())
        True
    """
    return jnp.swapaxes(_check(twiddle)[:, ::-1], -1, -2)


def butterfly_conjugate(twiddle: ArrayLike) -> jax.Array:
    """Twiddle of the complex conjugate matrix.

    Args:
        twiddle: Tied or untied twiddle; a real one comes back as it is.

    Returns:
        Array of the same shape and dtype.

    Raises:
        TypeError: If the twiddle holds integers.
        ValueError: If no butterfly has its shape.

    Example:
        >>> butterfly_conjugate(jnp.full((1, 1, 1, 2, 2), 1j))[0, 0, 0, 0, 0].item()
        -1j
    """
    return jnp.conj(_check(twiddle))


def butterfly_compose(*twiddles: ArrayLike) -> jax.Array:
    """Twiddle of the product: the blocks of all arguments in a row, the first applied first.

    The directions must go on as `butterfly_multiply` has them: with ``alternating=True`` the
    argument after K blocks starts in the direction of block K, with ``alternating=False`` all
    arguments go the same way.

    Args:
        *twiddles: Twiddles alike in stacks, size, tying and dtype. Stack s multiplies stack s.

    Returns:
        Array whose blocks are those of all arguments.

    Raises:
        TypeError: If a twiddle holds integers.
        ValueError: If none is given, or two differ in stacks, size, tying or dtype.

    Example:
        >>> butterfly_compose(jnp.ones((1, 1, 3, 2, 2)), jnp.ones((1, 2, 3, 2, 2))).shape
        (1, 3, 3, 2, 2)
    """
    if not twiddles:
        raise ValueError("butterfly_compose needs at least one twiddle, got none")
    arrays = [_check(twiddle, f"twiddles[{i}]") for i, twiddle in enumerate(twiddles)]
    first = arrays[0]
    for i, array in enumerate(arrays):
        alike = array.shape[:1] + array.shape[2:] == first.shape[:1] + first.shape[2:]
        if not alike or array.dtype != first.dtype:
            raise ValueError(
                f"twiddles must be alike but for their number of blocks; got shape {first.shape} "
                f"of {first.dtype} and, as twiddles[{i}], {array.shape} of {array.dtype}"
            )
    return jnp.concatenate(arrays, axis=1)


def butterfly_kronecker(first: ArrayLike, second: ArrayLike) -> jax.Array:
    """Twiddle of the Kronecker product ``A (x) B``, of size ``N_A N_B``.

    ``A (x) B = (A (x) I)(I (x) B)`` and the two commute: B takes the small strides and A the
    large ones, in either direction. So a two-dimensional transform is one butterfly.

    Args:
        first: Twiddle of A with one stack and K blocks.
        second: Twiddle of B with one stack and K blocks, tied like A's, of the same dtype.

    Returns:
        Twiddle of one stack and K blocks, tied like the arguments.

    Raises:
        TypeError: If a twiddle holds integers.
        ValueError: If there are several stacks, or blocks, tying or dtype differ.

    Example:
        >>> butterfly_kronecker(jnp.ones((1, 1, 3, 2, 2)), jnp.ones((1, 1, 7, 2, 2))).shape
        (1, 1, 31, 2, 2)
    """
    first, second = _check(first, "first"), _check(second, "second")
    a, b = twiddle_sizes(first.shape), twiddle_sizes(second.shape)
    if a.stacks != 1 or b.stacks != 1:
        raise ValueError(f"first and second must have one stack, got {a.stacks} and {b.stacks}")
    if (a.blocks, a.tied, first.dtype) != (b.blocks, b.tied, second.dtype):
        raise ValueError(
            f"first and second must agree in blocks, tying and dtype, got shape {first.shape} "
            f"of {first.dtype} and {second.shape} of {second.dtype}"
        )
    if a.tied:
        # an offset k of A's factor becomes the offsets k*N_B + c
        return jnp.concatenate([second, jnp.repeat(first, b.size, axis=2)], axis=2)
    low = jnp.tile(second, (1, 1, 1, a.size, 1, 1))
    high = jnp.repeat(first, b.size, axis=3)
    pairs = a.size * b.size // 2
    # a factor of size 1 has no levels, but its pair axis is 0 long and must fit the other's
    low = low.reshape(1, b.blocks, b.levels, pairs if b.levels else 0, 2, 2)
    high = high.reshape(1, a.blocks, a.levels, pairs if a.levels else 0, 2, 2)
    if not a.levels or not b.levels:
        return low if b.levels else high
    return jnp.concatenate([low, high], axis=2)


def fold_diagonal(
    twiddle: ArrayLike,
    diagonal: ArrayLike,
    *,
    side: str = "input",
    increasing_stride: bool = True,
    alternating: bool = True,
) -> jax.Array:
    """Twiddle of ``B diag(d)`` (side "input") or of ``diag(d) B`` (side "output").

    The diagonal is multiplied into the columns of the factor applied first, or into the rows of
    the one applied last.

    Args:
        twiddle: Untied ``(S, K, M, N/2, 2, 2)``, N at least 2.
        diagonal: ``(N,)`` for all stacks, or ``(S, N)``; of the dtype of the twiddle, or real.
        side: "input" or "output".
        increasing_stride: Direction of block 0.
        alternating: Whether the direction alternates from block to block.

    Returns:
        Array of the shape of the twiddle.

    Raises:
        TypeError: If an argument holds integers, or the diagonal is complex and the twiddle real.
        ValueError: If the twiddle is tied or of size 1, or the diagonal has another shape.

    Example:
        >>> from structlayers.butterfly import butterfly_to_dense
        >>> twiddle = jnp.ones((1, 1, 1, 1, 2, 2))
        >>> butterfly_to_dense(fold_diagonal(twiddle, jnp.array([2.0, 3.0]))).tolist()
        [[2.0, 3.0], [2.0, 3.0]]
    """
    twiddle, diagonal = _check(twiddle), jnp.asarray(diagonal)
    require_inexact("diagonal", diagonal)
    require_choice("side", side, ("input", "output"))
    sizes = twiddle_sizes(twiddle.shape)
    if sizes.tied or not sizes.levels:
        raise ValueError(
            f"twiddle must be untied (see untie_butterfly) and of size 2 at least to take up a "
            f"diagonal, got shape {twiddle.shape}"
        )
    if diagonal.shape not in ((sizes.size,), (sizes.stacks, sizes.size)):
        raise ValueError(
            f"diagonal must have shape ({sizes.size},) or ({sizes.stacks}, {sizes.size}), "
            f"got {diagonal.shape}"
        )
    if jnp.iscomplexobj(diagonal) and not jnp.iscomplexobj(twiddle):
        raise TypeError(f"diagonal must be real for a real twiddle, got {diagonal.dtype}")
    block = 0 if side == "input" else sizes.blocks - 1
    increasing = block_directions(sizes.blocks, increasing_stride, alternating)[block]
    # first factor of an increasing block and last of a decreasing one: stride 1
    level = 0 if increasing == (side == "input") else sizes.levels - 1
    stride = 2**level
    # diagonal by p, j, k -> pairs p*s + k, then j
    scale = diagonal.astype(twiddle.dtype).reshape(-1, sizes.size // (2 * stride), 2, stride)
    scale = jnp.swapaxes(scale, -1, -2).reshape(-1, sizes.size // 2, 2)
    scale = scale[:, :, None, :] if side == "input" else scale[:, :, :, None]
    return twiddle.at[:, block, level].multiply(scale)


def flip_stride_order(twiddle: ArrayLike) -> jax.Array:
    """Twiddle of ``P B P`` in the other direction, P the bit reversal permutation.

    Bit reversal turns the factor of level l into one of level ``M - 1 - l`` with its pairs in bit
    reversed order. So ``B P`` of one direction equals ``P B'`` of the other.

    Args:
        twiddle: Untied ``(S, K, M, N/2, 2, 2)``.

    Returns:
        Array of the same shape, to be multiplied with ``increasing_stride`` negated.

    Raises:
        TypeError: If the twiddle holds integers.
        ValueError: If the twiddle is tied: conjugation does not keep the tying.

    Example:
        >>> from structlayers.butterfly import butterfly_to_dense
        >>> twiddle = jnp.arange(16.0).reshape(1, 1, 2, 2, 2, 2)
        >>> flipped = butterfly_to_dense(flip_stride_order(twiddle), increasing_stride=False)
        >>> p = bit_reversal_permutation(4)
        >>> bool((flipped == butterfly_to_dense(twiddle)[p][:, p]).all())
        True
    """
    twiddle = _check(twiddle)
    sizes = twiddle_sizes(twiddle.shape)
    if sizes.tied:
        raise ValueError(
            f"twiddle must be untied (see untie_butterfly): conjugation by bit reversal does not "
            f"keep the tying; got shape {twiddle.shape}"
        )
    if sizes.levels < 2:
        return twiddle
    return twiddle[:, :, ::-1, bit_reversal_permutation(sizes.size // 2)]
