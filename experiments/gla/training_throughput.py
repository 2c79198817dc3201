"""Tokens a second, share of the peak and memory of a step of training, by model and length."""

import re
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import jax
import numpy as np

from experiments.bench.turns import device_turn
from experiments.experiment import Phase, Results, Scalars
from experiments.language_model.config import LanguageModelRun
from experiments.language_model.train import Trainer, initialize, train_step
from experiments.language_model.trainers import make_trainer, utilization

MEASURES = ("tokens_per_second", "mfu", "peak_bytes", "loss")
_SHAPE = re.compile(r"t([1-9]\d*)_b([1-9]\d*)")


@dataclass(frozen=True)
class Shape:
    """Tokens of a sequence and sequences of a step."""

    time: int
    batch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reverse of the name: "t2048_b16".

        Raises:
            ValueError: the text is none.

        Example:
            >>> Shape.parse("t2048_b16")
            Shape(time=2048, batch=16)
        """
        found = _SHAPE.fullmatch(text)
        if not found:
            raise ValueError(f"shapes are of the form t2048_b16, got {text!r}")
        return cls(*map(int, found.groups()))

    @property
    def name(self) -> str:
        """E.g. "t2048_b16"."""
        return f"t{self.time}_b{self.batch}"


@dataclass(frozen=True)
class ThroughputPhase:
    """One model, a shape a step.

    Attributes:
        name: of the model, see `experiments/language_model/variants.py`.
        runs: for each shape, the run whose step is measured.
        vocabulary: words.
        steps: of training in a measurement.
        repeats: measurements, of which the median counts.
    """

    name: str
    runs: tuple[LanguageModelRun, ...]
    vocabulary: int
    steps: int
    repeats: int
    chunk: int = 1
    # a loss that is not finite, or no known peak, shows in the metrics
    allow_nonfinite: frozenset[str] = frozenset({"*"})

    @property
    def num_steps(self) -> int:
        """Number of shapes."""
        return len(self.runs)

    def init(self) -> dict[str, np.ndarray]:
        """A row of `MEASURES` for every shape."""
        return {"table": np.full((len(self.runs), len(MEASURES)), np.nan)}

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], Scalars]:
        """Measures the next shapes."""
        table = np.array(state["table"])
        for index in range(step, step + num):
            run = self.runs[index]
            trainer = make_trainer(run, self.name, self.vocabulary)
            measured = measure(trainer, run, self.vocabulary, self.steps, self.repeats)
            table[index] = [measured.get(name, np.nan) for name in MEASURES]
        return {"table": table}, {"tokens_per_second": float(table[step + num - 1, 0])}

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """By shape its measures; without "mfu" where no peak is known."""
        return {
            Shape(run.context, run.batch).name: {
                name: float(value)
                for name, value in zip(MEASURES, row, strict=True)
                if name != "mfu" or np.isfinite(value)
            }
            for run, row in zip(self.runs, np.asarray(state["table"]), strict=True)
        }


def measure(
    trainer: Trainer, run: LanguageModelRun, vocabulary: int, steps: int, repeats: int
) -> dict[str, float]:
    """Speed, memory and last loss of `train_step` on one batch of random words.

    Args:
        trainer: of the model.
        run: gives batch, context and seed.
        vocabulary: words.
        steps: in a measurement; the first ones after compilation are not measured.
        repeats: measurements.

    Returns:
        `MEASURES`; "peak_bytes" is what the compiled step needs on a device: arguments, results
        that are not in their place, and temporaries.
    """
    for_state, for_words = jax.random.split(jax.random.key(run.seed))
    shape = (run.accumulation, run.batch // run.accumulation, run.context + 1)
    words = jax.random.randint(for_words, shape, 0, vocabulary)
    batch = jax.device_put(words, trainer.batch_sharding)
    state, loss = initialize(trainer, for_state), np.nan
    with trainer.on_mesh():
        compiled = train_step.lower(trainer, state, batch).compile()
        memory: Any = compiled.memory_analysis()
        samples = []
        with device_turn():
            for _ in range(repeats + 1):
                start = time.perf_counter()
                for _ in range(steps):
                    state, values = compiled(state, batch)
                    loss = values["loss"]
                jax.block_until_ready(loss)
                samples.append((time.perf_counter() - start) / steps)
    speed = run.batch * run.context / statistics.median(samples[1:])
    placed = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return {
        "tokens_per_second": speed,
        **utilization(trainer, run.context, speed),
        "peak_bytes": placed - memory.alias_size_in_bytes + memory.temp_size_in_bytes,
        "loss": float(loss),
    }


@dataclass(frozen=True)
class TrainingThroughput:
    """A phase a model.

    Attributes:
        variants: names of the models.
        shapes: of the batches.
        base: what all runs share.
        vocabulary: words.
        steps: see `ThroughputPhase`.
        repeats: see `ThroughputPhase`.
    """

    variants: tuple[str, ...]
    shapes: tuple[Shape, ...]
    base: LanguageModelRun
    vocabulary: int
    steps: int
    repeats: int

    @cached_property
    def runs(self) -> tuple[LanguageModelRun, ...]:
        """One a shape; the logits of a whole batch are kept."""
        return tuple(
            replace(self.base, context=shape.time, batch=shape.batch, loss_chunk=shape.time)
            for shape in self.shapes
        )

    def phases(self) -> Sequence[Phase]:
        """By model."""
        return [
            ThroughputPhase(name, self.runs, self.vocabulary, self.steps, self.repeats)
            for name in self.variants
        ]

    def finish(self, results: Results) -> dict[str, float]:
        """`MODEL/SHAPE/MEASURE`, and GLA beside Transformer++."""
        metrics = {
            f"{variant}/{shape}/{name}": value
            for variant, result in results.items()
            for shape, row in result.items()
            for name, value in row.items()
        }
        ours, other = results.get("gla"), results.get("transformer")
        if ours is not None and other is not None:
            for shape in ours:
                ratio = ours[shape]["tokens_per_second"] / other[shape]["tokens_per_second"]
                metrics[f"{shape}/gla_over_transformer"] = ratio
        return metrics

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Any) -> None:
        """Thousand tokens a second over the length of a sequence, as Figure 6 of the paper."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        del results
        figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
        names = [f"{shape.time}\n{shape.batch}" for shape in self.shapes]
        for variant in self.variants:
            speeds = [
                metrics[f"{variant}/{shape.name}/tokens_per_second"] / 1e3 for shape in self.shapes
            ]
            axes.plot(names, speeds, "o-", label=variant)
        axes.set(xlabel="tokens of a sequence, sequences", ylabel="thousand tokens a second")
        axes.set_ylim(bottom=0)
        axes.legend()
        figure.savefig(path, dpi=130)
        plt.close(figure)
