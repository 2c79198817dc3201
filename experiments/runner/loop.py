"""The loop: phases in order, each advanced in chunks, saved, checked, resumed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from experiments.errors import CommandError, NonFiniteError, SaveError, Stopped
from experiments.experiment import Experiment, HostState, Keeps, Phase
from experiments.runner import distributed, provenance
from experiments.runner.checkpoints import Checkpoints, describe, strong
from experiments.runner.chunk_profile import ChunkProfile
from experiments.runner.json_files import read_json, to_json, write_json
from experiments.runner.metrics_log import JsonlWriter, as_scalars, truncate
from experiments.runner.nonfinite import nonfinite_leaves, nonfinite_scalars
from experiments.runner.phase_checks import check_phases, check_structure, chunk_of
from experiments.runner.picture import draw
from experiments.runner.progress import ProgressDisplay, make_progress
from experiments.runner.result import make_record, phase_results
from experiments.runner.signals import StopSignals
from experiments.runner.work_folder import RunIdentity, WorkFolder, open_folder, resume_command


@dataclass(frozen=True)
class RunSettings:
    """How to run, as opposed to what.

    Attributes:
        workdir: the work folder.
        about: more for config.json: config file, preset, variant, changed fields.
        command: command line that repeats the run, for result.json and messages.
        resume: continue what the folder holds.
        checkpoint_seconds: save at the first end of a chunk after so many seconds.
        checkpoint_steps: and after so many steps, if given.
        started: `time.monotonic()` when the process began its work.
        profile: whether the second chunk of every phase is traced.
    """

    workdir: Path
    about: dict[str, Any]
    command: str
    resume: bool
    checkpoint_seconds: float
    checkpoint_steps: int | None
    started: float
    profile: bool = False


def run(config: Any, settings: RunSettings, signals: StopSignals) -> dict[str, Any]:
    """Runs or continues a config to its end.

    Args:
        config: see `experiments.experiment.Config`.
        settings: work folder and habits.
        signals: noted stop requests.

    Returns:
        what result.json holds.

    Raises:
        CommandError: the folder is refused; NonFiniteError: NaN or infinity; Stopped: a signal
            came and the state was saved.
    """
    folder = _open(config, settings)
    speaks = jax.process_index() == 0
    display = make_progress(speaks=speaks)
    try:
        if folder.result_path.exists():
            display.note(f"already finished: {folder.path}")
            record = read_json(folder.result_path, "the result of a finished run")
            if speaks and not folder.plot_path.exists():
                experiment = config.build()
                results = phase_results(folder.finished)
                draw(experiment, results, experiment.finish(results), folder.plot_path, display)
            return record
        return _Runner(config, settings, signals, folder, display).run()
    finally:
        display.close()
        folder.close()


def _open(config: Any, settings: RunSettings) -> WorkFolder:
    """Process 0 opens the folder; the others take over what it found, or fail like it."""
    identity = RunIdentity.of(config)
    found: dict[str, Any] = {}
    folder = WorkFolder(settings.workdir, identity)
    if jax.process_index() == 0:
        try:
            folder = open_folder(settings.workdir, identity, settings.about, resume=settings.resume)
            Checkpoints(folder.checkpoint_path, identity.fingerprint).clean()
            found = {"finished": folder.finished}
        except CommandError as error:
            found = {"error": str(error)}
    found = distributed.broadcast(found)
    if "error" in found:
        raise CommandError(found["error"])
    folder.finished = found["finished"]
    return folder


class _Runner:
    def __init__(
        self,
        config: Any,
        settings: RunSettings,
        signals: StopSignals,
        folder: WorkFolder,
        display: ProgressDisplay,
    ) -> None:
        self.config, self.settings, self.signals = config, settings, signals
        self.folder, self.display = folder, display
        self.writes = jax.process_index() == 0
        self.checkpoints = Checkpoints(folder.checkpoint_path, folder.identity.fingerprint)
        self.log: JsonlWriter | None = None
        self.profile = ChunkProfile(
            folder.path / "profile" if settings.profile and self.writes else None, display
        )
        self.earlier = folder.seconds
        self.saved = time.monotonic()

    def seconds(self) -> float:
        """Wall seconds of the run over all its starts."""
        return self.earlier + time.monotonic() - self.settings.started

    def run(self) -> dict[str, Any]:
        experiment = self.config.build()
        phases = list(experiment.phases())
        check_phases(phases)
        self.continue_metrics(phases)
        self.folder.segments.append(self.segment())
        self.record_progress()
        try:
            for index, phase in enumerate(phases):
                if phase.name not in self.folder.finished:
                    self.stop_if_asked(phase.name, 0, saved=None)
                    self.run_phase(phase, f"{index + 1}/{len(phases)}")
        finally:
            if self.log is not None:
                self.log.close()
        return self.finish(experiment, phases)

    def continue_metrics(self, phases: Sequence[Phase]) -> None:
        """Cuts metrics.jsonl back to where the run continues."""
        if not self.writes:
            return
        current = next((p.name for p in phases if p.name not in self.folder.finished), None)
        steps = self.checkpoints.steps(current) if current else []
        finished = list(self.folder.finished)
        path = self.folder.metrics_path
        seen = truncate(path, finished, current, steps[-1] if steps else 0)
        self.earlier = max(self.earlier, seen)
        self.log = JsonlWriter(path)

    def segment(self) -> dict[str, Any]:
        return {
            "date": provenance.date(),
            "device": provenance.device(),
            "processes": jax.process_count(),
            "versions": provenance.versions(),
            "commit": provenance.commit(),
        }

    def record_progress(self) -> None:
        self.folder.seconds = self.seconds()
        if self.writes:
            self.folder.write_progress()

    def run_phase(self, phase: Phase, place: str) -> None:
        clock = time.monotonic()
        state = strong(phase.init())
        structure = describe(state)
        step, before = 0, 0.0
        steps = self.checkpoints.steps(phase.name)
        if steps:
            step = steps[-1]
            state, record = self.checkpoints.restore(phase.name, step, state)
            before, clock = float(record["seconds"]), time.monotonic()
            if isinstance(phase, HostState):
                phase.set_host_state(record["host_state"])
        self.display.start(phase.name, step, phase.num_steps, place)
        chunk = chunk_of(phase)
        self.profile.start()
        self.saved, saved_step = time.monotonic(), step
        allowed = frozenset(getattr(phase, "allow_nonfinite", ()))
        self.check_finite(phase.name, step, 0, state, {}, allowed, saved_step)
        while step < phase.num_steps:
            num = min(chunk - step % chunk, phase.num_steps - step)
            with self.profile.chunk(phase.name) as advanced:
                state, logged = phase.advance(state, step, num)
                advanced.append(state)
            state, step = strong(state), step + num
            scalars = as_scalars(phase.name, logged)
            if self.log is not None:
                self.log.write(phase.name, step, scalars, self.seconds())
            self.check_finite(phase.name, step, num, state, scalars, allowed, saved_step)
            check_structure(phase.name, step, structure, describe(state))
            self.display.update(step, scalars)
            due, stop = distributed.largest(
                int(self.due(step, saved_step, phase.num_steps)), self.signals.received or 0
            )
            if due or stop:
                host = phase.host_state() if isinstance(phase, HostState) else None
                elapsed = before + time.monotonic() - clock
                self.save(phase.name, step, state, {"seconds": elapsed, "host_state": host})
                saved_step = step
            if stop:
                self.stop_if_asked(phase.name, step, saved=stop)
        results = to_json(phase.finish(state))
        if self.writes and isinstance(phase, Keeps):
            phase.keep(state, self.folder.path)
        self.folder.finished[phase.name] = {
            "results": results,
            "steps": phase.num_steps,
            "seconds": before + time.monotonic() - clock,
        }
        self.record_progress()
        if self.writes:
            self.checkpoints.prune(phase.name, keep=1)
        self.display.finish()

    def due(self, step: int, saved_step: int, num_steps: int) -> bool:
        every = self.settings.checkpoint_steps
        return (
            step == num_steps
            or time.monotonic() - self.saved >= self.settings.checkpoint_seconds
            or (every is not None and step // every > saved_step // every)
        )

    def save(self, phase: str, step: int, state: Any, record: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.sync()
        try:
            self.checkpoints.save(phase, step, state, record)
        except Exception as error:  # whatever Orbax makes of a full disk
            raise SaveError(
                f"cannot save checkpoint {self.checkpoints.path(phase, step)} "
                f"({type(error).__name__}: {error}); the older ones are untouched"
            ) from error
        self.saved = time.monotonic()

    def check_finite(
        self,
        phase: str,
        step: int,
        num: int,
        state: Any,
        scalars: dict[str, float],
        allowed: frozenset[str],
        saved_step: int,
    ) -> None:
        bad = [f"state {text}" for text in nonfinite_leaves(state, allowed)]
        bad += [f"logged {text}" for text in nonfinite_scalars(scalars, allowed)]
        if bad:
            kept = (
                f"the last good checkpoint, {self.checkpoints.path(phase, saved_step)}, is kept"
                if saved_step
                else "no checkpoint had been saved in this phase"
            )
            since = f" (all was finite at step {step - num})" if num else ""
            raise NonFiniteError(
                f"not finite in phase {phase} at step {step}{since}: {'; '.join(bad)}; {kept}"
            )

    def stop_if_asked(self, phase: str, step: int, saved: int | None) -> None:
        """Raises Stopped if a signal has come; `saved`: the one all processes agreed on."""
        signum = saved or distributed.largest(self.signals.received or 0)[0]
        if not signum:
            return
        if self.writes:
            self.record_progress()
        command = resume_command(self.settings.command, self.folder.path)
        where = (
            f"saved phase {phase} at step {step}" if saved else f"saved all before phase {phase}"
        )
        raise Stopped(signum, f"{where}; continue with: {command}")

    def finish(self, experiment: Experiment, phases: Sequence[Phase]) -> dict[str, Any]:
        finished = {phase.name: self.folder.finished[phase.name] for phase in phases}
        last = self.folder.segments[-1]
        record = make_record(
            self.config,
            experiment,
            finished,
            self.settings.about,
            fields=self.folder.identity.fields,
            total_seconds=self.seconds(),
            source={
                **{key: last[key] for key in ("device", "versions", "commit")},
                "starts": len(self.folder.segments),
                "command": self.settings.command,
                "date": provenance.date(),
            },
        )
        if self.writes:
            results = phase_results(finished)
            draw(experiment, results, record["metrics"], self.folder.plot_path, self.display)
            write_json(self.folder.result_path, record)
        return record
