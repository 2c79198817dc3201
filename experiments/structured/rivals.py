"""Rivals of the structured products: the dense matmul."""

from experiments.bench.dense_rivals import dense_rivals
from structlayers import structured
from structlayers.structured.arg_specs import ARG_SPECS

RIVALS = {spec.op: dense_rivals(structured) for spec in ARG_SPECS}
