"""What holds in float64: values, agreement, derivatives, bilinearity, other products."""

from functools import partial
from itertools import combinations

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.equivariant.op_numerics.signals import (
    Measured,
    Measurement,
    Product,
    by_form,
    draw,
    largest,
)
from structlayers.equivariant import (
    clebsch_gordan_tensor_product,
    factor_path_weights,
    gaunt_tensor_product,
    many_body_product,
    tensor_product_paths,
    vector_signal_tensor_product,
)
from structlayers.equivariant.reference import many_body_product as exact_powers
from structlayers.equivariant.tables import dense_gaunt
from structlayers.equivariant.wigner import gaunt, wigner_3j
from structlayers.testing import error_ratio

_ORDERS = ("first", "second", "third")


def exact_cases(lmax: int, forms: tuple[str, ...]) -> dict[str, Measurement]:
    """Comparisons for all `L2 <= L1 <= lmax` and every L3."""
    degrees = range(lmax + 1)
    return {
        f"{a}_{b}_{c}": partial(_exactness, forms, (a, b, c))
        for a in degrees
        for b in degrees
        if b <= a
        for c in range(a + b + 1)
    }


def derivative_cases(degrees: tuple[int, ...], forms: tuple[str, ...]) -> dict[str, Measurement]:
    """Derivatives at every degree `L = L1 = L2 = L3`."""
    return {str(lmax): partial(_derivatives, forms, lmax) for lmax in degrees}


def other_cases(lmax: int, forms: tuple[str, ...]) -> dict[str, Measurement]:
    """Bilinearity, e3nn's coefficients, powers, vector signals."""
    return {
        **{f"linear_{form}": partial(_bilinearity, form) for form in forms},
        "e3nn": partial(_e3nn_coefficients, min(lmax, 4)),
        **{f"power_{order}": partial(_powers, 2, order) for order in (2, 3, 4)},
        "cross_product": _cross_product,
        **{f"path_weights_{n}": partial(_path_weights, n) for n in range(1, min(lmax, 4) + 1)},
    }


def _exactness(forms: tuple[str, ...], degrees: tuple[int, int, int]) -> Measured:
    """Largest difference of each form to exact coefficients, and of any two forms."""
    l1, l2, l3 = degrees
    x, y = draw(l1, l2, rows=4)
    wanted = np.einsum("ni,nj,ijk->nk", x, y, dense_gaunt(l1, l2, l3), optimize=True)
    with jax.enable_x64(True):
        every = jax.jit(lambda x, y: {form: by_form(form)(x, y, lmax=l3) for form in forms})
        found = {form: np.asarray(z) for form, z in every(x, y).items()}
    pairs = [one - two for one, two in combinations(found.values(), 2)]
    agreement = {"agreement": largest(pairs)} if pairs else {}
    return {form: largest([z - wanted]) for form, z in found.items()} | agreement


def _derivatives(forms: tuple[str, ...], lmax: int) -> Measured:
    """Relative errors of first, second and third derivatives of a cubic function of a product."""
    x, y, c = draw(lmax, lmax, lmax, rows=3)

    def derivatives(product: Product) -> list[list[np.ndarray]]:
        def loss(x: jax.Array, y: jax.Array) -> jax.Array:
            return jnp.vdot(product(x, y, lmax=lmax) ** 3, c)

        def first(x: jax.Array, y: jax.Array) -> jax.Array:
            gx, gy = jax.grad(loss, (0, 1))(x, y)
            return jnp.sum(jnp.sin(gx)) + jnp.sum(jnp.sin(gy))

        def second(x: jax.Array, y: jax.Array) -> jax.Array:
            gx, gy = jax.grad(first, (0, 1))(x, y)
            return jnp.sum(gx**2) + jnp.sum(gy**2)

        every = jax.jit(lambda x, y: [jax.grad(f, (0, 1))(x, y) for f in (loss, first, second)])
        return [[np.asarray(g) for g in pair] for pair in every(x, y)]

    with jax.enable_x64(True):
        table = jnp.asarray(dense_gaunt(lmax, lmax, lmax))

        def oracle(x: jax.Array, y: jax.Array, *, lmax: int) -> jax.Array:
            del lmax
            return jnp.einsum("ni,nj,ijk->nk", x, y, table, precision="highest")

        wanted = derivatives(oracle)
        found = [derivatives(by_form(form)) for form in forms]
    return {
        f"derivative_{name}": max(
            error_ratio(*pair)
            for form in found
            for pair in zip(form[order], wanted[order], strict=True)
        )
        for order, name in enumerate(_ORDERS)
    }


def _bilinearity(form: str) -> Measured:
    """Largest distance of products of sums from sums of products."""
    (x, y), (x2, y2) = draw(3, 2, rows=4), draw(3, 2, 0, rows=4)[:2]
    with jax.enable_x64(True):
        run = partial(by_form(form), lmax=4)
        left = run(2.5 * x - 0.75 * x2, y) - (2.5 * run(x, y) - 0.75 * run(x2, y))
        right = run(x, 2.5 * y - 0.75 * y2) - (2.5 * run(x, y) - 0.75 * run(x, y2))
        return {"bilinearity": largest([np.asarray(left), np.asarray(right)])}


def _e3nn_coefficients(lmax: int) -> Measured:
    """Largest difference of Gaunt tensors to e3nn's coupling tensors, scaled by 3j symbols."""
    worst = 0.0
    for path in tensor_product_paths(range(lmax + 1), range(lmax + 1), range(2 * lmax + 1)):
        size = np.prod([2 * degree + 1 for degree in path])
        factor = np.sqrt(size / (4 * np.pi)) * abs(wigner_3j(*path, 0, 0, 0))
        worst = max(worst, largest([gaunt(*path) - factor * e3nn.clebsch_gordan(*path)]))
    return {"e3nn_coefficients": worst}


def _powers(lmax: int, order: int) -> Measured:
    """Relative error of powers of a signal, against products path by path."""
    (x,) = draw(lmax, rows=3)
    with jax.enable_x64(True):
        found = np.asarray(many_body_product(x, order=order, lmax=lmax))[:, 1:]
        wanted = np.asarray(exact_powers(jnp.asarray(x), order=order, lmax=lmax))
    return {f"power{order}": error_ratio(found, wanted)}


def _cross_product() -> Measured:
    """Relative error of the product of vector signals of degree 1 to degree 1."""
    x, y = draw(1, 1)
    x[:, 0] = y[:, 0] = 0
    with jax.enable_x64(True):
        z = np.asarray(vector_signal_tensor_product(x, y, lmax=1, implementation="xla"))
    wanted = np.cross(x[:, 1:], y[:, 1:]) / np.sqrt(4 * np.pi)
    return {"cross_product": error_ratio(z[:, 1:], wanted)}


def _path_weights(lmax: int) -> Measured:
    """Relative error of sums of scalar and vector products as a product with path weights."""
    x, y = draw(lmax, lmax, rows=3)
    paths = tensor_product_paths(*[range(lmax + 1)] * 3)
    weights = np.random.default_rng(lmax).standard_normal(len(paths))
    even, odd = factor_path_weights(weights, lmax, lmax, lmax)
    with jax.enable_x64(True):
        wanted = clebsch_gordan_tensor_product(x, y, weights=weights, lmax=lmax)
        rows = x[:, None], y[:, None]
        options = {"lmax": lmax, "implementation": "xla"}
        z = gaunt_tensor_product(*rows, weights=even, **options).sum(1)
        z = z + vector_signal_tensor_product(*rows, weights=odd, **options).sum(1)
    return {"path_weights": error_ratio(z, wanted)}
