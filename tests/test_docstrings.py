"""Every example in a docstring runs, and every public function has a docstring."""

import doctest
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import structlayers

PACKAGE = Path(structlayers.__file__).parent


def _modules() -> list[str]:
    """All modules, by their files: nothing is imported while tests are collected."""
    files = [path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py")]
    return sorted(".".join(f.parts).removesuffix(".__init__") for f in files)


def _packages() -> list[str]:
    """The packages whose `__all__` is the public interface."""
    return [m for m in _modules() if m.count(".") < 2 and (PACKAGE.parent / _folder(m)).is_dir()]


def _folder(module: str) -> Path:
    return Path(*module.split("."))


def _public_objects(module: ModuleType) -> dict[str, object]:
    """Public functions and classes that the module itself defines."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    }


@pytest.mark.parametrize("name", _modules())
def test_examples_run(name):
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    output: list[str] = []
    for example in finder.find(module, name):
        runner.run(example, out=output.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(output)


@pytest.mark.parametrize("name", _modules())
def test_public_objects_have_docstrings(name):
    module = importlib.import_module(name)
    bare = [key for key, value in _public_objects(module).items() if not inspect.getdoc(value)]
    assert bare == []


@pytest.mark.parametrize("package", [p for p in _packages() if not p.endswith("._core")])
def test_exported_names_are_sorted_documented_and_shown(package):
    module = importlib.import_module(package)
    names = list(module.__all__)
    assert names == sorted(names)
    assert set(names) <= set(dir(module))
    values = {name: getattr(module, name) for name in names}
    assert [name for name, value in values.items() if not inspect.getdoc(value)] == []
    without_example = [
        name
        for name, value in values.items()
        if inspect.isfunction(value) and ">>> " not in (value.__doc__ or "")
    ]
    assert without_example == []


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="module 'structlayers' has no attribute 'butterfy'"):
        structlayers.butterfy  # noqa: B018  # pyrefly: ignore[missing-attribute]
