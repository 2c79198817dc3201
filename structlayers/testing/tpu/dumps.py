"""The compiler's dumps: how to ask libtpu for them, and how to read them.

The flags and the formats are undocumented and belong to a closed binary (libtpu 0.0.52), so
everything that knows them is in this module. What it cannot find or read it answers with None and
a reason; it never guesses.

One kernel leaves these files, named ``TIME-INSTRUCTION-NUMBER-LABEL.txt``:

- ``schedule-analysis_final_bundles``: how many bundles, and how many of them are empty;
- ``packed-bundles-post-ra``: the program while each delay is still a bundle of its own, so that
  one line is one cycle, with the targets of the branches;
- ``pre-delay_hlo-static-per-bundle-utilization``: for each of those bundles, how many slots of
  each unit it fills, and how many there are.

The whole program leaves one ``hlo-static-bundle-profile``: for each HLO instruction the operations
of each unit against the most that would fit in its cycles.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from structlayers.testing.tpu.rows import KernelSchedule, Loop

_LABELS = (
    "schedule-analysis_final_bundles",
    "packed-bundles-post-ra",
    "pre-delay_hlo-static-per-bundle-utilization",
    "hlo-static-bundle-profile",
)
_ANALYSIS, _BUNDLES, _UTILIZATION, _PROFILE = _LABELS
_SIMULATED = "_static_llo_profile.textproto"

_FILE = re.compile(rf"\d+-(.+)-\d+-({'|'.join(_LABELS)})\.txt")
_BUNDLE = re.compile(r"^ *(0|0x[0-9a-f]+) +(?:[A-Z]{2})?:", re.MULTILINE)
_BRANCH = re.compile(r"sbr\.rel (?:\(!?%(\w+)\) )?target bundleno = (\d+)")
_COUNT = re.compile(r"^\s*(total|empty) scheduled bundles: +(\d+)", re.MULTILINE)
_STEPS = re.compile(r"^iteration_bounds: \(([\d, ]+)\)", re.MULTILINE)
_UNIT = re.compile(r" - (\w+)(?: (\w+))?: \((\d+)/(\d+)\)")

# The grid's loop brings in the next block while it computes this one and sends away the last:
# it runs two passes more than there are steps, and skips the kernel's body in them.
_PIPELINE_PASSES = 2


# First bundle, last bundle, trips.
type _Loop = tuple[int, int, int | None]


def dump_flags(folder: Path, *, simulate: bool = False) -> str:
    """The value of LIBTPU_INIT_ARGS that makes libtpu write its schedules to `folder`.

    libtpu reads it once, when it is loaded.

    Args:
        folder: where the dumps go.
        simulate: also simulate every instruction, which may take minutes for a long grid.
    """
    flags = [
        f"--xla_jf_dump_to={folder}",
        "--xla_jf_dump_llo_text=true",
        "--xla_jf_emit_annotations=true",
        # Without it every pass of the compiler is written: some 50 MB a kernel. The analysis of
        # a pass goes by the name of the pass.
        "--xla_jf_dump_llo_pass_label_regex="
        + "|".join(label.removeprefix("schedule-analysis_") for label in _LABELS),
    ]
    if simulate:
        flags.append(f"--xla_jf_dump_static_llo_profile_to={folder}")
    return " ".join(flags)


def clear_dumps(folder: Path) -> None:
    """Removes what earlier compilations left."""
    for path in folder.glob("*"):
        path.unlink()


def read_schedule(
    folder: Path, instruction: str, *, branch_delay: int, grids: Sequence[int | None] = ()
) -> KernelSchedule:
    """Reads the schedule of one kernel.

    Args:
        folder: where the dumps are.
        instruction: name of the kernel's HLO instruction.
        branch_delay: bundles after a branch that still issue.
        grids: steps of the kernels of the function, for a schedule that does not tell its own.

    Returns:
        The schedule; what is missing is None and `notes` says why.
    """
    files: dict[str, str] = {}
    for path in sorted(folder.glob("*.txt")) if folder.is_dir() else ():
        match = _FILE.fullmatch(path.name)
        if match and (match[1] == instruction or match[2] == _PROFILE):
            files[match[2]] = files.get(match[2], "") + path.read_text(errors="replace")
    notes = [
        f"libtpu wrote no {label} for {instruction}" for label in _LABELS if label not in files
    ]

    counts = parse_counts(files.get(_ANALYSIS, ""))
    profile = parse_profile(files.get(_PROFILE, ""), instruction)
    if _ANALYSIS in files and "total" not in counts:
        notes.append(f"{_ANALYSIS} of {instruction} has no count of bundles")
    if _PROFILE in files and not profile:
        notes.append(f"{_PROFILE} has no entry for {instruction}")

    bundles = split_bundles(files.get(_BUNDLES, ""))
    if _BUNDLES in files and not bundles:
        notes.append(f"{_BUNDLES} of {instruction} has no bundles")
    ranges = find_loops(bundles, branch_delay)
    steps = _grid_steps(files.get(_BUNDLES, ""), ranges, grids)
    trips = [_grid_trips(loop, steps, ranges) for loop in ranges]
    if any(count is None for count in trips):
        notes.append("a loop has no constant number of trips: its body is counted once")
    weights = [1] * len(bundles)
    for (first, last, _), count in zip(ranges, trips, strict=True):
        for index in range(first, last + 1):
            weights[index] *= 1 if count is None else count

    units = parse_utilization(files.get(_UTILIZATION, ""))
    lengths = {len(filled) for filled, _ in units.values()}
    if _UTILIZATION in files and _BUNDLES in files and lengths != {len(bundles)}:
        notes.append(f"{_UTILIZATION} of {instruction} does not match its bundles")
        units = {}
    cycles = sum(weights) if bundles else None
    simulated = _simulated_cycles(folder, instruction)
    return KernelSchedule(
        name=instruction,
        bundles=counts.get("total"),
        empty_bundles=counts.get("empty"),
        grid_steps=steps,
        cycles=cycles,
        loops=tuple(
            Loop(last + 1 - first, count)
            for (first, last, _), count in zip(ranges, trips, strict=True)
        ),
        mxu_share=_mxu_share(profile, units, weights),
        slots={
            unit.lower(): sum(map(int.__mul__, weights, filled)) / (capacity * cycles)
            for unit, (filled, capacity) in units.items()
            if cycles and capacity
        },
        spills=profile.get("VMEM_SPILL_COUNT", (None, 0))[0],
        fills=profile.get("VMEM_FILL_COUNT", (None, 0))[0],
        simulated_cycles=simulated,
        notes=tuple(notes),
    )


def parse_counts(text: str) -> dict[str, int]:
    """Numbers of bundles: "total" and "empty"."""
    return {name: int(count) for name, count in _COUNT.findall(text)}


def split_bundles(text: str) -> list[str]:
    """The text of each bundle, in order; a bundle may span lines."""
    starts = [match.start() for match in _BUNDLE.finditer(text)]
    return [text[start:end] for start, end in itertools.pairwise([*starts, len(text)])]


def find_loops(bundles: Sequence[str], branch_delay: int) -> list[_Loop]:
    """The loops of a program: (first bundle, last bundle, trips), outer loops before inner ones.

    A loop is a branch backwards and what lies between its target and its delay slots. Its trips
    are known where a counter goes from a constant by a constant to a constant.
    """
    program = "".join(bundles)
    loops = []
    for index, text in enumerate(bundles):
        for predicate, target in _BRANCH.findall(text):
            if int(target) <= index:
                last = min(index + branch_delay, len(bundles) - 1)
                loops.append((int(target), last, _count_trips(program, predicate)))
    return sorted(loops, key=lambda loop: (loop[0], -loop[1]))


def _count_trips(program: str, predicate: str) -> int | None:
    """Trips of the loop that ends when `predicate` holds: counter >= bound."""

    def find(pattern: str) -> re.Match[str] | None:
        return re.search(pattern, program)

    test = find(rf"%{predicate} = scmp\.ge\.s32\.totalorder (?:\(!?%\w+\), )?%(\w+), (-?\d+)\b")
    step = test and find(rf"%{test[1]} = sadd\.s32 (?:\(!?%\w+\), )?(\d+), %(\w+)")
    phi = step and find(rf"%{step[2]} = sphi %(\w+), %\w+")
    start = phi and find(rf"%{phi[1]} = smov\.u32 (?:\(!?%\w+\), )?(\d+)\b")
    if not (test and step and start) or int(step[1]) == 0:
        return None
    return max(1, -((int(start[1]) - int(test[2])) // int(step[1])))


def _grid_steps(text: str, loops: Sequence[_Loop], grids: Sequence[int | None]) -> int | None:
    """Steps of the grid: as written beside the transfers, or the grid that fits the loop."""
    if told := _STEPS.search(text):
        return math.prod(int(bound) for bound in told[1].split(","))
    outer = {loop[2] for loop in loops if not _is_inner(loop, loops)}
    fitting = {steps for steps in grids if {steps, (steps or 0) + _PIPELINE_PASSES} & outer}
    if len(fitting) == 1:
        return fitting.pop()
    return grids[0] if len(grids) == 1 else None


def _grid_trips(loop: _Loop, steps: int | None, loops: Sequence[_Loop]) -> int | None:
    trips = loop[2]
    if steps is None or steps == 1 or _is_inner(loop, loops):
        return trips
    return steps if trips in (None, steps + _PIPELINE_PASSES) else trips


def _is_inner(loop: _Loop, loops: Sequence[_Loop]) -> bool:
    first, last, _ = loop
    return any(
        start <= first and last <= end for start, end, _ in loops if (start, end) != (first, last)
    )


def parse_utilization(text: str) -> dict[str, tuple[list[int], int]]:
    """For each unit the slots that each bundle fills, and the slots that there are."""
    lines = text.splitlines()
    if len(lines) < 4 or not lines[3].startswith("== UTILIZATION"):
        return {}
    units = [unit.strip() for unit in lines[1].split(",")]
    try:
        capacity, *table = (
            [int(count) for count in line.split()] for line in (lines[2], *lines[4:])
        )
    except ValueError:
        return {}
    if any(len(row) != len(units) for row in (capacity, *table)):
        return {}
    return {
        unit: (list(filled), slots)
        for unit, slots, filled in zip(units, capacity, zip(*table, strict=True), strict=True)
    }


def parse_profile(text: str, instruction: str) -> dict[str, tuple[int, int]]:
    """Operations of each unit and the most that fit, for one HLO instruction."""
    for section in re.split(r"^HLO: ", text, flags=re.MULTILINE):
        if section.startswith(f"%{instruction} = "):
            return {
                f"{unit} {kind}".strip(): (int(done), int(most))
                for unit, kind, done, most in _UNIT.findall(section)
            }
    return {}


def _mxu_share(
    profile: Mapping[str, tuple[int, int]],
    units: Mapping[str, tuple[list[int], int]],
    weights: Sequence[int],
) -> float | None:
    """Occupancy of the matrix units: the profile's, moved to the trips of the loops."""
    matmuls = {name: entry for name, entry in profile.items() if re.match(r"MXU_\d+ matmul", name)}
    if not matmuls or "MATMUL" not in units:
        return None
    pushes, _ = units["MATMUL"]
    if not any(pushes):
        return 0.0
    mxus = len({name.split()[0] for name in matmuls})
    once = sum(done / most for done, most in matmuls.values() if most) / mxus
    executed = sum(map(int.__mul__, weights, pushes)) / sum(weights)
    return once * executed / (sum(pushes) / len(pushes))


def _simulated_cycles(folder: Path, instruction: str) -> int | None:
    for path in folder.glob(f"*{_SIMULATED}"):
        text = path.read_text()
        if f'"{instruction}"' in text and (cycles := re.search(r"estimated_cycles: (\d+)", text)):
            return int(cycles[1])
    return None
