"""Whether two compiled functions are the same program, whose times differ by chance alone."""

import hashlib
import re
from typing import Any

# Of an instruction: where its source is, which two functions do not share.
_METADATA = re.compile(r', metadata=\{(?:[^{}"]|"[^"]*")*\}')
_NAME = re.compile(r"%[\w.-]+")
# Of a computation: names of parameters, which its instructions say again.
_PARAMETERS = re.compile(r"^((?:ENTRY )?%[\w.-]+) \(.*\) -> ")


def program_digest(compiled: Any) -> str:
    """Digest of the optimised program: instructions, shapes, layouts and settings.

    Names and source lines are left out of account, and so are the numbers in constant arrays, of
    which time does not depend; those that stand alone, as in a scale, are not.

    Args:
        compiled: what `jax.jit(f).lower(...).compile()` returns.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def first(x): return jnp.sin(x) + 1
        >>> def second(y): return jnp.sin(y) + 1
        >>> def third(x): return jnp.cos(x) + 1
        >>> one, two, three = (
        ...     program_digest(jax.jit(f).lower(1.0).compile()) for f in (first, second, third)
        ... )
        >>> one == two, one == three
        (True, False)
    """
    names: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        return names.setdefault(match[0], f"%{len(names)}")

    lines = []
    for line in compiled.as_text().splitlines():
        if line.startswith(("%", "ENTRY", "  ", "}")):  # not the header and its tables
            line = _PARAMETERS.sub(r"\1 -> ", _METADATA.sub("", line))
            lines.append(_NAME.sub(rename, line))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
