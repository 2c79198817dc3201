"""`python -m experiments tpu` on a family of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.commands import tpu
from experiments.errors import CommandError
from structlayers.testing.tpu import ALL, driver, skip_without_compiler

FAMILY = "gate_family"
OPS = """
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from structlayers._core.dispatch import Dispatcher, Implementation


def multiple_of_eight(x, *, platform, **static):
    if platform != "tpu":
        raise NotImplementedError("needs a TPU")
    if x.shape[0] % 8:
        raise NotImplementedError(f"rows must be a multiple of 8, got {x.shape[0]}")


def scale_xla(x, *, factor):
    return x * factor


def scale_pallas(x, *, factor):
    def kernel(x_ref, y_ref):
        y_ref[...] = x_ref[...] * factor

    return pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype))(x)


def scale_sorted(x, *, factor):
    def kernel(x_ref, y_ref):
        y_ref[...] = jnp.sort(x_ref[...])

    return pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype))(x)


dispatcher = Dispatcher(
    "scale",
    (
        Implementation("xla", "gate_family.ops:scale_xla"),
        Implementation("pallas_tpu", "gate_family.ops:scale_pallas", multiple_of_eight),
        Implementation("sorted", "gate_family.ops:scale_sorted"),
    ),
)


def scale(x, *, factor=1.0, implementation=None):
    return dispatcher(x, factor=factor, implementation=implementation)


def negate(x):
    return -x
"""
ARG_SPECS = """
import jax

from structlayers._core.arg_spec import ArgSpec


def spec(op, name, rows, *tags, **static):
    x = jax.ShapeDtypeStruct((rows, 128), "float32")
    return ArgSpec(name, op, (x,), static, rows * 128, "this test", frozenset(tags))


ARG_SPECS = (
    spec("scale", "scale_r64", 64, "tpu", "cpu", factor=3.0),
    spec("scale", "scale_r3", 3, "tpu"),
    spec("scale", "scale_r1024", 1024, "cpu"),
    spec("negate", "negate_r8", 8, "tpu"),
)
"""


@pytest.fixture(autouse=True)
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package = tmp_path / FAMILY
    package.mkdir()
    (package / "__init__.py").write_text("from gate_family.ops import negate, scale\n")
    (package / "ops.py").write_text(OPS)
    (package / "arg_specs.py").write_text(ARG_SPECS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == FAMILY]:
        del sys.modules[name]


def run(**options: Any) -> int:
    return tpu.run(tpu.Options(**options), [FAMILY])


@pytest.mark.pallas
def test_every_op_with_tpu_specs_is_compiled_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_without_compiler()
    path = tmp_path / "new" / "rows.json"
    assert run(json=path) == 0
    record = json.loads(path.read_text())
    assert record["times"] == "compiled estimates, not measured"
    assert set(record["versions"]) >= {"jax", "libtpu", "python"}
    assert record["date"][:2] == "20"
    rows = record["rows"]
    keys = ["spec", "implementation", "target"]
    assert [tuple(row[key] for key in keys) for row in rows] == [
        (spec, implementation, target)
        for spec, implementation in [
            ("scale_r64", "xla"),
            ("scale_r64", "pallas_tpu"),
            ("scale_r3", "xla"),
            ("scale_r3", "pallas_tpu"),
            ("negate_r8", None),
        ]
        for target in ALL
    ]
    for row in rows:
        pallas = row["implementation"] == "pallas_tpu"
        assert row["available"] == row["compiled"] == (not pallas or row["spec"] != "scale_r3")
        assert (row["error"] is None) == row["compiled"]
        assert (row["bundles"] is not None) == (pallas and row["compiled"])
        assert (row["estimated_seconds"] is not None) == (pallas and row["compiled"])
        assert (row["xla_estimated_seconds"] is not None) == (not pallas)
        assert {"op", "memory", "mxu_share", "spills", "kernels"} <= set(row)
    assert "rows must be a multiple of 8, got 3" in rows[15]["error"]
    output = capsys.readouterr().out
    assert "20 compiled, 0 failed, 5 not available; times are compiled estimates" in output
    assert "scale_r3 pallas_tpu TPU7x: scale: 'pallas_tpu' cannot serve: rows" in output


@pytest.mark.pallas
def test_what_does_not_compile_is_printed_in_full_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_without_compiler()
    path = tmp_path / "rows.json"
    options = {"op": "scale", "spec": ("scale_r64",), "target": ("V6E",), "json": path}
    assert run(implementation=("xla", "sorted"), **options) == 1
    rows = json.loads(path.read_text())["rows"]
    assert [row["target"] for row in rows] == ["v6e", "v6e"]
    assert [row["compiled"] for row in rows] == [True, False]
    assert "sort" in rows[1]["error"]
    output = capsys.readouterr().out
    assert f"scale_r64 sorted v6e: {rows[1]['error']}" in output
    assert "1 compiled, 1 failed, 0 not available" in output


@pytest.mark.pallas
def test_an_implementation_asked_for_by_name_fails_where_it_refuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    skip_without_compiler()
    spec, target = ("scale_r3",), ("v4",)
    assert run(op="scale", spec=spec, target=target, implementation=("pallas_tpu",)) == 1
    assert "cannot serve: rows must be a multiple of 8" in capsys.readouterr().out


@pytest.mark.pallas
def test_notes_are_printed_with_their_targets(capsys: pytest.CaptureFixture[str]) -> None:
    skip_without_compiler()
    targets = ("v5e", "v4")
    assert run(op="scale", spec=("scale_r64",), target=targets, simulate=True) == 0
    output = capsys.readouterr().out
    assert "note: scale_r64 pallas_tpu: the compiler cannot simulate v4 (v4)" in output
    assert " simulation " in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"op": "scal"}, "unknown op 'scal'; did you mean 'scale'?"),
        ({"op": "scale", "spec": ("scale_r65",)}, "unknown spec of scale 'scale_r65'; did you"),
        ({"spec": ("scale_r64",)}, "--spec needs OP in front"),
        ({"target": ("v6f",)}, "unknown target 'v6f'; did you mean 'v6e'"),
        ({"op": "scale", "implementation": ("pallas",)}, "did you mean 'pallas_tpu'"),
        ({"timeout": 0.0}, "--timeout must be > 0 seconds, got 0"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandError) as error:
        run(**options)
    assert message in str(error.value)


def test_a_file_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="cannot be written"):
        run(json=tmp_path / "file" / "rows.json")
    with pytest.raises(CommandError, match="is a folder; expected a file"):
        run(json=tmp_path)


def test_a_library_without_tpu_specs_says_so() -> None:
    with pytest.raises(CommandError, match="no op of the library has specs tagged 'tpu'"):
        tpu.run(tpu.Options(), [])


def test_without_libtpu_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(tpu, "plan", lambda options, searched: [])
    assert tpu.main([]) == 2
    assert "error: libtpu is not installed (pip install libtpu" in capsys.readouterr().err


@pytest.mark.pallas
def test_the_command_runs_from_the_shell(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "experiments", "tpu", "no_such_op"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "JAX_PLATFORMS": ""},
        check=False,
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: unknown op 'no_such_op'")
