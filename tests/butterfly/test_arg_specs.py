"""The list of shapes: unique names, ops that exist, shapes that they take."""

import jax
import numpy as np
import pytest

from structlayers import butterfly
from structlayers.butterfly.arg_specs import ARG_SPECS
from structlayers.testing import assert_close


def call(spec, **options):
    return lambda *arrays: getattr(butterfly, spec.op)(*arrays, **spec.static, **options)


def test_names_are_unique_and_every_tag_is_used():
    names = [spec.name for spec in ARG_SPECS]
    assert len(set(names)) == len(names)
    assert frozenset().union(*(spec.tags for spec in ARG_SPECS)) == {"smoke", "cpu", "gpu", "tpu"}


@pytest.mark.parametrize("spec", ARG_SPECS, ids=lambda spec: spec.name)
def test_the_op_takes_the_shapes(spec):
    out = jax.eval_shape(call(spec), *spec.arrays)
    assert out.size > 0
    if spec.op != "butterfly_to_dense":
        assert out.shape[0] == spec.arrays[0].shape[0]
        assert out.dtype == spec.arrays[0].dtype
    assert spec.operations > 0 or "_n1_" in spec.name


@pytest.mark.parametrize(
    "spec", [s for s in ARG_SPECS if "smoke" in s.tags], ids=lambda spec: spec.name
)
def test_smoke_shapes_run_and_equal_the_reference(spec, rng):
    def random(shape):
        values = rng.standard_normal(shape.shape) / np.sqrt(2)
        if np.issubdtype(shape.dtype, np.complexfloating):
            values = values + 1j * rng.standard_normal(shape.shape) / np.sqrt(2)
        return values.astype(shape.dtype)

    arrays = jax.tree.map(random, spec.arrays)
    out = jax.jit(call(spec))(*arrays)
    if spec.op == "butterfly_to_dense":
        n = out.shape[1]
        columns = butterfly.butterfly_multiply(np.eye(n, dtype=out.dtype), arrays[0])
        reference = columns.T
    else:
        reference = jax.jit(call(spec, implementation="reference"))(*arrays)
    bound = 1e-2 if out.dtype == jax.numpy.bfloat16 else 2e-6
    assert_close(spec.name, out, reference, bound)
