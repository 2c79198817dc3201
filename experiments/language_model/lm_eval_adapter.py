"""Models of a run for lm-evaluation-harness (the extra `lm-eval`).

import lm_eval
from experiments.language_model.lm_eval_adapter import make_lm

model = make_lm("runs/gla/lm_books", "gla")
lm_eval.simple_evaluate(model=model, tasks=["wikitext", "lambada_openai"])
"""

from pathlib import Path
from typing import Any

from experiments.language_model.restore import restore
from experiments.language_model.scoring import Scorer
from experiments.language_model.tokenizer import Tokenizer

MAX_NEW_TOKENS = 256  # where a task names no number, as in the harness's own models


def make_lm(
    workdir: str | Path, variant: str, *, max_length: int | None = None, batch: int = 4
) -> Any:
    """An `lm_eval.api.model.LM` of a trained model.

    Args:
        workdir: work folder of a run of `configs/gla/lm_books.py` or the like.
        variant: which of its models.
        max_length: tokens that the model sees at most; None is the context it was trained with.
        batch: requests that are scored at once.

    Raises:
        ImportError: lm-eval is not installed.
        CommandError: the run does not have this model, or the checkpoint is damaged.
    """
    adapter = adapter_class()
    phase, state = restore(Path(workdir), variant)
    with phase.trainer.on_mesh():
        model = phase.trainer.merge(state["parameters"])
    scorer = Scorer(model, max_length or phase.config.context, batch)
    return adapter(scorer, phase.texts.tokenizer)


def adapter_class() -> Any:
    """The class that the harness takes; its base is the harness's own.

    Raises:
        ImportError: lm-eval is not installed.
    """
    try:
        from lm_eval import utils  # pyrefly: ignore[missing-import]
        from lm_eval.api.model import TemplateLM  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise ImportError(
            'the adapter needs lm-eval: pip install "structlayers[lm-eval]"'
        ) from error

    class StructlayersLM(TemplateLM):
        """Requests of the harness answered by a `Scorer`."""

        def __init__(self, scorer: Scorer, tokenizer: Tokenizer):
            super().__init__()
            self.scorer, self.vocabulary = scorer, tokenizer

        @property
        def eot_token_id(self) -> int:
            return self.vocabulary.end_of_text

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
        ) -> list[int]:
            return self.vocabulary.encode(string).tolist()

        def _loglikelihood_tokens(
            self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
        ) -> list[tuple[float, bool]]:
            pairs = [(context, continuation) for _, context, continuation in requests]
            return list(self.scorer.likelihoods(pairs))

        def loglikelihood_rolling(
            self, requests: list[Any], disable_tqdm: bool = False
        ) -> list[float]:
            return [self._rolling(request.args[0]) for request in requests]

        def _rolling(self, text: str) -> float:
            windows = utils.get_rolling_token_windows(
                self.tok_encode(text), self.eot_token_id, self.scorer.max_length, 1
            )
            pairs = list(map(utils.make_disjoint_window, windows))
            return sum(log_p for log_p, _ in self.scorer.likelihoods(pairs))

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return [self._until(*request.args) for request in requests]

        def _until(self, context: str, options: dict[str, Any]) -> str:
            if options.get("do_sample") or options.get("temperature"):
                raise NotImplementedError(f"only greedy generation is offered, got {options}")
            stops = options.get("until") or []
            ids = self.tok_encode(context) or [self.eot_token_id]
            count = options.get("max_gen_toks", options.get("max_new_tokens", MAX_NEW_TOKENS))
            words = self.scorer.continuation(ids, count, self.eot_token_id)
            text = self.vocabulary.decode(words)
            for stop in [stops] if isinstance(stops, str) else stops:
                text = text.split(stop)[0] if stop else text
            return text

    return StructlayersLM
