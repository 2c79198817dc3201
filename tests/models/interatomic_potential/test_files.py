import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.models.interatomic_potential import Evaluator, load_potential, save_potential
from tests.models.interatomic_potential.molecules import cluster, tiny_potential


def test_a_file_gives_the_same_potential(tmp_path):
    potential = tiny_potential(precision=jax.lax.Precision.HIGHEST)
    save_potential(potential, tmp_path / "potential.npz")
    loaded = load_potential(tmp_path / "potential.npz")
    assert loaded.config.species == potential.config.species
    assert loaded.config.atomic_energies == potential.config.atomic_energies
    wanted, found = (Evaluator(each)(cluster()) for each in (potential, loaded))
    assert found["energy"] == wanted["energy"]
    np.testing.assert_array_equal(found["forces"], wanted["forces"])


def test_weights_of_bfloat16(tmp_path):
    potential = tiny_potential(dtype=jnp.bfloat16)
    save_potential(potential, tmp_path / "potential.npz")
    loaded = load_potential(tmp_path / "potential.npz")
    assert loaded.embedding[...].dtype == jnp.bfloat16
    np.testing.assert_array_equal(loaded.embedding[...], potential.embedding[...])


def test_what_does_not_fit_is_named(tmp_path):
    path = tmp_path / "potential.npz"
    save_potential(tiny_potential(), path)
    with np.load(path) as archive:
        arrays = dict(archive)
    name = next(name for name in arrays if "embedding" in name)
    changed = {key: value for key, value in arrays.items() if key != name}
    with path.open("wb") as file:
        np.savez(file, **changed, other=np.zeros(3))
    with pytest.raises(
        ValueError, match=r"embedding.* missing for \(3, 2\), other \(3,\) for noth"
    ):
        load_potential(path)
    with path.open("wb") as file:
        np.savez(file, other=np.zeros(3))
    with pytest.raises(ValueError, match=r"file of save_potential, got .* without a config"):
        load_potential(path)
    path.write_text("energy")
    with pytest.raises(ValueError, match="path must be a file of save_potential"):
        load_potential(path)
