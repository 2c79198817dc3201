"""The step of training: by hand, on meshes, accumulated; and what evaluation counts."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.errors import CommandError
from experiments.language_model.evaluate import evaluate
from experiments.language_model.flops import forward_flops, peak_flops, training_flops
from experiments.language_model.mesh import AXIS_RULES, MeshShape
from experiments.language_model.token_file import write_token_file
from experiments.language_model.tokenizer import ByteTokenizer
from experiments.language_model.train import (
    Optimizer,
    Trainer,
    initialize,
    recent_loss,
    token_losses,
    train_step,
)
from structlayers.models import LanguageModel, LanguageModelConfig
from structlayers.testing import assert_close

OPTIMIZER = Optimizer(
    learning_rate=1e-2,
    final_learning_rate=1e-3,
    warmup=2,
    steps=10,
    weight_decay=0.1,
    beta1=0.9,
    beta2=0.95,
    clip=1.0,
)
MODEL = LanguageModelConfig(
    vocab_size=264,
    features=16,
    num_layers=1,
    num_heads=2,
    hidden_features=32,
    init_std=0.2,
    mixer="softmax",
    chunk_size=2,
    norm_epsilon=1e-2,  # a first output near 0 would have its rounding multiplied a thousandfold
    axis_rules=AXIS_RULES,
)
ONE = MeshShape(data=1)


def trainer(shape=ONE, loss_chunk=3, **changes):
    return Trainer(dataclasses.replace(MODEL, **changes), OPTIMIZER, shape.make(), loss_chunk, 4)


def some_tokens(rows=8, time=9):
    return jnp.asarray(np.random.default_rng(0).integers(0, 257, (rows, time)), jnp.int32)


def run(train, accumulation, steps=3):
    """Losses, gradient norms and the state after some steps."""
    state, logged = initialize(train, jax.random.key(0)), []
    batch = some_tokens().reshape(accumulation, -1, 9)
    batch = jax.device_put(batch, train.batch_sharding)
    for _ in range(steps):
        with train.on_mesh():
            state, values = train_step(train, state, batch)
        logged.append([float(values["loss"]), float(values["gradient_norm"])])
    return np.array(logged), state


@functools.cache
def on_one_device(mixer):
    """The run that others are compared with."""
    return run(trainer(mixer=mixer), 1)


@pytest.fixture(scope="module")
def single():
    return on_one_device("softmax")


def test_a_step_is_adamw_of_the_mean_loss(single):
    """Gradients of the plain cross-entropy, clipped; AdamW by its equations in float64."""
    train = trainer()
    state = initialize(train, jax.random.key(0))
    tokens = some_tokens()

    def loss(parameters):
        logits = train.merge(parameters)(tokens[:, :-1])
        log_p = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).mean()

    moments = None
    parameters = jax.tree.map(lambda x: np.asarray(x, np.float64), state["parameters"])
    for step, (value, norm) in enumerate(single[0]):
        with train.on_mesh():
            found, gradients = jax.jit(jax.value_and_grad(loss))(
                jax.tree.map(lambda x: x.astype(np.float32), parameters)
            )
        gradients = jax.tree.map(lambda x: np.asarray(x, np.float64), gradients)
        found_norm = math.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradients)))
        np.testing.assert_allclose([value, norm], [found, found_norm], rtol=2e-5)
        too_long = max(found_norm, 1)
        gradients = jax.tree.map(lambda x, n=too_long: x / n, gradients)
        mean, square = moments or (jax.tree.map(np.zeros_like, gradients),) * 2
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradients)
        square = jax.tree.map(lambda s, g: 0.95 * s + 0.05 * g**2, square, gradients)
        moments = mean, square
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 2) / 8))
        rate = 1e-2 * step / 2 if step < 2 else 1e-3 + (1e-2 - 1e-3) * cosine
        parameters = jax.tree.map(
            lambda p, m, s, r=rate, n=step + 1: (
                p
                - r
                * (
                    m / (1 - 0.9**n) / (np.sqrt(s / (1 - 0.95**n)) + 1e-8)
                    + (0.1 * p if p.ndim > 1 else 0)
                )
            ),
            parameters,
            mean,
            square,
        )
    assert_close("parameters", single[1]["parameters"], parameters, 1e-5)


def test_the_step_counts_and_keeps_losses(single):
    logged, state = single
    assert int(state["step"]) == 3
    np.testing.assert_allclose(state["recent"], [*logged[:, 0], 0], rtol=1e-6)
    np.testing.assert_allclose(recent_loss(state), logged[:, 0].mean(), rtol=1e-6)
    _, state = run(trainer(), 1, steps=5)  # the oldest of four gives way
    np.testing.assert_allclose(np.asarray(state["recent"])[1:3], logged[1:, 0], rtol=1e-5)
    assert {leaf.dtype for leaf in jax.tree.leaves(state["parameters"])} == {jnp.dtype("float32")}


def test_accumulated_gradients_are_those_of_the_batch(single):
    logged, state = run(trainer(), 4)
    assert_close("losses", logged, single[0], 1e-6)
    assert_close("parameters", state["parameters"], single[1]["parameters"], 1e-5)


@pytest.mark.parametrize(
    ("shape", "mixer", "loss_chunk"),
    [
        (MeshShape(fsdp=4), "softmax", 3),
        (MeshShape(data=2, fsdp=2, tensor=2), "softmax", 8),
        (MeshShape(data=2, fsdp=2, tensor=2), "gla", 3),
        (MeshShape(data=1, sequence=8), "gla", 3),
        (MeshShape(data=2, tensor=2, sequence=2), "gla", 3),
        (MeshShape(data=2, tensor=2, sequence=2), "gla", 8),
    ],
    ids=[
        *("data and fsdp", "all, logits kept", "all, gla", "time", "data, tensor and time"),
        "data, tensor and time, logits kept",
    ],
)
def test_a_mesh_changes_no_number(shape, mixer, loss_chunk):
    """Eight devices give what one gives; parameters and moments lie in parts."""
    expected = on_one_device(mixer)
    train = trainer(shape, loss_chunk, mixer=mixer)
    logged, state = run(train, 1)
    assert_close("losses", logged, expected[0], 2e-6)
    assert_close("state", state, expected[1], 2e-5)
    kernel = state["parameters"]["blocks"][0]["mixer"]["query"]["kernel"]
    fsdp, tensor = (train.mesh.shape[axis] for axis in ("fsdp", "tensor"))
    for leaf in (kernel, state["optimizer"][1][0].mu["blocks"][0]["mixer"]["query"]["kernel"]):
        shard = leaf.addressable_shards[0].data.shape
        assert shard == (kernel.shape[0] // fsdp, kernel.shape[1] // tensor)


def test_bfloat16_computes_on_float32_weights():
    logged, state = run(trainer(mixer="gla", dtype=jnp.bfloat16), 2)
    assert_close("losses", logged[:, 0], on_one_device("gla")[0][:, 0], 1e-2)
    assert {leaf.dtype for leaf in jax.tree.leaves(state["parameters"])} == {jnp.dtype("float32")}
    moments = jax.tree.leaves(state["optimizer"][1][0])
    assert {leaf.dtype for leaf in moments} == {jnp.dtype("float32"), jnp.dtype("int32")}


def test_bad_meshes_are_refused():
    for field in ("data", "fsdp", "tensor", "sequence"):
        with pytest.raises(ValueError, match=rf"mesh.{field} must be at least 1, got 0"):
            MeshShape(**{field: 0})
    with pytest.raises(ValueError, match=r"one of mesh.fsdp, mesh.tensor and mesh.sequence must"):
        MeshShape(fsdp=2, tensor=2, sequence=2)
    for shape in (MeshShape(fsdp=3), MeshShape(fsdp=9), MeshShape(data=3, tensor=3)):
        with pytest.raises(CommandError, match=r"MeshShape\(data=.* does not fit 8 devices"):
            shape.make()
    with pytest.raises(
        CommandError, match=r"mesh.tensor = 8 does not divide parameter embedding\.embedding"
    ):
        initialize(trainer(MeshShape(tensor=8), vocab_size=257), jax.random.key(0))


def test_losses_do_not_depend_on_the_chunk():
    model = LanguageModel(dataclasses.replace(MODEL, axis_rules=None), rngs=nnx.Rngs(0))
    tokens = some_tokens(2)
    plain = optax.softmax_cross_entropy_with_integer_labels
    expected = jax.jit(lambda tokens: plain(model(tokens[:, :-1]), tokens[:, 1:]))(tokens)
    losses = jax.jit(token_losses, static_argnums=2)
    for chunk in (1, 3, 8, 100):
        assert_close(f"losses by {chunk}", losses(model, tokens, chunk), expected, 1e-6)


@pytest.mark.parametrize(
    ("shape", "context"), [(ONE, 5), (ONE, 40), (MeshShape(data=2, fsdp=4), 4)]
)
def test_evaluation_predicts_every_token_once(tmp_path, monkeypatch, shape, context):
    """Against each token's probability by itself; batches smaller than the text."""
    monkeypatch.setattr("experiments.language_model.evaluate.TOKENS", 8)
    text = "It is a truth universally é"
    file = write_token_file(tmp_path / "a.tokens", text, ByteTokenizer())
    train = trainer(shape)
    parameters = initialize(train, jax.random.key(0))["parameters"]
    found = evaluate(train, parameters, file, 256, context)
    ids = [256, *file.tokens.tolist()]
    expected = np.zeros(context)
    starts = range(0, len(ids) - 1, context)
    windows = [ids[start : start + context] for start in starts]
    padded = np.array([window + [0] * (context - len(window)) for window in windows])
    with train.on_mesh():
        log_p = jax.jit(lambda p, t: jax.nn.log_softmax(train.merge(p)(t)))(parameters, padded)
    for start, row in zip(starts, np.asarray(log_p, np.float64), strict=True):
        for place, token in enumerate(ids[start + 1 : start + context + 1]):
            expected[place] -= row[place, token]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)
    assert found.counts.sum() == len(file) == 28
    total = expected.sum()
    np.testing.assert_allclose(found.perplexity, math.exp(total / 28), rtol=1e-5)
    np.testing.assert_allclose(found.bits_per_byte, total / math.log(2) / 28, rtol=1e-5)
    places = found.by_place(3)
    assert len(places) == -(-min(context, 28) // 3)
    mean = expected[:3].sum() / found.counts[:3].sum()
    np.testing.assert_allclose(places[0], math.exp(mean), rtol=1e-5)
    part = evaluate(train, parameters, file, 256, context, max_windows=2)
    assert part.counts.sum() == min(28, 2 * context)


def test_an_empty_text_cannot_be_evaluated(tmp_path):
    file = write_token_file(tmp_path / "a.tokens", "", ByteTokenizer())
    train = trainer()
    with pytest.raises(ValueError, match=r"a\.tokens has no tokens"):
        evaluate(train, {}, file, 256, 4)


def dots(jaxpr):
    """Operations of all matrix products of a program, loops counted as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)
        times = equation.params.get("length", 1)
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            total += times * dots(inner) if hasattr(inner, "eqns") else 0
    return total


@pytest.mark.parametrize("tied", [False, True])
def test_operations_are_those_of_the_program(tied):
    """Softmax attention: XLA multiplies all pairs, twice as many as are counted."""
    train = trainer(mixer="softmax", tie_embeddings=tied)
    tokens = jax.ShapeDtypeStruct((2, 24), jnp.int32)
    with train.on_mesh():
        abstract = nnx.to_pure_dict(jax.eval_shape(train.parameters, jax.random.key(0)))
        program = jax.make_jaxpr(lambda p, t: train.merge(p)(t))(abstract, tokens)
    counted = forward_flops(train.model, train.sizes["multiplied"], 24)
    assert dots(program.jaxpr) == 2 * 24 * (counted + 2 * 24 * 16)
    assert training_flops(train.model, train.sizes["multiplied"], 24) == 3 * counted


def test_operations_of_linear_mixers_and_peaks():
    """4 K V of every head, whatever T: 4 * 4 * 8 for two heads of GLA, 4 * 8 * 16 of retention."""
    for mixer, each in (("gla", 128), ("retention", 512)):
        model = dataclasses.replace(MODEL, mixer=mixer)
        assert forward_flops(model, 0, 10) == forward_flops(model, 0, 10000) == 2 * each
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989.4e12
    assert peak_flops("NVIDIA H100 NVL") == 836e12
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("cpu") is None
