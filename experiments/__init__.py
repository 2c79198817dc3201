"""Experiments that reproduce the papers: `python -m experiments list|run|report|bench|tpu`.

One readable file per experiment under `experiments/<family>/`, its configs under
`configs/<family>/`, stored results under `experiments/results/<family>/`. See README.md beside
this file.
"""
