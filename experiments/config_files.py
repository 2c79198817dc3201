"""Config files: finding, loading and checking `configs/<family>/<name>.py`."""

import ast
import dataclasses
import difflib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from experiments.errors import CommandError
from experiments.experiment import Config

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
RESULTS = ROOT / "experiments" / "results"


@dataclass(frozen=True)
class ConfigFile:
    """A config file that was not imported.

    Attributes:
        path: the file.
        family: name of its folder.
        experiment: its name without ".py".
        summary: first line of its docstring.
    """

    path: Path
    family: str
    experiment: str
    summary: str


@dataclass(frozen=True)
class LoadedConfig:
    """A config file that was imported.

    Attributes:
        path: the file.
        doc: the module's docstring.
        config: what its `get_config()` returned.
    """

    path: Path
    doc: str
    config: Config


def find_configs(root: Path = CONFIGS) -> list[ConfigFile]:
    """All config files `root/<family>/<name>.py` in order, read but not imported.

    Raises:
        CommandError: `root` is no folder.
    """
    if not root.is_dir():
        raise CommandError(
            f"no folder {root}; expected the configs of a checkout "
            "(run `python -m experiments` from one)"
        )
    found = []
    for path in sorted(root.glob("*/*.py")):
        if path.name.startswith("_"):
            continue
        try:
            doc = ast.get_docstring(ast.parse(path.read_bytes())) or ""
        except SyntaxError as error:
            doc = f"(syntax error in line {error.lineno})"
        summary = doc.strip().split("\n")[0]
        found.append(ConfigFile(path, path.parent.name, path.stem, summary))
    return found


def resolve(name: str, root: Path = CONFIGS) -> Path:
    """Path of a config file given relative to the current folder or to the checkout.

    Raises:
        CommandError: there is no such file; the message suggests the nearest config.
    """
    for path in (Path(name), root.parent / name):
        if path.is_file():
            return path.resolve()
    known = [relative_path(config.path, root.parent) for config in find_configs(root)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; `python -m experiments list` shows them"
    raise CommandError(f"no config file {name!r}{hint}")


def relative_path(path: Path, root: Path = ROOT) -> str:
    """The path relative to the checkout where it lies in it, else as it is."""
    path = path.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def load(path: Path, root: Path = CONFIGS) -> LoadedConfig:
    """Imports a config file and calls its `get_config`.

    Args:
        path: existing Python file.
        root: configs folder; a file in it must bear the names that its config states.

    Raises:
        CommandError: there is no `get_config`, it returns no frozen dataclass with the members of
            `experiments.experiment.Config`, or family and experiment disagree with the path.
    """
    path = path.resolve()
    module = _import_file(path)
    if not callable(getattr(module, "get_config", None)):
        raise CommandError(f"{path} has no function get_config(); expected a config file")
    config = module.get_config()
    _check_config(path, config)
    if path.is_relative_to(root.resolve()):
        expected = (path.parent.name, path.stem)
        if (config.family, config.experiment) != expected:
            raise CommandError(
                f"{path}: family and experiment are {config.family!r} and {config.experiment!r}; "
                f"expected the names of its folder and file, {expected[0]!r} and {expected[1]!r}"
            )
    return LoadedConfig(path, (module.__doc__ or "").strip(), config)


def _import_file(path: Path) -> ModuleType:
    name = f"configs.{path.parent.name}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CommandError(f"{path} cannot be imported; expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and tyro look types up by module name
    spec.loader.exec_module(module)
    return module


def _check_config(path: Path, config: object) -> None:
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise CommandError(
            f"{path}: get_config() returned {type(config).__name__}; expected a frozen dataclass"
        )
    if not type(config).__dataclass_params__.frozen:  # pyrefly: ignore
        raise CommandError(f"{path}: {type(config).__name__} must be a frozen dataclass")
    missing = [name for name in ("build", "goals", "smoke") if not hasattr(config, name)]
    missing += [
        name for name in ("family", "experiment") if not isinstance(getattr(config, name, 0), str)
    ]
    if missing:
        raise CommandError(f"{path}: {type(config).__name__} lacks {', '.join(missing)}")
