"""What was stored of the same training with another contraction or set, run on its own."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.config_files import RESULTS
from experiments.potential.config import PotentialConfig

# What runs of parts of one comparison may differ in.
PARTS = ("datasets", "contractions")


def stored_metrics(config: PotentialConfig, folder: Path = RESULTS) -> dict[str, float]:
    """Metrics of stored full runs and variants that differ in no more than their parts.

    Args:
        config: of the run that they are compared with.
        folder: of the results of all families.

    Returns:
        The metrics; of several runs the latest has the last word.
    """
    wanted, found = _compared(asdict(config)), []
    for path in (folder / config.family).glob(f"{config.experiment}*.json"):
        record = json.loads(path.read_text())
        if record.get("experiment") != config.experiment or record.get("preset") == "smoke":
            continue
        if _compared(record["config"]) == wanted:
            found.append(record)
    metrics: dict[str, float] = {}
    for record in sorted(found, key=lambda record: record["date"]):
        metrics |= record["metrics"]
    return metrics


def _compared(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields but for the parts, as JSON has them."""
    kept = {name: value for name, value in fields.items() if name not in PARTS}
    return json.loads(json.dumps(kept))
