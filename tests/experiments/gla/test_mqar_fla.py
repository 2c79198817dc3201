"""The control of the recall experiment; fla's kernels need a GPU, so its definition stands in."""

import importlib
import importlib.util
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.errors import CommandError
from experiments.gla import fla_packages
from experiments.gla.mqar import fla_control, train
from experiments.gla.mqar.data import draw_examples
from experiments.gla.mqar.train import Trainer
from structlayers.models import LanguageModelConfig, model_from_fla, model_to_fla
from structlayers.testing import error_ratio

RATES = (1e-3, 1e-2)


@pytest.fixture
def as_in_a_run():
    """Optax mixes dtypes, which runs allow."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch):
    """Fla's layer on a CPU: its op by fla's own loop over tokens, its norm by torch's."""
    for name in ("torch", "transformers", "fla"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fla's imports: no Triton, no flash attention
        layer: Any = importlib.import_module("fla.layers.gla")
    naive: Any = importlib.import_module("fla.ops.gla.naive")
    functional: Any = importlib.import_module("torch.nn.functional")

    def attend(q: Any, k: Any, v: Any, g: Any = None, gk: Any = None, **options: Any) -> Any:
        assert options["initial_state"] is None
        return naive.naive_recurrent_gla(q, k, v, gk if g is None else g)

    def norm(self: Any, x: Any, g: Any) -> Any:
        normed = functional.rms_norm(x.float(), x.shape[-1:], self.weight, self.eps)
        return (normed * functional.silu(g.float())).to(x.dtype)

    monkeypatch.setattr(layer, "chunk_gla", attend)
    monkeypatch.setattr(layer, "fused_recurrent_gla", attend)
    monkeypatch.setattr(layer.FusedRMSNormGated, "forward", norm)
    monkeypatch.setattr(fla_control, "_device", lambda: "cpu")


def trainer_of(*, layers: int = 1, tied: bool = True, dtype: Any = None) -> Trainer:
    model = LanguageModelConfig(
        vocab_size=20,
        features=16,
        num_layers=layers,
        num_heads=2,
        hidden_features=24,
        tie_embeddings=tied,
        dtype=dtype,
        precision="highest",
    )
    return Trainer(model, batch=4, epochs=3, weight_decay=0.1)


def examples_of(count: int, seed: int = 0, length: int = 12):
    return draw_examples(jax.random.key(seed), count, length=length, pairs=2, vocab_size=20)


def named(trainer: Trainer, parameters: Any, seed: int, rate: int) -> dict[str, np.ndarray]:
    values = jax.tree.map(lambda leaf: leaf[seed, rate], parameters)
    return model_to_fla(nnx.merge(trainer.graph, values))


def both(trainer: Trainer, seeds: int, rates: int):
    keys = jax.random.split(jax.random.key(1), seeds)
    return train.initialize(trainer, keys, rates), fla_control.initialize(trainer, keys, rates)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("length", [12, 70])  # fla's layer takes another op beyond 64 tokens
def test_logits_are_those_of_the_model_here(on_cpu, tied, length):
    trainer = trainer_of(tied=tied, layers=2)
    examples = examples_of(3, length=length)
    rng = np.random.default_rng(0)
    tensors = {
        name: value + 0.3 * rng.standard_normal(value.shape, np.float32)
        for name, value in model_to_fla(trainer.network(jax.random.key(0))).items()
    }
    model = model_from_fla(tensors, trainer.model)
    wanted = model.logits(model.hidden(examples.tokens, places=examples.places))
    training, prepared = fla_control._prepare(trainer, examples)
    training.load({"parameters": tensors})
    found = training.logits(prepared).detach().numpy()
    assert float(jnp.sqrt(jnp.mean(wanted**2))) > 0.5
    assert error_ratio(found, wanted) <= 1e-6
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_as_close_as_the_model_here(on_cpu):
    exact, rounded = trainer_of(), trainer_of(dtype=jnp.bfloat16)
    examples = examples_of(8)
    model = exact.network(jax.random.key(0))
    wanted = np.asarray(model.logits(model.hidden(examples.tokens, places=examples.places)))
    ours = rounded.network(jax.random.key(0))
    own = np.asarray(ours.logits(ours.hidden(examples.tokens, places=examples.places)))
    training, prepared = fla_control._prepare(rounded, examples)
    training.load({"parameters": model_to_fla(model)})
    logits = training.logits(prepared)
    assert str(logits.dtype) == "torch.float32"
    error, own_error = (error_ratio(each, wanted) for each in (logits.detach().numpy(), own))
    assert 1e-3 < error < 2 * own_error


def test_bfloat16_gradients_are_as_close_as_those_here(on_cpu, as_in_a_run):
    """The average of gradients after a step from zero is a tenth of the gradient."""
    examples, keys = examples_of(4), jax.random.split(jax.random.key(2), 1)
    arguments = (keys, jnp.array(RATES[:1]), examples, examples)

    def averages(trainer: Trainer, control: bool) -> dict[str, np.ndarray]:
        states = both(trainer, 1, 1)
        if control:
            state, _ = fla_control.train_epoch(trainer, states[1], *arguments)
            return jax.tree.map(lambda leaf: leaf[0, 0], state["optimizer"]["first"])
        state, _ = train.train_epoch(trainer, states[0], *arguments)
        return named(trainer, state["optimizer"][0].mu, 0, 0)

    exact, rounded = trainer_of(), trainer_of(dtype=jnp.bfloat16)
    wanted = averages(exact, False)
    own, found = averages(rounded, False), averages(rounded, True)
    for name, value in wanted.items():
        error, own_error = (error_ratio(each[name], value) for each in (found, own))
        assert 1e-4 < error < max(2 * own_error, 1e-2), name


def test_first_parameters_are_those_of_the_model_here(on_cpu):
    trainer = trainer_of()
    ours, control = both(trainer, 2, 2)
    for seed in range(2):
        for name, value in named(trainer, ours["parameters"], seed, 0).items():
            found = control["parameters"][name][seed]
            np.testing.assert_array_equal(found, np.stack([value] * 2))


@pytest.mark.parametrize(("count", "tolerance"), [(4, 1e-5), (14, 1e-4)], ids=["step", "epoch"])
def test_training_is_that_of_optax(on_cpu, as_in_a_run, count, tolerance):
    """One step, and three in batches drawn from more examples, for every seed and rate."""
    trainer, examples, validation = trainer_of(), examples_of(count), examples_of(30, 1)
    ours, control = both(trainer, 2, 2)
    keys = jax.random.split(jax.random.key(2), 2)
    start = control["parameters"]
    arguments = (keys, jnp.array(RATES), examples, validation)
    control, losses = fla_control.train_epoch(trainer, control, *arguments)
    ours, wanted_losses = train.train_epoch(trainer, ours, *arguments)
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5)
    np.testing.assert_allclose(control["accuracy"], ours["accuracy"], atol=1e-6)
    assert int(control["epochs"]) == 1
    for seed in range(2):
        for rate in range(2):
            for name, value in named(trainer, ours["parameters"], seed, rate).items():
                found = control["parameters"][name][seed, rate]
                np.testing.assert_allclose(found, value, atol=tolerance, err_msg=name)
                moved = np.abs(value - start[name][seed, rate]).max()
                assert moved > 0.5 * RATES[rate], name


def test_resumed_state_goes_the_same_way(on_cpu, as_in_a_run):
    trainer, examples, validation = trainer_of(), examples_of(9), examples_of(5, 1)
    _, state = both(trainer, 1, 2)
    arguments = (jax.random.split(jax.random.key(2), 1), jnp.array(RATES), examples, validation)
    state, _ = fla_control.train_epoch(trainer, state, *arguments)
    kept = jax.tree.map(np.copy, state)
    one, one_loss = fla_control.train_epoch(trainer, state, *arguments)
    fla_control._training.cache_clear()
    two, two_loss = fla_control.train_epoch(trainer, kept, *arguments)
    jax.tree.map(np.testing.assert_array_equal, (one, one_loss), (two, two_loss))


def test_accuracy_is_that_of_the_model_here(on_cpu):
    trainer, examples = trainer_of(), examples_of(501)  # pieces of unequal size
    ours, control = both(trainer, 1, 2)
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(  # at first the logit of the query itself is the largest
        lambda leaf: leaf + rng.standard_normal(leaf.shape, np.float32), ours["parameters"]
    )
    for rate in range(2):
        for name, value in named(trainer, noisy, 0, rate).items():
            control["parameters"][name][0, rate] = value
    wanted = np.asarray(train.accuracy(trainer, noisy, examples))
    found = fla_control.accuracy(trainer, control["parameters"], examples)
    assert (wanted > 0).all()
    np.testing.assert_allclose(found, wanted, atol=1 / examples.answers.size)  # one near tie
    control["parameters"]["model.norm.weight"][0, 1, 0] = np.nan
    found = fla_control.accuracy(trainer, control["parameters"], examples)
    assert found[0, 0] > 0
    assert found[0, 1] == 0  # NaN is no answer


def test_refuses_other_parameters(on_cpu):
    trainer, examples = trainer_of(), examples_of(3)
    training, _ = fla_control._prepare(trainer, examples)
    values = model_to_fla(trainer.network(jax.random.key(0)))
    with pytest.raises(ValueError, match="parameters must be those of"):
        training.load({"parameters": {**values, "lm_head.weight": np.zeros((20, 16))}})
    with pytest.raises(ValueError, match=r"embeddings.weight must have shape \(20, 16\), got"):
        training.load({"parameters": {**values, "model.embeddings.weight": np.zeros((1, 16))}})


def test_smoke_run(on_cpu, command, tmp_path, read):
    options = ("--preset", "smoke", "--mixers", "fla", "--workdir", tmp_path / "run")
    code, out, err = command("run", "configs/gla/mqar.py", *options)
    assert code == 0, out + err
    metrics = read(tmp_path / "run" / "result.json")["metrics"]
    assert metrics["16/2/d0016/fla/epochs"] == 2
    assert 0 <= metrics["16/2/d0016/fla/accuracy"] <= 1


def test_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(fla_packages.importlib.util, "find_spec", lambda name: None)
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(CommandError, match="the mixer fla needs torch, transformers, fla: pip"):
        fla_control.initialize(trainer_of(), keys, 1)
