import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.config_files import ROOT, load
from experiments.gla.mqar.config import MIXERS, RecallConfig, Task
from experiments.gla.mqar.data import draw_examples
from experiments.gla.mqar.experiment import RecallExperiment, TrainNetwork, choose
from experiments.gla.mqar.train import Trainer, accuracy, initialize, train_epoch
from structlayers.models import LanguageModelConfig
from structlayers.models.language_model.mixers import TOKEN_MIXERS

RATES = (1e-3, 1e-2)


@pytest.fixture
def as_in_a_run():
    """Optax mixes dtypes, which runs allow."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def trainer_of(mixer="gla", **more):
    model = LanguageModelConfig(
        vocab_size=20, features=8, num_layers=1, num_heads=2, hidden_features=8, mixer=mixer
    )
    return Trainer(model, batch=4, epochs=3, weight_decay=0.1, **more)


def examples_of(count, seed=0, *, length=12, pairs=2, vocab_size=20):
    key = jax.random.key(seed)
    return draw_examples(key, count, length=length, pairs=pairs, vocab_size=vocab_size)


@pytest.mark.parametrize(
    ("length", "pairs", "vocab", "filler"),
    [(64, 4, 8192, False), (18, 4, 10, True)],
)
def test_examples_are_the_task(length, pairs, vocab, filler):
    found = draw_examples(
        jax.random.key(1), 403, length=length, pairs=pairs, vocab_size=vocab, random_filler=filler
    )
    tokens, places, answers = map(np.asarray, found)
    assert tokens.shape == (403, length)
    assert places.shape == answers.shape == (403, pairs)
    keys, values = tokens[:, 0 : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2]
    assert ((keys >= 1) & (keys < vocab // 2)).all()
    assert ((values >= vocab // 2) & (values < vocab)).all()
    for array in (keys, values, places):
        assert all(len(set(row)) == pairs for row in array.tolist())
    assert ((places >= 2 * pairs) & (places < length) & (places % 2 == 0)).all()
    asked = np.take_along_axis(tokens, places, axis=1)
    for row in range(403):
        pair = dict(zip(keys[row].tolist(), values[row].tolist(), strict=True))
        assert [pair[key] for key in asked[row].tolist()] == answers[row].tolist()
    rest = np.ones_like(tokens, bool)
    rest[:, : 2 * pairs] = False
    np.put_along_axis(rest, places, False, axis=1)
    if filler:
        assert len(set(tokens[rest].tolist())) == vocab
    else:
        assert not tokens[rest].any()


def test_places_follow_the_power_law():
    """One pair: its place is drawn once, so the shares are the weights."""
    power = 0.5
    found = draw_examples(jax.random.key(0), 20_000, length=22, pairs=1, vocab_size=4, power=power)
    counts = np.bincount((np.asarray(found.places)[:, 0] - 2) // 2, minlength=10)
    weights = np.arange(1, 11) ** (power - 1.0)
    np.testing.assert_allclose(counts / 20_000, weights / weights.sum(), atol=0.012)


def test_keys_and_values_are_drawn_evenly():
    found = examples_of(20_000)
    keys = np.asarray(found.tokens)[:, 0:4:2]
    for array, low, count in ((keys, 1, 9), (np.asarray(found.answers), 10, 10)):
        shares = np.bincount(array.ravel() - low, minlength=count) / array.size
        np.testing.assert_allclose(shares, 1 / count, atol=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 13}, "length must be even .*got 13 and 2"),
        ({"pairs": 4}, "at least four times pairs, got 12 and 4"),
        ({"pairs": 0}, "at least four times pairs, got 12 and 0"),
        ({"vocab_size": 4}, "half of it above pairs = 2, got 4"),
        ({"vocab_size": 21}, "vocab_size must be even"),
    ],
)
def test_sizes_that_leave_no_room(change, message):
    with pytest.raises(ValueError, match=message):
        examples_of(3, **change)


def test_runs_side_by_side_are_plain_adamw(as_in_a_run):
    """Two epochs of every run against a loop over one run with optax's own AdamW."""
    trainer, train, validation = trainer_of("softmax"), examples_of(14), examples_of(5, 1)
    keys, orders = jax.random.split(jax.random.key(1), (2, 2))
    state = initialize(trainer, keys, len(RATES))
    losses = []
    for _ in range(2):
        state, loss = train_epoch(trainer, state, orders, jnp.array(RATES), train, validation)
        losses.append(loss)
    seed, rate = 1, 0
    graph, wanted = nnx.split(trainer.network(keys[seed]))
    optimizer = optax.adamw(optax.cosine_decay_schedule(RATES[rate], 9), weight_decay=0.1)
    memory = optimizer.init(wanted)

    def objective(parameters, batch):
        logits = nnx.merge(graph, parameters)(batch.tokens)
        logits = jnp.take_along_axis(logits, batch.places[..., None], axis=1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.answers).mean()

    @jax.jit
    def step(parameters, memory, batch):
        value, gradients = jax.value_and_grad(objective)(parameters, batch)
        updates, memory = optimizer.update(gradients, memory, parameters)
        return optax.apply_updates(parameters, updates), memory, value

    for epoch in range(2):
        order = jax.random.permutation(jax.random.fold_in(orders[seed], epoch), 14)
        values = []
        for start in range(0, 12, 4):
            batch = jax.tree.map(lambda a, i=order[start : start + 4]: a[i], train)
            wanted, memory, value = step(wanted, memory, batch)
            values.append(value)
        np.testing.assert_allclose(losses[epoch][seed, rate], np.mean(values), rtol=1e-4)
    found = jax.tree.map(lambda leaf: leaf[seed, rate], state["parameters"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5),
        found,
        nnx.to_pure_dict(wanted),
    )
    assert int(state["epochs"]) == 2


def test_accuracy_counts_every_query_once():
    trainer, examples = trainer_of("softmax"), examples_of(501)
    keys = jax.random.split(jax.random.key(0), 2)
    state = initialize(trainer, keys, 2)
    parameters = jax.tree.map(lambda leaf: leaf.at[:, 1].set(jnp.nan), state["parameters"])
    found = accuracy(trainer, parameters, examples)
    assert found.shape == (2, 2)
    whole = jax.jit(lambda key, tokens: trainer.network(key)(tokens))
    for seed in range(2):
        logits = np.asarray(whole(keys[seed], examples.tokens))
        guesses = np.take_along_axis(logits.argmax(-1), np.asarray(examples.places), axis=1)
        wanted = np.mean(guesses == np.asarray(examples.answers))
        assert float(found[seed, 0]) == pytest.approx(wanted, abs=1e-6)
    assert not np.asarray(found[:, 1]).any()  # NaN is no answer


SMALL = RecallConfig(
    tasks=("16/2",),
    mixers=("softmax", "gla", "retention"),
    features=(8,),
    num_layers=1,
    hidden_features=8,
    vocab_size=16,
    learning_rates=RATES,
    epochs=3,
    batch_tokens=64,
    train_examples=8,
    validation_examples=4,
    test_examples=4,
    dtype="float32",
)


def small(**more):
    return dataclasses.replace(SMALL, **more)


def test_training_stops_at_the_accuracy(as_in_a_run):
    phase = small(stop_accuracy=0.5).build().phases()[0]
    assert isinstance(phase, TrainNetwork)
    state = phase.init()
    reached = {**state, "accuracy": jnp.array([[0.2, 0.6]])}
    after, logged = phase.advance(reached, 0, 2)
    assert after is reached
    assert logged == {}
    after, logged = phase.advance({**state, "accuracy": jnp.array([[0.2, 0.4]])}, 0, 1)
    assert int(after["epochs"]) == 1
    assert logged["learning_rate"] in RATES
    result = phase.finish(after)
    assert result["task"] == "16/2"
    assert np.shape(result["test_accuracy"]) == (1, 2)
    assert result["diverged"] == [[False, False]]

    # what comes next depends on the state alone: a resumed run goes the same way
    anew = small(stop_accuracy=0.5).build().phases()[0]
    restored = jax.tree.map(jnp.copy, after)
    one, _ = phase.advance({**after, "accuracy": jnp.zeros((1, 2))}, 1, 1)
    two, _ = anew.advance({**restored, "accuracy": jnp.zeros((1, 2))}, 1, 1)
    jax.tree.map(np.testing.assert_array_equal, one, two)


def result_of(mixer, validation, test):
    return {
        "task": "16/2",
        "mixer": mixer,
        "features": 8,
        "learning_rates": list(RATES),
        "validation_accuracy": validation,
        "test_accuracy": test,
        "epochs": 3,
        "diverged": [[False, True]] * len(test),
        "parameters": 7,
    }


def test_learning_rate_is_chosen_on_validation():
    found = choose(result_of("gla", [[0.5, 0.4], [0.5, 0.56]], [[0.4, 0.9], [0.44, 0.9]]))
    assert found["accuracy"] == pytest.approx(0.42)
    assert found["accuracy_std"] == pytest.approx(0.04 / 2**0.5)
    assert found["learning_rate"] == RATES[0]
    assert found["diverged_runs"] == 2


@pytest.mark.parametrize("name", ["retention", "fla"])
@pytest.mark.parametrize(
    ("ours", "other", "lead"), [(0.995, 1.0, 0.0), (0.9, 0.7, 0.2), (0.6, 1.0, -0.39)]
)
def test_lead_counts_up_to_where_training_stops(name, ours, other, lead):
    results = {
        mixer: result_of(mixer, [[1.0, 0.0]], [[value, 0.0]])
        for mixer, value in (("gla", ours), (name, other))
    }
    metrics = RecallExperiment(small()).finish(results)
    found = {key: value for key, value in metrics.items() if "_over_" in key}
    assert found == {f"16/2/d0008/gla_over_{name}": pytest.approx(lead)}
    assert metrics["16/2/d0008/gla/accuracy"] == ours


@pytest.mark.parametrize("name", ["mqar", "mqar_cpu"])
def test_every_goal_names_a_metric(name):
    config = load(ROOT / "configs" / "gla" / f"{name}.py").config
    assert isinstance(config, RecallConfig)
    networks = [phase for phase in config.build().phases() if isinstance(phase, TrainNetwork)]
    results = {
        phase.name: {
            **result_of(phase.mixer, [[1.0, 0.0]], [[1.0, 0.0]]),
            "task": f"{phase.data.task.length}/{phase.data.task.pairs}",
            "features": phase.features,
        }
        for phase in networks
    }
    metrics = config.build().finish(results)
    goals = {goal.metric for goal in config.goals()}
    assert goals
    assert goals <= metrics.keys()


@pytest.mark.parametrize(
    ("mixers", "others"),
    [(("gla", "fla"), {"fla"}), (("fla",), set()), (MIXERS, {"retention"}), (("gla",), set())],
)
def test_goals_compare_what_is_run(mixers, others):
    goals = {goal.metric for goal in small(mixers=mixers).goals()}
    assert {name.rpartition("_")[2] for name in goals if "gla_over" in name} == others


def test_names():
    assert set(MIXERS) == set(TOKEN_MIXERS)
    assert Task.parse("512/64") == Task(512, 64)
    assert RecallConfig().batch(Task(512, 64)) == 128
    names = [phase.name for phase in small(tasks=("16/2", "16/4")).build().phases()]
    assert names[:2] == ["16_2_d0008_softmax", "16_2_d0008_gla"]
    assert len(set(names)) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ("16-2",)}, "tasks must be LENGTH/PAIRS, such as 256/16; got '16-2'"),
        ({"tasks": ("16/5",)}, "at least four times pairs, got 16 and 5"),
        ({"mixers": ("mamba",)}, "mixers must be among gla, retention, softmax, fla; got 'mamba'"),
        ({"features": (12,)}, "features must be multiples of 4 num_heads = 8, got 12"),
        ({"learning_rates": ()}, "learning_rates must name at least one"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_tokens": 15}, "batch_tokens must hold at least one example of 16 tokens"),
        ({"train_examples": 3}, "at most all 3, got 64"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(small(), **change)
