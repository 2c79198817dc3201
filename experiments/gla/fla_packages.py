"""Whether flash-linear-attention can run here."""

import importlib
import importlib.util
from importlib import metadata
from typing import Any

from experiments.errors import CommandError

PACKAGES = ("torch", "triton", "fla-core", "flash-linear-attention")


def versions() -> dict[str, str]:
    """Versions of fla's packages, which the record of a run does not hold otherwise."""
    installed = {each.name for each in metadata.distributions()}
    return {name: metadata.version(name) for name in PACKAGES if name in installed}


def require_fla(what: str) -> None:
    """Refuses to go on where fla cannot run.

    Args:
        what: needs fla, for the message.

    Raises:
        CommandError: a package is not installed, or torch sees no NVIDIA GPU.
    """
    missing = [
        name for name in ("torch", "transformers", "fla") if not importlib.util.find_spec(name)
    ]
    if missing:
        raise CommandError(
            f"{what} needs {', '.join(missing)}: pip install torch transformers fla-core "
            "flash-linear-attention, and an NVIDIA GPU"
        )
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise CommandError(f"{what} needs an NVIDIA GPU for fla's kernels, torch sees none")
