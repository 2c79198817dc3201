"""The list of shapes: unique names, shapes that ops take, smoke shapes against the reference."""

import e3nn_jax as e3nn
import jax
import numpy as np
import pytest

from structlayers import equivariant
from structlayers.equivariant.arg_specs import _CONTRACTIONS, ARG_SPECS, make_inputs
from structlayers.equivariant.symmetric_basis import symmetric_basis
from structlayers.testing import assert_close


def call(spec, **options):
    return lambda *arrays: getattr(equivariant, spec.op)(*arrays, **spec.static, **options)


def test_names_are_unique():
    assert len({spec.name for spec in ARG_SPECS}) == len(ARG_SPECS)
    assert {spec.op for spec in ARG_SPECS} == {
        "clebsch_gordan_tensor_product",
        "gaunt_message_passing",
        "gaunt_tensor_product",
        "many_body_product",
        "matrix_tensor_product",
        "symmetric_contraction",
        "vector_signal_tensor_product",
    }


@pytest.mark.parametrize("spec", ARG_SPECS, ids=lambda spec: spec.name)
def test_the_op_takes_the_shapes(spec):
    (out,) = jax.tree.leaves(jax.eval_shape(call(spec), *spec.arrays))
    first = jax.tree.leaves(spec.arrays)[0]
    assert (out.shape[0], out.dtype) == (first.shape[0], first.dtype)
    if "lmax" in spec.static:
        assert out.shape[-1] == (spec.static["lmax"] + 1) ** 2
    assert spec.operations > 0


@pytest.mark.parametrize(
    "spec", [s for s in ARG_SPECS if "smoke" in s.tags], ids=lambda spec: spec.name
)
def test_smoke_shapes_equal_the_reference(spec):
    arrays = make_inputs(spec, jax.random.key(0))
    (value,) = jax.tree.leaves(call(spec)(*arrays))
    # one implementation alone is its own reference
    alone = spec.op == "symmetric_contraction"
    options = {} if alone else {"implementation": "reference"}
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda a: np.asarray(a, np.float64 if a.dtype != np.int32 else np.int32), arrays
        )
        (exact,) = jax.tree.leaves(call(spec, **options)(*wide))
    assert_close(spec.name, value, exact, 4e-3 if value.dtype.itemsize == 2 else 1e-6)


@pytest.mark.parametrize("kind", list(_CONTRACTIONS))
def test_counts_of_symmetric_contractions(kind):
    irreps, size, irreps_out, paths, entries, nonzero = _CONTRACTIONS[kind]
    assert e3nn.Irreps(irreps).dim == size
    bases = [
        symmetric_basis(e3nn.Irreps(irreps), order, e3nn.Irreps(irreps_out))
        for order in range(1, len(paths) + 1)
    ]
    assert tuple(basis.irreps.num_irreps for basis in bases) == paths
    assert tuple(basis.irreps.dim for basis in bases) == entries
    assert tuple(int(np.sum(np.abs(b.matrix) > 1e-12)) for b in bases) == nonzero


def test_indices_are_those_of_nodes():
    (spec,) = [s for s in ARG_SPECS if s.op == "gaunt_message_passing" and "smoke" in s.tags]
    x, y, senders, receivers = make_inputs(spec, jax.random.key(3))
    assert y.shape[0] == len(senders) == len(receivers)
    for indices in (senders, receivers):
        assert 0 <= indices.min() <= indices.max() < x.shape[0]
    assert not np.array_equal(senders, receivers)
