"""What the README says can be done: its commands, examples, links and names exist."""

import re
import tomllib
from pathlib import Path

import pytest

import structlayers

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_examples_run_in_order():
    namespace: dict[str, object] = {}
    blocks = _blocks("python")
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_the_first_two_blocks_are_the_two_commands():
    run, test = (block.strip() for block in _blocks("bash")[:2])
    setup = "python3.12 -m venv .venv && .venv/bin/pip install -e "
    assert run.startswith(setup)
    assert test.startswith(setup)
    assert "-m experiments run configs/" in run
    assert "-m pytest" in test
    assert "\n" not in run + test


def test_ci_runs_the_test_command_as_it_stands():
    ci = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -m 1 -E '(.*)' README.md", ci)
    assert pattern is not None
    lines = [line for line in README.splitlines() if re.search(pattern[1], line)]
    assert lines == [_blocks("bash")[1].strip()]


def test_files_and_extras_exist():
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    paths = [*linked, *re.findall(r"configs/\w+/\w+\.py", README)]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    extras = {
        name for group in re.findall(r'"\.\[([\w,]+)\]"', README) for name in group.split(",")
    }
    assert extras <= set(PROJECT["optional-dependencies"])


def test_families_in_the_table_exist():
    rows = re.findall(r"^\| \[`(\w+)`\]\(.*?\) \| (.*?) \|", README, flags=re.MULTILINE)
    assert rows
    for family, layers in rows:
        names = re.findall(r"`(\w+)`", layers)
        assert names
        assert set(names) <= set(getattr(structlayers, family).__all__)


@pytest.mark.parametrize("requirement", PROJECT["dependencies"])
def test_dependencies_have_no_upper_bound(requirement):
    assert re.fullmatch(r"[\w\[\]-]+>=[\d.]+(,!=[\d.]+)*", requirement)
