"""What the linear layers of the family share: options, bias, promotion, call."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core import layers as _core
from structlayers._core.checks import require_positive
from structlayers._core.precision import PrecisionLike, canonicalize_precision


class StructuredLinear(nnx.Module):
    """A structured matrix in place of the kernel of `flax.nnx.Linear`.

    A subclass makes its parameters, named in `WEIGHTS`, and defines `_multiply` and `_to_dense`.
    """

    WEIGHTS: tuple[str, ...] = ()

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool,
        dtype: Dtype | None,
        param_dtype: Dtype,
        precision: PrecisionLike,
        bias_init: Initializer,
        promote_dtype: _core.PromoteDtype,
        implementation: str | None,
        rngs: nnx.Rngs,
        bias_metadata: Mapping[str, Any],
    ):
        self.in_features = require_positive("in_features", in_features)
        self.out_features = require_positive("out_features", out_features)
        _core.require_real_dtype("param_dtype", param_dtype)
        canonicalize_precision(precision)
        self.use_bias = use_bias
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.promote_dtype = promote_dtype
        self.implementation = implementation
        self.bias: nnx.Param[jax.Array] | None
        if use_bias:
            self.bias = nnx.Param(
                bias_init(rngs.params(), (out_features,), param_dtype), **bias_metadata
            )
        else:
            self.bias = nnx.data(None)

    def _weights(self) -> list[ArrayLike]:
        return [getattr(self, name)[...] for name in self.WEIGHTS]

    def _multiply(self, x: jax.Array, *weights: ArrayLike) -> jax.Array:
        raise NotImplementedError

    def _to_dense(self, *weights: ArrayLike) -> jax.Array:
        raise NotImplementedError

    def __call__(self, inputs: ArrayLike, out_sharding: Any = None) -> jax.Array:
        """Applies the layer along the last axis.

        Args:
            inputs: `(*B, in_features)`, real or complex.
            out_sharding: sharding of the result, on a mesh of explicit axes.

        Returns:
            `(*B, out_features)` in the promoted dtype.

        Raises:
            ValueError: the last axis is not `in_features` long.
        """
        _core.require_features("inputs", inputs, self.in_features)
        with jax.named_scope(f"structlayers.{type(self).__name__}"):
            bias = None if self.bias is None else self.bias[...]
            parts = (inputs, *self._weights(), bias)
            x, *weights, bias = self.promote_dtype(parts, dtype=self.dtype)
            outputs = self._multiply(x, *weights)
            return _core.reshard(_core.add_bias(outputs, bias), out_sharding)

    def dense_kernel(self) -> jax.Array:
        """The kernel `(in_features, out_features)` of the `nnx.Linear` that computes the same."""
        return self._to_dense(*self._weights())[:, : self.in_features].T

    def _replace_weights(self, *values: jax.Array) -> None:
        """Sets the parameters, in the order of `WEIGHTS`, cast to their dtypes."""
        for name, value in zip(self.WEIGHTS, values, strict=True):
            param = getattr(self, name)
            param[...] = value.astype(param.dtype)


def from_linear_settings(linear: nnx.Linear) -> dict[str, Any]:
    """Options of a layer whose weights are replaced after it is made from a dense one.

    Raises:
        TypeError: the kernel is complex.
    """
    _core.require_real_dtype("the kernel of linear", linear.param_dtype)
    zeros = nnx.initializers.zeros
    return {**_core.linear_options(linear), "kernel_init": zeros, "rngs": nnx.Rngs(0)}


def normal_init(variance: float) -> Initializer:
    """Independent normal entries of mean zero."""
    return nnx.initializers.normal(variance**0.5)
