"""The gated nonlinearity: scalars by an activation, the rest multiplied by scalars."""

from collections.abc import Callable

import e3nn_jax as e3nn
import jax
from flax import nnx

from structlayers.equivariant.layers._base import IrrepsLike, require_irreps


class Gate(nnx.Module):
    """Activates scalars; multiplies every other irrep by an activated scalar of its own.

    Activations are scaled to keep the second moment of normal inputs. Odd scalars, `0o`, take odd
    functions, gates are even scalars.

    Args:
        irreps_out: of the outputs.
        even_act: of even scalars.
        odd_act: of odd scalars, an odd function.
        gate_act: of the gates.

    Example:
        >>> gate = Gate("8x0e + 4x1o")
        >>> gate.irreps_in, gate(e3nn.normal(gate.irreps_in, jax.random.key(0), (5,))).irreps
        (12x0e+4x1o, 8x0e+4x1o)

    References:
        Weiler, Geiger, Welling, Boomsma, Cohen, "3D Steerable CNNs: Learning Rotationally
        Equivariant Features in Volumetric Data", 2018, arXiv:1807.02547, section 4.3.
    """

    def __init__(
        self,
        irreps_out: IrrepsLike,
        *,
        even_act: Callable[[jax.Array], jax.Array] = jax.nn.silu,
        odd_act: Callable[[jax.Array], jax.Array] = jax.numpy.tanh,
        gate_act: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid,
    ):
        self.irreps_out = e3nn.Irreps(irreps_out).regroup()
        self.gates = sum(mul for mul, ir in self.irreps_out if ir.l > 0)
        self.even_act, self.odd_act, self.gate_act = even_act, odd_act, gate_act

    @property
    def irreps_in(self) -> e3nn.Irreps:
        """Of the inputs: those of the outputs, and a `0e` for every irrep that is no scalar."""
        return (e3nn.Irreps(f"{self.gates}x0e") + self.irreps_out).regroup()

    def __call__(self, inputs: e3nn.IrrepsArray) -> e3nn.IrrepsArray:
        """Applies the gate.

        Args:
            inputs: `(*B, irreps_in)`.

        Returns:
            `(*B, irreps_out)`.

        Raises:
            ValueError: other irreps.
        """
        inputs = require_irreps("inputs", inputs, self.irreps_in)
        with jax.named_scope("structlayers.Gate"):
            scalars, rest = (
                inputs.filter(keep=e3nn.Irreps("0e")),
                inputs.filter(drop=e3nn.Irreps("0e")),
            )
            odd, tensors = rest.filter(keep=e3nn.Irreps("0o")), rest.filter(drop=e3nn.Irreps("0o"))
            kept = scalars.irreps.dim - self.gates
            parts = [
                e3nn.scalar_activation(scalars.slice_by_mul[:kept], even_act=self.even_act),
                e3nn.scalar_activation(odd, odd_act=self.odd_act),
            ]
            if self.gates:
                gates = e3nn.scalar_activation(scalars.slice_by_mul[kept:], even_act=self.gate_act)
                parts.append(gates * tensors)
            return e3nn.concatenate(parts).regroup()
