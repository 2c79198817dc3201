"""The list of shapes: unique names, shapes that ops take, smoke shapes against the reference."""

import jax
import numpy as np
import pytest

from structlayers import equivariant
from structlayers.equivariant.arg_specs import ARG_SPECS, make_inputs
from structlayers.testing import assert_close


def call(spec, **options):
    return lambda *arrays: getattr(equivariant, spec.op)(*arrays, **spec.static, **options)


def test_names_are_unique():
    assert len({spec.name for spec in ARG_SPECS}) == len(ARG_SPECS)
    assert {spec.op for spec in ARG_SPECS} == {"gaunt_tensor_product", "many_body_product"}


@pytest.mark.parametrize("spec", ARG_SPECS, ids=lambda spec: spec.name)
def test_the_op_takes_the_shapes(spec):
    out = jax.eval_shape(call(spec), *spec.arrays)
    assert (out.shape[0], out.dtype) == (spec.arrays[0].shape[0], spec.arrays[0].dtype)
    assert out.shape[-1] == (spec.static["lmax"] + 1) ** 2
    assert spec.operations > 0


@pytest.mark.parametrize(
    "spec", [s for s in ARG_SPECS if "smoke" in s.tags], ids=lambda spec: spec.name
)
def test_smoke_shapes_equal_the_reference(spec):
    arrays = make_inputs(spec, jax.random.key(0))
    value = call(spec)(*arrays)
    with jax.enable_x64(True):
        wide = [np.asarray(a, np.float64) for a in arrays]
        exact = np.asarray(call(spec, implementation="reference")(*wide))
    assert_close(spec.name, value, exact, 4e-3 if value.dtype.itemsize == 2 else 1e-6)
