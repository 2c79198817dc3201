"""Clebsch-Gordan layers: the channel-wise product, message passing, the symmetric contraction."""

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core.checks import require_positive
from structlayers._core.layers import PromoteDtype, require_real_dtype
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.equivariant.layers._base import IrrepsLike, require_irreps, take_species
from structlayers.equivariant.layers.irreps_linear import IrrepsLinear
from structlayers.equivariant.ops.arguments import check_indices, take_rows
from structlayers.equivariant.ops.clebsch_gordan import (
    clebsch_gordan_tensor_product,
    irreps_paths,
)
from structlayers.equivariant.ops.edges import blank_edges, check_mask, sum_messages
from structlayers.equivariant.ops.operands import common_multiplicity, require_channels
from structlayers.equivariant.ops.symmetric_contraction import (
    symmetric_contraction,
    symmetric_path_counts,
)

default_weights_init = nnx.initializers.normal(1.0)

# keeps the second moment of normal inputs
_SILU_GAIN = 1.6765


class ClebschGordanTensorProduct(nnx.Module):
    r"""Product of two irreps arrays channel by channel, a weight for each path and channel.

    .. math:: z^{(l_3)}_c = \sum_p w_{c p} \, C^p(x^{(l_1)}_c, y^{(l_2)}_c) / \sqrt{P_{l_3}}

    The twin of `GauntTensorProduct` with all paths and parities; P are the paths to one irrep.

    Args:
        irreps1: of the first factor, of one multiplicity C.
        irreps2: of the second, of the multiplicity C or 1.
        irreps_out: irreps to keep; None keeps all.
        lmax: largest degree to keep; None keeps all.
        dtype: the dtype of the computation; None is inferred from inputs and parameters.
        param_dtype: real dtype of the weights.
        precision: of the products; None is the highest.
        weights_init: initializer of the weights, `(C, P)`.
        promote_dtype: casts the tuple of inputs and parameters to `dtype`.
        implementation: of `clebsch_gordan_tensor_product`; None chooses.
        rngs: random keys; `params` is used.
        weights_metadata: metadata of the weights, such as `out_sharding`.

    Raises:
        ValueError: multiplicities that differ, or nothing left to compute.
        TypeError: `param_dtype` is not real floating point.

    Example:
        >>> layer = ClebschGordanTensorProduct("4x0e + 4x1o", "4x1o", lmax=1, rngs=nnx.Rngs(0))
        >>> layer.irreps_out, layer.weights.shape
        (4x0e+4x1o+4x1e, (4, 3))
    """

    def __init__(
        self,
        irreps1: IrrepsLike,
        irreps2: IrrepsLike,
        irreps_out: IrrepsLike | None = None,
        *,
        lmax: int | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        weights_init: Initializer = default_weights_init,
        promote_dtype: PromoteDtype = dtypes.promote_dtype,
        implementation: str | None = None,
        rngs: nnx.Rngs,
        weights_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.irreps1, self.irreps2 = (e3nn.Irreps(i).regroup() for i in (irreps1, irreps2))
        channels = [
            common_multiplicity(name, irreps)
            for name, irreps in (("irreps1", self.irreps1), ("irreps2", self.irreps2))
        ]
        require_real_dtype("param_dtype", param_dtype)
        canonicalize_precision(precision)
        require_channels(*channels)
        kept, paths = irreps_paths(self.irreps1, self.irreps2, irreps_out, lmax=lmax)
        self.irreps_out = e3nn.Irreps([(max(channels), ir) for ir in kept])
        self.lmax, self.dtype, self.precision = lmax, dtype, precision
        self.promote_dtype, self.implementation = promote_dtype, implementation
        self.paths_to = tuple(sum(k == out for _, _, k in paths) for out in range(len(kept)))
        self.weights = nnx.Param(
            weights_init(rngs.params(), (max(channels), len(paths)), param_dtype),
            **weights_metadata,
        )

    def __call__(self, x: e3nn.IrrepsArray, y: e3nn.IrrepsArray) -> e3nn.IrrepsArray:
        """The product.

        Args:
            x: `(*B, irreps1)`.
            y: `(*B, irreps2)`.

        Returns:
            `(*B, irreps_out)`.

        Raises:
            ValueError: other irreps.
        """
        x = require_irreps("x", x, self.irreps1)
        y = require_irreps("y", y, self.irreps2)
        with jax.named_scope("structlayers.ClebschGordanTensorProduct"):
            arrays = (x.array, y.array, self.weights[...])
            first, second, weights = self.promote_dtype(arrays, dtype=self.dtype)
            norms = jnp.asarray([n**-0.5 for n in self.paths_to for _ in range(n)], weights.dtype)
            return clebsch_gordan_tensor_product(
                e3nn.IrrepsArray(x.irreps, first),
                e3nn.IrrepsArray(y.irreps, second),
                weights=weights * norms[None],
                irreps_out=self.irreps_out,
                lmax=self.lmax,
                precision=self.precision,
                implementation=self.implementation,
            )


class ClebschGordanConvolution(nnx.Module):
    r"""Message passing: products of the senders' features with the harmonics of the edges.

    .. math:: y_i = \mathrm{Linear}\Big(\frac{1}{\sqrt{n}} \sum_{j \to i}
        R_{c p}(r_{i j}) \, C^p(x_{j c}, Y(\hat r_{i j}))\Big)

    R is a small network of the radial features, one output for every channel and path; paths are
    kept apart until the linear layer mixes them, as in NequIP and MACE.

    Args:
        irreps_in: of the nodes, of one multiplicity C.
        irreps_edges: of the edges' harmonics, of multiplicity 1.
        irreps_out: of the result.
        radial_features: number of radial features of an edge.
        radial_hidden: sizes of the hidden layers of R.
        num_neighbors: n, the mean number of senders of a node.
        dtype: the dtype of the computation; None is inferred from inputs and parameters.
        param_dtype: real dtype of the parameters.
        precision: of the products; None is the highest.
        implementation: of `clebsch_gordan_tensor_product`; None chooses.
        rngs: random keys; `params` is used.

    Raises:
        ValueError: multiplicities that do not fit, or an irrep that no path leads to.
        TypeError: `param_dtype` is not real floating point.

    Example:
        >>> layer = ClebschGordanConvolution(
        ...     "4x0e", "0e + 1o", "4x0e + 4x1o", radial_features=8, rngs=nnx.Rngs(0))
        >>> nodes, edges = e3nn.IrrepsArray("4x0e", jnp.ones((3, 4))), jnp.ones((2, 4))
        >>> senders, receivers = jnp.array([0, 1]), jnp.array([1, 2])
        >>> harmonics = e3nn.IrrepsArray("0e + 1o", edges)
        >>> layer(nodes, harmonics, jnp.ones((2, 8)), senders, receivers).shape
        (3, 16)

    References:
        Batzner et al., "E(3)-equivariant graph neural networks for data-efficient and accurate
        interatomic potentials", 2022, arXiv:2101.03164; Batatia, Kovacs, Simm, Ortner, Csanyi,
        "MACE", 2022, arXiv:2206.07697, on the features A.
    """

    def __init__(
        self,
        irreps_in: IrrepsLike,
        irreps_edges: IrrepsLike,
        irreps_out: IrrepsLike,
        *,
        radial_features: int,
        radial_hidden: Sequence[int] = (64, 64),
        num_neighbors: float = 1.0,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        implementation: str | None = None,
        rngs: nnx.Rngs,
    ):
        self.irreps_in, self.irreps_edges, self.irreps_out = (
            e3nn.Irreps(irreps).regroup() for irreps in (irreps_in, irreps_edges, irreps_out)
        )
        self.channels = common_multiplicity("irreps_in", self.irreps_in)
        if common_multiplicity("irreps_edges", self.irreps_edges) != 1:
            raise ValueError(f"irreps_edges must have multiplicity 1, got {irreps_edges}")
        if not num_neighbors > 0:
            raise ValueError(f"num_neighbors must be positive, got {num_neighbors}")
        self.num_neighbors = num_neighbors
        self.dtype, self.precision, self.implementation = dtype, precision, implementation
        kept, paths = irreps_paths(self.irreps_in, self.irreps_edges, self.irreps_out)
        self.num_paths = len(paths)
        sizes = (
            require_positive("radial_features", radial_features),
            *radial_hidden,
            self.channels * self.num_paths,
        )
        options: dict[str, Any] = {
            "dtype": dtype,
            "param_dtype": param_dtype,
            "precision": canonicalize_precision(precision),
            "rngs": rngs,
        }
        self.radial = nnx.List(
            nnx.Linear(before, after, use_bias=False, **options)
            for before, after in itertools.pairwise(sizes)
        )
        self.mix = IrrepsLinear(
            e3nn.Irreps([(self.channels, kept[k]) for _, _, k in paths]),
            self.irreps_out,
            **options,
        )

    def __call__(
        self,
        nodes: e3nn.IrrepsArray,
        harmonics: e3nn.IrrepsArray,
        radial: ArrayLike,
        senders: ArrayLike,
        receivers: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        indices_are_sorted: bool = False,
    ) -> e3nn.IrrepsArray:
        """Sums the messages of every node.

        Args:
            nodes: `(N, irreps_in)`.
            harmonics: `(E, irreps_edges)`.
            radial: `(E, radial_features)`; where they are zero, there is no message.
            senders: integers `(E,)`, from 0 to N - 1. Under `jax.jit` others cannot be refused:
                their messages are NaN.
            receivers: integers `(E,)`, from 0 to N - 1. Under `jax.jit` another makes the whole
                result NaN.
            mask: bool `(E,)`, False for edges that only fill up; their harmonics and radial
                features may be anything.
            indices_are_sorted: whether receivers do not decrease.

        Returns:
            `(N, irreps_out)`.

        Raises:
            ValueError: other irreps, sizes that differ, or known indices out of range.
            TypeError: indices that are no integers, or a mask that is not bool.
        """
        nodes = require_irreps("nodes", nodes, self.irreps_in)
        harmonics = require_irreps("harmonics", harmonics, self.irreps_edges)
        edges = harmonics.shape[0]
        radial, senders, receivers = map(jnp.asarray, (radial, senders, receivers))
        if senders.shape != (edges,) or receivers.shape != (edges,) or radial.shape[0] != edges:
            raise ValueError(
                f"harmonics, radial, senders and receivers must have as many rows, got {edges}, "
                f"{radial.shape[0]}, {senders.shape} and {receivers.shape}"
            )
        senders = check_indices("senders", senders, nodes.shape[0], (edges,))
        receivers = check_indices("receivers", receivers, nodes.shape[0], (edges,))
        keep = None if mask is None else check_mask(mask, edges)
        radial, senders = blank_edges(radial, keep), blank_edges(senders, keep)
        with jax.named_scope("structlayers.ClebschGordanConvolution"):
            for linear in self.radial[:-1]:
                radial = _SILU_GAIN * jax.nn.silu(linear(radial))
            weights = self.radial[-1](radial).reshape(edges, self.channels, self.num_paths)
            messages = clebsch_gordan_tensor_product(
                e3nn.IrrepsArray(nodes.irreps, take_rows(nodes.array, senders)),
                e3nn.IrrepsArray(harmonics.irreps, blank_edges(harmonics.array, keep)),
                weights=weights,
                irreps_out=self.irreps_out,
                sum_paths=False,
                precision=self.precision,
                implementation=self.implementation,
            )
            rows = messages.array
            sums = sum_messages(
                rows, receivers, nodes.shape[0], keep, indices_are_sorted=indices_are_sorted
            )
            scaled = (sums * self.num_neighbors**-0.5).astype(rows.dtype)
            return self.mix(e3nn.IrrepsArray(messages.irreps, scaled))


class SymmetricContraction(nnx.Module):
    r"""Equivariant polynomials of every channel up to an order, with weights of each species.

    .. math:: y_{i c} = \sum_{\nu \le n} \sum_p w^{\nu}_{s_i c p} \, U^{\nu p}(x_{i c}, .., x_{i c})

    The many-body product of MACE, and the twin of `GauntManyBody`.

    Args:
        irreps_in: of the inputs, of one multiplicity C.
        irreps_out: of the result; multiplicities are C.
        order: n, the largest power.
        num_species: with a number, weights for each species, chosen by an index.
        dtype: the dtype of the computation; None is inferred from inputs and parameters.
        param_dtype: real dtype of the weights.
        precision: of the products; None is the highest.
        promote_dtype: casts the tuple of inputs and parameters to `dtype`.
        rngs: random keys; `params` is used.
        weights_metadata: metadata of the weights, such as `out_sharding`.

    Raises:
        ValueError: multiplicities that differ.
        TypeError: `param_dtype` is not real floating point.

    Example:
        >>> layer = SymmetricContraction(
        ...     "4x0e + 4x1o", "4x0e", order=3, num_species=2, rngs=nnx.Rngs(0))
        >>> [w.shape for w in layer.weights]
        [(2, 4, 1), (2, 4, 2), (2, 4, 2)]

    References:
        Batatia, Kovacs, Simm, Ortner, Csanyi, "MACE", 2022, arXiv:2206.07697, equation 10.
    """

    def __init__(
        self,
        irreps_in: IrrepsLike,
        irreps_out: IrrepsLike,
        *,
        order: int,
        num_species: int | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        promote_dtype: PromoteDtype = dtypes.promote_dtype,
        rngs: nnx.Rngs,
        weights_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.irreps_in = e3nn.Irreps(irreps_in).regroup()
        channels = common_multiplicity("irreps_in", self.irreps_in)
        self.irreps_out = e3nn.Irreps(
            [(channels, ir) for _, ir in e3nn.Irreps(irreps_out).regroup()]
        )
        require_real_dtype("param_dtype", param_dtype)
        self.num_species = (
            None if num_species is None else require_positive("num_species", num_species)
        )
        self.dtype, self.promote_dtype = dtype, promote_dtype
        self.precision = canonicalize_precision(precision)
        lead = (channels,) if self.num_species is None else (self.num_species, channels)
        counts = symmetric_path_counts(self.irreps_in, self.irreps_out, order)
        self.weights = nnx.List(
            nnx.Param(
                jax.random.normal(rngs.params(), (*lead, count), param_dtype)
                / max(count, 1) ** 0.5,
                **weights_metadata,
            )
            for count in counts
        )

    def __call__(
        self, inputs: e3nn.IrrepsArray, species: ArrayLike | None = None
    ) -> e3nn.IrrepsArray:
        """The polynomials of every row.

        Args:
            inputs: `(*B, irreps_in)`.
            species: int `(*B,)`, in `[0, num_species)`, where there are species. Under `jax.jit`
                an index out of range cannot be refused: its row is NaN.

        Returns:
            `(*B, irreps_out)`.

        Raises:
            ValueError: other irreps; species missing, given where there are none, or out of range.
        """
        inputs = require_irreps("inputs", inputs, self.irreps_in)
        with jax.named_scope("structlayers.SymmetricContraction"):
            weights = [take_species(w[...], species, self.num_species) for w in self.weights]
            array, *weights = self.promote_dtype((inputs.array, *weights), dtype=self.dtype)
            return symmetric_contraction(
                e3nn.IrrepsArray(inputs.irreps, array),
                weights,
                irreps_out=self.irreps_out,
                precision=self.precision,
            )
