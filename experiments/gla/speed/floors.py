"""Fewest bytes of gated linear attention with a chunked backward pass, moved and held."""

from experiments.bench.floors import bytes_of, count_bytes
from experiments.bench.modes import Mode
from structlayers._core.arg_spec import ArgSpec

CHUNK = 64


def floor_bytes(spec: ArgSpec, result: object, mode: Mode) -> int:
    """Bytes that one call must move, when the backward pass has the states of all chunks.

    Forward, each input is read and each result written once: `8 K + 4 V` bytes a token and head
    with bfloat16 data and float32 gates. With the backward pass, all inputs and the cotangent are
    read again, the gradients written (`16 K + 6 V`), and the states at the starts of chunks of 64
    tokens written and read once, in bfloat16 (`4 K V / 64`). Longer chunks would have fewer states:
    the floor is that of the chunks that the paper's kernels and fla's have.

    Args:
        spec: shapes of `gated_linear_attention` or of its step.
        result: shapes of what the forward call returns.
        mode: "forward" or "forward_backward".

    Example:
        >>> from structlayers.gla.arg_specs import ARG_SPECS
        >>> spec = next(s for s in ARG_SPECS if s.name == "gla_b8_t2048_h4_k128_v256_bfloat16")
        >>> [floor_bytes(spec, spec.arrays[2], mode) // (8 * 2048 * 4)
        ...  for mode in ("forward", "forward_backward")]
        [2048, 7680]
    """
    forward = count_bytes(spec.arrays, spec.static, result, "forward")
    if mode == "forward":
        return forward
    gradients = bytes_of(spec.arrays)
    again = bytes_of(spec.arrays) + bytes_of(result)
    return forward + again + gradients + 2 * state_bytes(spec)


def state_bytes(spec: ArgSpec) -> int:
    """Bytes of the states at the starts of all chunks of 64 tokens, in bfloat16: `2 K V / 64`.

    Example:
        >>> from structlayers.gla.arg_specs import ARG_SPECS
        >>> spec = next(s for s in ARG_SPECS if s.name == "gla_b8_t2048_h4_k128_v256_bfloat16")
        >>> state_bytes(spec) // (8 * 2048 * 4)
        1024
    """
    *batch_time, groups, keys = spec.arrays[1].shape
    time, values = batch_time[-1], spec.arrays[2].shape[-1]
    chunks = groups * -(-time // CHUNK)
    for size in batch_time[:-1]:
        chunks *= size
    return 2 * chunks * keys * values


def held_bytes(spec: ArgSpec, result: object) -> int:
    """Bytes of what a call with its backward pass is given and gives back.

    The inputs and the cotangent, the result and the gradients: all else that it holds are
    temporaries.

    Args:
        spec: shapes of `gated_linear_attention`.
        result: shapes of what the forward call returns.

    Example:
        >>> from structlayers.gla.arg_specs import ARG_SPECS
        >>> spec = next(s for s in ARG_SPECS if s.name == "gla_b8_t2048_h4_k128_v256_bfloat16")
        >>> held_bytes(spec, spec.arrays[2]) // (8 * 2048 * 4)
        4096
    """
    return 2 * (bytes_of(spec.arrays) + bytes_of(result))
