"""`python -m experiments run CONFIG [options] [--field value ...]`: runs one config."""

import dataclasses
import re
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments import config_files
from experiments.errors import CommandError
from experiments.runner.json_files import to_json, write_json
from experiments.runner.signals import StopSignals

USAGE = """usage: python -m experiments run CONFIG [options] [--field value ...]

Runs a config file, e.g. configs/butterfly/recover_dft.py, in a work folder, and leaves there
config.json, metrics.jsonl, result.json, checkpoints/ and, where it helps, plot.png.
`python -m experiments run CONFIG --help` shows all options and the config's own fields;
`python -m experiments list` shows the configs."""


@dataclass(frozen=True)
class Options:
    """How to run; the fields of the config say what."""

    preset: Literal["full", "smoke"] = "full"
    """full: what is compared with the paper; smoke: the same code in seconds on a small CPU."""
    workdir: Path | None = None
    """Work folder; runs/<family>/<experiment>[@variant][-smoke] where none is given."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Continue the run in the work folder, to the same numbers; show the result if finished."""
    store: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also store the result where `report` reads it, under experiments/results/<family>/."""
    variant: str | None = None
    """Name under which a smoke run, a run with changed fields or one on another device is kept."""
    checkpoint_seconds: float = 60.0
    """Save the state at least so often."""
    checkpoint_steps: int | None = None
    """Save the state also after so many steps."""
    profile: tyro.conf.FlagCreatePairsOff[bool] = False
    """Trace the second chunk of every phase, into profile/ of the work folder."""
    results_dir: Path = config_files.RESULTS
    """Where --store puts results."""


def main(argv: list[str]) -> int:
    """Runs the command.

    Args:
        argv: what follows `run` on the command line.

    Returns:
        Exit code, see `experiments.__main__`.
    """
    started = time.monotonic()
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    with StopSignals() as signals:
        try:
            return _run(argv, signals, started)
        except CommandError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return error.exit_code


def _run(argv: list[str], signals: StopSignals, started: float) -> int:
    name, *arguments = argv
    if name.startswith("-"):
        raise CommandError(f"CONFIG must come first, got {name!r}; e.g. run CONFIG {name}")
    loaded = config_files.load(config_files.resolve(name))
    options, config, overrides = parse(loaded, arguments)
    smoke = options.preset == "smoke"
    check_options(options, smoke=smoke, overrides=overrides)

    import jax

    if wants_x64(config):
        jax.config.update("jax_enable_x64", True)

    from experiments.runner import distributed, loop, result, work_folder

    distributed.initialize()
    signals.install()  # jax.distributed brings a SIGTERM handler of its own
    about = {
        "family": config.family,
        "experiment": config.experiment,
        "variant": options.variant,
        "config_file": config_files.relative_path(loaded.path),
        "preset": options.preset,
        "overrides": overrides,
    }
    workdir = options.workdir or work_folder.default_path(
        config.family, config.experiment, options.variant, smoke
    )
    settings = loop.RunSettings(
        workdir=workdir,
        about=about,
        command=repeat_command(about["config_file"], arguments),
        resume=options.resume,
        checkpoint_seconds=options.checkpoint_seconds,
        checkpoint_steps=options.checkpoint_steps,
        started=started,
        profile=options.profile,
    )
    record = loop.run(config, settings, signals)
    if jax.process_index() == 0:
        result.show(record, workdir)
        if options.store:
            store(record, options, workdir)
    return 0


def parse(
    loaded: config_files.LoadedConfig, arguments: list[str]
) -> tuple[Options, Any, dict[str, Any]]:
    """Options, config and changed fields from the command line.

    Args:
        loaded: config file.
        arguments: what follows CONFIG.

    Returns:
        options, config with its fields set, {field: value} of fields that differ from the preset.

    Raises:
        CommandError: a field of the config has the name of an option, or names were changed.
        SystemExit: from tyro, on a wrong option (code 2, with a suggestion) or --help (0).
    """
    preset = loaded.config.smoke() if preset_of(arguments) == "smoke" else loaded.config
    taken = {field.name for field in dataclasses.fields(Options)}
    clash = sorted(taken & {field.name for field in dataclasses.fields(preset)})  # pyrefly: ignore
    if clash:
        raise CommandError(
            f"{loaded.path}: field {clash[0]!r} of the config is an option of `run`; rename it"
        )
    preset_type: Any = type(preset)
    command = dataclasses.make_dataclass(
        "Command",
        [
            ("run", tyro.conf.OmitArgPrefixes[Options], Options()),
            ("config", tyro.conf.OmitArgPrefixes[preset_type], preset),
        ],
        frozen=True,
    )
    parsed = tyro.cli(
        command,
        args=arguments,
        prog=f"python -m experiments run {config_files.relative_path(loaded.path)}",
        description=re.sub(r"(?<!\n)\n(?=[A-Z][a-z]+: )", "\n\n", loaded.doc),  # lines kept apart
    )
    config = parsed.config
    for name in ("family", "experiment"):
        if getattr(config, name) != getattr(preset, name):
            raise CommandError(f"--{name} cannot be changed; it is {getattr(preset, name)!r}")
    return parsed.run, config, changed(to_json(preset), to_json(config))


def preset_of(arguments: list[str]) -> str:
    """The value of --preset, which decides the defaults of all other fields.

    Example:
        >>> preset_of(["--preset", "smoke"]), preset_of(["--preset=smoke"]), preset_of([])
        ('smoke', 'smoke', 'full')
    """
    for index, argument in enumerate(arguments):
        if argument == "--preset" and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith("--preset="):
            return argument.partition("=")[2]
    return "full"


def changed(before: Any, after: Any, name: str = "") -> dict[str, Any]:
    """Leaves of two JSON values that differ, by dotted name, with their new value.

    Example:
        >>> changed({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})
        {'b.c': 3}
    """
    if isinstance(before, dict) and isinstance(after, dict) and set(before) == set(after):
        found: dict[str, Any] = {}
        for key in before:
            found |= changed(before[key], after[key], f"{name}.{key}" if name else key)
        return found
    return {} if before == after else {name: after}


def check_options(options: Options, *, smoke: bool, overrides: dict[str, Any]) -> None:
    """Refuses options that contradict each other.

    Raises:
        CommandError: the message names the option, its value and what was expected.
    """
    if options.variant is not None and not re.fullmatch(r"[A-Za-z0-9._+\-]+", options.variant):
        raise CommandError(
            f"--variant {options.variant!r} must be made of letters, digits and . _ + -"
        )
    if not options.checkpoint_seconds >= 0:
        raise CommandError(f"--checkpoint-seconds must be >= 0, got {options.checkpoint_seconds}")
    if options.checkpoint_steps is not None and options.checkpoint_steps < 1:
        raise CommandError(f"--checkpoint-steps must be >= 1, got {options.checkpoint_steps}")
    if options.store and options.variant is None and (smoke or overrides):
        what = "the smoke preset" if smoke else f"changed fields ({', '.join(overrides)})"
        raise CommandError(
            f"--store keeps the full run of a config, not {what}; name it with --variant NAME, or "
            "leave --store away"
        )


def wants_x64(config: Any) -> bool:
    """Whether the run needs jax's 64-bit mode: `enable_x64`, else `dtype == "float64"`."""
    wish = getattr(config, "enable_x64", None)
    return bool(wish) if wish is not None else getattr(config, "dtype", None) == "float64"


def repeat_command(config_file: str, arguments: list[str]) -> str:
    """The command line without what belongs to one work folder.

    Example:
        >>> repeat_command("configs/a/b.py", ["--resume", "--workdir", "/tmp/x", "--lr", "1"])
        'python -m experiments run configs/a/b.py --lr 1'
    """
    kept: list[str] = []
    skip = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        name = name.replace("_", "-")
        if skip:
            skip = False
        elif name in ("--workdir", "--results-dir"):
            skip = not equals
        elif name not in ("--resume", "--store", "--profile"):
            kept.append(argument)
    return shlex.join(["python", "-m", "experiments", "run", config_file, *kept])


def store(record: dict[str, Any], options: Options, folder: Path) -> Path:
    """Stores a result where `report` reads it, and the run's picture, if any, beside it.

    Replaces an older result and says so.

    Args:
        record: the result.
        options: where and under which name to store it.
        folder: work folder of the run.
    """
    name = record["experiment"] + (f"@{options.variant}" if options.variant else "")
    path = options.results_dir / record["family"] / f"{name}.json"
    replaces = " (replaces the former one)" if path.exists() else ""
    try:
        write_json(path, {**record, "variant": options.variant})
        if (folder / "plot.png").exists():
            shutil.copyfile(folder / "plot.png", path.with_suffix(".png"))
    except OSError as error:
        raise CommandError(f"cannot store the result as {path}: {error.strerror}") from error
    print(f"stored as {config_files.relative_path(path)}{replaces}")
    return path
