"""fla's GLA model written out in NumPy, float64, from the names of its state dict.

Facts from the released code (github.com/fla-org/flash-linear-attention, fla/models/gla,
fla/layers/gla.py): pre-norm blocks, RMSNorm everywhere; ``log alpha = log sigmoid(.) / 16``; short
convolutions followed by silu; queries scaled by ``K^-1/2``; heads normed, times the swish of the
output gate; ``down(silu(gate) * up)``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

type Tensors = Mapping[str, np.ndarray]

_TAU = 16.0


def _rms_norm(x: np.ndarray, scale: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + epsilon) * scale


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def _convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Causal, each feature by its own kernel `(D, 1, W)`, the last tap on the token itself."""
    width = kernel.shape[-1]
    padded = np.pad(x, [(0, 0), (width - 1, 0), (0, 0)])
    taps = (padded[:, tap : tap + x.shape[1]] * kernel[:, 0, tap] for tap in range(width))
    return _silu(sum(taps, np.zeros_like(x)))


def _recurrence(q: np.ndarray, k: np.ndarray, v: np.ndarray, gate: np.ndarray) -> np.ndarray:
    """``S = Diag(alpha) S + k^T v``, ``o = K^-1/2 q S``; `(B, T, H, features)`."""
    state = np.zeros((*k.shape[:1], *k.shape[2:], v.shape[-1]))
    out = []
    for t in range(q.shape[1]):
        state = gate[:, t, ..., None] * state + k[:, t, ..., None] * v[:, t, ..., None, :]
        out.append(np.einsum("bhk,bhkv->bhv", q[:, t], state) * q.shape[-1] ** -0.5)
    return np.stack(out, axis=1)


def _mixed(x: np.ndarray, w: Tensors, heads: int, kv_heads: int, epsilon: float) -> np.ndarray:
    """The token mixer."""
    projected = []
    for name in "qkv":
        y = x @ w[f"{name}_proj.weight"].T
        if f"{name}_conv1d.weight" in w:
            y = _convolved(y, w[f"{name}_conv1d.weight"])
        projected.append(y)
    logits = x @ w["gk_proj.0.weight"].T @ w["gk_proj.1.weight"].T + w["gk_proj.1.bias"]
    gate = np.exp(-np.logaddexp(0, -logits) / _TAU)

    def split(y: np.ndarray, count: int) -> np.ndarray:
        y = y.reshape(*y.shape[:-1], count, -1)
        return np.repeat(y, heads // count, axis=-2)

    q = split(projected[0], heads)
    o = _recurrence(q, *(split(y, kv_heads) for y in (*projected[1:], gate)))
    norm = w["g_norm_swish_gate.weight"]
    o = _rms_norm(o, norm, epsilon) * _silu(split(x @ w["g_proj.weight"].T, heads))
    return o.reshape(*o.shape[:2], -1) @ w["o_proj.weight"].T


def _part(tensors: Tensors, prefix: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): np.asarray(tensor, np.float64)
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def logits(tensors: Tensors, fields: Mapping[str, Any], tokens: np.ndarray) -> np.ndarray:
    """Logits of a state dict.

    Args:
        tensors: arrays by name.
        fields: of fla's configuration: "num_hidden_layers", "num_heads", "num_kv_heads" (default:
            as many) and "norm_eps" (default 1e-6).
        tokens: `(B, T)`.

    Returns:
        float64 `(B, T, vocab_size)`.
    """
    heads = fields["num_heads"]
    kv_heads = fields.get("num_kv_heads") or heads
    epsilon = fields.get("norm_eps", 1e-6)
    model = _part(tensors, "model.")
    x = model["embeddings.weight"][tokens]
    for layer in range(fields["num_hidden_layers"]):
        w = _part(model, f"layers.{layer}.")
        normed = _rms_norm(x, w["attn_norm.weight"], epsilon)
        x = x + _mixed(normed, _part(w, "attn."), heads, kv_heads, epsilon)
        normed = _rms_norm(x, w["mlp_norm.weight"], epsilon)
        hidden = _silu(normed @ w["mlp.gate_proj.weight"].T) * (normed @ w["mlp.up_proj.weight"].T)
        x = x + hidden @ w["mlp.down_proj.weight"].T
    head = tensors.get("lm_head.weight", model["embeddings.weight"])
    return _rms_norm(x, model["norm.weight"], epsilon) @ np.asarray(head, np.float64).T
