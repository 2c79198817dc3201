"""Finding ops, shapes, implementations and rivals; messages for names that are none."""

import types
from typing import Literal

import jax
import pytest

from experiments.bench import registry, rivals
from experiments.bench.candidates import make_candidates
from experiments.errors import CommandError
from structlayers._core.dispatch import Dispatcher

TOY = "tests.experiments.bench_toy"


@pytest.fixture
def mix():
    return registry.find_operation("mix", [TOY])


def test_finds_the_op_its_specs_and_its_dispatcher(mix):
    assert (mix.name, mix.family, mix.function.__name__) == ("mix", TOY, "mix")
    assert [spec.name for spec in mix.specs][:2] == ["mix_float32", "mix_complex64"]
    assert mix.implementations() == ("absent", "xla", "coarse", "reference", "broken")
    assert mix.make_inputs is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mixx", "unknown op 'mixx'; did you mean 'mix'?"),
        ("count_party", "unknown op 'count_party'; did you mean 'count_parity'?"),
        ("zzz", "unknown op 'zzz'; known are 'mix', 'count_parity'"),
    ],
)
def test_unknown_op_gets_the_nearest(name, message):
    with pytest.raises(CommandError) as caught:
        registry.find_operation(name, [TOY])
    assert str(caught.value) == message


def test_specs_by_name_by_tag_and_by_platform(mix):
    def names(*arguments):
        return [spec.name for spec in registry.select_specs(mix, *arguments)]

    assert names(["mix_large"], None, "cpu") == ["mix_large"]
    assert names([], "gpu", "cpu") == ["mix_large"]
    assert names([], None, "gpu") == ["mix_large"]
    # no spec is tagged "cpu": the smoke ones
    assert names([], None, "cpu") == ["mix_float32", "mix_complex64", "mix_bfloat16"]
    with pytest.raises(CommandError, match=r"spec of mix 'mix_larg'; did you mean 'mix_large'"):
        names(["mix_larg"], None, "cpu")
    with pytest.raises(CommandError, match=r"no spec of mix is tagged 'tpu'; .*'gpu', 'smoke'"):
        names([], "tpu", "cpu")


def test_what_would_run_is_asked_of_the_op_itself(mix):
    spec = mix.specs[0]
    shapes, choice = mix.trace(spec, None)
    assert (shapes.shape, shapes.dtype) == ((12, 8), "float32")
    assert choice is not None
    assert choice.name == "xla"
    assert "not on cpu" in choice.rejected["absent"]
    assert Dispatcher.choose.__name__ == "choose"  # the recorder is gone
    with pytest.raises(NotImplementedError, match="not on cpu"):
        mix.trace(spec, "absent")


def test_candidates_leave_the_reference_out_and_say_who_cannot_serve(mix):
    found, refusals = make_candidates(mix, mix.specs[0], None, ())
    assert [(each.name, each.chosen) for each in found] == [
        ("xla", True),
        ("coarse", False),
        ("broken", False),
    ]
    assert list(refusals) == ["absent"]
    found, refusals = make_candidates(mix, mix.specs[0], ("reference", "absent"), ())
    assert [each.name for each in found] == ["reference"]
    assert list(refusals) == ["absent"]


def _rival(name, framework: Literal["jax", "torch"] = "jax"):
    def refuse(spec):
        raise NotImplementedError(f"{name} does not do {spec.name}")

    return rivals.Rival(name, refuse, True, "none", framework)


def test_rivals_are_found_beside_the_experiments_of_the_family(monkeypatch):
    module = types.ModuleType("rivals")
    vars(module)["RIVALS"] = {"mix": (_rival("good"), _rival("peer", "torch"))}
    monkeypatch.setattr(rivals.importlib, "import_module", lambda path: module)
    present = {"experiments.toy", "experiments.toy.rivals"}
    monkeypatch.setattr(
        rivals.importlib.util, "find_spec", lambda path: path if path in present else None
    )
    assert [rival.name for rival in rivals.find_rivals("structlayers.toy", "mix")] == ["good"]
    present.add("torch")
    names = [rival.name for rival in rivals.find_rivals("structlayers.toy", "mix")]
    assert names == ["good", "peer"]
    assert rivals.find_rivals("structlayers.toy", "other") == ()
    assert rivals.find_rivals("structlayers.nothing", "mix") == ()


def test_rivals_by_name(mix):
    known = (_rival("matmul"), _rival("fft"))
    assert rivals.select_rivals(known, None) == known
    assert rivals.select_rivals(known, ["none"]) == ()
    assert rivals.select_rivals(known, ["fft"]) == known[1:]
    with pytest.raises(CommandError, match=r"unknown rival 'matmull'; did you mean 'matmul'"):
        rivals.select_rivals(known, ["matmull"])
    _, refusals = make_candidates(mix, mix.specs[0], (), known)
    assert refusals["fft"] == "fft does not do mix_float32"


def test_every_family_of_the_library_resolves():
    for family in registry.families():
        for name, operation in registry.operations_of(family).items():
            assert callable(operation.function), name
            for spec in operation.specs:
                assert jax.tree.leaves(operation.trace(spec, None)[0]), spec.name
