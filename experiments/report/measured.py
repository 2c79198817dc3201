"""Rows that other commands measured: results/<family>/bench/*.json and tpu/*.json.

Each file is a list of flat rows (or {"rows": [...], ...}); the rows' own keys are the columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import CommandError
from experiments.report.entries import device_text
from experiments.runner.json_files import read_json
from experiments.runner.result import format_number

KINDS = {"bench": "Benchmarks", "tpu": "TPU compile gate"}
# The columns of a table; all the others stay in the file. A name stands for its parts too.
SHOWN = {
    "bench": (
        "op",
        "spec",
        "implementation",
        "mode",
        "dtype",
        "precision",
        "seconds_median",
        "floor_seconds",
        "share",
        "peak_bytes",
        "error",
        "failure",
        "device",
    ),
    "tpu": (
        "op",
        "spec",
        "implementation",
        "target",
        "compiled",
        "error",
        "memory",
        "bundles",
        "mxu_share",
        "estimated_seconds",
        "xla_estimated_seconds",
    ),
}


@dataclass(frozen=True)
class Measured:
    """The rows of one file.

    Attributes:
        family: folder.
        kind: "bench" or "tpu".
        name: file name without ".json".
        rows: as stored.
    """

    family: str
    kind: str
    name: str
    rows: tuple[dict[str, Any], ...]

    @property
    def title(self) -> str:
        """Heading of its table."""
        return f"{KINDS[self.kind]}: {self.family}/{self.name}"

    def columns(self) -> list[str]:
        """Those of SHOWN in which any row says something; all keys if no row has one of them."""
        said: dict[str, None] = {}
        for row in self.rows:
            said |= {key: None for key, value in _flat(row).items() if value not in (None, "")}
        shown = [
            key
            for name in SHOWN[self.kind]
            for key in said
            if key == name or key.startswith(f"{name}.")
        ]
        return shown or list(said)

    def cells(self, columns: list[str]) -> list[list[str]]:
        """Table of texts, one line a row."""
        flat = [_flat(row) for row in self.rows]
        return [[_cell(row.get(column)) for column in columns] for row in flat]


def read_measured(root: Path) -> list[Measured]:
    """All stored rows of `bench` and `tpu`.

    Args:
        root: experiments/results; need not exist.

    Raises:
        CommandError: a file is damaged or holds no list of rows.
    """
    found = []
    for kind in KINDS:
        for path in sorted(root.glob(f"*/{kind}/*.json")):
            content = read_json(path, "a list of rows")
            rows = content.get("rows") if isinstance(content, Mapping) else content
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise CommandError(f"{path} holds no list of rows; expected JSON objects in a list")
            found.append(Measured(path.parent.parent.name, kind, path.stem, tuple(rows)))
    return sorted(found, key=lambda item: (item.family, item.kind, item.name))


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "device":
            flat[prefix + key] = device_text(value)
        elif isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return format_number(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else " ".join(str(value).split())
