"""Floors, precision units, inputs and ceilings of the benchmark."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench import ceilings, floors, inputs
from experiments.errors import CommandError
from structlayers._core.arg_spec import ArgSpec
from tests.experiments.bench_toy.arg_specs import ARG_SPECS

MIX, MIX_COMPLEX, MIX_HALF, _, PARITY = ARG_SPECS
RATES = {"copy": 1e9, "float32": 1e9, "bf16": 4e9}


def test_bytes_forward_and_backward():
    result = jax.ShapeDtypeStruct((12, 8), "float32")
    once = 4 * (12 * 8 + 8 * 8 + 12 * 8)
    assert floors.count_bytes(MIX.arrays, {}, result, "forward") == once
    table = {"permutation": np.zeros(8, np.int32), "alternating": True}
    assert floors.count_bytes(MIX.arrays, table, result, "forward") == once + 32
    # cotangent in, two gradients out
    both = once + 4 * (12 * 8 + 12 * 8 + 8 * 8)
    assert floors.count_bytes(MIX.arrays, {}, result, "forward_backward") == both
    # integers have no gradient
    arrays = (*MIX.arrays, jax.ShapeDtypeStruct((5,), "int32"))
    assert floors.count_bytes(arrays, {}, result, "forward_backward") == both + 20


def test_bytes_of_narrow_integers():
    assert floors.bytes_of(jax.ShapeDtypeStruct((3, 3), "int4")) == 5
    assert floors.bytes_of({"a": jax.ShapeDtypeStruct((7,), "int8"), "b": None}) == 7


@pytest.mark.parametrize(
    ("dtype", "precision", "platform", "unit"),
    [
        ("float32", "highest", "gpu", "float32"),
        ("float32", "high", "gpu", "tf32"),
        ("complex64", "default", "gpu", "tf32"),
        ("complex64", "default", "cpu", "float32"),
        ("float32", "default", "tpu", "bf16"),
        ("float16", "native", "gpu", "bf16"),
        ("int8", "native", "gpu", "int8"),
        ("uint32", "native", "gpu", None),
        ("float64", "native", "cpu", None),
    ],
)
def test_units(dtype, precision, platform, unit):
    assert floors.unit_of(dtype, precision, platform) == unit


def test_precision_is_stated_for_float32_only():
    assert floors.precision_name("float32", None) == "highest"
    assert floors.precision_name("complex64", "default") == "default"
    assert floors.precision_name("float32", jax.lax.Precision.HIGH) == "high"
    assert floors.precision_name("bfloat16", "default") == "native"


def test_floor_is_the_larger_term():
    result = jax.ShapeDtypeStruct((12, 8), "float32")
    floor = floors.compute_floor(MIX, result, "forward", "highest", "cpu", RATES)
    assert (floor.bytes, floor.operations, floor.unit) == (1024, 1536, "float32")
    assert (floor.bound, floor.seconds) == ("operations", 1536 / 1e9)
    both = floors.compute_floor(MIX, result, "forward_backward", "highest", "cpu", RATES)
    assert (both.bytes, both.operations) == (2048, 3 * 1536)
    slow_copy = floors.compute_floor(
        MIX, result, "forward", "highest", "cpu", RATES | {"copy": 1e8}
    )
    assert (slow_copy.bound, slow_copy.seconds) == ("bytes", 1024 / 1e8)
    # No TF32 rate was measured here: bytes alone.
    unknown = floors.compute_floor(MIX, result, "forward", "default", "gpu", RATES)
    assert (unknown.unit, unknown.operation_seconds, unknown.bound) == (None, None, "bytes")


@pytest.mark.parametrize("spec", [MIX, MIX_COMPLEX, MIX_HALF], ids=lambda spec: spec.name)
def test_inputs_are_reproducible_signed_and_shaped_as_the_spec(spec):
    first, again, other = (inputs.make_arrays(spec, None, index) for index in (0, 0, 1))
    for array, same, fresh, shape in zip(first, again, other, spec.arrays, strict=True):
        assert (array.shape, array.dtype) == (shape.shape, shape.dtype)
        np.testing.assert_array_equal(array, same)
        assert not jnp.array_equal(array, fresh)
        wide = np.asarray(array).astype(np.complex128)
        parts = [wide.real, wide.imag] if array.dtype == jnp.complex64 else [wide.real]
        assert all(part.min() < 0 < part.max() for part in parts)
        assert 0.7 < np.sqrt(np.mean(np.abs(wide) ** 2)) < 1.3
    assert not jnp.array_equal(first[0][:8], first[1])


def test_inputs_may_be_pytrees():
    tree = {"blocks": (jax.ShapeDtypeStruct((4, 2), "float32"),) * 2}
    spec = ArgSpec("tree", "mix", (tree,), {}, 0, "none", frozenset({"smoke"}))
    (made,) = inputs.make_arrays(spec, None)
    assert made["blocks"][0].shape == (4, 2)
    assert not jnp.array_equal(*made["blocks"])


def test_integers_need_a_range():
    with pytest.raises(CommandError, match=r"count_parity_int32, array 0 .* int32.*make_inputs"):
        inputs.make_arrays(PARITY, None)


def test_make_inputs_must_give_what_the_spec_says():
    def wrong(spec, key):
        return (jnp.zeros((6, 5), jnp.float32),)

    with pytest.raises(CommandError, match=r"make_inputs of count_parity_int32 gave .*float32"):
        inputs.make_arrays(PARITY, wrong)


@pytest.mark.parametrize(
    ("platform", "capability", "expected"),
    [("gpu", "9.0", True), ("gpu", "7.5", False), ("gpu", "12.1a", True), ("cpu", "9.0", False)],
)
def test_tf32_by_compute_capability(platform, capability, expected):
    device = types.SimpleNamespace(platform=platform, compute_capability=capability)
    assert ceilings.has_tf32(device) is expected
    assert not ceilings.has_tf32(types.SimpleNamespace(platform="gpu"))


def test_ceilings_on_a_cpu():
    sizes = ceilings.Sizes(2**12, 32, 32, repeats=3, target_seconds=1e-4)
    found = ceilings.measure_ceilings(sizes)
    assert list(found) == ["copy", "float32", "bf16", "int8"]  # no TF32 on a CPU
    assert all(1e5 < rate < 1e15 for rate in found.values())
