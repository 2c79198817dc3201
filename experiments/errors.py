"""Errors that end a command with a message instead of a traceback, each with its exit code."""

import signal


class CommandError(Exception):
    """Bad input: the message names the value or the path and says what was expected."""

    exit_code = 2


class NonFiniteError(CommandError):
    """NaN or infinity in the state or in a logged scalar."""

    exit_code = 3


class SaveError(CommandError):
    """The state could not be saved, e.g. on a full disk; earlier checkpoints are untouched."""

    exit_code = 1


class Stopped(CommandError):
    """A signal ended the run after its state was saved; the exit code is the shell's 128 + n."""

    def __init__(self, signum: int, message: str) -> None:
        """Keeps the signal's number for the exit code.

        Args:
            signum: signal that was received.
            message: what was saved and how to continue.
        """
        super().__init__(f"{signal.Signals(signum).name}: {message}")
        self.exit_code = 128 + signum
