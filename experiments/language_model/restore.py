"""A trained model out of a run's work folder."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from experiments.errors import CommandError
from experiments.language_model.config import LanguageModelRun
from experiments.language_model.experiment import TrainModel
from experiments.language_model.mesh import MeshShape
from experiments.runner.checkpoints import Checkpoints
from experiments.runner.json_files import read_json
from experiments.runner.work_folder import RunIdentity, differing_fields


def read_config(workdir: Path) -> LanguageModelRun:
    """The config of a run.

    Raises:
        CommandError: the folder holds no such run, or one of an older form of the config.
    """
    stored = read_json(workdir / "config.json", "the config.json of a run").get("fields", {})
    known = {field.name for field in fields(LanguageModelRun)}
    if set(stored) != known:
        names = ", ".join(sorted(known ^ set(stored)))
        raise CommandError(f"{workdir} holds no run of language models of today: fields {names}")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    values["mesh"] = MeshShape(**stored["mesh"])
    config = LanguageModelRun(**values)
    differences = differing_fields(stored, RunIdentity.of(config).fields)
    if differences:
        raise CommandError(f"the config of {workdir} cannot be read back: {'; '.join(differences)}")
    return config


def restore(workdir: Path, variant: str) -> tuple[TrainModel, dict[str, Any]]:
    """A model and its state from the newest checkpoint of a run, on one device; only reads.

    Args:
        workdir: work folder of the run.
        variant: one of the config's models.

    Returns:
        The phase that trained it, with trainer and tokenizer, and its state.

    Raises:
        CommandError: the run does not have this model, or has not saved it yet, or the checkpoint
            is damaged.
    """
    config = read_config(workdir)
    here = replace(config, mesh=MeshShape(data=1))
    phases = {phase.name: phase for phase in here.build().phases()}
    if variant not in phases:
        raise CommandError(f"{workdir} trains {', '.join(phases)}; there is no {variant!r}")
    checkpoints = Checkpoints(workdir / "checkpoints", RunIdentity.of(config).fingerprint)
    steps = checkpoints.steps(variant)
    if not steps:
        raise CommandError(f"{workdir} has no checkpoint of {variant} yet")
    phase = phases[variant]
    state, _ = checkpoints.restore(variant, steps[-1], phase.init())
    return phase, state
