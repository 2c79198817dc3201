"""A linear map held as butterflies and permutations: what the exact constructors return."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.precision import PrecisionLike
from structlayers.butterfly.factors import TwiddleShape, twiddle_sizes
from structlayers.butterfly.ops.arguments import check_permutation, check_permutations
from structlayers.butterfly.ops.dense import butterfly_to_dense
from structlayers.butterfly.ops.multiply import butterfly_multiply
from structlayers.butterfly.permutations import apply_permutation, inverse_permutation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ButterflyOperator:
    """``x -> Q B_{K-1} P_{K-1} ... B_0 P_0 x`` with zero padding before and a cut after.

    A pytree: its arrays are leaves, so it passes through jit, vmap and grad; the rest is static.

    Attributes:
        twiddle: ``(S, K, M, N/2, 2, 2)``, or tied ``(S, K, N-1, 2, 2)``.
        permutation: Integers ``(N,)`` or ``(K, N)``, the input order of every block; or None.
        output_permutation: Integers ``(N,)``, the order in which each stack's result is read:
            ``out[i] = result[output_permutation[i]]``; or None.
        increasing_stride: Whether block 0 multiplies strides 1, 2, ..., N/2 in that order.
        alternating: Whether the direction alternates from block to block.
        in_features: Length of the input, at most N; None is N.
        out_features: Length of the output, at most ``S * N``; None is ``S * N``.
        real_part: Whether the output is the real part of the product.

    Example:
        >>> twiddle = jnp.array([[1.0, 1.0], [1.0, -1.0]]).reshape(1, 1, 1, 1, 2, 2)
        >>> operator = ButterflyOperator(twiddle)
        >>> operator(jnp.array([3.0, 1.0])).tolist()
        [4.0, 2.0]
    """

    twiddle: jax.Array
    permutation: ArrayLike | None = None
    output_permutation: ArrayLike | None = None
    increasing_stride: bool = dataclasses.field(default=True, metadata={"static": True})
    alternating: bool = dataclasses.field(default=True, metadata={"static": True})
    in_features: int | None = dataclasses.field(default=None, metadata={"static": True})
    out_features: int | None = dataclasses.field(default=None, metadata={"static": True})
    real_part: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def sizes(self) -> TwiddleShape:
        """Stacks, blocks, levels, transform size and tying of the twiddle."""
        return twiddle_sizes(self.twiddle.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        sizes = self.sizes
        rows = sizes.stacks * sizes.size if self.out_features is None else self.out_features
        return rows, sizes.size if self.in_features is None else self.in_features

    def __call__(
        self,
        x: ArrayLike,
        *,
        precision: PrecisionLike = None,
        implementation: str | None = None,
    ) -> jax.Array:
        """Applies the map along the last axis.

        Args:
            x: ``(*B, in_features)``, real or complex.
            precision: As in `butterfly_multiply`.
            implementation: As in `butterfly_multiply`.

        Returns:
            Array ``(*B, out_features)``, real if `real_part` is set.

        Raises:
            TypeError: If ``x`` holds integers.
            ValueError: If its last axis is not `in_features` long, or the operator's own arrays
                do not fit each other.
        """
        x = jnp.asarray(x)
        rows, columns = self.shape
        if x.ndim < 1 or x.shape[-1] != columns:
            raise ValueError(f"x must have {columns} features on its last axis, got {x.shape}")
        out = butterfly_multiply(
            x,
            self.twiddle,
            increasing_stride=self.increasing_stride,
            alternating=self.alternating,
            permutation=self.permutation,
            out_features=rows if self.output_permutation is None else None,
            precision=precision,
            implementation=implementation,
        )
        if self.output_permutation is not None:
            sizes = self.sizes
            order = check_permutation("output_permutation", self.output_permutation, sizes.size)
            out = out.reshape(*out.shape[:-1], sizes.stacks, sizes.size)
            out = apply_permutation(out, order)
            out = out.reshape(*out.shape[:-2], sizes.stacks * sizes.size)[..., :rows]
        return jnp.real(out) if self.real_part else out

    def to_dense(self, *, precision: PrecisionLike = None) -> jax.Array:
        """The matrix ``(out_features, in_features)`` of the map.

        Args:
            precision: Of the products between blocks; None is the highest.

        Returns:
            The matrix, in the dtype of the twiddle, or its real part.
        """
        rows, columns = self.shape
        sizes = self.sizes
        dense = butterfly_to_dense(
            self.twiddle,
            increasing_stride=self.increasing_stride,
            alternating=self.alternating,
            permutation=self.permutation,
            out_features=rows if self.output_permutation is None else None,
            precision=precision,
        )
        if self.output_permutation is not None:
            order = check_permutation("output_permutation", self.output_permutation, sizes.size)
            dense = dense.reshape(sizes.stacks, sizes.size, sizes.size)
            dense = apply_permutation(dense, order, axis=1).reshape(-1, sizes.size)[:rows]
        dense = dense[:, :columns]
        return jnp.real(dense) if self.real_part else dense

    def transpose(self) -> "ButterflyOperator":
        """The transposed map, again an operator of the same size and number of blocks.

        ``(Q B_{K-1} P_{K-1} ... B_0 P_0)^T = P_0^T B_0^T ... P_{K-1}^T B_{K-1}^T Q^T``: the blocks
        in reverse order, each factor transposed, the permutations inverted and moved along.

        Returns:
            The operator of the transposed matrix.

        Raises:
            ValueError: With more than one stack, whose transpose would be a sum.
        """
        from structlayers.butterfly.convert import butterfly_transpose

        sizes = self.sizes
        if sizes.stacks > 1:
            raise ValueError(
                f"only an operator of one stack has a transposed operator, got {sizes.stacks} "
                f"stacks"
            )
        inputs = check_permutations(self.permutation, sizes.blocks, sizes.size)
        before: list[ArrayLike] | None = None
        after = None
        if inputs is not None or self.output_permutation is not None:
            straight = jnp.arange(sizes.size)
            orders = [jnp.asarray(order) for order in inputs] if inputs is not None else None
            orders = orders or [straight] * sizes.blocks
            last = straight
            if self.output_permutation is not None:
                last = jnp.asarray(self.output_permutation)
            before = [inverse_permutation(order) for order in [last, *orders[:0:-1]]]
            after = inverse_permutation(orders[0])
        rows, columns = self.shape
        flips = not self.alternating or sizes.blocks % 2 == 1
        return dataclasses.replace(
            self,
            twiddle=butterfly_transpose(self.twiddle),
            permutation=None if before is None else jnp.stack(before),
            output_permutation=after,
            increasing_stride=self.increasing_stride ^ flips,
            in_features=rows,
            out_features=columns,
        )
