import dataclasses
import math

import pytest

from experiments.bench.registry import find_operation
from experiments.butterfly.speed import experiment, paper
from experiments.butterfly.speed.config import SpeedConfig, Sweep
from experiments.butterfly.speed.experiment import Measure, SpeedExperiment, ratios
from experiments.butterfly.speed.host import host_seconds
from experiments.config_files import ROOT, load


def row(name, seconds, *, chosen=False, **more):
    return {"implementation": name, "chosen": chosen, "seconds_median": seconds, **more}


SPREAD = {"p10": 1.5e-6, "p90": 4e-6}


def test_ratios():
    found = ratios(
        [
            row("xla", 2e-6, chosen=True, spread=SPREAD, copy_seconds=1e-6),
            row("dense", 8e-6, copy_seconds=1e-6),
            row("matmul", 6e-6, spread={"p10": 5e-6, "p90": 7e-6}),
            row("fft", 1e-6),
        ]
    )
    assert found["speedup"] == pytest.approx(3)
    assert found["speedup_over_fft"] == pytest.approx(0.5)
    assert found["speedup_low"] == pytest.approx(5 / 4)
    assert found["copy_share"] == pytest.approx(0.5)
    assert found["dense/speedup"] == pytest.approx(0.75)
    assert found["fft/us"] == pytest.approx(1)
    assert "matmul/speedup" not in found
    assert "speedup_over_stage_loop" not in found


def test_chosen_implementation_that_failed_is_no_pass():
    found = ratios([row("xla", None, chosen=True), row("dense", 1e-6), row("matmul", 6e-6)])
    assert math.isnan(found["speedup"])
    result = {"sweep": "float32/b16/forward", "n": 4096}
    rows = {"good": [row("xla", 1e-6, chosen=True), row("matmul", 2e-6)]}
    rows["bad"] = [row("xla", None, chosen=True), row("matmul", 2e-6)]
    phases = {name: {**result, "key": name, "rows": value} for name, value in rows.items()}
    metrics = SpeedExperiment(SpeedConfig()).finish(phases)
    assert math.isnan(metrics["times_dense_max"])
    assert math.isnan(metrics["float32/b16/forward/speedup_min_from_n02048"])


def test_summary_counts_the_chosen_implementation_alone():
    rows = [row("xla", 1e-6, chosen=True), row("dense", 9e-6), row("matmul", 2e-6)]
    phases = {
        str(n): {
            "sweep": "float32/b16/forward",
            "n": n,
            "key": f"float32/b16/n{n:05d}/forward",
            "rows": rows,
        }
        for n in (1024, 4096)
    }
    metrics = SpeedExperiment(SpeedConfig()).finish(phases)
    assert metrics["times_dense_max"] == pytest.approx(0.5)
    assert metrics["float32/b16/forward/speedup_min_from_n02048"] == pytest.approx(2)
    assert metrics["float32/b16/n01024/forward/dense/speedup"] == pytest.approx(2 / 9)


@pytest.fixture
def no_ceilings(monkeypatch):
    monkeypatch.setattr(experiment, "ceilings", lambda: {"copy": 1e10, "float32": 1e10})


def test_measures_every_candidate_and_keeps_the_rows(no_ceilings):
    config = dataclasses.replace(
        SpeedConfig(), rivals=("matmul", "fft"), host=True, repeats=2, sample_seconds=1e-4
    )
    phase = Measure(config, Sweep("float32", 3, "forward"), 16)
    state, logged = phase.advance(phase.init(), 0, 1)
    names = {"xla", "dense", "matmul", "fft", "numpy_fft", "numpy_matmul"}
    assert {row["implementation"] for row in phase.rows} == names
    assert not any(row.get("failure") for row in phase.rows)
    assert set(logged) <= names
    again = Measure(config, Sweep("float32", 3, "forward"), 16)
    again.set_host_state(phase.host_state())
    assert again.finish(state) == phase.finish(state)
    assert again.finish(state)["key"] == "float32/b3/n00016/forward"


def test_dense_is_left_out_where_it_is_of_no_use():
    operation = find_operation("butterfly_multiply")
    config = dataclasses.replace(SpeedConfig(), materialize_up_to=8)
    measured = {
        n: Measure(config, Sweep("float32", 256, "forward"), n).implementations(operation)
        for n in (8, 16, 128)
    }
    assert "dense" in measured[8]
    assert "dense" in measured[16]  # what the op chooses on a CPU
    assert "dense" not in measured[128]
    assert not any("reference" in names for names in measured.values())


def test_numpy_is_timed():
    found = host_seconds(16, 2, repeats=2)
    assert set(found) == {"numpy_fft", "numpy_matmul"}
    assert all(0 < seconds < 1 for seconds in found.values())


def test_every_sweep_is_measured_at_every_size():
    config = SpeedConfig(sweeps=("bfloat16/b2/forward", "float32/b1/forward"), sizes=(8, 16))
    assert [phase.name for phase in config.build().phases()] == [
        "bfloat16_b2_n00008_forward",
        "bfloat16_b2_n00016_forward",
        "float32_b1_n00008_forward",
        "float32_b1_n00016_forward",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sweeps": ("float32/256/forward",)}, "sweeps must be DTYPE/bBATCH/MODE.*'float32/256/"),
        ({"sweeps": ("float16/b256/forward",)}, "DTYPE of float32, bfloat16, complex64"),
        ({"sweeps": ("float32/b0/forward",)}, "such as float32/b256/forward"),
        ({"sweeps": ("float32/b2/backward",)}, "MODE of forward, forward_backward"),
        ({"sizes": ()}, "must each name at least one"),
        ({"sizes": (12,)}, "sizes must be powers of two.*got 12"),
        ({"repeats": 0}, "repeats must be at least 1"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SpeedConfig(), **change)


@pytest.mark.parametrize("name", ["speed_gpu", "speed_cpu"])
def test_options_of_the_command_line_and_goals(name, command):
    path = ROOT / "configs" / "butterfly" / f"{name}.py"
    code, out, _ = command("run", path, "--help")
    assert code == 0
    assert "--sweeps" in out


@pytest.mark.parametrize("name", ["speed_gpu", "speed_cpu"])
def test_every_goal_names_a_metric_that_can_be_measured(name):
    """The metrics of a run in which every candidate took a microsecond."""
    config = load(ROOT / "configs" / "butterfly" / f"{name}.py").config
    assert isinstance(config, SpeedConfig)
    rows = [
        row("xla", 1e-6, chosen=True, copy_seconds=1e-6),
        *(row(rival, 1e-6) for rival in config.rivals),
    ]
    results = {
        phase.name: {
            "sweep": f"{phase.sweep.dtype}/b{phase.sweep.batch}/{phase.sweep.mode}",
            "n": phase.n,
            "key": phase.key,
            "rows": rows,
        }
        for phase in config.build().phases()
    }
    metrics = config.build().finish(results)
    assert {goal.metric for goal in config.goals()} <= metrics.keys()


def test_paper_has_no_number_at_other_sizes():
    assert paper.speedup("training", "fft", 8192) == 30.8
    assert paper.speedup("training", "fft", 16384) is None
