r"""What a bilinear product can express, measured: paths, interactions, degrees of freedom.

Every equivariant bilinear map is a sum over paths, `sum_p W_p C_p(x, y)`: a vector W of as many
numbers as there are paths. A product with weights reaches some set of such vectors. Its
*interactions* are the paths where W can differ from zero, its *degrees of freedom* the dimension of
the set, which is the rank of `dW / dweights` at a general point, and its *span* the dimension of
the space that the set spans. All are read off measured maps: no product is taken at its word.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structlayers._core.checks import require_choice
from structlayers.equivariant.paths import Path, tensor_product_paths
from structlayers.equivariant.wigner import clebsch_gordan, require_degree

type Degrees = tuple[int, ...]
type Product = Callable[[Any, jax.Array, jax.Array], jax.Array]

SETTINGS = ("siso", "simo", "mimo")
_TOLERANCE = 1e-9


def setting_degrees(setting: str, lmax: int) -> tuple[Degrees, Degrees, Degrees]:
    """Degrees of both factors and the product in the settings of the published benchmarks.

    Args:
        setting: "siso" (single input, single output), L x L to L; "simo", L x L to 0..2 L;
            "mimo" (multiple), 0..L x 0..L to 0..2 L.
        lmax: L.

    Returns:
        Degrees of the first factor, the second, and the product.

    Raises:
        ValueError: another setting, or a negative degree.

    Example:
        >>> setting_degrees("simo", 1)
        ((1,), (1,), (0, 1, 2))

    References:
        Xie, Daigavane, Kotak, Smidt, "The Price of Freedom: Exploring Expressivity and Runtime
        Tradeoffs in Equivariant Tensor Products", 2025, arXiv:2506.13523.
    """
    lmax = require_degree("lmax", lmax)
    require_choice("setting", setting, SETTINGS)
    up_to = tuple(range(lmax + 1))
    factor = up_to if setting == "mimo" else (lmax,)
    return factor, factor, (lmax,) if setting == "siso" else tuple(range(2 * lmax + 1))


@dataclasses.dataclass(frozen=True)
class Expressivity:
    """What a product was found to express.

    Attributes:
        paths: all paths between the degrees.
        interactions: those that the product has.
        degrees_of_freedom: dimension of the set of maps that its weights reach.
        span: dimension of the space spanned by these maps.
        remainder: of the map that is no sum over paths, relative; a rounding error for every
            product that is equivariant under rotations.
    """

    paths: tuple[Path, ...]
    interactions: tuple[Path, ...]
    degrees_of_freedom: int
    span: int
    remainder: float


def expressivity_report(
    product: Product,
    weights: Any,
    degrees1: Sequence[int],
    degrees2: Sequence[int],
    degrees3: Sequence[int],
    *,
    seed: int = 0,
) -> Expressivity:
    """Measures a bilinear product in float64, at random weights of order one.

    What is below 1e-9 counts as zero, so the product's own factors must be of order one, too.

    Args:
        product: function of weights, x `(B, (L1 + 1)^2)` and y `(B, (L2 + 1)^2)`, that returns
            `(B, (L3 + 1)^2)` or more; linear in x and in y.
        weights: pytree of `jax.ShapeDtypeStruct` or arrays, of which the shapes count; without
            leaves, the product has no degree of freedom.
        degrees1: degrees of x that are not zero; L1 is the largest.
        degrees2: of y.
        degrees3: of the product that are looked at.
        seed: of the random weights.

    Returns:
        The report.

    Raises:
        ValueError: degrees that are negative, not there or there twice; a product of another shape,
            or one that is not linear in x and in y.
        ArithmeticError: a singular value that is neither zero nor clearly not.

    Example:
        >>> from structlayers.equivariant.ops.vector_signal import vector_signal_tensor_product
        >>> def product(weights, x, y):
        ...     return vector_signal_tensor_product(x, y, weights=weights)
        >>> weights = (jnp.zeros(2), jnp.zeros(2), jnp.zeros(3))
        >>> report = expressivity_report(product, weights, (0, 1), (0, 1), (0, 1, 2))
        >>> report.interactions, report.degrees_of_freedom, len(report.paths)
        (((1, 1, 1),), 1, 6)

    References:
        Xie, Daigavane, Kotak, Smidt, "The Price of Freedom: Exploring Expressivity and Runtime
        Tradeoffs in Equivariant Tensor Products", 2025, arXiv:2506.13523, which counts
        `4 L + 1` degrees of freedom of a product of signals in the setting "mimo".
    """
    for name, degrees in (("1", degrees1), ("2", degrees2), ("3", degrees3)):
        if not degrees or min(degrees) < 0 or len(set(degrees)) != len(degrees):
            raise ValueError(f"degrees{name} must differ and be at least 0, got {tuple(degrees)}")
    paths = tensor_product_paths(degrees1, degrees2, degrees3)
    leaves, structure = jax.tree.flatten(weights)
    shapes = [tuple(leaf.shape) for leaf in leaves]
    sizes = [int(np.prod(shape)) for shape in shapes]
    with jax.enable_x64(True):
        tensors = _coupling_tensors(paths, degrees1, degrees2, degrees3)
        x, y = _pairs(degrees1, degrees2)

        def multiply(
            flat: jax.Array, x: jax.Array | np.ndarray, y: jax.Array | np.ndarray
        ) -> jax.Array:
            """The degrees of the product that are looked at, of some rows."""
            cut = jnp.split(flat, np.cumsum(sizes)[:-1]) if sizes else []
            shaped = [part.reshape(shape) for part, shape in zip(cut, shapes, strict=True)]
            z = product(jax.tree.unflatten(structure, shaped), jnp.asarray(x), jnp.asarray(y))
            needed = (max(degrees3) + 1) ** 2
            if z.ndim != 2 or z.shape[0] != len(x) or z.shape[1] < needed:
                raise ValueError(
                    f"product must return ({len(x)}, {needed}) or more, one row for each of x and "
                    f"y and all degrees to {max(degrees3)}, got {z.shape}"
                )
            return jnp.concatenate([z[:, degree_slice(degree)] for degree in degrees3], axis=1)

        def bilinear(flat: jax.Array) -> jax.Array:
            """The whole map at some weights, `(d1 d2, d3)`."""
            return multiply(flat, x, y)

        def coordinates(flat: jax.Array) -> jax.Array:
            """W: the map's component along every path."""
            return jnp.einsum("rk,prk->p", bilinear(flat), tensors)

        rng = np.random.default_rng(seed)
        draws = rng.uniform(0.5, 1.5, (len(paths) + 3, sum(sizes)))
        draws = jnp.asarray(draws * rng.choice([-1, 1], draws.shape))
        found = np.asarray(jax.jit(lambda draws: jax.lax.map(coordinates, draws))(draws))
        jacobian = np.asarray(jax.jit(jax.jacfwd(coordinates))(draws[0]))
        whole = np.asarray(jax.jit(bilinear)(draws[0]))
        # at pairs of vectors that are no basis vectors
        first, second = (rng.standard_normal((5, len(v))) @ v for v in (x, y))
        general = np.asarray(jax.jit(multiply)(draws[0], first, second))
    _check_bilinear(general, (first @ x.T) * (second @ y.T), whole)
    rest = whole - np.einsum("p,prk->rk", found[0], tensors)
    size = np.linalg.norm(whole)
    kept = np.abs(found).max(0) > _TOLERANCE
    return Expressivity(
        paths,
        tuple(path for path, keep in zip(paths, kept, strict=True) if keep),
        _rank(jacobian),
        _rank(found),
        float(np.linalg.norm(rest) / size) if size > _TOLERANCE else 0.0,
    )


def degree_weight_freedom(paths: Sequence[Path]) -> int:
    r"""Degrees of freedom of a product with a weight for each degree of both factors and itself.

    Its path weights are `w1(l1) w2(l2) w3(l3)` times a number. Where none is zero the rank of their
    derivative is that of the matrix that says which degrees a path has.

    Args:
        paths: triples (l1, l2, l3) that the product has.

    Returns:
        The rank.

    Example:
        >>> paths = tensor_product_paths(range(3), range(3), range(5), couplings="even")
        >>> degree_weight_freedom(paths)  # 4 L + 1
        9
    """
    columns = sorted({(side, degree) for path in paths for side, degree in enumerate(path)})
    found = np.zeros((len(paths), len(columns)))
    for row, path in zip(found, paths, strict=True):
        row[[columns.index(column) for column in enumerate(path)]] = 1
    return _rank(found)


def degree_slice(degree: int) -> slice:
    """Where the coefficients of a degree are.

    Example:
        >>> degree_slice(1)
        slice(1, 4, None)
    """
    return slice(degree**2, (degree + 1) ** 2)


def _check_bilinear(found: np.ndarray, coefficients: np.ndarray, whole: np.ndarray) -> None:
    """Compares a product at general vectors with its values at pairs of basis vectors."""
    wanted = coefficients @ whole
    off, size = np.linalg.norm(found - wanted), np.linalg.norm(found) + np.linalg.norm(wanted)
    if not off <= 1e-5 * size:
        raise ValueError(
            f"product must be linear in x and in y: off by {off / size:.1e} at random vectors"
        )


def _pairs(degrees1: Sequence[int], degrees2: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of basis vectors of the two factors, one pair a row."""
    first, second = (
        np.concatenate(
            [np.eye((max(degrees) + 1) ** 2)[degree_slice(degree)] for degree in degrees]
        )
        for degrees in (degrees1, degrees2)
    )
    return np.repeat(first, len(second), axis=0), np.tile(second, (len(first), 1))


def _coupling_tensors(
    paths: Sequence[Path],
    degrees1: Sequence[int],
    degrees2: Sequence[int],
    degrees3: Sequence[int],
) -> np.ndarray:
    """For each path, its tensor of norm 1, `(P, d1 d2, d3)` on the rows of `_pairs`."""
    starts = [
        dict(zip(degrees, np.cumsum([0, *(2 * degree + 1 for degree in degrees)]), strict=False))
        for degrees in (degrees1, degrees2, degrees3)
    ]
    sizes = [
        sum(2 * degree + 1 for degree in degrees) for degrees in (degrees1, degrees2, degrees3)
    ]
    tensors = np.zeros((len(paths), *sizes))
    for tensor, path in zip(tensors, paths, strict=True):
        block = tuple(
            slice(start[degree], start[degree] + 2 * degree + 1)
            for degree, start in zip(path, starts, strict=True)
        )
        tensor[block] = clebsch_gordan(*path)
    return tensors.reshape(len(paths), -1, sizes[2])


def _rank(matrix: np.ndarray) -> int:
    """Numerical rank of a float64 matrix whose singular values are of order one, or zero.

    Raises:
        ArithmeticError: a singular value within a factor 100 of the bound between both.
    """
    if matrix.size == 0:
        return 0
    values = np.linalg.svd(matrix, compute_uv=False)
    bound = _TOLERANCE * max(values[0], 1)
    unclear = values[(values > bound / 100) & (values < bound * 100)]
    if len(unclear):
        raise ArithmeticError(
            f"singular value {unclear[0]:.2e} is neither zero nor not, beside {values[0]:.2e}"
        )
    return int(np.sum(values > bound))
