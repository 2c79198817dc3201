"""Who may import whom, read from the source by `ast`; nothing is imported.

The library stands on `_core`; families stand beside each other; experiments stand on the library
and configs on the experiments. Rules are in `ALLOWED`, `FAMILY_EDGES` and `ROOMS`.
"""

import ast
import dataclasses
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FAMILIES = ("butterfly", "equivariant", "gla", "he", "structured", "ternary", "vsa")

# Part of the project -> the parts that it may import besides itself.
ALLOWED = {
    "_core": set(),
    **{family: {"_core"} for family in FAMILIES},
    "testing": {"_core"},
    "replacement": {"_core"},
    "linen": {*FAMILIES, "_core"},
    "models": {*FAMILIES, "_core"},
    "structlayers": {*FAMILIES, "linen", "models", "replacement", "testing"},
    "experiments": {
        *FAMILIES,
        "_core",
        "linen",
        "models",
        "replacement",
        "structlayers",
        "testing",
    },
    "configs": {"experiments", *FAMILIES, "models", "structlayers"},
}

# Family -> families whose mathematics it shares, to be used through their public names only: an
# NTT is a butterfly over Z_q; a butterfly can be an orthogonal operator of vsa; an encrypted layer
# takes a structured weight; Fastfood is made of Hadamard products.
FAMILY_EDGES = {"he": {"butterfly", "ternary"}, "structured": {"butterfly"}, "vsa": {"butterfly"}}

# Room of a family -> rooms that it must not import at all, and rooms only within functions.
KERNELS = {"pallas_gpu", "pallas_tpu"}
ROOMS = {
    "reference": ({"ops", "layers", "xla", *KERNELS}, set()),
    "xla": ({"layers", *KERNELS}, {"ops"}),
    "pallas_tpu": ({"ops", "layers"}, set()),
    "pallas_gpu": ({"ops", "layers"}, set()),
    "ops": ({"layers"}, KERNELS),
    "layers": (KERNELS, set()),
    "arg_specs": ({"ops", "layers", *KERNELS}, set()),
}

# Packages that only some parts of `structlayers` may import when they are imported themselves.
FLAX_PARTS = {"linen", "models", "replacement"}
FLAX_MODULES = {"structlayers._core.layers"}  # what the layers of all families share
LIBRARY_PACKAGES = {"chex", "e3nn_jax", "flax", "jax", "jaxlib", "jaxtyping", "numpy", "optax"}
MODULES = {"orbax-checkpoint": "orbax", "scikit-learn": "sklearn"}  # where the names differ
EXPERIMENT_PACKAGES = {
    MODULES.get(package, package)
    for requirement in PROJECT["optional-dependencies"]["experiments"]
    for package in re.findall(r"^[\w-]+", requirement)
}
# Part -> packages that it may import when they are called for: what tests have at hand, and extras.
LAZY_PACKAGES = {
    "equivariant": {"scipy"},
    "testing": {"libtpu", "pytest"},
    "models": {"ase", "safetensors", "scipy", "tokamax"},
}
# Module that only functions import -> packages of rivals that its classes need.
RIVAL_MODULES = {"experiments.gla.mqar.fla_network": {"fla", "torch"}}
PALLAS = "jax.experimental.pallas"
PALLAS_MODULES = {"structlayers._core.simt.mosaic.kernel"}  # what the kernels of all families share


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported module; `lazy` when it happens within a function or only for type checkers."""

    module: str
    lazy: bool
    line: int


def _is_type_checking(node: ast.If) -> bool:
    return "TYPE_CHECKING" in ast.dump(node.test)


def _imports(name: str, source: str, is_package: bool) -> Iterator[Import]:
    """Every import of module `name`, with the names that it takes as possible submodules."""

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            inside = inside or (isinstance(child, ast.If) and _is_type_checking(child))
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, lazy, child.lineno)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parents = name.split(".") if is_package else name.split(".")[:-1]
                    parents = parents[: len(parents) - child.level + 1]
                    base = ".".join([*parents, *filter(None, [base])])
                for alias in child.names:
                    yield Import(f"{base}.{alias.name}", lazy, child.lineno)
            yield from visit(child, inside)

    yield from visit(ast.parse(source), lazy=False)


def _part(module: str) -> str | None:
    """The part of the project that a module belongs to; None for other packages."""
    pieces = module.split(".")
    if pieces[0] in ("experiments", "configs"):
        return pieces[0]
    if pieces[0] != "structlayers":
        return None
    return pieces[1] if len(pieces) > 1 and pieces[1] in ALLOWED else "structlayers"


def _room(module: str) -> str | None:
    pieces = module.split(".")
    return pieces[2] if len(pieces) > 2 and pieces[1] in FAMILIES else None


def _package_violations(name: str, found: Import) -> Iterator[str]:
    """What parts of the project may take from other packages."""
    part, room, top = _part(name), _room(name), found.module.split(".")[0]
    known = LIBRARY_PACKAGES | sys.stdlib_module_names
    if part in ("experiments", "configs"):
        # Rivals in benchmarks are imported where they are measured, if they are there.
        known = known | EXPERIMENT_PACKAGES | RIVAL_MODULES.get(name, set())
        if top not in known and not found.lazy:
            yield "experiments import only what their extra installs"
        return
    if found.lazy:
        known = known | LAZY_PACKAGES.get(part or "", set())
    if top not in known:
        yield "the library imports only its declared dependencies"
    if found.lazy:
        return
    may_use_flax = part in FLAX_PARTS or room == "layers" or name in FLAX_MODULES
    if top == "flax" and not may_use_flax:
        yield "Flax is imported by layers, models, linen and replacement only"
    if found.module.startswith(PALLAS) and room not in KERNELS and name not in PALLAS_MODULES:
        yield "Pallas is imported by kernels only"


def _room_violations(name: str, found: Import) -> Iterator[str]:
    """What the rooms of one family may take from each other."""
    room, other = _room(name), _room(found.module)
    never, not_eagerly = ROOMS.get(room or "", (set(), set()))
    if other in never:
        yield f"{room} does not import {other}"
    elif other in not_eagerly and not found.lazy:
        yield f"{room} does not import {other} eagerly"


def _violations_of(name: str, found: Import, public: Mapping[str, set[str]]) -> Iterator[str]:
    part, target = _part(name), _part(found.module)
    assert part is not None, name
    if found.module.split(".")[0] == "tests":
        yield "nothing imports tests"
    elif not found.lazy and any(f"{found.module}.".startswith(f"{m}.") for m in RIVAL_MODULES):
        yield "modules of rivals are imported within functions"
    elif target is None:
        yield from _package_violations(name, found)
    elif target == part:
        yield from _room_violations(name, found)
    elif target in FAMILY_EDGES.get(part, set()):
        rest = found.module.split(".")[2:]
        if len(rest) > 1 or (rest and rest[0] not in public.get(target, set())):
            yield f"{part} uses {target} through its public names"
    elif target not in ALLOWED[part]:
        yield f"{part} does not import {target}"
    elif part == "structlayers" and not found.lazy:
        yield "structlayers/__init__.py imports lazily"


def _public_names(source: str) -> set[str]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def violations(files: Mapping[str, str]) -> list[str]:
    """Broken rules in a tree given as path -> source, each with its place."""
    public = {
        family: _public_names(files.get(f"structlayers/{family}/__init__.py", ""))
        for family in FAMILIES
    }
    broken = []
    for path, source in sorted(files.items()):
        pieces = list(Path(path).with_suffix("").parts)
        is_package = pieces[-1] == "__init__"
        name = ".".join(pieces[:-1] if is_package else pieces)
        for found in _imports(name, source, is_package):
            for rule in _violations_of(name, found, public):
                broken.append(f"{path}:{found.line}: imports {found.module}: {rule}")
    return broken


def test_the_project_keeps_the_rules():
    files = {
        str(path.relative_to(ROOT)): path.read_text()
        for top in ("structlayers", "experiments", "configs")
        for path in sorted((ROOT / top).rglob("*.py"))
    }
    assert len(files) > 10
    assert violations(files) == []


PUBLIC = {"structlayers/butterfly/__init__.py": '__all__ = ["butterfly_multiply"]'}


@pytest.mark.parametrize(
    ("path", "source", "rule"),
    [
        ("_core/checks.py", "import structlayers.butterfly", "_core does not import butterfly"),
        ("_core/checks.py", "from .. import testing", "_core does not import testing"),
        ("gla/ops.py", "from structlayers.ternary import x", "gla does not import ternary"),
        ("gla/ops.py", "def f():\n from structlayers.he import x", "gla does not import he"),
        ("he/ops.py", "from structlayers.butterfly.xla import f", "he uses butterfly through"),
        ("he/ops.py", "from structlayers.butterfly import xla", "he uses butterfly through"),
        ("he/ops.py", "from structlayers.vsa import bind", "he does not import vsa"),
        ("gla/ops.py", "from structlayers.gla import pallas_tpu", "ops does not import pallas_tpu"),
        ("gla/ops.py", "from .pallas_gpu import f", "ops does not import pallas_gpu eagerly"),
        ("gla/ops/a.py", "from structlayers.gla.layers import F", "ops does not import layers"),
        ("gla/layers.py", "from .pallas_gpu import f", "layers does not import pallas_gpu"),
        ("gla/reference.py", "from . import ops", "reference does not import ops"),
        ("gla/ops.py", "from flax import nnx", "Flax is imported by layers"),
        ("gla/xla.py", "from jax.experimental import pallas", "Pallas is imported by kernels only"),
        ("gla/xla.py", "import jax.experimental.pallas as pl", "Pallas is imported by kernels"),
        ("gla/ops.py", "import scipy", "only its declared dependencies"),
        ("models/m.py", "import safetensors", "only its declared dependencies"),
        ("gla/ops.py", "import tests.conftest", "nothing imports tests"),
        ("gla/ops.py", "import experiments.runner", "gla does not import experiments"),
        ("models/m.py", "from configs import x", "models does not import configs"),
        ("testing/errors.py", "from structlayers import butterfly", "testing does not import"),
        ("__init__.py", "from structlayers import butterfly", "imports lazily"),
    ],
)
def test_a_planted_violation_is_found(path, source, rule):
    found = violations({**PUBLIC, f"structlayers/{path}": source})
    assert len(found) >= 1
    assert rule in found[0]
    assert found[0].startswith(f"structlayers/{path}:")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("structlayers/_core/a.py", "import jax\nfrom structlayers._core.checks import f"),
        ("structlayers/gla/ops.py", "def f():\n from structlayers.gla import pallas_tpu"),
        ("structlayers/gla/layers.py", "from flax import nnx\nfrom structlayers.gla import ops"),
        ("structlayers/gla/pallas_tpu.py", "from jax.experimental import pallas as pl"),
        ("structlayers/he/ops.py", "from structlayers.butterfly import butterfly_multiply"),
        ("structlayers/__init__.py", "if TYPE_CHECKING:\n from structlayers import butterfly"),
        ("experiments/rivals.py", "def f():\n import torch"),
        ("structlayers/testing/tpu.py", "def f():\n import libtpu"),
        ("structlayers/models/m.py", "def f():\n from safetensors.numpy import load_file"),
        ("experiments/run.py", "import scipy\nfrom structlayers.butterfly.xla import f"),
        ("configs/butterfly/a.py", "from experiments.butterfly.recovery import Config"),
    ],
)
def test_what_is_allowed_passes(path, source):
    assert violations({**PUBLIC, path: source}) == []


def test_experiments_import_only_what_their_extra_installs():
    assert violations({"experiments/rivals.py": "import torch"}) == [
        "experiments/rivals.py:1: imports torch: experiments import only what their extra installs"
    ]
    assert violations({"experiments/data.py": "import grain\nfrom orbax import checkpoint"}) == []


def test_rivals_that_need_their_packages_are_imported_within_functions():
    module, line = (
        "experiments/gla/mqar/fla_network.py",
        "from experiments.gla.mqar import fla_network",
    )
    assert violations({module: "import torch\nfrom fla import layers"}) == []
    assert len(violations({module: "import triton"})) == 1
    assert violations({"experiments/run.py": f"def f():\n {line}"}) == []
    assert violations({"experiments/run.py": line}) == [
        "experiments/run.py:1: imports experiments.gla.mqar.fla_network: "
        "modules of rivals are imported within functions"
    ]


def test_experiments_do_not_import_configs():
    found = violations({"experiments/run.py": "import configs.butterfly.recover_dft"})
    assert found == [
        "experiments/run.py:1: imports configs.butterfly.recover_dft: "
        "experiments does not import configs"
    ]
