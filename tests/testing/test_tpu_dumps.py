"""Reading the compiler's dumps, on excerpts written by hand in their format."""

from pathlib import Path

import pytest

from structlayers.testing.tpu.compilation import read_module, shorten_error
from structlayers.testing.tpu.dumps import (
    dump_flags,
    find_loops,
    parse_counts,
    parse_profile,
    parse_utilization,
    read_schedule,
    split_bundles,
)
from structlayers.testing.tpu.estimates import estimate
from structlayers.testing.tpu.rows import KernelSchedule
from structlayers.testing.tpu.targets import TARGETS

ANALYSIS = """Schedule analysis:
\ttotal scheduled bundles:    12
\tempty scheduled bundles:    3
\tnon empty scheduled bundles: 9
"""

# A grid of 4 steps: a loop of 6 passes, with a loop from 3 to 7 inside; one delay slot.
BUNDLES = """= control target key start
LB: loop body
= control target key end

     0   :  { %s10_s1 = smov.u32 0 /* copy */  ;;  %6 = vsyncpa [#allocation4], 0 }
   0x1 LB: > { %s11_s1 = sphi %s10_s1, %s12_s1 /* phi copy */ }
   0x2   : > { %20 = dma.hbm_to_vmem [thread:$0]  (!%p1_p1), /*hbm=*/%s2 /*
base_bounds: (8, 1)
iteration_bounds: (2, 2)
strides: (1, 1) */  ;;  %s20_s2 = smov.u32 (!%p1_p1), 3 }
   0x3   : > { %9 = sbr.rel (%p1_p1) target bundleno = 9 (0x9), region = 24 }
   0x4   :  {}
   0x5 LB: >> { %s21_s2 = sphi %s20_s2, %s22_s2  ;;  %s22_s2 = sadd.s32 1, %s21_s2 }
   0x6   : >> { %p30_p2 = scmp.ge.s32.totalorder %s22_s2, 7 /* loop exit test */ }
   0x7   : >> { %31 = sbr.rel (!%p30_p2) target bundleno = 5 (0x5), region = 76 }
   0x8   :  {}
   0x9 PF: > { %s12_s1 = sadd.s32 1, %s11_s1 }
   0xa   : > { %p40_p3 = scmp.ge.s32.totalorder (%p2_p2), %s12_s1, 6 /* loop exit test */ }
   0xb   : > { %41 = sbr.rel (!%p40_p3) target bundleno = 1 (0x1), region = 87 }
   0xc   :  {}
   0xd   :  { %50 = vsyncpa [#allocation4], 1 }
"""

UTILIZATION = """== CAPACITY:
MATMUL, VALU, VSTORE:SPILL
    2     4     0
== UTILIZATION:
""" + "".join(
    f"{2 if bundle in (5, 6) else 0} {1 if bundle == 9 else 0} 0\n" for bundle in range(14)
)

PROFILE = """HLO: <no-hlo-instruction>
 - MXU_0 matmul_packed: (7/7) - 1

HLO: %kernel.1 = f32[8,128]{1,0} custom-call(%x), custom_call_target="tpu_custom_call"
 - MXU_0 matmul: (0/2) - 0
 - MXU_0 matmul_packed: (1/4) - 0.25
 - MXU_1 matmul: (1/2) - 0.5
 - MXU_1 matmul_packed: (1/4) - 0.25
 - MXU_0 matpush: (2/4) - 0.5
 - VECTOR_ALU: (1/56) - 0.02
 - VMEM_SPILL_COUNT: (5/14) - 0.4
 - VMEM_FILL_COUNT: (6/14) - 0.4
"""

FILES = {
    "1-kernel.1-02-schedule-analysis_final_bundles.txt": ANALYSIS,
    "1-kernel.1-00-packed-bundles-post-ra.txt": BUNDLES,
    "1-kernel.1-01-pre-delay_hlo-static-per-bundle-utilization.txt": UTILIZATION,
    "1-TLP-04-hlo-static-bundle-profile.txt": PROFILE,
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_a_schedule_is_read_with_its_loops(tmp_path: Path) -> None:
    other = {"1-kernel.11-02-schedule-analysis_final_bundles.txt": "total scheduled bundles: 99"}
    schedule = read_schedule(write(tmp_path, FILES | other), "kernel.1", branch_delay=1)
    assert schedule.notes == ()
    assert (schedule.bundles, schedule.empty_bundles) == (12, 3)
    assert schedule.grid_steps == 4
    # Bundles 1..12 in four steps (of six passes), of them 5..8 four times each; 0 and 13 once.
    assert [(loop.bundles, loop.trips) for loop in schedule.loops] == [(12, 4), (4, 4)]
    assert schedule.cycles == 2 + 4 * (8 + 4 * 4) == 98
    assert (schedule.spills, schedule.fills) == (5, 6)
    # Bundles 5 and 6 fill both MATMUL slots, 16 times each; bundle 9 one of four VALU slots.
    assert schedule.slots == pytest.approx({"matmul": 32 / 98, "valu": 4 / 4 / 98})
    once = (1 / 4 + 1 / 2 + 1 / 4) / 2
    assert schedule.mxu_share == pytest.approx(once * (2 * 32 / 98) / (2 * 2 / 14))
    assert schedule.simulated_cycles is None


def test_nothing_is_none_with_a_reason(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        schedule = read_schedule(folder, "kernel.1", branch_delay=1)
        assert schedule.bundles is None
        assert schedule.cycles is None
        assert schedule.mxu_share is None
        assert schedule.spills is None
        assert schedule.slots == {}
        assert schedule.loops == ()
        assert len(schedule.notes) == 4
        assert schedule.notes[0].startswith("libtpu wrote no schedule-analysis_final_bundles")


@pytest.mark.parametrize("broken", FILES)
def test_an_unknown_format_is_none_with_a_reason(tmp_path: Path, broken: str) -> None:
    files = FILES | {broken: "libtpu 9.9 writes something else\n"}
    schedule = read_schedule(write(tmp_path, files), "kernel.1", branch_delay=1)
    assert len(schedule.notes) >= 1
    assert "kernel.1" in schedule.notes[0]
    assert (schedule.bundles is None) == ("analysis" in broken)
    assert (schedule.cycles is None) == ("packed" in broken)
    assert (schedule.mxu_share is None) == ("analysis" not in broken)
    assert (schedule.spills is None) == ("profile" in broken)


def test_a_utilization_of_other_length_is_not_used(tmp_path: Path) -> None:
    files = FILES | {
        "1-kernel.1-01-pre-delay_hlo-static-per-bundle-utilization.txt": (UTILIZATION + "0 0 0\n")
    }
    schedule = read_schedule(write(tmp_path, files), "kernel.1", branch_delay=1)
    assert schedule.slots == {}
    assert schedule.mxu_share is None
    assert "does not match its bundles" in schedule.notes[0]


@pytest.mark.parametrize(
    ("grids", "steps", "trips"),
    [((), None, 6), ((4,), 4, 4), ((6,), 6, 6), ((4, 4, 9), 4, 4), ((4, 6), None, 6), ((9,), 9, 6)],
)
def test_a_grid_that_the_schedule_does_not_tell_is_one_that_fits(
    tmp_path: Path, grids: tuple[int, ...], steps: int | None, trips: int
) -> None:
    text = BUNDLES.replace("iteration_bounds", "bounds")
    files = FILES | {"1-kernel.1-00-packed-bundles-post-ra.txt": text}
    schedule = read_schedule(write(tmp_path, files), "kernel.1", branch_delay=1, grids=grids)
    assert schedule.grid_steps == steps
    assert schedule.loops[0].trips == trips


def test_the_only_grid_stands_in_for_a_loop_without_constants(tmp_path: Path) -> None:
    text = BUNDLES.replace("iteration_bounds", "bounds").replace("%s12_s1, 6", "%s12_s1, %s99")
    files = FILES | {"1-kernel.1-00-packed-bundles-post-ra.txt": text}
    write(tmp_path, files)
    known = read_schedule(tmp_path, "kernel.1", branch_delay=1, grids=(16,))
    assert [loop.trips for loop in known.loops] == [16, 4]
    assert known.notes == ()
    unknown = read_schedule(tmp_path, "kernel.1", branch_delay=1, grids=(16, None))
    assert [loop.trips for loop in unknown.loops] == [None, 4]
    assert unknown.cycles == 2 + 8 + 4 * 4
    assert "counted once" in unknown.notes[0]


def test_a_dynamic_loop_of_a_single_step_is_not_taken_for_the_grid(tmp_path: Path) -> None:
    text = BUNDLES.replace("(2, 2)", "(1, 1)").replace("%s12_s1, 6", "%s12_s1, %s99")
    files = FILES | {"1-kernel.1-00-packed-bundles-post-ra.txt": text}
    schedule = read_schedule(write(tmp_path, files), "kernel.1", branch_delay=1)
    assert schedule.loops[0].trips is None


@pytest.mark.parametrize(
    ("old", "new", "trips"),
    [
        ("smov.u32 (!%p1_p1), 3", "smov.u32 0", 7),
        ("sadd.s32 1, %s21_s2", "sadd.s32 2, %s21_s2", 2),
        ("sadd.s32 1, %s21_s2", "sadd.s32 3, %s21_s2", 2),
        ("sadd.s32 1, %s21_s2", "sadd.s32 0, %s21_s2", None),
        ("sadd.s32 1, %s21_s2", "smul.u32 2, %s21_s2", None),
        ("%s20_s2 = smov.u32 (!%p1_p1), 3", "%s20_s2 = sld [smem:[#allocation3]]", None),
        ("scmp.ge.s32.totalorder %s22_s2, 7", "scmp.lt.s32.totalorder %s22_s2, 7", None),
        ("(!%p30_p2) target", "target", None),
    ],
)
def test_trips_need_a_counter_with_constants(old: str, new: str, trips: int | None) -> None:
    assert old in BUNDLES
    loops = find_loops(split_bundles(BUNDLES.replace(old, new)), branch_delay=1)
    assert loops == [(1, 12, 6), (5, 8, trips)]


def test_delay_slots_belong_to_the_loop_but_not_beyond_the_program() -> None:
    bundles = split_bundles(BUNDLES)
    assert len(bundles) == 14
    assert [(first, last) for first, last, _ in find_loops(bundles, 0)] == [(1, 11), (5, 7)]
    assert [(first, last) for first, last, _ in find_loops(bundles, 6)] == [(1, 13), (5, 13)]


def test_parsers_of_the_small_files() -> None:
    assert parse_counts(ANALYSIS) == {"total": 12, "empty": 3}
    assert parse_counts("") == {}
    assert parse_profile(PROFILE, "kernel") == {}
    assert parse_profile(PROFILE, "kernel.1")["VECTOR_ALU"] == (1, 56)
    assert parse_profile(PROFILE, "kernel.1")["MXU_1 matmul_packed"] == (1, 4)
    units = parse_utilization(UTILIZATION)
    assert list(units) == ["MATMUL", "VALU", "VSTORE:SPILL"]
    assert units["VALU"] == ([0] * 9 + [1] + [0] * 4, 4)
    assert parse_utilization(UTILIZATION + "1 2\n") == {}
    assert parse_utilization(UTILIZATION + "a b c\n") == {}


def test_simulated_cycles_are_those_of_the_instruction(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    for name, cycles in (("kernel.1", 7), ("kernel.11", 8)):
        text = f'hlo_op_estimate {{\n  hlo_op_name: "{name}"\n  estimated_cycles: {cycles}\n}}\n'
        (tmp_path / f"{name}_TPU v5_static_llo_profile.textproto").write_text(text)
    assert read_schedule(tmp_path, "kernel.1", branch_delay=1).simulated_cycles == 7


def test_flags_ask_for_the_files_that_are_read() -> None:
    flags = dump_flags(Path("/dumps"))
    assert "--xla_jf_dump_to=/dumps" in flags.split()
    assert "simul" not in flags
    assert "static_llo_profile_to=/dumps" in dump_flags(Path("/dumps"), simulate=True)


HLO = """HloModule jit_f

%body (p: f32[8]) -> f32[8] {
  %inner.2 = f32[8]{0} custom-call(%p), custom_call_target="tpu_custom_call", metadata={}
  %negate = f32[8]{0} fusion(%inner.2), calls=%d, backend_config={"estimated_cycles":"3"}
  ROOT %t = f32[8]{0} tuple(%negate)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %concat = f32[8]{0} custom-call(%x), custom_call_target="ConcatBitcast"
  %fusion = f32[8]{0} fusion(%x), calls=%c, backend_config={"estimated_cycles":"12"}
  ROOT %outer.1 = f32[8]{0} custom-call(%fusion), custom_call_target="tpu_custom_call"
}
"""


def test_a_module_tells_its_kernels_and_the_cycles_of_the_rest() -> None:
    module = read_module(HLO)
    assert module.kernels == ("inner.2", "outer.1")
    assert module.xla_cycles == 15
    assert module.notes == ("inside a loop or branch of XLA, counted once: inner.2, negate",)
    without = read_module(HLO.replace('"12"', f'"{2**63 - 1}"'))
    assert without.xla_cycles is None
    assert without.notes[-1] == "XLA has no estimate of fusion"
    nothing = read_module("HloModule jit_f\n")
    assert (nothing.kernels, nothing.xla_cycles, nothing.notes) == ((), None, ())


@pytest.mark.parametrize(
    ("seconds", "time"), [(2e-6, 2e-6), (-1.0, None), (0.0, None), (None, None)]
)
def test_xlas_time_is_taken_only_if_it_is_one(seconds: float | None, time: float | None) -> None:
    assert read_module(HLO.replace("custom-call(", "call(")).trusted_time(seconds) == time
    assert read_module(HLO).trusted_time(seconds) is None


def test_errors_keep_what_is_wrong_and_drop_the_rest() -> None:
    message = (
        "INTERNAL: Mosaic failed:\n  bad   tile\nSee https://example.org/e for details.\n\n"
        "The MLIR operation involved:\n  %0 = long\n"
    )
    assert shorten_error(RuntimeError(message)) == (
        "RuntimeError: INTERNAL: Mosaic failed: bad tile"
    )
    long = shorten_error(ValueError("x" * 5000))
    assert len(long) < 800
    assert long.endswith("[...]")


def test_estimates_of_kernels_are_sums_and_weighted_means() -> None:
    target = TARGETS["v5e"]
    memory = {"argument": 600, "output": 219}
    kernels = [
        KernelSchedule("a", bundles=10, cycles=3000, mxu_share=0.5, spills=1),
        KernelSchedule("b", bundles=20, cycles=1000, mxu_share=0.1, spills=2),
    ]
    totals = estimate(kernels, memory, 300, target)
    assert totals["bundles"] == 30
    assert totals["spills"] == 3
    assert totals["mxu_share"] == pytest.approx(0.4)
    assert totals["estimated_seconds"] == pytest.approx(4000 / target.clock)
    assert totals["xla_estimated_seconds"] == pytest.approx(300 / target.clock)
    large = estimate(kernels, {"argument": 819 * 10**9, "output": 0}, None, target)
    assert large["estimated_seconds"] == pytest.approx(1.0)


def test_one_unknown_kernel_makes_the_sums_unknown() -> None:
    kernels = [KernelSchedule("a", bundles=10, cycles=3000, mxu_share=0.5), KernelSchedule("b")]
    totals = estimate(kernels, {"argument": 1, "output": 1}, None, TARGETS["v4"])
    assert set(totals.values()) == {None}
