"""Inputs for the family's tests, the op as they call it, and the recurrence in NumPy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structlayers.gla import gated_linear_attention

IMPLEMENTATIONS = ("xla", "reference", "parallel")


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0, -x)


def log_gates(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Gates as at the start of training, strong, constant, spiky, or mixed without measure."""
    x = rng.standard_normal(shape)
    values = {
        "start": log_sigmoid(x) / 16,
        "strong": 10 * log_sigmoid(x),
        "spiky": np.where(rng.random(shape) < 0.05, -20, log_sigmoid(x) / 16),
        "mixed": rng.choice([0, -1e-6, -0.05, -5, -200], shape),
    }
    constant = np.full(shape, float(kind)) if kind not in values else None
    return (values[kind] if constant is None else constant).astype(np.float32)


def inputs(
    rng: np.random.Generator,
    batch: tuple[int, ...],
    time: int,
    heads: int,
    groups: int,
    key: int,
    value: int,
    kind: str = "start",
    dtype: Any = "float32",
) -> tuple[np.ndarray, ...]:
    """Signed normal q, k, v of `dtype` and log gates in float32."""
    lead = (*batch, time)
    shapes = ((*lead, heads, key), (*lead, groups, key), (*lead, groups, value))
    arrays = [np.asarray(jnp.asarray(rng.standard_normal(s), dtype)) for s in shapes]
    return *arrays, log_gates(rng, shapes[1], kind)


def state(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def recurrence(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    log_gate: np.ndarray,
    log_value_gate: np.ndarray,
    initial_state: np.ndarray,
    scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    """One sequence, `(T, H, K)`, token by token and head by head, in float64."""
    q, k, v, initial_state = (np.asarray(x, np.float64) for x in (q, k, v, initial_state))
    gate = np.broadcast_to(np.asarray(log_gate, np.float64), k.shape)
    value_gate = np.broadcast_to(np.asarray(log_value_gate, np.float64), v.shape)
    time, heads, _ = q.shape
    groups = k.shape[1]
    out = np.zeros((time, heads, v.shape[-1]))
    finals = np.zeros(initial_state.shape)
    for h in range(heads):
        g = h // (heads // groups)
        memory = initial_state[g]
        for t in range(time):
            memory = np.outer(np.exp(gate[t, g]), np.exp(value_gate[t, g])) * memory
            memory = memory + np.outer(k[t, g], v[t, g])
            out[t, h] = scale * q[t, h] @ memory
        finals[g] = memory
    return out, finals


def attention(implementation: str, **options: Any) -> Callable[..., Any]:
    """Outputs and final states as a jitted function of q, k, v, log gates, initial state."""

    @jax.jit
    def run(q, k, v, log_gate=None, initial_state=None, log_value_gate=None):
        return gated_linear_attention(
            q,
            k,
            v,
            log_gate,
            initial_state=initial_state,
            log_value_gate=log_value_gate,
            output_final_state=True,
            implementation=implementation,
            **options,
        )

    return run
