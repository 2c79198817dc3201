import math

import pytest

from experiments.bench.floors import precision_name, unit_of
from experiments.bench.modes import Mode
from experiments.bench.registry import find_operation
from experiments.config_files import ROOT, load
from experiments.equivariant.speed.config import SpeedConfig
from experiments.equivariant.speed.experiment import backward_over_forward, ratios
from experiments.equivariant.speed.floors import floor_of
from structlayers.equivariant.arg_specs import ARG_SPECS

SPECS = {spec.name: spec for spec in ARG_SPECS}
LARGE = "gaunt_l4_l4_l4_b100000x128_float32"
POWERS = "power3_l3_l2_b5000x128_float32"


def row(name, seconds, *, chosen=False, peak=None):
    return {
        "implementation": name,
        "chosen": chosen,
        "seconds_median": seconds,
        "peak_bytes": peak,
    }


def found(*rows):
    return ratios({"rows": rows, "floor_seconds": 1e-6, "bytes": 100})


def test_ratios_are_of_the_kernel_where_there_is_one():
    numbers = found(row("xla", 6e-6, chosen=True, peak=900), row("pallas_gpu", 2e-6, peak=110))
    assert numbers["us"] == pytest.approx(2)
    assert numbers["share"] == pytest.approx(0.5)
    assert numbers["memory"] == pytest.approx(1.1)
    assert numbers["over_xla"] == pytest.approx(3)
    assert numbers["chosen_over_best"] == pytest.approx(3)
    numbers = found(row("xla", 6e-6, chosen=True, peak=900))
    assert numbers["us"] == pytest.approx(6)
    assert numbers["memory"] == pytest.approx(9)


def test_what_failed_is_no_pass():
    numbers = found(row("xla", 6e-6, chosen=True), row("pallas_gpu", None))
    assert all(math.isnan(numbers[name]) for name in ("us", "share", "memory", "over_xla"))
    numbers = found(row("xla", None), row("pallas_gpu", 1e-6, chosen=True))
    assert "over_xla" not in numbers  # a rival that fails is not beaten


def test_times_of_backward_passes():
    times = {"a/forward/us": 2.0, "a/forward_backward/us": 6.0, "b/forward_backward/us": 1.0}
    assert backward_over_forward(times) == {"a/backward_over_forward": 2.0}


def floor(name, mode: Mode = "forward", precision="tf32"):
    spec = SPECS[name]
    result, _ = find_operation(spec.op).trace(spec, None)
    return floor_of(spec, result, mode, precision)


def test_floors():
    rows = 12_800_000
    assert floor(LARGE).bytes == rows * 300
    assert floor(LARGE).products == rows * 86 * 75
    assert floor(LARGE, precision="3xtf32").products == 3 * rows * 86 * 75
    assert floor(LARGE, "forward_backward").products == rows * 86 * (3 + 5) * 25
    assert floor(LARGE, "forward_backward").bytes == rows * 600
    assert floor(POWERS).products == 640_000 * 50 * (16 + 2 * 9)
    seconds = floor(LARGE).seconds({"copy": 4e12, "tf32": 4e14})
    assert seconds == pytest.approx(rows * 300 / 4e12)
    slow = {"copy": 4e12, "tf32": 4e13}
    assert floor(LARGE).seconds(slow) == pytest.approx(2 * rows * 86 * 75 / 4e13)


def test_words_of_precision_have_units():
    assert precision_name("float32", "3xtf32") == "3xtf32"
    assert [unit_of("float32", word, "gpu") for word in ("tf32", "3xtf32", "bf16")] == [
        "tf32",
        "tf32",
        "bf16",
    ]
    assert unit_of("float32", "tf32", "cpu") == "float32"


def test_every_goal_is_of_a_cell():
    config = load(ROOT / "configs/equivariant/speed_gpu.py").config
    assert isinstance(config, SpeedConfig)
    keys = {f"{cell.spec.name}/{cell.precision}" for cell in config.cells()}
    assert {"/".join(goal.metric.split("/")[:2]) for goal in config.goals()} <= keys


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "must not both be empty"),
        ({"forward": ("gaunt_l4",)}, "forward must be among"),
        ({"both": (LARGE,), "precisions": ("half",)}, "precisions must be among"),
        ({"forward": (LARGE,), "repeats": 0}, "repeats must be at least 1"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SpeedConfig(**fields)
