"""Muon of a potential's matrices: orthogonal updates, optax's own by array, and training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.potential.muon import scale_by_muon
from experiments.seeds import ParameterVector
from structlayers.models.interatomic_potential import (
    InteratomicPotential,
    InteratomicPotentialConfig,
)

CHANNELS, INNER = 6, 5


@pytest.fixture(autouse=True)
def as_in_a_run():
    """Optax mixes dtypes, which runs allow."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def vector_of(contraction):
    config = InteratomicPotentialConfig(
        (1, 8),
        channels=CHANNELS,
        lmax=2,
        hidden_lmax=1,
        contraction=contraction,
        num_bessel=3,
        radial_features=(INNER, INNER),
        readout_features=4,
    )
    return ParameterVector(lambda key: InteratomicPotential(config, rngs=nnx.Rngs(key)))


def updates_of(transformation, gradients):
    """The last of some steps."""

    def run(gradients):
        state, found = transformation.init(gradients[0]), None
        for gradient in gradients:
            found, state = transformation.update(gradient, state)
        return found

    return jax.jit(run)(gradients)


def gradients_of(vector, count=3):
    return [jax.random.normal(jax.random.key(i), (vector.size,)) for i in range(count)]


def of_matrices(tree):
    """The matrices `(n, rows, columns)` of a potential, written out by name."""
    first, second = tree["interactions"][0], tree["interactions"][1]
    found = [tree["radial"]["kernels"][1]]
    for layer in (first, second):
        sums = layer["neighbour_sum"]
        found += [sums["mix"], sums["up"]["kernel"], jnp.swapaxes(sums["radial"], 0, 1)]
        found += [layer["skip"]["kernel"], layer["update"]["kernel"]]
    return [x.reshape(-1, *x.shape[-2:]) for x in found]


@pytest.mark.parametrize("contraction", ["clebsch_gordan", "gaunt_rank"])
def test_matrices_have_optax_updates_and_all_else_amsgrad(contraction):
    vector = vector_of(contraction)
    gradients = gradients_of(vector)
    found = updates_of(scale_by_muon(vector), gradients)
    given = [of_matrices(vector.arrays(gradient)) for gradient in gradients]
    single = jax.vmap(functools.partial(updates_of, optax.contrib.scale_by_muon()))
    for matrices, *steps in zip(of_matrices(vector.arrays(found)), *given, strict=True):
        scale = 0.2 * max(matrices.shape[-2:]) ** 0.5
        np.testing.assert_allclose(matrices, scale * single(steps), rtol=1e-3, atol=1e-4)
    plain = updates_of(optax.scale_by_amsgrad(), gradients)
    is_matrix = np.zeros(vector.size, bool)
    same = np.asarray(np.isclose(found, plain, rtol=1e-5, atol=1e-6))
    marked = vector.arrays(jnp.arange(vector.size))
    for matrices in of_matrices(marked):
        is_matrix[np.asarray(matrices).ravel()] = True
    assert same[~is_matrix].all()
    assert 0 < is_matrix.sum() < vector.size


def test_updates_are_nearly_orthogonal_and_as_large_as_adams():
    vector = vector_of("gaunt")
    update = vector.arrays(updates_of(scale_by_muon(vector), gradients_of(vector)))
    for matrices in of_matrices(update):
        values = np.linalg.svd(np.asarray(matrices), compute_uv=False)
        values /= 0.2 * max(matrices.shape[-2:]) ** 0.5
        assert ((values > 0.4) & (values < 1.3)).all()
        assert 0.1 < np.sqrt(np.mean(np.square(matrices))) < 0.25


def test_seeds_are_apart():
    vector = vector_of("clebsch_gordan")
    transformation = scale_by_muon(vector)
    rows = jnp.stack(gradients_of(vector, 2))
    state = jax.vmap(transformation.init)(rows)
    together, _ = jax.jit(jax.vmap(transformation.update))(rows, state)
    for row, found in zip(rows, together, strict=True):
        alone = updates_of(transformation, [row])
        np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-5)
