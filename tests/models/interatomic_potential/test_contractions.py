import itertools
import math

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers.models.interatomic_potential.contractions import (
    ClebschGordanContraction,
    symmetric_basis,
)
from structlayers.models.interatomic_potential.convolution import natural_paths
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
