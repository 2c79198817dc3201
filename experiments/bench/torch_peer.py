"""Timing of rivals written in PyTorch, where it is installed: nothing here imports it before use.

On a GPU the calls are captured in a CUDA graph and its replays timed with device events, which
keeps launches out; on a CPU a loop is timed with the clock.
"""

import importlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from experiments.bench.loop import Arrays
from experiments.bench.timing import Timing
from experiments.bench.turns import device_turn


def to_torch(tree: Any, device: str) -> Any:
    """Pytree of torch tensors with the values of a pytree of arrays."""
    torch: Any = importlib.import_module("torch")

    def convert(leaf: Any) -> Any:
        if str(leaf.dtype) == "bfloat16":
            return torch.from_numpy(np.array(leaf, np.float32)).to(device, torch.bfloat16)
        return torch.from_numpy(np.array(leaf)).to(device)

    return jax.tree.map(convert, tree)


def to_numpy(tensor: Any) -> np.ndarray:
    """NumPy array of a torch tensor; bfloat16 as float32."""
    tensor = tensor.detach().cpu().resolve_conj()
    return tensor.float().numpy() if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy()


def with_torch_gradients(run: Callable[..., Any]) -> Callable[..., tuple[Any, list[Any]]]:
    """Function of (*tensors, cotangent) that returns the result and the gradients."""
    torch: Any = importlib.import_module("torch")

    def call(*arguments: Any) -> tuple[Any, list[Any]]:
        *tensors, cotangent = arguments
        inputs = [tensor.detach().requires_grad_() for tensor in tensors]
        result = run(*inputs)
        return result.detach(), list(torch.autograd.grad(result, inputs, cotangent))

    return call


def set_precision(precision: str) -> None:
    """Lets float32 matmuls use TF32 unless the precision is "highest"."""
    torch: Any = importlib.import_module("torch")
    torch.backends.cuda.matmul.allow_tf32 = precision != "highest"
    torch.backends.cudnn.allow_tf32 = precision != "highest"


def torch_device(platform: str) -> str:
    """Torch's name of the platform that JAX runs on.

    Raises:
        NotImplementedError: this torch has no such device.
    """
    torch: Any = importlib.import_module("torch")
    if platform == "cpu":
        return "cpu"
    if platform == "gpu" and torch.cuda.is_available():
        return "cuda"
    raise NotImplementedError(f"torch has no {platform} here")


def time_torch(
    run: Callable[..., Any],
    sets: Sequence[Arrays],
    cache: Literal["cold", "warm"],
    *,
    repeats: int,
    target_seconds: float,
) -> tuple[Timing, int | None]:
    """Times a torch function over input sets.

    Args:
        run: called as `run(*tensors)`.
        sets: sets of tensors, used in turn.
        cache: what `plan_sets` says of them.
        repeats: number of samples.
        target_seconds: length a sample should have.

    Returns:
        The `Timing`, and the peak of allocated device memory during one call, without the other
        input sets (None on a CPU).
    """
    torch: Any = importlib.import_module("torch")
    if str(sets[0][0].device) == "cpu":
        return _time_on_clock(run, sets, cache, repeats, target_seconds), None
    run(*sets[0])
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run(*sets[0])
    torch.cuda.synchronize()
    own = sum(t.numel() * t.element_size() for t in jax.tree.leaves(sets[0]))
    peak = torch.cuda.max_memory_allocated() - before + own

    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run(*sets[0])
        events[0].record()
        run(*sets[0])
        events[1].record()
    torch.cuda.synchronize()
    rough = max(events[0].elapsed_time(events[1]) * 1e-3, 1e-6)
    rounds = max(1, min(200, round(target_seconds / (rough * len(sets)))))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for tensors in sets:
                run(*tensors)
    graph.replay()
    torch.cuda.synchronize()
    calls, samples = rounds * len(sets), []
    with device_turn():
        for _ in range(repeats):
            events[0].record()
            graph.replay()
            events[1].record()
            torch.cuda.synchronize()
            samples.append(events[0].elapsed_time(events[1]) * 1e-3 / calls)
    return Timing(tuple(samples), calls, len(sets), cache, 0.0, "graph"), peak


def _time_on_clock(
    run: Callable[..., Any],
    sets: Sequence[Arrays],
    cache: Literal["cold", "warm"],
    repeats: int,
    target_seconds: float,
) -> Timing:
    def seconds(rounds: int) -> float:
        start = time.perf_counter()
        for _ in range(rounds):
            for tensors in sets:
                run(*tensors)
        return time.perf_counter() - start

    seconds(1)
    rounds = max(1, min(2000, round(target_seconds / max(seconds(1), 1e-7))))
    calls = rounds * len(sets)
    with device_turn():
        samples = tuple(seconds(rounds) / calls for _ in range(repeats))
    return Timing(samples, calls, len(sets), cache, 0.0, "clock")
