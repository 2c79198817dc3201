"""Importing the library is quick and drags in nothing that it does not need."""

import json
import statistics
import subprocess
import sys

import pytest

HEAVY = ("e3nn_jax", "flax", "grain", "matplotlib", "optax", "orbax", "rich", "scipy", "tyro")

PROGRAM = """
import json, sys, time
start = time.perf_counter()
import {module}
print(json.dumps([time.perf_counter() - start, list(sys.modules)]))
"""


def _fresh_import(module: str) -> tuple[float, list[str]]:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    seconds, modules = json.loads(run.stdout)
    return seconds, modules


def _loaded(modules: list[str], unwanted: tuple[str, ...]) -> list[str]:
    return [m for m in modules if m.split(".")[0] in unwanted or "pallas" in m]


def test_structlayers_imports_in_under_a_second_and_a_half():
    seconds, modules = zip(*(_fresh_import("structlayers") for _ in range(3)), strict=True)
    assert statistics.median(seconds) < 1.5
    assert _loaded(modules[0], HEAVY) == []


@pytest.mark.parametrize(
    "module",
    [
        "structlayers.butterfly",
        "structlayers.equivariant",
        "structlayers.gla",
        "structlayers.structured",
        "structlayers.testing",
    ],
)
def test_families_import_no_flax_and_no_kernel(module):
    _, modules = _fresh_import(module)
    assert _loaded(modules, HEAVY) == []


def test_the_check_sees_what_is_loaded():
    _, modules = _fresh_import("flax")
    assert "flax" in _loaded(modules, HEAVY)
