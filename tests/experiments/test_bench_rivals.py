"""Rivals compute what they say they compute."""

import jax
import numpy as np
import pytest

from experiments.butterfly.rivals import RIVALS
from experiments.structured.rivals import RIVALS as STRUCTURED_RIVALS
from structlayers import butterfly, structured
from structlayers._core.arg_spec import ArgSpec
from structlayers.structured.arg_specs import ARG_SPECS, make_inputs
from structlayers.testing import error_ratio

N, LEVELS = 16, 4


def _spec(op, shapes, dtype, static, name="case"):
    arrays = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)
    return ArgSpec(name, op, arrays, static, 0, "none", frozenset({"smoke"}))


def _draw(spec):
    keys = jax.random.split(jax.random.key(0), len(spec.arrays))
    return [
        jax.random.normal(key, shape.shape, shape.dtype)
        for key, shape in zip(keys, spec.arrays, strict=True)
    ]


def _make(rival, spec):
    """The contender, or None where the rival has nothing to offer (and says why)."""
    try:
        return rival.make(spec)
    except NotImplementedError as refusal:
        if not str(refusal):
            raise
        return None


def _check(spec, expected, bound=3e-6):
    """Every rival of the same function agrees with the op; `expected` names those that can run."""
    made = {rival: _make(rival, spec) for rival in RIVALS[spec.op] if rival.framework == "jax"}
    contenders = {rival: contender for rival, contender in made.items() if contender}
    assert {rival.name for rival in contenders} == expected

    @jax.jit
    def run_all(*arrays):
        op = getattr(butterfly, spec.op)
        wanted = op(*arrays, implementation="reference", **spec.static)
        return wanted, [each.run(*each.prepare(*arrays)) for each in contenders.values()]

    wanted, results = run_all(*_draw(spec))
    for rival, result in zip(contenders, results, strict=True):
        assert result.shape == wanted.shape, rival.name
        if rival.same_function:
            assert error_ratio(result, wanted) < bound, rival.name


@pytest.mark.parametrize(("tied", "dtype"), [(False, "complex64"), (True, "float32")])
@pytest.mark.parametrize(
    ("stacks", "blocks", "static"),
    [
        (1, 1, {}),
        (1, 2, {"increasing_stride": False}),
        (1, 3, {"alternating": False, "permutation": np.arange(N)[::-1].copy()}),
        (1, 2, {"permutation": np.random.default_rng(0).permuted([range(N)] * 2, axis=1)}),
    ],
    ids=["one", "decreasing", "permuted", "two_permutations"],
)
def test_butterfly_rivals(tied, dtype, stacks, blocks, static):
    twiddle = (stacks, blocks, N - 1, 2, 2) if tied else (stacks, blocks, LEVELS, N // 2, 2, 2)
    spec = _spec("butterfly_multiply", ((5, N), twiddle), dtype, static)
    _check(spec, {"matmul", "fft", "copy", "two_matmuls", "stage_loop"})


def test_butterfly_rivals_of_rectangular_shapes():
    twiddle = (2, 1, LEVELS, N // 2, 2, 2)
    spec = _spec("butterfly_multiply", ((3, 2, N - 3), twiddle), "float32", {"out_features": 21})
    _check(spec, {"matmul", "stage_loop"})


def test_butterfly_rivals_in_bfloat16():
    twiddle = (1, 1, LEVELS, N // 2, 2, 2)
    spec = _spec("butterfly_multiply", ((5, N), twiddle), "bfloat16", {})
    _check(spec, {"matmul", "copy", "two_matmuls", "stage_loop"}, bound=2e-2)


def test_smallest_butterfly():
    spec = _spec("butterfly_multiply", ((5, 2), (1, 1, 1, 1, 2, 2)), "float32", {})
    _check(spec, {"matmul", "fft", "copy", "stage_loop"})


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_monarch_rivals(dtype):
    # k q = l r = 12, rectangular blocks
    spec = _spec("monarch_multiply", ((5, 13), (3, 4, 5), (2, 7, 6)), dtype, {"out_features": 11})
    _check(spec, {"matmul", "two_matmuls"})
    square = _spec("monarch_multiply", ((2, 3, 16), (4, 4, 4), (4, 4, 4)), dtype, {})
    _check(square, {"matmul", "fft", "two_matmuls"})


def test_names_are_unique_and_no_implementation_has_them():
    taken = {"xla", "dense", "reference", "pallas_gpu", "pallas_tpu"}
    for rivals in RIVALS.values():
        names = [rival.name for rival in rivals]
        assert len(set(names)) == len(names)
        assert not set(names) & taken


def test_every_rival_meets_every_shape_of_the_family():
    from structlayers.butterfly.arg_specs import ARG_SPECS

    pairs = [(spec, rival) for spec in ARG_SPECS for rival in RIVALS.get(spec.op, ())]
    assert pairs
    for spec, rival in pairs:
        contender = _make(rival, spec) if rival.framework == "jax" else None
        if contender is None:
            continue
        prepared = jax.eval_shape(contender.prepare, *spec.arrays)
        assert jax.tree.leaves(jax.eval_shape(contender.run, *prepared)), (spec.name, rival.name)


@pytest.mark.parametrize("shapes", [((5, 16),), ((5, 16), (3, 16))])
def test_rivals_of_hadamard_products(shapes):
    op = "hadamard_multiply" if len(shapes) == 1 else "sorf_multiply"
    _check(_spec(op, shapes, "float32", {}), {"matmul", "fft"})


@pytest.mark.parametrize("op", STRUCTURED_RIVALS)
def test_rivals_of_structured_products(op):
    spec = next(s for s in ARG_SPECS if s.op == op and "cpu" in s.tags)
    arrays = make_inputs(spec, jax.random.key(0))
    made = {rival.name: _make(rival, spec) for rival in STRUCTURED_RIVALS[op][:2]}
    assert made["matmul_tf32"] is None
    contender = made["matmul"]
    assert contender is not None
    found = contender.run(*contender.prepare(*arrays))
    assert error_ratio(found, getattr(structured, op)(*arrays)) < 3e-6
