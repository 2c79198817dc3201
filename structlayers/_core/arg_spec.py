"""Named argument shapes: one list per family, read by tests, benchmarks and the compile gate."""

import dataclasses
from collections.abc import Mapping
from typing import Any

TAGS = frozenset({"smoke", "cpu", "gpu", "tpu"})


@dataclasses.dataclass(frozen=True)
class ArgSpec:
    """The arguments of one call of an op, as shapes and dtypes, and where they come from.

    Attributes:
        name: unique within the family, such as "butterfly_n1024_b256_float32_untied".
        op: public function name in the family package.
        arrays: positional arguments: pytrees of `jax.ShapeDtypeStruct`.
        static: keyword arguments.
        operations: arithmetic operations of the best known algorithm, not of an implementation.
        source: the paper, table or model that the shape comes from.
        tags: where it is run: "smoke" (seconds on a CPU), "cpu", "gpu", "tpu".
        row_arrays: which leaves of `arrays` lead with the same independent rows as the result;
            none where rows of the result depend on each other's inputs.

    Example:
        >>> import jax
        >>> shape = jax.ShapeDtypeStruct((2, 8), "float32")
        >>> ArgSpec("fft_n8", "fft", (shape,), {}, 240, "none", frozenset({"smoke"})).name
        'fft_n8'
    """

    name: str
    op: str
    arrays: tuple[Any, ...]
    static: Mapping[str, Any]
    operations: int
    source: str
    tags: frozenset[str]
    row_arrays: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if not self.name or set(self.name) - set("abcdefghijklmnopqrstuvwxyz0123456789_"):
            raise ValueError(f"name must be lower-case letters, digits and _, got {self.name!r}")
        if self.operations < 0:
            raise ValueError(f"operations of {self.name} must be >= 0, got {self.operations}")
        if not self.tags or not self.tags <= TAGS:
            raise ValueError(
                f"tags of {self.name} must be some of {sorted(TAGS)}, got {sorted(self.tags)}"
            )
