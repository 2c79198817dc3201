"""The process that holds libtpu: a request per line on stdin, an answer per line on stdout.

A request is the base64 of a pickle of (function, args, static, target), the function as
"module:attribute" or "file.py:attribute". An answer is JSON: {"row": ...}, or {"refused": reason}
if the function cannot be had. The first line says {"ready": versions} or {"unavailable": reason}.
"""

import base64
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pickle
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from structlayers.testing.tpu.compilation import compile_for_target
from structlayers.testing.tpu.targets import TARGETS


def load_function(path: str) -> Callable[..., Any]:
    """Imports "package.module:attribute" or "path/to/file.py:attribute".

    Raises:
        ImportError: there is no such module, file or attribute.

    Example:
        >>> load_function("math:gcd")(8, 12)
        4
    """
    place, _, name = path.rpartition(":")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise ImportError(f"no such file: {place}")
        # Not the file's own name, which may be that of a module.
        spec = importlib.util.spec_from_file_location(f"tpu_gate_{Path(place).stem}", place)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    value: Any = module
    for attribute in name.split("."):
        if not hasattr(value, attribute):
            raise ImportError(f"{place} has no {name}")
        value = getattr(value, attribute)
    return value


def _start() -> dict[str, Any]:
    """Loads the compiler; says what it is or why it is not there."""
    import jax
    from jax.experimental import topologies

    try:
        topologies.get_topology_desc(platform="tpu", topology_name=TARGETS["v5e"].topology)
    except Exception as error:
        return {"unavailable": f"libtpu cannot be used: {error}"}
    return {"ready": {"jax": jax.__version__, "libtpu": importlib.metadata.version("libtpu")}}


def main() -> None:
    """Answers until stdin ends."""
    # A compiler that aborts leaves a message, not a core file in the working folder.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Whatever prints, prints to stderr: stdout is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    dumps = Path(sys.argv[1])

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    answer(_start())
    for line in sys.stdin:
        try:
            path, args, static, target = pickle.loads(base64.b64decode(line))
            function = load_function(path)
        except Exception as error:
            answer({"refused": f"{type(error).__name__}: {error}"})
            continue
        row = compile_for_target(function, args, static, TARGETS[target], dumps)
        answer({"row": row.to_json()})


if __name__ == "__main__":
    main()
