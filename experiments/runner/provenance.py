"""Where a number comes from: versions, device, commit, date."""

import os
import platform
import re
import subprocess
from collections import Counter
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.config_files import ROOT

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "structlayers")
SOURCES = ("structlayers", "experiments", "configs", "pyproject.toml", ":!experiments/results")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, without importing them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = _checkout_version() if name == "structlayers" else "not installed"
    return found


def commit(root: Path = ROOT) -> str:
    """Commit of the checkout, "+dirty" where sources differ from it; "unknown" outside git.

    A copied tree, whose git is missing or behind, may be given its commit in STRUCTLAYERS_COMMIT.
    """
    if given := os.environ.get("STRUCTLAYERS_COMMIT"):
        return given
    top = _git(root, "rev-parse", "--show-toplevel")
    head = _git(root, "rev-parse", "HEAD")
    if top is None or head is None or Path(top).resolve() != root.resolve():
        return "unknown"
    changed = _git(root, "status", "--porcelain", "--", *SOURCES)
    return head + ("+dirty" if changed is None or changed else "")


def device() -> dict[str, Any]:
    """Platform, kind and number of the devices that jax uses: {"platform", "kind", "count"}."""
    import jax

    devices = jax.devices()
    kinds = Counter(_kind(one.device_kind) for one in devices)
    return {
        "platform": devices[0].platform,
        "kind": " + ".join(kinds),
        "count": len(devices),
    }


def date() -> str:
    """Now, in UTC, to the second (ISO 8601)."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _kind(device_kind: str) -> str:
    if device_kind.lower() != "cpu":
        return device_kind
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"CPU ({model}, {cores} cores)"


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _checkout_version() -> str:
    """Version of a checkout that is on the path but not installed."""
    try:
        text = (ROOT / "structlayers" / "__init__.py").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r"""^__version__ *= *["']([^"']+)""", text, re.MULTILINE)
    return found[1] if found else "unknown"
