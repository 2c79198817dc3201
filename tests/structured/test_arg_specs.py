"""The list of shapes: unique names, shapes that the ops take, the choice of implementations."""

import jax
import numpy as np
import pytest

from structlayers import structured
from structlayers.structured.arg_specs import ARG_SPECS, make_inputs
from structlayers.structured.ops import circulant, ldr, low_rank, toeplitz_like
from structlayers.testing import assert_close


def call(spec, **options):
    return lambda *arrays: getattr(structured, spec.op)(*arrays, **spec.static, **options)


def test_names_are_unique():
    assert len({spec.name for spec in ARG_SPECS}) == len(ARG_SPECS)
    assert {spec.op for spec in ARG_SPECS} == {
        name for name in structured.__all__ if name.endswith("_multiply")
    }


@pytest.mark.parametrize("spec", ARG_SPECS, ids=lambda spec: spec.name)
def test_the_op_takes_the_shapes(spec):
    out = jax.eval_shape(call(spec), *spec.arrays)
    assert (out.shape, out.dtype) == (spec.arrays[0].shape, spec.arrays[0].dtype)
    assert spec.operations > 0


@pytest.mark.parametrize(
    "spec", [s for s in ARG_SPECS if "smoke" in s.tags], ids=lambda spec: spec.name
)
def test_smoke_shapes_equal_the_reference(spec):
    arrays = make_inputs(spec, jax.random.key(0))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), arrays) == tuple(
        (a.shape, a.dtype) for a in spec.arrays
    )
    value = jax.jit(call(spec))(*arrays)
    with jax.enable_x64(True):
        wide = [np.asarray(a, np.float64) if a.dtype.kind == "f" else a for a in arrays]
        exact = np.asarray(call(spec, implementation="reference")(*wide))
    assert_close(spec.name, value, exact, 2e-6)


def test_operators_of_ldr_keep_their_powers():
    spec = next(s for s in ARG_SPECS if s.name == "ldr_n1024_r1_b50_float32")
    *_, operator = make_inputs(spec, jax.random.key(0))
    v = jax.random.normal(jax.random.key(1), (1, 1024))
    rows = structured.ldr_to_dense(v, v, operator, operator)
    assert np.isfinite(rows).all()


def choice(dispatcher, spec_name: str, platform: str, rows: int | None = None) -> str:
    spec = next(s for s in ARG_SPECS if s.name == spec_name)
    x, *weights = spec.arrays
    if rows is not None:
        x = jax.ShapeDtypeStruct((rows, x.shape[-1]), x.dtype)
    stacked = [jax.ShapeDtypeStruct((1, *w.shape), w.dtype) for w in weights]
    arrays = weights if dispatcher is low_rank.dispatcher else stacked
    return dispatcher.choose(x, *arrays, platform=platform, precision=None).name


def test_choice():
    assert choice(circulant.dispatcher, "circulant_n60_b5_float32", "cpu") == "dense"
    assert choice(circulant.dispatcher, "circulant_n1024_b50_float32", "cpu") == "fft"
    assert choice(toeplitz_like.dispatcher, "toeplitz_like_n60_r2_b5_float32", "cpu") == "fft"
    assert choice(toeplitz_like.dispatcher, "toeplitz_like_n60_r2_b5_float32", "cpu", 99) == "dense"
    assert choice(toeplitz_like.dispatcher, "toeplitz_like_n1024_r4_b50_float32", "gpu") == "fft"
    assert choice(ldr.dispatcher, "ldr_n1024_r1_b50_float32", "cpu") == "scan"
    assert choice(ldr.dispatcher, "ldr_n1024_r1_b50_float32", "gpu") == "blocks"
    assert choice(low_rank.dispatcher, "low_rank_n1024_r4_b50_float32", "cpu") == "xla"
    full = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((99, 8), (8, 8), (8, 8))]
    assert low_rank.dispatcher.choose(*full, precision=None).name == "dense"
