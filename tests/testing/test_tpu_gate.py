"""The compile gate, end to end: what libtpu says of kernels whose cost is known."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from structlayers.testing.tpu import (
    ALL,
    TARGETS,
    GateRow,
    TpuCompiler,
    TpuCompilerUnavailableError,
    compile_for_tpu,
    driver,
    missing_compiler,
    skip_without_compiler,
)
from structlayers.testing.tpu.driver import import_path, worker_environment

pytestmark = pytest.mark.pallas

KERNELS = Path(__file__).with_name("tpu_kernels.py")
ROWS = jax.ShapeDtypeStruct((64, 128), jnp.float32)
SQUARE = jax.ShapeDtypeStruct((512, 512), jnp.bfloat16)


@pytest.fixture(scope="module")
def compiler() -> Iterator[TpuCompiler]:
    skip_without_compiler()
    with TpuCompiler() as compiler:
        yield compiler


def known[T](value: T | None) -> T:
    assert value is not None
    return value


def kernel(name: str) -> str:
    return f"{KERNELS}:{name}"


@pytest.fixture(scope="module")
def matmul_rows(compiler: TpuCompiler) -> dict[str, GateRow]:
    return {row.target: row for row in compiler.compile(kernel("matmul"), SQUARE, SQUARE)}


@pytest.mark.parametrize("target", ALL)
def test_matmul_kernel_compiles_and_its_schedule_accounts_for_its_work(
    matmul_rows: dict[str, GateRow], target: str
) -> None:
    row = matmul_rows[target]
    assert row.compiled, row.error
    assert row.error is None
    assert row.notes == ()
    memory = known(row.memory)
    assert memory["argument"] == 2 * 512 * 512 * 2
    assert memory["output"] == 512 * 512 * 2
    [schedule] = row.kernels
    assert schedule.notes == ()
    assert schedule.grid_steps == 4
    assert [loop.trips for loop in schedule.loops] == [4]
    assert row.bundles == schedule.bundles
    assert known(schedule.bundles) > known(schedule.empty_bundles) >= 0
    cycles = known(schedule.cycles)
    assert cycles > 4 * schedule.loops[0].bundles
    share = known(row.mxu_share)
    assert 0 < share <= 1
    # What the matrix units do in their busy cycles is the product's own work.
    work = share * cycles * TARGETS[target].core_flops_per_cycle
    assert work == pytest.approx(2 * 512**3, rel=0.05)
    assert 0 < schedule.slots["matmul"] <= 1
    assert 0 < schedule.slots["vload"] <= 1
    assert row.spills == schedule.spills
    assert known(row.spills) >= 0


@pytest.mark.parametrize("target", ALL)
def test_estimated_seconds_is_the_larger_of_cycles_and_bytes(
    matmul_rows: dict[str, GateRow], target: str
) -> None:
    row = matmul_rows[target]
    figures = TARGETS[target]
    compute = known(row.kernels[0].cycles) / figures.clock
    transfer = 3 * 512 * 512 * 2 / figures.bandwidth
    assert row.estimated_seconds == pytest.approx(max(compute, transfer), rel=1e-6)
    assert row.xla_estimated_seconds is None
    assert row.simulated_seconds is None


def test_cores_of_a_device_share_a_parallel_grid(compiler: TpuCompiler) -> None:
    rows = compiler.compile(kernel("matmul"), SQUARE, SQUARE, targets=["v5e", "v5p"], parallel=True)
    assert [row.kernels[0].grid_steps for row in rows] == [4, 2]


def test_rows_survive_json(matmul_rows: dict[str, GateRow]) -> None:
    row = matmul_rows["v6e"]
    assert GateRow.from_json(json.loads(json.dumps(row.to_json()))) == row


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (3, 10), (0, 5)])
def test_inner_loops_count_each_pass(compiler: TpuCompiler, start: int, stop: int) -> None:
    for row in compiler.compile(kernel("looping"), ROWS, start=start, stop=stop):
        [schedule] = row.kernels
        assert [loop.trips for loop in schedule.loops] == [8, stop - start], row.target
        step, body = schedule.loops
        outside = known(schedule.cycles) - 8 * (step.bundles + (stop - start - 1) * body.bundles)
        assert 0 < outside < step.bundles


def test_a_loop_without_a_constant_length_is_counted_once_and_named(compiler: TpuCompiler) -> None:
    [row] = compiler.compile(kernel("looping_by_step"), ROWS, targets=["v5e"])
    [schedule] = row.kernels
    assert [loop.trips for loop in schedule.loops] == [8, None]
    assert "no constant number of trips" in " ".join(schedule.notes)


def test_a_kernel_inside_a_loop_of_xla_is_named(compiler: TpuCompiler) -> None:
    [row] = compiler.compile(kernel("scanned"), ROWS, targets=["v6e"])
    assert len(row.kernels) == 1
    assert any("inside a loop or branch of XLA" in note for note in row.notes)


def test_too_much_vmem_is_an_error_that_says_so(compiler: TpuCompiler) -> None:
    for row in compiler.compile(kernel("asks_for_vmem"), ROWS, targets=["v4", "v5e"]):
        assert not row.compiled
        assert "vmem" in known(row.error)
        assert "RESOURCE_EXHAUSTED" in known(row.error)
        assert row.memory is None
        assert row.bundles is None
        assert row.kernels == ()


def test_broken_tiling_is_an_error_that_says_so(compiler: TpuCompiler) -> None:
    rows = compiler.compile(kernel("breaks_tiling"), jax.ShapeDtypeStruct((48, 256), jnp.float32))
    assert [row.target for row in rows] == list(ALL)
    for row in rows:
        assert not row.compiled
        assert "divisible by 8 and 128" in known(row.error)


def test_an_operation_that_kernels_lack_is_an_error_row(compiler: TpuCompiler) -> None:
    [row] = compiler.compile(kernel("not_lowerable"), ROWS, targets=["tpu7x"])
    assert row.target == "TPU7x"
    assert not row.compiled
    assert "sort" in known(row.error)


def test_a_function_without_kernels_has_the_time_of_xlas_cost_model(compiler: TpuCompiler) -> None:
    rows = compiler.compile(jnp.dot, SQUARE, SQUARE)
    for row in rows:
        assert row.compiled, row.error
        assert row.kernels == ()
        assert row.bundles is None
        assert row.mxu_share is None
        assert row.estimated_seconds is None
        assert row.notes == ()
        peak = TARGETS[row.target].core_flops_per_cycle * TARGETS[row.target].clock
        assert known(row.xla_estimated_seconds) > 2 * 512**3 / (
            peak * TARGETS[row.target].device_cores
        )


def test_tracing_knows_the_target_and_not_the_devices_of_the_parent(compiler: TpuCompiler) -> None:
    assert jax.device_count() == 8
    for row in compiler.compile(kernel("fits_the_target"), ROWS):
        assert row.compiled, row.error


def test_what_a_function_prints_does_not_reach_the_answers(compiler: TpuCompiler) -> None:
    [row] = compiler.compile(kernel("chatty"), ROWS, targets=["v5e"])
    assert row.compiled


def test_a_crash_is_a_row_and_the_next_compilation_goes_on(compiler: TpuCompiler) -> None:
    [row] = compiler.compile(kernel("crashes"), ROWS, targets=["v5e"])
    assert not row.compiled
    assert "crashed (exit code -6)" in known(row.error)
    [row] = compiler.compile(kernel("chatty"), ROWS, targets=["v5e"])
    assert row.compiled


def test_a_hang_is_a_row() -> None:
    skip_without_compiler()
    with TpuCompiler(timeout=0.5) as compiler:
        [row] = compiler.compile(kernel("hangs"), ROWS, targets=["v5e"])
    assert row.error == "no answer from the compiler in 0.5 s"


def test_bad_requests_are_refused_by_the_name_of_what_is_wrong(compiler: TpuCompiler) -> None:
    with pytest.raises(ValueError, match="unknown TPU target 'v3', known are v4, v5e"):
        compiler.compile(kernel("matmul"), targets=["v3"])
    with pytest.raises(ImportError, match="has no nothing_there"):
        compiler.compile(kernel("nothing_there"), ROWS, targets=["v4"])
    with pytest.raises(ImportError, match="No module named 'no_such_module'"):
        compiler.compile("no_such_module:f", ROWS, targets=["v4"])
    with pytest.raises(TypeError, match=r"must be arrays or jax\.ShapeDtypeStruct, got 3"):
        compiler.compile(kernel("matmul"), 3)
    with pytest.raises(TypeError, match="cannot be pickled"):
        compiler.compile(kernel("chatty"), ROWS, targets=["v4"], block=lambda: None)
    with pytest.raises(ValueError, match="importable by name in another process"):
        compiler.compile(lambda x: x, ROWS)
    [row] = compiler.compile(kernel("chatty"), ROWS, targets=["v5e"])
    assert row.compiled


def test_compile_for_tpu_is_a_compiler_of_its_own() -> None:
    skip_without_compiler()
    [row] = compile_for_tpu("jax.numpy:sin", ROWS, targets=["v5e"])
    assert row.compiled


def test_timeout_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"timeout must be > 0 seconds, got 0\.0"):
        TpuCompiler(timeout=0.0)


def test_without_libtpu_the_gate_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.importlib.util, "find_spec", lambda name: None)
    assert "libtpu is not installed (pip install libtpu" in known(missing_compiler())
    with pytest.raises(TpuCompilerUnavailableError, match="libtpu is not installed"):
        TpuCompiler()
    monkeypatch.delenv("STRUCTLAYERS_REQUIRE_TPU_GATE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="TPU compile gate: libtpu is not installed"):
        skip_without_compiler()
    monkeypatch.setenv("STRUCTLAYERS_REQUIRE_TPU_GATE", "1")
    with pytest.raises(pytest.fail.Exception, match="REQUIRE_TPU_GATE=1, but libtpu is not"):
        skip_without_compiler()


def test_a_compiler_that_does_not_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "missing_compiler", lambda: None)
    monkeypatch.setattr(driver.sys, "executable", "/bin/false")
    with pytest.raises(TpuCompilerUnavailableError, match="did not start: it said nothing"):
        TpuCompiler()


def test_the_compilers_process_gets_none_of_the_settings_of_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--old")
    environment = worker_environment("--new")
    assert "XLA_FLAGS" not in environment
    assert "JAX_ENABLE_X64" not in environment
    assert environment["LIBTPU_INIT_ARGS"] == "--new"
    assert environment["JAX_PLATFORMS"] == "cpu"


def test_import_path_finds_jitted_functions_and_refuses_local_ones() -> None:
    assert import_path(jnp.dot).endswith(":dot")
    with pytest.raises(ValueError, match="importable by name"):
        import_path(contextlib.suppress(ValueError).__exit__)


@pytest.mark.parametrize(
    ("target", "gigahertz"),
    [("v4", 1.05), ("v5e", 1.50), ("v5p", 1.75), ("v6e", 1.75), ("TPU7x", 2.20)],
)
def test_clock_from_the_datasheet_is_a_clock(target: str, gigahertz: float) -> None:
    assert math.isclose(TARGETS[target].clock / 1e9, gigahertz, rel_tol=0.005)
