"""A family of two small ops, for the tests of the benchmark."""

from tests.experiments.bench_toy.ops import count_parity, mix

__all__ = ["count_parity", "mix"]
