"""Kernels in a profile of JAX's profiler."""

from jax.profiler import ProfileData

type Kernel = tuple[int, int, str]
"""Start and duration in nanoseconds, name."""


def device_kernels(profile: ProfileData) -> list[Kernel]:
    """Kernels and copies on the streams of the first GPU, in order of start; none on a CPU."""
    return sorted(
        (int(event.start_ns), int(event.duration_ns), event.name)
        for plane in profile.planes
        if plane.name == "/device:GPU:0"
        for line in plane.lines
        if (line.name or "").startswith("Stream")
        for event in line.events
    )
