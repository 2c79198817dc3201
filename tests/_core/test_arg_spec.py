"""Argument specifications refuse what tests and benchmarks could not use."""

import dataclasses

import jax
import pytest

from structlayers._core.arg_spec import ArgSpec

SPEC = ArgSpec(
    name="fft_n8",
    op="fft",
    arrays=(jax.ShapeDtypeStruct((2, 8), "float32"),),
    static={"axis": -1},
    operations=240,
    source="none",
    tags=frozenset({"smoke", "cpu"}),
)


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.name = "other"  # pyrefly: ignore[read-only]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name must be lower-case letters, digits and _, got ''"),
        ({"name": "FFT n=8"}, "got 'FFT n=8'"),
        ({"operations": -1}, "operations of fft_n8 must be >= 0, got -1"),
        ({"tags": frozenset()}, "tags of fft_n8 must be some of .* got \\[\\]"),
        ({"tags": frozenset({"cuda"})}, "got \\['cuda'\\]"),
    ],
)
def test_bad_fields_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SPEC, **change)
