"""Scores, continuations and the adapter of lm-evaluation-harness, on a run's own checkpoint."""

import importlib.util
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.data.files import CACHE
from experiments.errors import CommandError
from experiments.language_model import lm_eval_adapter
from experiments.language_model.restore import read_config, restore
from experiments.language_model.scoring import Scorer
from structlayers.models import LanguageModel, LanguageModelConfig
from tests.experiments.conftest import child_environment

HARNESS = importlib.util.find_spec("lm_eval") is not None


@pytest.fixture(scope="module")
def model():
    config = LanguageModelConfig(
        vocab_size=257, features=16, num_layers=1, num_heads=2, mixer="softmax", init_std=0.3
    )
    return LanguageModel(config, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def log_p(model):
    forward = jax.jit(lambda tokens: jax.nn.log_softmax(model(tokens)))
    return lambda ids: np.asarray(forward(np.array(ids)), np.float64)


def test_likelihoods_are_sums_of_log_p(model, log_p):
    """Contexts of several lengths in one batch; a long one loses its start."""
    rng = np.random.default_rng(0)
    sizes = [(1, 3), (40, 1), (5, 7), (3, 0), (70, 6)]
    pairs = [tuple(rng.integers(0, 256, n).tolist() for n in size) for size in sizes]
    found = list(Scorer(model, 50, batch=2).likelihoods(pairs))
    for (context, continuation), (total, greedy) in zip(pairs, found, strict=True):
        ids = (context + continuation)[-51:]
        rows = log_p(ids[:-1])[len(ids) - 1 - len(continuation) :]
        expected = sum(row[word] for row, word in zip(rows, continuation, strict=True))
        assert total == pytest.approx(expected, rel=1e-5, abs=1e-9)
        assert greedy == all(
            row.argmax() == word for row, word in zip(rows, continuation, strict=True)
        )


def test_the_greedy_continuation_is_its_own_best(model):
    scorer = Scorer(model, 48)
    words = scorer.continuation([1, 2, 3], 6, end_of_text=256)
    assert 0 < len(words) <= 6
    ((_, greedy),) = scorer.likelihoods([([1, 2, 3], words)])
    assert greedy
    first = words[0]
    assert scorer.continuation([1, 2, 3], 6, end_of_text=first) == []


def test_bad_lists_are_refused(model):
    scorer = Scorer(model, 8)
    for pair in (([], [1]), ([1], [2] * 9)):
        with pytest.raises(ValueError, match="a context must have tokens"):
            list(scorer.likelihoods([pair]))
    for context, count in (([], 2), ([1], 8)):
        with pytest.raises(ValueError, match="context must have tokens and room before"):
            scorer.continuation(context, count, 256)


@pytest.mark.skipif(HARNESS, reason="lm-eval is installed")
def test_the_missing_harness_is_named():
    with pytest.raises(ImportError, match=r"the adapter needs lm-eval: pip install"):
        lm_eval_adapter.make_lm("nowhere", "gla")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Work folder of a short run, with the cache of its texts beside it."""
    folder = tmp_path_factory.mktemp("trained")
    options = ["--variants", "transformer", "--steps", "6", "--warmup", "1", "--chunk", "3"]
    command = [sys.executable, "-m", "experiments", "run", "configs/gla/lm_books.py"]
    subprocess.run(
        [*command, "--preset", "smoke", *options, "--workdir", str(folder / "run")],
        env=child_environment(**{CACHE: str(folder / "cache")}),
        cwd=child_environment()["PYTHONPATH"],
        check=True,
        capture_output=True,
    )
    return folder


def test_a_model_comes_back_from_its_run(trained, monkeypatch):
    monkeypatch.setenv(CACHE, str(trained / "cache"))
    run = trained / "run"
    phase, state = restore(run, "transformer")
    assert int(state["step"]) == 6
    assert phase.trainer.model.mixer == "softmax"
    with pytest.raises(CommandError, match="trains transformer; there is no 'gla'"):
        restore(run, "gla")
    assert read_config(run).steps == 6
    with pytest.raises(CommandError, match="nowhere"):
        restore(trained / "nowhere", "gla")


@pytest.mark.skipif(not HARNESS, reason="lm-eval is not installed")
def test_the_harness_scores_a_trained_model(trained, monkeypatch):
    """Its own requests; a text in rolling windows has the sum of its tokens' log p."""
    from lm_eval.api.instance import Instance  # pyrefly: ignore[missing-import]

    monkeypatch.setenv(CACHE, str(trained / "cache"))
    lm = lm_eval_adapter.make_lm(trained / "run", "transformer")

    def request(kind, *arguments):
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    pairs = [request("loglikelihood", context, " cd") for context in ("", "ab", "ab" * 20)]
    for total, greedy in lm.loglikelihood(pairs):
        assert total < 0
        assert isinstance(greedy, bool)
    text = "abcdefghijklmnopqrstuvwxyz" * 2
    (total,) = lm.loglikelihood_rolling([request("loglikelihood_rolling", text)])
    expected, ids = 0.0, [256, *text.encode()]
    for start in range(0, 48, 16):
        expected += next(lm.scorer.likelihoods([(ids[start : start + 1], ids[start + 1 :][:16])]))[
            0
        ]
    expected += next(lm.scorer.likelihoods([(ids[36:49], ids[49:])]))[0]
    assert total == pytest.approx(expected, rel=1e-5)
    options = {"until": ["\0"], "max_gen_toks": 5}
    (words,) = lm.generate_until([request("generate_until", "abc", options)])
    assert isinstance(words, str)
    (few,) = lm.generate_until([request("generate_until", "abc", {"max_new_tokens": 2})])
    assert few == words[:2]
    with pytest.raises(NotImplementedError, match="only greedy"):
        lm.generate_until([request("generate_until", "abc", {"temperature": 0.7})])
