"""Charged particles: the simulation, the symmetries of the networks, training."""

import dataclasses
from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.config_files import CONFIGS, load
from experiments.equivariant.nbody.network import PRODUCTS, ParticleNetwork
from experiments.equivariant.nbody.simulate import (
    CLIP,
    TIME_STEP,
    Trajectories,
    advance,
    energy,
    simulate,
    start,
)
from experiments.equivariant.nbody.systems import make_sets, systems_of, take
from experiments.equivariant.nbody.train import initialize, losses
from experiments.equivariant.tetris import random_rotations
from experiments.seeds import train_epochs

CONFIG: Any = load(CONFIGS / "equivariant" / "nbody.py").config


@pytest.fixture(autouse=True)
def as_in_a_run():
    """Optax mixes dtypes, which runs allow."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def trajectories():
    return simulate(np.random.default_rng(5), 6, warm_up=200, horizon=300)


def forces_one_by_one(x: np.ndarray, charges: np.ndarray) -> np.ndarray:
    """Coulomb forces of one system, pair after pair, cut as in the benchmark."""
    force = np.zeros_like(x)
    for i in range(len(x)):
        for j in range(len(x)):
            if i != j:
                away = x[i] - x[j]
                force[i] += charges[i] * charges[j] * away / np.linalg.norm(away) ** 3
    return np.minimum(np.maximum(force, -CLIP), CLIP)


def test_steps_are_those_of_the_equations_one_system_at_a_time(rng):
    positions, velocities, charges = start(rng, 3)
    positions[2, 1] = positions[2, 0] + [0.02, 0.03, -0.01]  # within the cut
    assert np.abs(forces_one_by_one(positions[2], charges[2])).max() == CLIP
    x, v = positions.copy(), velocities.copy()
    for _ in range(7):
        for system in range(3):
            v[system] += TIME_STEP * forces_one_by_one(x[system], charges[system])
            x[system] += TIME_STEP * v[system]
    found = advance(positions, velocities, charges, 7)
    np.testing.assert_allclose(found[0], x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[1], v, rtol=0, atol=1e-12)


def test_many_systems_are_advanced_as_one_by_one(rng):
    positions, velocities, charges = start(rng, 501)
    together = advance(positions, velocities, charges, 3)
    parts = (slice(0, 250), slice(250, 501))
    alone = [advance(positions[part], velocities[part], charges[part], 3) for part in parts]
    for index in range(2):
        joined = np.concatenate([part[index] for part in alone])
        np.testing.assert_allclose(together[index], joined, rtol=0, atol=1e-13)


def test_momentum_is_conserved_and_energy_to_the_order_of_the_step(rng):
    positions, velocities, _ = start(rng, 20)
    charges = np.ones((20, 5))  # nothing falls into anything
    before = energy(positions, velocities, charges)
    changes = []
    for steps in (1000, 2000, 4000):
        x, v = advance(positions, velocities, charges, steps, time_step=1 / steps, clip=np.inf)
        np.testing.assert_allclose(v.sum(axis=1), velocities.sum(axis=1), atol=1e-11)
        changes.append(np.abs(energy(x, v, charges) / before - 1).max())
    assert changes[0] < 0.02
    assert 1.7 < changes[0] / changes[1] < 2.3
    assert 1.8 < changes[1] / changes[2] < 2.2


def test_systems_are_seeded_and_sets_differ(trajectories):
    again = simulate(np.random.default_rng(5), 6, warm_up=200, horizon=300)
    for one, two in zip(trajectories, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert set(np.unique(trajectories.charges)) == {-1.0, 1.0}
    sets = make_sets((4, 3, 2), 1, 7, warm_up=10, horizon=20)
    wider = make_sets((4, 5, 2), 1, 7, warm_up=10, horizon=20)
    np.testing.assert_array_equal(sets.train.displacement, wider.train.displacement)
    np.testing.assert_array_equal(sets.test.displacement, wider.test.displacement)
    assert not np.allclose(sets.train.displacement[:2], sets.test.displacement)
    other = make_sets((4, 3, 2), 1, 8, warm_up=10, horizon=20)
    assert not np.allclose(sets.train.displacement, other.train.displacement)


def test_what_a_network_sees(trajectories):
    found = systems_of(trajectories, 2)
    positions, velocities = trajectories.positions, trajectories.velocities
    away = positions[4, 3] - positions[4, 1]
    distance = np.linalg.norm(away)
    np.testing.assert_allclose(found.edges[4, 3, 1, :4], [1, *away / distance], rtol=1e-6)
    charges = trajectories.charges[4]
    np.testing.assert_allclose(found.pairs[4, 3, 1], [distance, charges[3] * charges[1]], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.edges[:, 0, 1, 4:], axis=-1), 1, rtol=1e-6)
    assert not found.edges[:, range(5), range(5)].any()
    assert not found.pairs[:, range(5), range(5)].any()
    velocity = velocities[4, 3] / np.linalg.norm(velocities[4, 3])
    wanted = found.edges[4, 3, :, 1:4].sum(axis=0) / 4 + velocity
    np.testing.assert_allclose(found.nodes[4, 3, :4], [1, *wanted], atol=1e-6)
    np.testing.assert_allclose(found.vectors[:, :, 0].sum(axis=1), 0, atol=1e-5)
    np.testing.assert_array_equal(found.vectors[:, :, 1], velocities.astype(np.float32))


def changed(found: Trajectories, kind: str, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
    """The same systems seen otherwise, and the matrix of their displacements."""
    turn = random_rotations(rng, 1)[0]
    if kind == "rotation":
        matrix = turn
    elif kind == "reflection":
        matrix = turn @ np.diag([1, 1, -1.0]) @ turn.T
    else:
        matrix = np.eye(3)
    vectors = {
        name: getattr(found, name) @ matrix.T for name in ("positions", "velocities", "later")
    }
    other = found._replace(**vectors)
    if kind == "translation":
        shift = np.array([3.0, -5.0, 2.0])
        other = other._replace(positions=other.positions + shift, later=other.later + shift)
    if kind == "charges":
        other = other._replace(charges=-other.charges)
    return other, matrix


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("degrees", [(1, 1), (2, 2)], ids=["1", "2"])
def test_networks_are_equivariant(product, degrees, trajectories, rng):
    network = ParticleNetwork(
        product, 3, degrees[0], degrees[1], 1, precision="highest", rngs=nnx.Rngs(2)
    )
    run = nnx.jit(lambda network, systems: network(systems))
    plain = np.asarray(run(network, systems_of(trajectories, degrees[1])))
    size = np.abs(plain).max()
    assert size > 1e-3
    for kind in ("rotation", "reflection", "translation", "charges"):
        other, matrix = changed(trajectories, kind, rng)
        found = run(network, systems_of(other, degrees[1]))
        np.testing.assert_allclose(found, plain @ matrix.T, atol=2e-5 * size, err_msg=kind)
    order = rng.permutation(5)
    mixed = Trajectories(*(array[:, order] for array in trajectories))
    found = run(network, systems_of(mixed, degrees[1]))
    np.testing.assert_allclose(found, plain[:, order], atol=2e-5 * size)


@pytest.mark.parametrize("product", PRODUCTS)
def test_every_input_matters(product, trajectories):
    """Another charge, velocity or place of one particle moves all others."""
    network = ParticleNetwork(product, 3, 1, 1, 1, precision="highest", rngs=nnx.Rngs(2))
    run = nnx.jit(lambda network, systems: network(systems))
    plain = run(network, systems_of(trajectories, 1))
    for name in ("positions", "velocities", "charges"):
        values = getattr(trajectories, name).copy()
        values[:, 0] *= -1.5 if name != "charges" else -1
        found = run(network, systems_of(trajectories._replace(**{name: values}), 1))
        moved = np.abs(found - plain).max(axis=(0, 2))
        assert (moved > 1e-4 * np.abs(plain).max()).all(), (name, moved)


@pytest.mark.parametrize("lmax", [1, 2])
def test_both_products_have_the_same_couplings(lmax, rng):
    """At these parities every Clebsch-Gordan path has an even sum of degrees."""
    irreps, degrees = e3nn.s2_irreps(lmax), np.repeat(range(lmax + 1), 2 * np.arange(lmax + 1) + 1)
    x, y = rng.standard_normal((2, (lmax + 1) ** 2)).astype(np.float32)
    found = {}
    for product, make in PRODUCTS.items():
        layer = make(1, lmax, lmax, rngs=nnx.Rngs(0))
        found[product] = set()
        for l1, l2 in np.ndindex(lmax + 1, lmax + 1):
            one, two = (
                e3nn.IrrepsArray(irreps, jnp.asarray(np.where(degrees == degree, array, 0))[None])
                for array, degree in ((x, l1), (y, l2))
            )
            z = np.abs(layer(one, two).array[0])
            found[product] |= {(l1, l2, l3) for l3 in set(degrees[z > 1e-5].tolist())}
    assert found["gaunt"] == found["clebsch_gordan"]
    assert len(found["gaunt"]) == {1: 4, 2: 11}[lmax]


# one program for all tests that train
SMALL = dataclasses.replace(
    CONFIG.smoke(),
    products=("gaunt",),
    channels=2,
    train_systems=11,
    validation_systems=4,
    test_systems=4,
    batch=5,
    learning_rate=0.01,
)


def test_seeds_side_by_side_are_plain_adam():
    """Two epochs of one of two seeds against a loop with optax's own Adam."""
    (phase,) = SMALL.build().phases()
    sets, trainer = phase.data.sets, phase.trainer
    keys, orders = jax.random.split(jax.random.key(3), (2, 2))
    state = initialize(trainer, keys)
    wanted = state["parameters"][1] + 0  # the state is donated
    state, logged = train_epochs(
        trainer, state, orders, jnp.int32(0), sets.train, sets.validation, num=2
    )
    assert logged["loss"].shape == (2,)
    optimizer = optax.adam(0.01)
    memory, found = optimizer.init(wanted), []
    gradient = jax.jit(jax.grad(trainer.loss))
    for epoch in range(2):
        order = jax.random.permutation(jax.random.fold_in(orders[1], epoch), 11)[:10]
        for index in order.reshape(2, 5):
            updates, memory = optimizer.update(gradient(wanted, take(sets.train, index)), memory)
            wanted = wanted + updates
        both = losses(trainer, jnp.stack([wanted, wanted]), sets.validation)
        found.append((float(both[0]), wanted))
    np.testing.assert_allclose(state["parameters"][1], wanted, atol=2e-5)
    best = min(found, key=lambda pair: pair[0])
    np.testing.assert_allclose(state["best_loss"][1], best[0], rtol=1e-4)
    np.testing.assert_allclose(state["best"][1], best[1], atol=2e-5)
    errors = losses(trainer, state["best"], sets.validation)
    np.testing.assert_allclose(errors, state["best_loss"], rtol=1e-5)


def test_rates():
    (phase,) = SMALL.build().phases()
    assert float(phase.trainer.rate(jnp.int32(3))) == pytest.approx(0.01)
    cosine = dataclasses.replace(phase.trainer, schedule="cosine")
    assert float(cosine.rate(jnp.int32(2))) == pytest.approx(0.005)


def test_a_phase_depends_on_its_state_alone():
    phase, anew = (SMALL.build().phases()[0] for _ in range(2))
    state, _ = phase.advance(phase.init(), 0, 2)
    kept = jax.tree.map(jnp.copy, state)
    one, logged = phase.advance(state, 2, 2)
    two, other = anew.advance(kept, 2, 2)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert logged == other
    result = phase.finish(one)
    assert len(result["mse"]) == 2
    assert result["step_milliseconds"] > 0


def test_every_goal_has_a_metric_ratios_are_of_means_and_a_picture(tmp_path):
    result = {"validation_mse": [1.0], "constant_velocity_mse": 0.1, "parameters": 7}
    results = {
        "clebsch_gordan": {**result, "mse": [4e-3, 6e-3], "step_milliseconds": 2.0},
        "gaunt": {**result, "mse": [3e-3, 5e-3], "step_milliseconds": 3.0},
    }
    metrics = CONFIG.build().finish(results)
    assert {goal.metric for goal in CONFIG.goals()} <= metrics.keys()
    assert metrics["gaunt_over_clebsch_gordan/mse"] == pytest.approx(0.8)
    assert metrics["gaunt_over_clebsch_gordan/step_milliseconds"] == pytest.approx(1.5)
    assert metrics["gaunt/mse_std"] == pytest.approx(2**0.5 * 1e-3)
    CONFIG.build().plot(results, metrics, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    alone = dataclasses.replace(CONFIG, products=("gaunt",), attribute_lmax=3)
    assert [(goal.metric, goal.paper) for goal in alone.goals()] == [("gaunt/mse", None)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"products": ("cross",)}, r"products must be among clebsch_gordan, gaunt; got \('cross',"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"warm_up": -1}, "warm_up must be at least 0, got -1"),
        ({"epochs": 25}, "epochs_per_call must divide epochs = 25, got 20"),
        ({"batch": 3001}, "batch must be at most train_systems = 3000, got 3001"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
    ],
)
def test_bad_configs(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)
