"""Bytes that ranks exchange, read from compiled programs."""

import pytest

from experiments.gla.sequence_parallel import collective_bytes

_ARGS = "(f32[1,4]{1,0} %x), channel_id=1, dimensions={0}"


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("%a = f32[4,4]{1,0} all-gather", 64),
        ("%a = (f32[1,4]{1,0}, bf16[4,4]{1,0}) all-reduce", 48),
        ("%a = (f32[1,4]{1,0}, f32[4,4]{1,0}) all-gather-start", 64),
        ("%a = ((f32[1,4]{1,0}), f32[4,4]{1,0}) all-gather-start", 64),
        ("%a = (s32[4]{0}, s32[4]{0}, u32[], u32[]) collective-permute-start", 16),
    ],
)
def test_bytes_of_one_collective(line, size):
    done = "%b = f32[4,4]{1,0} all-gather-done(%a)"
    assert collective_bytes(f"  {line}{_ARGS}\n  {done}") == size


def test_a_program_without_collectives_is_refused():
    with pytest.raises(ValueError, match="no collective in the compiled program"):
        collective_bytes("%a = f32[4]{0} add(%b, %c)")
