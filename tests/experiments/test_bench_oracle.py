"""The float64 oracle, whole and on rows, and what a candidate's error is measured against."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench import oracle
from experiments.bench.candidates import make_candidates
from experiments.bench.inputs import make_arrays
from experiments.bench.measure import DIFFERENT, Effort, measure
from experiments.bench.modes import with_gradients
from experiments.bench.registry import operations_of
from experiments.bench.rivals import Contender, Rival
from experiments.bench.runner import make_job
from tests.experiments.bench_toy.ops import mix

TOY = "tests.experiments.bench_toy"
QUICK = Effort(repeats=2, target_seconds=1e-4)


@pytest.fixture
def operation():
    return operations_of(TOY)["mix"]


def _exact(arrays, cotangent):
    x, kernel, bar = (np.asarray(a).astype(np.complex128) for a in (*arrays, cotangent))
    # JAX's convention: the cotangent is not conjugated.
    return x @ kernel, [bar @ kernel.T, x.T @ bar]


@pytest.mark.parametrize("spec_index", [0, 1, 2], ids=["float32", "complex64", "bfloat16"])
def test_gradients_of_the_oracle(operation, spec_index):
    spec = operation.specs[spec_index]
    job = make_job(operation, spec, "forward_backward")
    assert isinstance(job.oracle, oracle.Oracle)
    result, gradients = job.oracle.values
    wanted, wanted_gradients = _exact(make_arrays(spec, operation.make_inputs), job.cotangent)
    assert result.dtype in (np.float64, np.complex128)
    np.testing.assert_allclose(result, wanted, rtol=1e-12, atol=1e-12)
    for gradient, want in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(gradient, want, rtol=1e-12, atol=1e-12)


def test_rows_are_spaced_evenly_and_counted():
    x = jax.ShapeDtypeStruct((1000, 4), "float32")
    rows = oracle.choose_rows((x,), x, 100 * oracle.WHOLE)
    assert rows is not None
    assert (rows[0], rows[-1], len(rows)) == (0, 999, 10)
    assert oracle.choose_rows((x,), x, oracle.WHOLE) is None
    with pytest.raises(NotImplementedError, match="no rows to choose from"):
        oracle.choose_rows((x,), jax.ShapeDtypeStruct((4,), "float32"), 2 * oracle.WHOLE)


@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
def test_rows_find_an_error_and_nothing_else(operation, mode, monkeypatch):
    monkeypatch.setattr(oracle, "WHOLE", 512)  # a third of the operations: 4 of 12 rows
    spec = operation.specs[0]
    job = make_job(operation, spec, mode)
    assert isinstance(job.oracle, oracle.Oracle)
    assert job.oracle.scope == "4 of 12 rows"
    found, _ = make_candidates(operation, spec, ("xla", "coarse"), ())
    good, coarse = (measure(candidate, job, QUICK) for candidate in found)
    assert good.error is not None
    assert coarse.error is not None
    assert 0 < good.error < 1e-6
    assert 0.9e-3 < coarse.error < 1.1e-3
    assert good.error_scope.startswith("4 of 12 rows")


def test_rows_of_several_arrays():
    """Both factors have the rows of the result: both are cut, and so are their gradients."""
    arrays = (jnp.arange(12.0).reshape(6, 2), jnp.ones((6, 2)), jnp.array([2.0, 3.0]))

    def weighted(a, b, scale):
        return a * b * scale[None]

    rows = np.array([0, 5])
    cotangent = jnp.zeros((6, 2)).at[rows].set(1)
    found = oracle.compute_oracle(
        weighted, arrays, "forward_backward", rows, cotangent, row_arrays=(0, 1)
    )
    assert found.gradient_rows == (True, True, False)
    assert found.error(with_gradients(weighted)(*arrays, cotangent)) < 1e-6


def test_an_error_in_one_gradient_is_found(operation):
    spec = operation.specs[0]
    job = make_job(operation, spec, "forward_backward")
    value = with_gradients(mix)(*make_arrays(spec, operation.make_inputs), job.cotangent)
    assert isinstance(job.oracle, oracle.Oracle)
    assert job.oracle.error(value) < 1e-6
    result, (first, second) = value
    assert job.oracle.error((result, [first, second * 1.01])) == pytest.approx(0.01, rel=1e-3)
    assert job.oracle.error((result.at[0, 0].set(jnp.nan), [first, second])) == np.inf


def test_integers_are_held_fixed():
    def pick(table, index):
        return {"picked": table[index] ** 2}

    table, index = jnp.array([1.0, -2.0, 3.0]), jnp.array([2, 0])
    result, gradients = with_gradients(pick)(table, index, {"picked": jnp.array([1.0, 10.0])})
    np.testing.assert_array_equal(result["picked"], [9.0, 1.0])
    assert len(gradients) == 1
    np.testing.assert_array_equal(gradients[0], [20.0, 0.0, 6.0])


@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
def test_rivals_are_compared_like_with_like(operation, mode):
    def same(x, kernel):
        return x @ kernel

    def other(x):
        return jnp.fft.fft(x)

    def unpacked(*arrays):
        return arrays

    rivals = (
        Rival("einsum", lambda spec: Contender(unpacked, same), True, "same"),
        Rival("wrong", lambda spec: Contender(unpacked, lambda x, w: -same(x, w)), True, "sign"),
        Rival("fft", lambda spec: Contender(lambda x, w: (x,), other), False, "other"),
    )
    spec = operation.specs[0]
    job = make_job(operation, spec, mode)
    found, refusals = make_candidates(operation, spec, (), rivals)
    assert refusals == {}
    einsum, wrong, fft = (measure(candidate, job, QUICK) for candidate in found)
    assert einsum.error is not None
    assert einsum.error < 1e-6
    assert einsum.error_scope == "all rows, result"
    assert wrong.error == pytest.approx(2.0, rel=1e-6)
    assert (fft.error, fft.error_scope) == (None, DIFFERENT)
    assert fft.timing.median != 0


def test_an_op_without_reference_is_not_compared(operation, monkeypatch):
    monkeypatch.setattr(type(operation), "implementations", lambda self: ("xla",))
    job = make_job(operation, operation.specs[0], "forward")
    assert job.oracle == "no reference implementation"
    found, _ = make_candidates(operation, operation.specs[0], ("xla",), ())
    measured = measure(found[0], job, QUICK)
    assert (measured.error, measured.error_scope) == (None, "no reference implementation")


def test_an_op_of_one_implementation_is_its_own_oracle(operation):
    alone = dataclasses.replace(operation, dispatcher=None)
    job = make_job(alone, operation.specs[0], "forward")
    found, _ = make_candidates(alone, operation.specs[0], None, ())
    assert [(each.name, each.chosen) for each in found] == [("mix", True)]
    measured = measure(found[0], job, QUICK)
    assert measured.error is not None
    assert 0 < measured.error < 1e-6
    assert measured.error_scope == "all rows, against itself in float64"


def test_integer_results_are_exact():
    operation = operations_of(TOY)["count_parity"]
    job = make_job(operation, operation.specs[0], "forward")
    found, _ = make_candidates(operation, operation.specs[0], None, ())
    assert [candidate.name for candidate in found] == ["xla"]
    assert measure(found[0], job, QUICK).error == 0.0


def test_peak_memory_counts_arguments_results_and_temporaries(operation):
    spec = operation.specs[0]
    found, _ = make_candidates(operation, spec, ("xla",), ())
    measured = measure(found[0], make_job(operation, spec, "forward"), QUICK)
    assert measured.peak_bytes is not None
    assert measured.peak_bytes >= 4 * (12 * 8 + 8 * 8 + 12 * 8)
    assert measured.compile_seconds is not None
    assert measured.compile_seconds > 0


def test_oracle_can_be_left_out(operation):
    job = make_job(operation, operation.specs[0], "forward", compare=False)
    assert job.oracle == "not compared"
    found, _ = make_candidates(operation, operation.specs[0], None, ())
    measured = measure(found[0], job, QUICK)
    assert (measured.error, measured.error_scope) == (None, "not compared")
