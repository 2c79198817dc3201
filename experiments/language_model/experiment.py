"""The language-modelling experiment: a phase a model, a step a batch."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.experiment import Results
from experiments.language_model.batches import Batches, Windows
from experiments.language_model.config import LanguageModelRun
from experiments.language_model.corpora import token_file
from experiments.language_model.evaluate import Evaluation, evaluate
from experiments.language_model.token_file import TokenFile
from experiments.language_model.tokenizer import make_tokenizer
from experiments.language_model.train import (
    State,
    Trainer,
    initialize,
    recent_loss,
    train_step,
)
from experiments.language_model.trainers import make_trainer, utilization


class Texts:
    """The token files of a config, opened when they are first needed."""

    def __init__(self, config: LanguageModelRun):
        self.config = config
        self.tokenizer = make_tokenizer(config.tokenizer)
        self._open: dict[tuple[str, str], TokenFile] = {}

    def file(self, corpus: str, split: str) -> TokenFile:
        """A token file."""
        if (corpus, split) not in self._open:
            self._open[corpus, split] = token_file(corpus, split, self.tokenizer)
        return self._open[corpus, split]


class TrainModel:
    """One model."""

    def __init__(self, config: LanguageModelRun, variant: str, texts: Texts):
        self.config, self.name, self.texts = config, variant, texts
        self.num_steps, self.chunk = config.steps, config.chunk
        self.speeds: list[float] = []
        names = ("step", "loss", *(("valid_perplexity",) if config.valid_windows else ()))
        self.curve: dict[str, list[float]] = {name: [] for name in names}
        self._compiled = False

    @cached_property
    def trainer(self) -> Trainer:
        """The model, the mesh and the optimiser.

        Raises:
            CommandError: the mesh does not fit the devices, or the batch not the mesh.
        """
        return make_trainer(self.config, self.name, self.texts.tokenizer.vocabulary)

    @cached_property
    def batches(self) -> Batches:
        """Of the training text."""
        config = self.config
        windows = Windows(self.texts.file(config.corpus, "train").tokens, config.context)
        return Batches(
            windows,
            self.trainer.batch_sharding,
            config.batch,
            config.accumulation,
            config.steps,
            config.seed,
        )

    @property
    def texts_needed(self) -> list[tuple[str, str]]:
        """Corpus and split of every text that is read."""
        corpus = self.config.corpus
        others = [(name, "valid") for name in self.config.other_texts]
        return [(corpus, "train"), (corpus, "valid"), *others]

    def init(self) -> State:
        """Random parameters, once the texts are there."""
        for corpus, split in self.texts_needed:
            self.texts.file(corpus, split)
        return initialize(self.trainer, jax.random.key(self.config.seed))

    def host_state(self) -> dict[str, Any]:
        """Where the batches are, and the speeds and losses so far."""
        return {
            "batches": self.batches.iterator.get_state(),
            "speeds": self.speeds,
            "curve": self.curve,
        }

    def set_host_state(self, state: dict[str, Any]) -> None:
        """Goes on with the batches from there."""
        self.batches.iterator.set_state(state["batches"])
        self.speeds = list(state["speeds"])
        self.curve = {name: list(values) for name, values in state["curve"].items()}

    def advance(self, state: State, step: int, num: int) -> tuple[State, dict[str, float]]:
        """The next steps; logs their mean loss, and what a part of the held-out text says after."""
        start, losses, logged = time.monotonic(), [], {}
        with self.trainer.on_mesh():
            for _ in range(num):
                state, logged = train_step(self.trainer, state, self.batches.next())
                losses.append(logged["loss"])
        loss = float(np.mean([float(value) for value in losses]))
        speed = num * self.config.batch * self.config.context / (time.monotonic() - start)
        if self._compiled:  # else it is not the speed of steps alone
            self.speeds.append(speed)
        self._compiled = True
        scalars = {
            "loss": loss,
            "gradient_norm": float(logged["gradient_norm"]),
            "learning_rate": np.asarray(self.trainer.optimizer.schedule(step + num - 1)).item(),
            "tokens_per_second": speed,
            **utilization(self.trainer, self.config.context, speed),
        }
        if self.config.valid_windows:
            found = self.evaluate(state, self.config.corpus, windows=self.config.valid_windows)
            scalars["valid_perplexity"] = found.perplexity
        for name, values in self.curve.items():
            values.append(scalars.get(name, step + num))
        return state, scalars

    def evaluate(
        self, state: State, corpus: str, context: int | None = None, windows: int | None = None
    ) -> Evaluation:
        """Predicts a held-out text."""
        return evaluate(
            self.trainer,
            state["parameters"],
            self.texts.file(corpus, "valid"),
            self.texts.tokenizer.end_of_text,
            context or self.config.context,
            windows,
        )

    def finish(self, state: State) -> dict[str, Any]:
        """Perplexities, bits per byte, sizes and speed."""
        config = self.config
        results: dict[str, Any] = {
            "parameters": self.trainer.sizes["parameters"],
            "tokens": config.steps * config.batch * config.context,
            "train_perplexity": float(np.exp(recent_loss(state))),
            "curve": self.curve,
        }
        if self.speeds:
            speed = float(np.median(self.speeds))
            results |= {
                "tokens_per_second": speed,
                **utilization(self.trainer, self.config.context, speed),
            }
        held_out = {"valid": config.corpus} | {name: name for name in config.other_texts}
        for name, corpus in held_out.items():
            found = self.evaluate(state, corpus)
            results[f"{name}_perplexity"] = found.perplexity
            results[f"{name}_bits_per_byte"] = found.bits_per_byte
        for length in config.test_contexts:
            found = self.evaluate(state, config.corpus, length)
            results[f"perplexity_{length}"] = found.perplexity
            results.setdefault("by_place", {})[str(length)] = found.by_place(config.context)
        return results


@dataclass(frozen=True)
class LanguageModelExperiment:
    """A phase a model."""

    config: LanguageModelRun

    def phases(self) -> Sequence[TrainModel]:
        """One after the other, all on the same batches."""
        texts = Texts(self.config)
        return [TrainModel(self.config, variant, texts) for variant in self.config.variants]

    def finish(self, results: Results) -> dict[str, float]:
        """All numbers by model, and the models beside GLA."""
        metrics = {
            f"{variant}/{name}": value
            for variant, result in results.items()
            for name, value in result.items()
            if not isinstance(value, dict)
        }
        base = results.get("gla")
        for variant, result in results.items():
            if base is not None and variant != "gla":
                ratio = result["train_perplexity"] / base["train_perplexity"]
                metrics[f"{variant}/perplexity_over_gla"] = ratio
            for length in self.config.test_contexts:
                ratio = result[f"perplexity_{length}"] / result["valid_perplexity"]
                metrics[f"{variant}/perplexity_{length}_over_{self.config.context}"] = ratio
        if base is not None and "transformer" in results:
            ratio = base["valid_perplexity"] / results["transformer"]["valid_perplexity"]
            metrics["gla/valid_over_transformer"] = ratio
        return metrics

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Path) -> None:
        """Perplexities of the models."""
        from experiments.language_model.plots import draw

        draw(self.config, results, path)
