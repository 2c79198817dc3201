"""Sub-commands of `python -m experiments`; each has `main(argv) -> exit code`."""
