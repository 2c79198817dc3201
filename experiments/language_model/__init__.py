"""Training and evaluation of language models."""
