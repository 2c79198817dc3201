"""Logits of a converted model beside those of flash-linear-attention for the same weights."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.bench.torch_peer import set_precision, to_numpy
from experiments.experiment import Phase, Results
from experiments.gla import fla_definition
from experiments.gla.fla_packages import require_fla
from structlayers.models import LanguageModel, config_from_fla, model_from_fla, model_to_fla
from structlayers.testing import error_ratio

type Fields = Mapping[str, Any]
type Logits = tuple[dict[str, np.ndarray], np.ndarray]
type Peer = Literal["fla", "definition"]


@dataclass(frozen=True)
class Model:
    """One architecture of fla's GLA models.

    Attributes:
        name: in the metrics.
        fields: of its configuration, beside the sizes.
    """

    name: str
    fields: tuple[tuple[str, Any], ...] = ()


def of_fla(fields: Fields, tokens: np.ndarray, dtype: str, seed: int) -> Logits:
    """The model of fla with random weights: its state dict and its logits, in a dtype.

    Raises:
        CommandError: a package is not installed, or there is no NVIDIA GPU.
    """
    require_fla("--peer fla (--peer definition needs nothing)")
    torch: Any = importlib.import_module("torch")
    gla: Any = importlib.import_module("fla.models.gla")
    set_precision("highest")
    torch.manual_seed(seed)
    config = gla.GLAConfig(**fields, fuse_cross_entropy=False)
    model = gla.GLAForCausalLM(config).to("cuda", getattr(torch, dtype)).eval()
    tensors = {name: to_numpy(tensor) for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(tokens).to("cuda")).logits
    return tensors, to_numpy(logits.float())


def of_definition(fields: Fields, tokens: np.ndarray, dtype: str, seed: int) -> Logits:
    """A random state dict in a dtype, and the logits of the definition in float64."""
    model = LanguageModel(config_from_fla(fields), rngs=nnx.Rngs(seed))
    tensors = {
        name: np.asarray(jnp.asarray(tensor, dtype), np.float32)
        for name, tensor in model_to_fla(model).items()
    }
    return tensors, fla_definition.logits(tensors, fields, tokens)


PEERS = {"fla": of_fla, "definition": of_definition}

NUMBERS = (
    "max_abs",
    "ratio",
    "logits_rms",
    "own_max_error",
    "own_error",
    "peer_max_error",
    "peer_error",
)
"""Largest difference of two logits, relative RMS difference, RMS of the peer's; and the first two
of each beside the definition in float64, of the same weights."""


@dataclass(frozen=True)
class LogitsPhase:
    """One model in one dtype.

    Attributes:
        model: the architecture.
        sizes: fields of the configuration that all models share.
        dtype: of the weights, and of the computation (the definition's is float64).
        tokens: `(sequences, T)`.
        peer: one of `PEERS`.
        seed: of weights and tokens.
    """

    model: Model
    sizes: tuple[tuple[str, Any], ...]
    dtype: str
    tokens: tuple[int, int]
    peer: Peer
    seed: int
    num_steps: int = 1

    @property
    def name(self) -> str:
        """E.g. "plain_float32"."""
        return f"{self.model.name}_{self.dtype}"

    def init(self) -> dict[str, Any]:
        """Nothing is known yet."""
        return {name: np.zeros(()) for name in NUMBERS}

    def advance(self, state: Any, step: int, num: int) -> tuple[Any, dict[str, float]]:
        """Both models on the same tokens, and each beside the definition in float64."""
        del state, step, num
        fields = dict(self.sizes + self.model.fields)
        rng = np.random.default_rng(self.seed)
        tokens = rng.integers(fields["vocab_size"], size=self.tokens)
        tensors, wanted = PEERS[self.peer](fields, tokens, self.dtype, self.seed)
        config = config_from_fla(fields, dtype=jnp.dtype(self.dtype))
        with jax.default_matmul_precision("highest"):
            logits = model_from_fla(tensors, config)(jnp.asarray(tokens, jnp.int32))
        found = np.asarray(logits, np.float32)
        exact = fla_definition.logits(tensors, fields, tokens) if self.peer == "fla" else wanted
        numbers = {
            "max_abs": float(np.abs(found - wanted).max()),
            "ratio": error_ratio(found, wanted),
            "logits_rms": float(np.sqrt(np.mean(np.square(wanted)))),
            "own_max_error": float(np.abs(found - exact).max()),
            "own_error": error_ratio(found, exact),
            "peer_max_error": float(np.abs(wanted - exact).max()),
            "peer_error": error_ratio(wanted, exact),
        }
        return {key: np.asarray(value) for key, value in numbers.items()}, numbers

    def finish(self, state: Any) -> dict[str, float]:
        """`NUMBERS`."""
        return {key: float(value) for key, value in state.items()}


@dataclass(frozen=True)
class FlaLogits:
    """All models in all dtypes.

    Attributes:
        all_phases: one a model and dtype.
    """

    all_phases: tuple[LogitsPhase, ...]

    def phases(self) -> Sequence[Phase]:
        """One a model and dtype."""
        return self.all_phases

    def finish(self, results: Results) -> dict[str, float]:
        """All numbers by phase, and the largest difference of each dtype."""
        metrics = {
            f"{phase}/{name}": value
            for phase, result in results.items()
            for name, value in result.items()
        }
        for dtype in dict.fromkeys(phase.dtype for phase in self.all_phases):
            metrics[f"{dtype}/max_abs"] = max(
                result["max_abs"] for phase, result in results.items() if phase.endswith(dtype)
            )
        return metrics
