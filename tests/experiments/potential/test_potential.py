import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.config_files import ROOT, load
from experiments.data.molecules import MoleculeSet, synthetic_molecules
from experiments.potential import plots
from experiments.potential.config import PotentialConfig
from experiments.potential.evaluate import errors, evaluate, mean_residual, predicted
from experiments.potential.experiment import (
    ERRORS,
    PotentialExperiment,
    TrainPotential,
)
from experiments.potential.frames import make_frames, prepare, split, statistics, take
from experiments.potential.speed import PotentialSpeedConfig
from experiments.potential.train import (
    Trainer,
    decayed,
    initialize,
    predict_all,
)
from experiments.seeds import train_epochs
from structlayers.models.interatomic_potential import (
    CONTRACTIONS,
    InteratomicPotentialConfig,
    Structure,
    load_potential,
)


@pytest.fixture(autouse=True)
def as_in_a_run():
    """Optax mixes dtypes, which runs allow."""
    with jax.numpy_dtype_promotion("standard"):
        yield


CUTOFF = 3.0
MOLECULES = synthetic_molecules(count=7)


@pytest.fixture(scope="module")
def prepared():
    return prepare(MOLECULES, validation=2, seed=0, cutoff=CUTOFF, dtype="float32")


def trainer_of(prepared, **changes):
    found = prepared.found
    model = InteratomicPotentialConfig(
        found.species,
        atomic_energies=found.atomic_energies,
        cutoff=CUTOFF,
        channels=2,
        lmax=1,
        hidden_lmax=1,
        num_interactions=1,
        correlation=2,
        contraction="gaunt",
        num_bessel=3,
        radial_features=(4,),
        readout_features=3,
        mean_neighbours=found.mean_neighbours,
        scale=found.scale,
        shift=found.shift,
    )
    options: dict[str, Any] = {
        "batch": 2,
        "epochs": 4,
        "learning_rate": 0.01,
        "schedule": "plateau",
        "factor": 0.5,
        "patience": 1,
        "weight_decay": 0.1,
        "average_decay": 0.5,
        "energy_weight": 1.0,
        "force_weight": 10.0,
        "clip": 10.0,
    }
    return Trainer(model, **options | changes)


def test_split_takes_every_frame_once():
    train, validation = split(10, 3, seed=1)
    assert len(validation) == 3
    assert sorted([*train, *validation]) == list(range(10))
    assert split(10, 3, seed=2)[1].tolist() != validation.tolist()


def test_statistics_are_of_the_training_frames(prepared):
    train = [MOLECULES.train[i] for i in split(7, 2, 0)[0]]
    found = prepared.found
    assert found.species == (1, 6, 8)
    forces = np.concatenate([structure.forces for structure in train])
    assert found.scale == pytest.approx(np.sqrt(np.mean(forces**2)))
    assert found.shift == pytest.approx(np.mean([s.energy for s in train]) / 5)
    assert found.mean_neighbours == 4.0  # all five atoms are within the cutoff
    assert prepared.train.size == 5
    assert prepared.validation.size == 2


def test_energies_are_subtracted_in_float64():
    """Isolated atoms of ten thousand electronvolt leave a millielectronvolt intact."""
    structure = MOLECULES.train[0]
    heavy = dataclasses.replace(structure, energy=-9391.0 + 0.001)
    found = statistics([heavy], {1: -13.0, 6: -1026.0, 8: -2037.0}, CUTOFF)
    frames = make_frames([heavy], found, CUTOFF, "float32")
    assert float(frames.energy[0]) == pytest.approx(-9391.0 + 0.001 + 3102.0, abs=3e-4)
    without = statistics([heavy, heavy], {}, CUTOFF)
    assert without.shift == pytest.approx(0.0, abs=1e-9)


def test_frames_that_leave_nothing_to_train_on():
    with pytest.raises(ValueError, match="validation_frames must be between 1 and 6, got 7"):
        prepare(MOLECULES, validation=7, seed=0, cutoff=CUTOFF, dtype="float32")


def test_frames_without_reference_values():
    bare = Structure([1, 8], [[0.0, 0, 0], [0, 0, 1]], energy=-1.0)
    wrong = MoleculeSet(MOLECULES.train, {"hot": [bare]}, MOLECULES.atomic_energies)
    with pytest.raises(ValueError, match="frame 0 of 'hot' must have energy and forces"):
        prepare(wrong, validation=2, seed=0, cutoff=CUTOFF, dtype="float32")


def test_element_that_only_the_test_has():
    strange = Structure([9, 1], [[0.0, 0, 0], [0, 0, 1]], energy=0.0, forces=np.zeros((2, 3)))
    wrong = MoleculeSet(MOLECULES.train, {"test": [strange]}, MOLECULES.atomic_energies)
    with pytest.raises(ValueError, match=r"\[9\] are of elements never seen in training"):
        prepare(wrong, validation=2, seed=0, cutoff=CUTOFF, dtype="float32")


def test_seeds_side_by_side_are_plain_amsgrad(prepared):
    """Two epochs of one of two seeds against a loop with optax's own AMSGrad."""
    trainer = trainer_of(prepared, weight_decay=0.0)
    keys, orders = jax.random.split(jax.random.key(3), (2, 2))
    state = initialize(trainer, keys)
    wanted = trainer.vector.arrays(state["parameters"][1])
    state, logged = train_epochs(
        trainer, state, orders, jnp.int32(0), prepared.train, prepared.validation, num=2
    )
    assert logged["loss"].shape == (2,)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.amsgrad(0.01))
    memory, average = optimizer.init(wanted), wanted
    graphdef = nnx.split(trainer.potential(jax.random.key(0)))[0]
    mask = np.asarray(prepared.train.graph.atom_mask)
    assert mask.all()

    def loss(parameters, batch):
        found = nnx.merge(graphdef, parameters).predict(batch.graph.flatten())
        energy = jnp.mean(((found.energy - batch.energy) / 5) ** 2)
        return energy + 10 * jnp.mean((found.forces - batch.forces.reshape(-1, 3)) ** 2)

    @jax.jit
    def step(parameters, memory, batch):
        value, gradients = jax.value_and_grad(loss)(parameters, batch)
        updates, memory = optimizer.update(gradients, memory, parameters)
        return optax.apply_updates(parameters, updates), memory, value

    count, values = 0, []
    for epoch in range(2):
        order = jax.random.permutation(jax.random.fold_in(orders[1], epoch), 5)
        values = []
        for start in (0, 2):
            batch = take(prepared.train, order[start : start + 2])
            wanted, memory, value = step(wanted, memory, batch)
            decay = min(0.5, (1 + count) / (10 + count))
            average = jax.tree.map(
                lambda old, new, d=decay: d * old + (1 - d) * new, average, wanted
            )
            values.append(float(value))
            count += 1
    np.testing.assert_allclose(logged["loss"][1], np.mean(values), rtol=1e-4)
    for name, other in (("parameters", wanted), ("average", average)):
        found = trainer.vector.arrays(state[name][1])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, other
        )
    assert state["steps"].tolist() == [4, 4]


def test_best_average_and_plateau(prepared):
    """A better average is kept; epochs without a better one lower the learning rate."""
    trainer = trainer_of(prepared)
    keys, orders = jax.random.split(jax.random.key(3), (2, 2))

    def train(state, first):
        return train_epochs(
            trainer, state, orders, jnp.int32(first), prepared.train, prepared.validation, num=2
        )

    state, logged = train(initialize(trainer, keys), 0)
    np.testing.assert_array_equal(state["best_loss"], state["plateau"].best_value)
    assert (state["best_loss"] <= logged["validation_loss"]).all()
    for seed in np.flatnonzero(state["best_loss"] == logged["validation_loss"]):
        np.testing.assert_array_equal(state["best"][seed], state["average"][seed])
    # as if an unbeatable average had been found
    kept = jnp.copy(state["best"])
    plateau = state["plateau"]._replace(best_value=jnp.zeros(2))
    state = {**state, "best_loss": jnp.zeros(2), "plateau": plateau}
    rates = []
    for first in (2, 4):
        state, logged = train(state, first)
        rates.append(logged["learning_rate"].tolist())
    np.testing.assert_array_equal(state["best"], kept)
    np.testing.assert_array_equal(state["best_loss"], [0, 0])
    np.testing.assert_allclose(rates, [[0.005] * 2, [0.00125] * 2], rtol=1e-5)


def test_cosine_ends_at_zero(prepared):
    trainer = trainer_of(prepared, schedule="cosine")
    rates = [float(trainer.rate(jnp.int32(epoch), None)) for epoch in (0, 2, 4)]
    np.testing.assert_allclose(rates, [0.01, 0.005, 0.0], atol=1e-9)


def test_weight_decay_acts_on_what_mixes_channels_after_the_sum(prepared):
    trainer = trainer_of(prepared)
    state = initialize(trainer, jax.random.split(jax.random.key(0), 1))
    parameters = trainer.vector.arrays(state["parameters"][0])
    chosen = jax.tree_util.tree_leaves_with_path(decayed(parameters))
    names = {jax.tree_util.keystr(path, simple=True, separator="/") for path, on in chosen if on}
    assert all(name.startswith("interactions/0/") for name in names)
    parts = {tuple(part for part in name.split("/") if not part.isdecimal()) for name in names}
    assert parts == {
        ("interactions", "neighbour_sum", "mix"),
        ("interactions", "contraction", "weights"),
        ("interactions", "update", "kernel"),
    }


def test_predictions_of_all_frames_in_pieces(prepared):
    trainer = trainer_of(prepared)
    keys = jax.random.split(jax.random.key(3), (2, 2))[0]
    parameters = initialize(trainer, keys)["best"]
    energy, forces = predict_all(trainer, parameters, prepared.train, chunk=2)
    assert energy.shape == (2, 5)
    assert forces.shape == (2, 5, 5, 3)
    order = np.array([3, 1, 4, 0, 2])
    other = predict_all(trainer, parameters, take(prepared.train, order), chunk=2)
    np.testing.assert_allclose(energy[:, order], other[0], rtol=1e-5)
    np.testing.assert_allclose(forces[:, order], other[1], rtol=1e-3, atol=1e-5)


def test_sets_of_different_sizes_are_one_program(prepared, monkeypatch):
    trainer, shapes = trainer_of(prepared), []
    keys = jax.random.split(jax.random.key(3), (2, 2))[0]
    parameters = initialize(trainer, keys)["best"]
    wanted = predict_all(trainer, parameters, prepared.train, chunk=2)

    def seen(trainer, parameters, frames, *, chunk):
        shapes.append((jax.tree.map(jnp.shape, frames), chunk))
        return predict_all(trainer, parameters, frames, chunk=chunk)

    monkeypatch.setattr("experiments.potential.evaluate.predict_all", seen)
    for chosen in (np.arange(5), np.array([4, 1, 2])):
        found = predicted(trainer, parameters, take(prepared.train, chosen), 2, places=5)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other[:, chosen], rtol=1e-4, atol=1e-5)
    assert shapes[0] == shapes[1]


def test_refitted_shift_leaves_no_mean_error(prepared):
    trainer = trainer_of(prepared)
    keys = jax.random.split(jax.random.key(3), (2, 2))[0]
    parameters = initialize(trainer, keys)["best"]
    shift = mean_residual(trainer, parameters, prepared.train, 2, prepared.train.size)
    energy, _ = predict_all(trainer, parameters, prepared.train, chunk=2)
    rest = np.asarray(energy) + 5 * shift[:, None] - np.asarray(prepared.train.energy)
    np.testing.assert_allclose(rest.mean(axis=1), 0, atol=1e-5)
    before = evaluate(trainer, parameters, prepared.train, 2, 5, np.zeros(2))
    after = evaluate(trainer, parameters, prepared.train, 2, 5, shift)
    assert (np.array(after["energy_rmse"]) < before["energy_rmse"]).all()
    assert after["force_rmse"] == before["force_rmse"]


def test_errors_are_in_milli_units_and_skip_padding(prepared):
    frames = prepared.validation
    mask = jnp.asarray(frames.graph.atom_mask).at[:, -1].set(False)
    frames = frames._replace(graph=dataclasses.replace(frames.graph, atom_mask=mask))
    energy = np.stack([frames.energy + 0.001, frames.energy + jnp.array([0.003, -0.001])])
    forces = np.stack([frames.forces, frames.forces])
    forces[1, :, :-1] += 0.002
    forces[1, :, -1] += 99.0
    found = errors(energy, forces, frames)
    np.testing.assert_allclose(found["energy_mae"], [1.0, 2.0], atol=2e-3)
    np.testing.assert_allclose(found["energy_rmse"], [1.0, 5**0.5], atol=2e-3)
    np.testing.assert_allclose(found["force_rmse"], [0.0, 2.0], atol=2e-3)
    np.testing.assert_allclose(found["force_mae"], [0.0, 2.0], atol=2e-3)


def result_of(phase, error):
    values = {name: [error, error] for name in ERRORS}
    parity = {"energy": [[0.0, 0.1], [1.0, 1.1]], "force": [[0.0, 0.1], [1.0, 0.9]]}
    names = {"3bpa": ("300K", "600K", "1200K"), "acac": ("300K", "600K")}
    tests = names.get(phase.data.dataset, ("test",))
    return {
        "dataset": phase.data.dataset,
        "contraction": phase.contraction,
        "tests": {name: {"frames": 2, "parity": parity, **values} for name in tests},
        "parameters": 7,
        "validation_loss": [0.1, 0.1],
        "steps": 3,
        "step_milliseconds": 2 * error,
    }


@pytest.mark.parametrize("name", ["acac", "bpa", "rmd17"])
def test_every_goal_names_a_metric(name, tmp_path):
    config = load(ROOT / "configs" / "equivariant" / f"{name}.py").config
    assert isinstance(config, PotentialConfig)
    phases = config.build().phases()
    factors = {"clebsch_gordan": 5.0, "gaunt": 6.0}
    results = {
        phase.name: result_of(phase, factors.get(phase.contraction, 4.0)) for phase in phases
    }
    assert len(results) == len(phases)
    metrics = PotentialExperiment(config).finish(results)
    goals = {goal.metric for goal in config.goals()}
    assert goals
    assert goals <= metrics.keys()
    dataset, test = config.datasets[0], next(iter(results[phases[0].name]["tests"]))
    key = f"{dataset}/gaunt_over_clebsch_gordan"
    assert metrics[f"{key}/{test}/force_rmse"] == pytest.approx(1.2)
    assert metrics[f"{key}/step_milliseconds"] == pytest.approx(1.2)
    plots.draw_parity(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_a_phase_depends_on_its_state_alone():
    config = dataclasses.replace(
        PotentialConfig().smoke(), seeds=1, num_interactions=1, contractions=("gaunt",)
    )
    phase, anew = (config.build().phases()[0] for _ in range(2))
    assert isinstance(phase, TrainPotential)
    state, _ = phase.advance(phase.init(), 0, 2)
    kept = jax.tree.map(jnp.copy, state)
    one, logged = phase.advance(state, 2, 2)
    two, other = anew.advance(kept, 2, 2)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert logged == other
    result = phase.finish(one)
    assert set(result["tests"]) == {"cold", "hot"}
    assert result["steps"] == 8
    assert result["step_milliseconds"] > 0


def test_a_run_keeps_its_potentials(tmp_path):
    """What is loaded predicts the energies of the best average, its refitted shift inside."""
    config = dataclasses.replace(
        PotentialConfig().smoke(), seeds=2, num_interactions=1, contractions=("gaunt",)
    )
    (phase,) = config.build().phases()
    assert isinstance(phase, TrainPotential)
    state = phase.init()
    phase.keep(state, tmp_path)
    frames = phase.data.prepared.train
    energy, _ = predict_all(phase.trainer, state["best"], frames, chunk=frames.size)
    shift = mean_residual(phase.trainer, state["best"], frames, frames.size, frames.size)
    atoms = np.asarray(frames.graph.atom_mask).sum(axis=1)
    for seed in range(2):
        potential = load_potential(tmp_path / f"synthetic_gaunt_{seed}.npz")
        found = potential(frames.graph.flatten())
        np.testing.assert_allclose(found, energy[seed] + shift[seed] * atoms, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": ("qm9",)}, r"datasets must be among acac, 3bpa, .*; got \('qm9',\)"),
        ({"contractions": ()}, r"contractions must be among clebsch_gordan, .*; got \(\)"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"epochs": 25}, "epochs_per_call must divide epochs = 25, got 10"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PotentialConfig(), **change)


def test_names():
    names = [phase.name for phase in PotentialConfig().build().phases()]
    assert names == [f"acac_{contraction}" for contraction in CONTRACTIONS]


def test_goals_of_the_times_name_metrics(tmp_path):
    config = PotentialSpeedConfig()
    results = {
        phase.name: {
            "lmax": phase.lmax,
            "variant": phase.variant,
            "parameters": 7,
            "step_milliseconds": [3.0 if phase.variant == "gaunt" else 4.0, 9.0, 1.0],
            "energy_and_forces_milliseconds": [2.0],
        }
        for phase in config.build().phases()
    }
    assert len(results) == 15
    metrics = config.build().finish(results)
    assert {goal.metric for goal in config.goals()} <= metrics.keys()
    assert len(config.goals()) == 6
    assert metrics["l3/gaunt_over_gaunt_fourier/step_milliseconds"] == pytest.approx(0.75)
    assert metrics["l3/gaunt_over_gaunt_rank/energy_and_forces_milliseconds"] == 1.0
    config.build().plot(results, metrics, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    with pytest.raises(ValueError, match=r"variants must be among clebsch_gordan, .*'dense'"):
        dataclasses.replace(config, variants=("dense",))
    with pytest.raises(ValueError, match="dataset must be among acac"):
        dataclasses.replace(config, dataset="qm9")
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        dataclasses.replace(config, repeats=0)
