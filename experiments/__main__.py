"""Entry point of `python -m experiments COMMAND ...`; a command imports only what it needs."""

import difflib
import importlib
import os
import sys

COMMANDS = {
    "list": ("list_configs", "every config, with its family and whether a stored result exists"),
    "run": ("run", "run one config; writes numbers, a picture and a verdict"),
    "join": ("join", "make one stored result of runs of a config's parts"),
    "report": ("report", "stored results beside the paper's numbers and the goals"),
    "bench": ("bench", "measure one op: time, memory, floors, rivals"),
    "tpu": ("tpu", "compile the TPU kernels ahead of time and print their static cost"),
}

USAGE = "usage: python -m experiments COMMAND ... (COMMAND --help says more)\n\n" + "\n".join(
    f"  {name:<7} {text}" for name, (_, text) in COMMANDS.items()
)


def main(argv: list[str]) -> int:
    """Runs one sub-command.

    Args:
        argv: command line without the program's name.

    Returns:
        Exit code: 0 done, 1 failed, 2 bad input, 3 NaN or infinity, 130 or 143 stopped by SIGINT
        or SIGTERM after saving, 141 where nobody reads the output any more.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if argv else 2
    command, *rest = argv
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"error: unknown command {command!r}{hint}\n\n{USAGE}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"experiments.commands.{COMMANDS[command][0]}")
    return module.main(rest)


def _main() -> int:
    try:
        try:
            return main(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # who read, such as `head`, has seen enough; what is left in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as of a program that SIGPIPE ends


if __name__ == "__main__":
    sys.exit(_main())
