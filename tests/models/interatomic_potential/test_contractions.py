import functools
import itertools
import math

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers.equivariant import gaunt, many_body_product
from structlayers.models.interatomic_potential.clebsch_gordan import (
    ClebschGordanContraction,
    symmetric_basis,
)
from structlayers.models.interatomic_potential.contractions import CONTRACTIONS
from structlayers.models.interatomic_potential.convolution import natural_paths
from structlayers.models.interatomic_potential.gaunt import (
    GauntContraction,
    VectorSignalContraction,
    gaunt_scales,
)
from tests.models.interatomic_potential.molecules import small_config


def _by_definition(contraction, a, species, powers):
    """Every coefficient times every product of components, one atom and channel at a time."""
    result = np.zeros((*a.shape[:2], (contraction.lmax_out + 1) ** 2))
    for power in range(1, powers + 1):
        basis = symmetric_basis(contraction.lmax, contraction.lmax_out, power)
        weights = np.asarray(contraction.weights[power - 1][...])
        used = np.abs(basis).reshape(len(basis), -1, basis.shape[-1]).max(axis=1) > 0
        for n, c, p in itertools.product(*map(range, (*a.shape[:2], len(basis)))):
            degree = math.isqrt(np.flatnonzero(used[p])[0])
            same = sum(used[:, degree**2]) if power > 1 else 1
            value = basis[p]
            for _ in range(power):
                value = np.tensordot(a[n, c], value, axes=(0, 0))
            result[n, c] += weights[species[n], c, p] * value / np.sqrt(same)
    return result


@pytest.mark.parametrize(("powers", "lmax_out"), [(1, 1), (2, 1), (3, 0), (3, 2), (4, 1)])
def test_contraction_by_definition(powers, lmax_out):
    rng = np.random.default_rng(powers)
    lmax = 1 if powers == 4 else 2
    with jax.enable_x64(True):
        config = small_config(correlation=powers, lmax=lmax, dtype=jnp.float64)
        contraction = ClebschGordanContraction(config, lmax_out, rngs=nnx.Rngs(2))
        a = rng.standard_normal((3, 2, (lmax + 1) ** 2))
        species = np.array([2, 0, 2])
        found = contraction(jnp.asarray(a), jnp.asarray(np.eye(3)[species]))
        wanted = _by_definition(contraction, a, species, powers)
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("lmax", "hidden"), [(2, 0), (3, 2)])
def test_paths_are_the_tensor_product(lmax, hidden):
    """The natural part of e3nn's tensor product, path by path, up to their order."""
    rng = np.random.default_rng(0)
    y, h = rng.standard_normal((lmax + 1) ** 2), rng.standard_normal((hidden + 1) ** 2)
    kept = [ir for _, ir in e3nn.s2_irreps(lmax)]
    with jax.enable_x64(True):
        wanted = e3nn.tensor_product(
            e3nn.IrrepsArray(e3nn.s2_irreps(lmax), jnp.asarray(y)),
            e3nn.IrrepsArray(e3nn.s2_irreps(hidden), jnp.asarray(h)),
            filter_ir_out=kept,
        ).regroup()
    paths = natural_paths(lmax, hidden)
    assert [mul for mul, _ in wanted.irreps] == list(paths.counts)
    found, place = np.einsum("i,j,ijq->q", y, h, paths.table), 0
    for degree, count in enumerate(paths.counts):
        size = count * (2 * degree + 1)
        rows = found[place : place + size].reshape(count, -1)
        other = np.asarray(wanted.array[place : place + size]).reshape(count, -1)
        np.testing.assert_allclose(
            sorted(rows.tolist()), sorted(other.tolist()), rtol=1e-9, atol=1e-12
        )
        place += size


@functools.cache
def _power_tensor(lmax, lmax_out, power):
    """Integrals of a product of harmonics, by a chain of Gaunt coefficients of two factors."""

    def size(degree):
        return (degree + 1) ** 2

    full = np.zeros((size(power * lmax), size(lmax), size(power * lmax)))
    for l1, l2, l3 in itertools.product(
        *(range(n + 1) for n in (power * lmax, lmax, power * lmax))
    ):
        block = [slice(k * k, (k + 1) ** 2) for k in (l1, l2, l3)]
        full[tuple(block)] = gaunt(l1, l2, l3)
    tensor = np.eye(size(lmax), size(power * lmax))
    for _ in range(power - 1):
        tensor = np.einsum("...i,ijk->...jk", tensor, full)
    return tensor[..., : size(lmax_out)]


@pytest.mark.parametrize("power", [1, 2, 3])
def test_scales_are_the_norms_of_the_coefficients(power):
    tensor = _power_tensor(2, 3, power)
    found = gaunt_scales(2, 3, power)[-1]
    for degree in range(4):
        block = tensor[..., degree**2 : (degree + 1) ** 2]
        norm = np.sum(block**2) / (2 * degree + 1)
        wanted = 0.0 if degree > 2 * power else norm**-0.5
        assert found[degree] == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize(("rank", "lmax_out"), [(1, 1), (3, 2)])
def test_gaunt_contraction_by_definition(rank, lmax_out):
    rng = np.random.default_rng(rank)
    with jax.enable_x64(True):
        config = small_config(dtype=jnp.float64)
        contraction = GauntContraction(config, lmax_out, rank=rank, rngs=nnx.Rngs(2))
        a = rng.standard_normal((3, 2, 9))
        species = np.array([2, 0, 2])
        found = contraction(jnp.asarray(a), jnp.asarray(np.eye(3)[species]))
        wanted = np.zeros_like(found)
        weights = np.asarray(contraction.weights[...])
        factors = np.ones((3, rank, 2, 3))
        if contraction.factors is not None:
            factors = np.asarray(contraction.factors[...])
        scales = gaunt_scales(2, lmax_out, 3)
        for n, r, c, p in itertools.product(range(3), range(rank), range(2), range(3)):
            signal = a[n, c] * np.repeat(factors[species[n], r, c], [1, 3, 5])
            value = _power_tensor(2, lmax_out, p + 1)
            for _ in range(p + 1):
                value = np.tensordot(signal, value, axes=(0, 0))
            weight = weights[species[n], r, c, p] * scales[p] / np.sqrt(rank)
            wanted[n, c] += np.repeat(weight, [2 * k + 1 for k in range(lmax_out + 1)]) * value
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11)


def test_gaunt_products_are_among_all_couplings():
    """Every power of the signal is a combination of the paths of the Clebsch-Gordan basis."""
    basis = symmetric_basis(2, 1, 3)
    rows = basis.reshape(len(basis), -1)
    for degree in range(2):
        tensor = np.zeros((9, 9, 9, 4))
        part = slice(degree**2, (degree + 1) ** 2)
        tensor[..., part] = _power_tensor(2, 1, 3)[..., part]
        weights = np.linalg.lstsq(rows.T, tensor.ravel())[0]
        np.testing.assert_allclose(weights @ rows, tensor.ravel(), atol=1e-10)


def test_vector_signal_couplings_are_not_gaunt_couplings():
    """Of degrees up to 2 the added term is none of the polynomials that powers of signals are."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        config = small_config(lmax=2, correlation=3, channels=1, dtype=jnp.float64)
        contraction = VectorSignalContraction(config, 2, rngs=nnx.Rngs(0))
        a = jnp.asarray(rng.standard_normal((40, 1, 9)))
        one_hot = jnp.asarray(np.eye(3)[np.zeros(40, int)])
        added = np.asarray(contraction(a, one_hot) - contraction.gaunt(a, one_hot))[:, 0, 4:]
        powers = np.asarray(many_body_product(a[:, 0], order=3, lmax=2))[:, :, 4:]
        rows = powers.transpose(0, 2, 1).reshape(-1, 3)
        rest = added.ravel() - rows @ np.linalg.lstsq(rows, added.ravel())[0]
        assert np.linalg.norm(rest) > 0.1 * np.linalg.norm(added) > 0
        # but it is among all couplings
        basis = symmetric_basis(2, 2, 3)[..., 4:]
        x = np.asarray(a[:, 0])
        rows = np.einsum("ni,nj,nk,pijkm->nmp", x, x, x, basis).reshape(-1, len(basis))
        rest = added.ravel() - rows @ np.linalg.lstsq(rows, added.ravel())[0]
        assert np.linalg.norm(rest) < 1e-9 * np.linalg.norm(added)


def test_vector_signal_needs_three_neighbours():
    with pytest.raises(ValueError, match="correlation must be at least 3, got 2"):
        VectorSignalContraction(small_config(correlation=2), 1, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", CONTRACTIONS)
@pytest.mark.parametrize("lmax_out", [0, 2])
def test_powers_count_less_by_the_power_scale(name, lmax_out):
    """`sum_nu s^(nu - 1) B_nu(A) = B(s A) / s`."""
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        plain, scaled = (
            CONTRACTIONS[name](
                small_config(lmax=2, correlation=3, dtype=jnp.float64, power_scale=scale),
                lmax_out,
                rngs=nnx.Rngs(2),
            )
            for scale in (1.0, 0.3)
        )
        a, one_hot = jnp.asarray(rng.standard_normal((3, 2, 9))), jnp.asarray(np.eye(3))
        found, wanted = scaled(a, one_hot), plain(0.3 * a, one_hot) / 0.3
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)
        assert np.abs(found - plain(a, one_hot)).max() > 0.01
