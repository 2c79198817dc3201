"""The list of shapes: unique names, shapes that the ops take, values at the smoke shapes."""

import jax
import numpy as np
import pytest

from structlayers import gla
from structlayers.gla.arg_specs import ARG_SPECS, make_inputs
from structlayers.testing import assert_close


def call(spec, **options):
    return lambda *arrays: getattr(gla, spec.op)(*arrays, **spec.static, **options)


def test_names_are_unique_and_every_tag_is_used():
    assert len({spec.name for spec in ARG_SPECS}) == len(ARG_SPECS)
    assert frozenset().union(*(spec.tags for spec in ARG_SPECS)) == {"smoke", "cpu", "gpu", "tpu"}
    assert {spec.op for spec in ARG_SPECS} == {
        "gated_linear_attention",
        "gated_linear_attention_step",
    }


@pytest.mark.parametrize("spec", ARG_SPECS, ids=lambda spec: spec.name)
def test_the_op_takes_the_shapes(spec):
    out = jax.tree.leaves(jax.eval_shape(call(spec), *spec.arrays))[0]
    q, _, v, *_ = spec.arrays
    assert (out.shape, out.dtype) == ((*q.shape[:-1], v.shape[-1]), q.dtype)
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
        wide = [np.asarray(a, np.float64) for a in arrays]
        exact = jax.tree.map(np.asarray, call(spec, implementation="reference")(*wide))
    assert_close(spec.name, value, exact, 4e-3 if "bfloat16" in spec.name else 5e-7)
