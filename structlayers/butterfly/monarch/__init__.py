"""Monarch matrices: two block-diagonal factors with a transposition in between.

Letters: `k` blocks `(q, p)` of the first factor, `l` blocks `(s, r)` of the second, `k q = l r`.
"""

from structlayers.butterfly.monarch.dense import monarch_to_dense
from structlayers.butterfly.monarch.initializers import monarch_init
from structlayers.butterfly.monarch.project import project_to_monarch
from structlayers.butterfly.monarch.shapes import monarch_shapes

__all__ = ["monarch_init", "monarch_shapes", "monarch_to_dense", "project_to_monarch"]
