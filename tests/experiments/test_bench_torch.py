"""Rivals written in torch; skipped where torch is not installed."""

import jax
import numpy as np
import pytest

from experiments.bench import measure, torch_peer
from experiments.bench.candidates import make_candidates
from experiments.bench.registry import operations_of
from experiments.bench.rivals import Contender, Rival
from experiments.bench.runner import make_job

pytest.importorskip("torch")
TOY = "tests.experiments.bench_toy"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64", "int32"])
def test_values_survive_the_way_to_torch_and_back(dtype):
    x = (jax.random.normal(jax.random.key(0), (3, 4)) * 9).astype(dtype)
    tensors = torch_peer.to_torch({"x": x}, "cpu")
    assert str(tensors["x"].dtype) == f"torch.{dtype}"
    back = torch_peer.to_numpy(tensors["x"])
    np.testing.assert_array_equal(back, np.asarray(x.astype("float32") if dtype[0] == "b" else x))


@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
@pytest.mark.parametrize("spec_index", [0, 1, 2], ids=["float32", "complex64", "bfloat16"])
def test_torch_rivals_are_timed_and_compared(mode, spec_index):
    def run(x, kernel):
        return x @ kernel

    rival = Rival("peer", lambda spec: Contender(lambda *a: a, run), True, "torch", "torch")
    operation = operations_of(TOY)["mix"]
    spec = operation.specs[spec_index]
    (candidate,), _ = make_candidates(operation, spec, (), (rival,))
    job = make_job(operation, spec, mode)
    found = measure.measure(candidate, job, measure.Effort(3, 1e-3))
    assert found.error is not None
    assert found.error < (1e-6 if spec_index < 2 else 1e-2)
    assert found.timing.timer in ("clock", "graph")
    assert found.timing.median > 0
    assert found.compile_seconds is None


def test_torch_gradients():
    def run(x, kernel):
        return x @ kernel

    x, kernel, bar = (
        jax.random.normal(jax.random.key(index), shape)
        for index, shape in enumerate([(3, 4), (4, 5), (3, 5)])
    )
    tensors = [torch_peer.to_torch(each, "cpu") for each in (x, kernel, bar)]
    result, gradients = torch_peer.with_torch_gradients(run)(*tensors)
    np.testing.assert_allclose(torch_peer.to_numpy(result), x @ kernel, rtol=1e-5, atol=1e-5)
    for got, want in zip(gradients, (bar @ kernel.T, x.T @ bar), strict=True):
        np.testing.assert_allclose(torch_peer.to_numpy(got), want, rtol=1e-5, atol=1e-5)


def test_torch_device_of_a_platform():
    assert torch_peer.torch_device("cpu") == "cpu"
    with pytest.raises(NotImplementedError, match="torch has no tpu here"):
        torch_peer.torch_device("tpu")
