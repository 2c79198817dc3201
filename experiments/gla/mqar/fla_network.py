"""The network of the recall experiment in PyTorch, with fla's layer as the token mixer.

Only `fla_control` imports this, when a run has the mixer "fla": it needs torch and fla. Names of
parameters are those of `structlayers.models.model_to_fla`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch  # pyrefly: ignore[missing-import]
from fla.layers.gla import GatedLinearAttention  # pyrefly: ignore[missing-import]
from torch.nn import functional  # pyrefly: ignore[missing-import]

from experiments.bench.torch_peer import set_precision, to_numpy, to_torch
from experiments.gla.mqar.data import Examples
from experiments.gla.mqar.train import Trainer
from structlayers._core.precision import canonicalize_precision
from structlayers.models import LanguageModelConfig

type Run = dict[str, dict[str, np.ndarray]]
"""Values of one run by the name of a parameter: "parameters", and the averages of gradients
("first") and of their squares ("second")."""

_WARM_UP = 3  # steps before a capture, as torch's notes on CUDA graphs have it


class _Product(torch.autograd.Function):
    """`x W^T` of bfloat16 numbers in float32; cotangents are rounded to bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Any, kernel: Any) -> Any:
        ctx.save_for_backward(x, kernel)
        return x.float() @ kernel.float().T

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        x, kernel = ctx.saved_tensors
        bar = cotangents[0].to(x.dtype)
        return bar @ kernel, bar.T @ x


def _normalize(norm: Any, x: Any) -> Any:
    """The norm in float32, rounded once to the dtype of x."""
    return norm(x.float()).to(x.dtype)


class SwiGLU(torch.nn.Module):
    """`structlayers.models.SwiGLU`."""

    def __init__(self, features: int, hidden: int):
        super().__init__()
        self.gate_proj = torch.nn.Linear(features, hidden, bias=False)
        self.up_proj = torch.nn.Linear(features, hidden, bias=False)
        self.down_proj = torch.nn.Linear(hidden, features, bias=False)

    def forward(self, x: Any) -> Any:
        """`(..., d)` to itself."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(torch.nn.Module):
    """Norm, fla's layer, norm, SwiGLU."""

    def __init__(self, config: LanguageModelConfig):
        super().__init__()
        d, epsilon = config.features, config.norm_epsilon
        self.attn_norm = torch.nn.RMSNorm(d, eps=epsilon)
        self.attn = GatedLinearAttention(
            hidden_size=d,
            expand_k=0.5,
            expand_v=1.0,
            num_heads=config.num_heads,
            gate_fn="swish",
            use_short_conv=False,
            gate_low_rank_dim=config.gate_rank,
            gate_logit_normalizer=config.gate_logit_normalizer,
            norm_eps=epsilon,
        )
        self.mlp_norm = torch.nn.RMSNorm(d, eps=epsilon)
        self.mlp = SwiGLU(d, config.hidden)

    def forward(self, x: Any, places: Any = None) -> Any:
        """`(B, T, d)` to itself, or to `(B, P, d)` at places `(B, P)`."""
        x = x + self.attn(_normalize(self.attn_norm, x))[0]
        if places is not None:
            x = x.take_along_dim(places[..., None], dim=1)
        return x + self.mlp(_normalize(self.mlp_norm, x))


class Network(torch.nn.Module):
    """`structlayers.models.LanguageModel` of "gla" mixers, on float32 parameters.

    In bfloat16 linear maps are under autocast; the embedding is rounded after the look-up, so that
    fla's op, the gates before it and the residual stream are bfloat16. Norms are computed in
    float32, and logits in float32 from rounded features and weights.
    """

    def __init__(self, config: LanguageModelConfig):
        super().__init__()
        self.dtype = getattr(torch, str(np.dtype(config.compute_dtype)))
        self.embeddings = torch.nn.Embedding(config.vocab_size, config.features)
        self.layers = torch.nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = torch.nn.RMSNorm(config.features, eps=config.norm_epsilon)
        self.lm_head = None
        if not config.tie_embeddings:
            self.lm_head = torch.nn.Linear(config.features, config.vocab_size, bias=False)

    def forward(self, tokens: Any, places: Any) -> Any:
        """Logits `(B, P, vocab_size)` at places `(B, P)` of tokens `(B, T)`."""
        x = self.embeddings(tokens).to(self.dtype)
        rounds = self.dtype == torch.bfloat16
        with torch.autocast(x.device.type, torch.bfloat16, enabled=rounds):
            for layer in self.layers[:-1]:
                x = layer(x)
            x = self.layers[-1](x, places)
        x = _normalize(self.norm, x)
        kernel = (self.embeddings if self.lm_head is None else self.lm_head).weight
        logits = _Product.apply(x.flatten(0, -2), kernel.to(self.dtype))
        return logits.unflatten(0, x.shape[:-1])


class Training:
    """One network and AdamW on a device, for one run at a time.

    On a GPU a step is a CUDA graph, captured once: values of a run are copied to where it reads.
    """

    def __init__(self, trainer: Trainer, length: int, pairs: int, device: str):
        set_precision(canonicalize_precision(trainer.model.precision).name.lower())
        self.device = device
        self.network = Network(trainer.model).to(device)
        named = [(f"model.{name}", each) for name, each in self.network.named_parameters()]
        self._parameters = {name.replace("model.lm_head", "lm_head"): each for name, each in named}
        self._rate = torch.zeros((), device=device)
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(),
            lr=self._rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=trainer.weight_decay,
            fused=True,
            capturable=device == "cuda",
        )
        for each in self._parameters.values():
            self._optimizer.state[each] = {
                "step": torch.zeros((), device=device),
                "exp_avg": torch.zeros_like(each),
                "exp_avg_sq": torch.zeros_like(each),
            }
        sizes = ((trainer.batch, count) for count in (length, pairs, pairs))
        self._batch = Examples(
            *(torch.zeros(size, dtype=torch.int64, device=device) for size in sizes)
        )
        self._loss = torch.zeros((), device=device)
        self._step = _captured(self._update) if device == "cuda" else self._update

    def _tensors(self, part: str) -> Mapping[str, Any]:
        """The tensors of a part of a `Run`."""
        if part == "parameters":
            return self._parameters
        name = {"first": "exp_avg", "second": "exp_avg_sq"}[part]
        return {key: self._optimizer.state[each][name] for key, each in self._parameters.items()}

    def load(self, run: Run) -> None:
        """Takes the parts of a run that are given, names and shapes as they are here."""
        with torch.no_grad():
            for part, arrays in run.items():
                tensors = self._tensors(part)
                if tensors.keys() != arrays.keys():
                    raise ValueError(
                        f"{part} must be those of {sorted(tensors)}, got {sorted(arrays)}"
                    )
                for name, array in arrays.items():
                    if tensors[name].shape != array.shape:
                        raise ValueError(
                            f"{name} must have shape {tuple(tensors[name].shape)}, "
                            f"got {array.shape}"
                        )
                    tensors[name].copy_(torch.from_numpy(np.array(array)))

    def read(self) -> Run:
        """A copy of the run's values."""
        return {
            part: {name: to_numpy(each).copy() for name, each in self._tensors(part).items()}
            for part in ("parameters", "first", "second")
        }

    def examples(self, examples: Examples) -> Examples:
        """Examples as integers of torch on the device."""
        return Examples(*(each.long() for each in to_torch(examples, self.device)))

    def logits(self, examples: Examples) -> Any:
        """At the queries: `(count, P, vocab_size)`."""
        return self.network(examples.tokens, examples.places)

    def _update(self) -> None:
        """One step of AdamW on the batch that lies there."""
        self._optimizer.zero_grad(set_to_none=True)
        logits = self.logits(self._batch)
        loss = functional.cross_entropy(logits.flatten(0, -2), self._batch.answers.flatten())
        loss.backward()
        self._optimizer.step()
        self._loss.copy_(loss.detach())

    def train(
        self, examples: Examples, order: np.ndarray, rates: np.ndarray, done: int
    ) -> np.ndarray:
        """Trains the run that is loaded.

        Args:
            examples: from `examples`.
            order: `(steps, batch)` indices of examples.
            rates: float32 `(steps,)` learning rates.
            done: steps of the run before.

        Returns:
            float32 `(steps,)` losses.
        """
        for each in self._parameters.values():
            self._optimizer.state[each]["step"].fill_(done)
        indices, values = to_torch((order.astype(np.int64), rates), self.device)
        losses = torch.zeros_like(values)
        for index, rate, loss in zip(indices, values, losses, strict=True):
            for place, array in zip(self._batch, examples, strict=True):
                torch.index_select(array, 0, index, out=place)
            self._rate.copy_(rate)
            self._step()
            loss.copy_(self._loss)
        return to_numpy(losses)

    def hits(self, examples: Any, most: int) -> int:
        """Queries whose answer has the largest of finite logits, `most` examples at once."""
        count = torch.zeros((), dtype=torch.int64, device=self.device)
        with torch.no_grad():
            for pieces in zip(*(each.split(most) for each in examples), strict=True):
                piece = Examples(*pieces)
                logits = self.logits(piece)
                right = logits.argmax(-1) == piece.answers
                count += (right & logits.isfinite().all(-1)).sum()
        return int(count)


def _captured(update: Callable[[], None]) -> Callable[[], None]:
    """The replay of an update's CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            update()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update()
    return graph.replay
