import dataclasses
import math

import jax
import numpy as np
import pytest

from experiments.bench.phase import select_candidates
from experiments.bench.registry import find_operation
from experiments.config_files import ROOT, load
from experiments.gla import rivals
from experiments.gla.speed import experiment
from experiments.gla.speed.config import CANDIDATES, SpeedConfig
from experiments.gla.speed.experiment import Measure, SpeedExperiment, ratios
from experiments.gla.speed.floors import floor_bytes, held_bytes, state_bytes
from structlayers.gla.arg_specs import ARG_SPECS

SPECS = {spec.name: spec for spec in ARG_SPECS}
SMALL = SPECS["gla_b2_t63_h2_k16_v24_float32"]
STEP = SPECS["step_b8_h4_k256_v512_bfloat16"]


def row(name, seconds, *, chosen=False, peak_bytes=None):
    return {
        "implementation": name,
        "chosen": chosen,
        "seconds_median": seconds,
        "peak_bytes": peak_bytes,
    }


def found(*rows, size=4000):
    return ratios({"rows": rows, "bytes": size, "ceilings": {"copy": 4e9}})


def test_ratios():
    numbers = found(
        row("pallas_gpu", 2e-6, chosen=True),
        row("xla", 8e-6),
        row("cudnn_attention", 7e-6),
        row("cudnn_attention_128", 6e-6),
        row("fla", 5e-6),
    )
    assert numbers["us"] == pytest.approx(2)
    assert numbers["share"] == pytest.approx(0.5)
    assert numbers["over_cudnn"] == pytest.approx(3)
    assert numbers["over_fla"] == pytest.approx(2.5)
    assert numbers["over_xla"] == pytest.approx(4)
    assert numbers["cudnn_attention/us"] == pytest.approx(7)
    assert "over_xla_attention" not in numbers


def test_temporaries_beside_the_states_of_chunks():
    """Stored on an H200 at K/V = 128/256, T = 8192: 2696 bytes a token and head beside 1024."""
    spec, tokens = SPECS["gla_b8_t8192_h4_k128_v256_bfloat16"], 8 * 8192 * 4
    result, _ = find_operation(spec.op).trace(spec, None)
    held, states = held_bytes(spec, result), state_bytes(spec)
    assert (held, states) == (4096 * tokens, 1024 * tokens)
    rows = [row("pallas_gpu", 1e-6, chosen=True, peak_bytes=1780482856)]
    numbers = {"rows": rows, "bytes": 1, "ceilings": {"copy": 1.0}}
    with_states = numbers | {"held": held, "states": states}
    assert ratios(with_states)["temporaries_over_states"] == pytest.approx(2696 / 1024, rel=1e-4)
    assert "temporaries_over_states" not in ratios(numbers)
    rows[0]["peak_bytes"] = None
    assert "temporaries_over_states" not in ratios(with_states)


def test_what_failed_is_no_pass():
    numbers = found(row("xla", None, chosen=True), row("cudnn_attention", 1e-6))
    assert math.isnan(numbers["share"])
    assert math.isnan(numbers["over_cudnn"])
    numbers = found(row("xla", 1e-6, chosen=True), row("cudnn_attention", None), row("fla", None))
    assert "over_cudnn" not in numbers  # a rival that fails is not beaten
    assert "over_fla" not in numbers
    assert math.isnan(numbers["fla/us"])


def floor_of(spec, mode):
    result, _ = find_operation(spec.op).trace(spec, None)
    return floor_bytes(spec, result, mode)


@pytest.mark.parametrize(("keys", "values"), [(128, 256), (256, 512), (128, 128)])
def test_floor_is_the_formula(keys, values):
    """Bytes of a token and head: data of 2 bytes, gates of 4, states of 2 written and read."""
    spec = next(
        spec
        for spec in ARG_SPECS
        if spec.op == "gated_linear_attention"
        and spec.arrays[1].shape[1:]
        == (2048 if values != keys else 8192, *spec.arrays[1].shape[2:])
        and (spec.arrays[3].shape[-1], spec.arrays[2].shape[-1]) == (keys, values)
        and "bfloat16" in spec.name
    )
    heads = math.prod(spec.arrays[0].shape[:3])
    assert floor_of(spec, "forward") == heads * (8 * keys + 4 * values)
    states = 4 * keys * values // 64
    both = heads * (24 * keys + 10 * values + states)
    assert floor_of(spec, "forward_backward") == both


def test_floor_counts_the_last_chunk_whole():
    """63 tokens of two heads and rows: float32 everywhere, one chunk a head."""
    tokens, chunks = 2 * 63 * 2, 2 * 2
    forward = tokens * 4 * (3 * 16 + 2 * 24)
    assert floor_of(SMALL, "forward") == forward
    backward = tokens * 4 * (6 * 16 + 3 * 24) + 4 * chunks * 16 * 24
    assert floor_of(SMALL, "forward_backward") == forward + backward


def test_floor_of_a_step_is_its_state():
    state = 2 * 4 * 8 * 4 * 256 * 512
    assert state < floor_of(STEP, "forward") < 1.01 * state


@pytest.fixture
def no_ceilings(monkeypatch):
    monkeypatch.setattr(experiment, "ceilings", lambda: {"copy": 1e10, "float32": 1e10})


def test_measures_the_candidates_and_keeps_the_rows(no_ceilings):
    mode = "forward"
    config = dataclasses.replace(
        SpeedConfig(), candidates=("xla_attention",), repeats=2, sample_seconds=1e-4
    )
    phase = Measure(config, SMALL, mode)
    state, logged = phase.advance(phase.init(), 0, 1)
    assert {row["implementation"] for row in phase.rows} == {"xla", "xla_attention"}
    assert not any(row["failure"] for row in phase.rows)
    assert set(logged) <= {"xla", "xla_attention"}
    again = Measure(config, SMALL, mode)
    again.set_host_state(phase.host_state())
    assert again.finish(state) == phase.finish(state)
    metrics = SpeedExperiment(config).finish({phase.name: phase.finish(state)})
    assert metrics[f"{SMALL.name}/{mode}/us"] > 0
    assert metrics[f"{SMALL.name}/{mode}/share"] > 0


def test_candidates_that_are_not_offered_are_left_out():
    operation = find_operation(SMALL.op)
    names, others = select_candidates(operation, SMALL, CANDIDATES)
    assert "xla" in names
    assert "reference" not in names
    assert {rival.name for rival in others} <= set(CANDIDATES)
    names, others = select_candidates(operation, SMALL, ())
    assert names == ("xla",)
    assert others == ()


def test_every_candidate_has_a_name_that_exists():
    known = {rival.name for found in rivals.RIVALS.values() for rival in found}
    assert set(CANDIDATES) - {"xla", "pallas_gpu"} == known


def test_steps_are_measured_forward_only():
    config = SpeedConfig(shapes=(SMALL.name, STEP.name))
    assert [phase.name for phase in config.build().phases()] == [
        f"{SMALL.name}_forward",
        f"{SMALL.name}_forward_backward",
        f"{STEP.name}_forward",
    ]


def test_attention_has_the_width_of_the_values():
    offered = {rival.name: rival for rival in rivals.RIVALS["gated_linear_attention"]}
    arrays = [np.zeros(leaf.shape, leaf.dtype) for leaf in SMALL.arrays]
    contender = offered["xla_attention"].make(SMALL)
    q, k, v = contender.prepare(*arrays)
    assert q.shape == k.shape == v.shape == (2, 63, 2, 24)
    out = contender.run(q, k, v)
    weights = jax.nn.softmax(
        np.where(
            np.tril(np.ones((63, 63), bool)),
            np.einsum("bihd,bjhd->bhij", q, k) / np.float32(24**0.5),
            -np.inf,
        )
    )
    wanted = np.einsum("bhij,bjhd->bihd", weights, v)
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)


def test_rivals_say_why_they_cannot_serve():
    offered = {rival.name: rival for rival in rivals.RIVALS["gated_linear_attention"]}
    long = SPECS["gla_b2_t16384_h16_k128_v128_bfloat16"]
    wide = SPECS["gla_b8_t8192_h4_k256_v512_bfloat16"]
    with pytest.raises(NotImplementedError, match="weights, over 8589934592"):
        offered["xla_attention"].make(dataclasses.replace(long, arrays=_twice(long)))
    for name in ("cudnn_attention", "cudnn_attention_128"):
        with pytest.raises(NotImplementedError, match="cuDNN"):
            offered[name].make(wide)


def _twice(spec):
    return tuple(
        jax.ShapeDtypeStruct((2 * leaf.shape[0], *leaf.shape[1:]), leaf.dtype)
        for leaf in spec.arrays
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": ("gla_b9",)}, "shapes must be among .*got 'gla_b9'"),
        ({"candidates": ("mamba",)}, "candidates must be among .*got 'mamba'"),
        ({"modes": ()}, "shapes and modes must each name at least one"),
        ({"repeats": 0}, "repeats must be at least 1"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SpeedConfig(), **change)


def test_every_goal_names_a_metric_that_can_be_measured():
    """The metrics of a run in which every candidate took a microsecond."""
    config = load(ROOT / "configs" / "gla" / "speed_gpu.py").config
    assert isinstance(config, SpeedConfig)
    rows = [
        row("xla", 1e-6, chosen=True, peak_bytes=9),
        *(row(name, 1e-6) for name in CANDIDATES[1:]),
    ]
    results = {
        phase.name: {
            "key": phase.key,
            "bytes": 1,
            "ceilings": {"copy": 1.0},
            "rows": rows,
            **({"held": 1, "states": 4} if phase.mode == "forward_backward" else {}),
        }
        for phase in config.build().phases()
    }
    metrics = config.build().finish(results)
    goals = {goal.metric for goal in config.goals()}
    assert len(goals) == len(config.goals())
    assert goals <= metrics.keys()


def test_command_line_restricts_a_run(command):
    code, out, _ = command("run", ROOT / "configs" / "gla" / "speed_gpu.py", "--help")
    assert code == 0
    assert all(name in out for name in ("--shapes", "--modes", "--candidates"))
