"""Device time out of a profile: made-up GPU planes, and a CPU's real one, which has none."""

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from experiments.bench import profiler

# Two calls of two kernels on one stream, out of order, and a derived line that counts nothing.
SPACE = """
planes {
  name: "/device:GPU:0"
  event_metadata { key: 1 value { id: 1 name: "gemm" } }
  lines {
    name: "Stream #13(Compute)"
    timestamp_ns: 1000
    events { metadata_id: 1 offset_ps: 9000000 duration_ps: 4000000 }
    events { metadata_id: 1 offset_ps: 0 duration_ps: 1000000 }
    events { metadata_id: 1 offset_ps: 2000000 duration_ps: 2000000 }
  }
  lines {
    name: "Stream #14(MemcpyD2D)"
    timestamp_ns: 1000
    events { metadata_id: 1 offset_ps: 6000000 duration_ps: 3000000 }
  }
  lines {
    name: "XLA Modules"
    events { metadata_id: 1 offset_ps: 0 duration_ps: 99000000 }
  }
}
planes { name: "/host:CPU" }
"""


def test_kernels_of_all_streams_in_order():
    durations = profiler.kernel_seconds(ProfileData.from_text_proto(SPACE))
    assert durations == pytest.approx([1e-6, 2e-6, 3e-6, 4e-6])
    assert profiler.split_calls(durations, 2) == pytest.approx([3e-6, 7e-6])


@pytest.mark.parametrize("calls", [3, 8])
def test_calls_that_cannot_be_told_apart(calls):
    with pytest.raises(ValueError, match=f"4 kernels cannot be split into {calls} equal calls"):
        profiler.split_calls([1.0] * 4, calls)


def test_a_profile_without_device_kernels_is_refused():
    x = jnp.ones((8, 8))
    compiled = jax.jit(jnp.sin).lower(x).compile()
    with pytest.raises(ValueError, match=r"no kernels of /device:GPU:0, only planes .*'/host:CPU'"):
        profiler.time_profiler(compiled, [(x,)], "warm", repeats=2)
