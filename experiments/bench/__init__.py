"""Benchmarks of the library's ops: `python -m experiments bench OP`.

One op at the shapes its family names (`arg_specs.py`), every implementation and rival in one
table, each beside the floor that bytes and operations set on this device. README.md beside this
file says how the figures are made.
"""
