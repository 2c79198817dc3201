"""Logits of converted models: the model written out in float64, and what is said without fla."""

import dataclasses
import importlib.util
from typing import Any

import numpy as np
import pytest

from experiments.config_files import load, resolve
from experiments.errors import CommandError
from experiments.gla import fla_definition
from experiments.gla.fla_logits import of_definition


def phases(**changes):
    config: Any = load(resolve("configs/gla/fla_logits.py")).config.smoke()
    return dataclasses.replace(config, **changes).build().phases()


@pytest.mark.parametrize("model", ["plain", "convolutions", "shared_keys"])
def test_converted_model_has_the_logits_of_the_definition(model):
    (phase,) = phases(models=(model,), dtypes=("float32",))
    _, numbers = phase.advance(phase.init(), 0, 1)
    assert numbers["logits_rms"] > 0.1
    assert numbers["max_abs"] <= 1e-4
    # the peer is the definition itself
    assert (numbers["peer_error"], numbers["own_error"]) == (0, numbers["ratio"])


def test_definition_is_of_these_weights():
    fields = {"vocab_size": 9, "hidden_size": 16, "num_hidden_layers": 1, "num_heads": 2}
    tokens = np.arange(6).reshape(2, 3)
    tensors, logits = of_definition(fields, tokens, "float32", 0)
    for name in tensors:
        other = {**tensors, name: tensors[name] * 1.5}
        if "gk_proj.1.bias" not in name:  # zero at first
            changed = fla_definition.logits(other, fields, tokens)
            assert not np.allclose(changed, logits), name


def test_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    (phase,) = phases(models=("plain",), dtypes=("float32",), peer="fla")
    with pytest.raises(CommandError, match="torch, transformers, fla"):
        phase.advance(phase.init(), 0, 1)
