"""Choosing the implementation of an op: by name, or by platform, shapes and dtypes.

The choice is a pure function of shapes, dtypes, static arguments and platform, so it can be asked
without running anything: ``dispatcher.choose(...)`` answers what would run and why.
"""

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Callable, Generator, Mapping
from contextvars import ContextVar
from typing import Any

import jax

from structlayers._core.context import bound

_assumed_platform: ContextVar[str | None] = ContextVar("assumed_platform", default=None)


@contextlib.contextmanager
def assume_platform(platform: str) -> Generator[None]:
    """Makes dispatch believe in `platform`, for lowering to a device that is not here.

    JAX does not key its caches on it: lower functions that have not been traced outside.

    Args:
        platform: "cpu", "gpu" or "tpu".

    Example:
        >>> with assume_platform("tpu"):
        ...     current_platform()
        'tpu'
    """
    with bound(_assumed_platform, platform):
        yield


def current_platform() -> str:
    """The platform that new computations run on: "cpu", "gpu" or "tpu".

    Example:
        >>> with assume_platform("gpu"):
        ...     current_platform()
        'gpu'
    """
    device = jax.config.jax_default_device
    platform = _assumed_platform.get() or getattr(device, "platform", device)
    return platform or jax.default_backend()


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute an op.

    Attributes:
        name: the word that users pass as ``implementation=``.
        load: where the function is, "package.module:function"; imported at first use.
        check: called as ``check(*args, platform=..., **static)`` with arrays or
            `jax.ShapeDtypeStruct`; raises NotImplementedError with the reason when this
            implementation cannot serve. None serves always.
    """

    name: str
    load: str
    check: Callable[..., None] | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """What would run, why, and what was passed over for which reason."""

    name: str
    why: str
    rejected: Mapping[str, str]


@functools.cache
def _load(path: str) -> Callable[..., Any]:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclasses.dataclass(frozen=True)
class Dispatcher:
    """An op's implementations, in their default order.

    Attributes:
        op: name of the op, for messages.
        implementations: the known implementations, the one to try first in front.
        prefer: called as ``prefer(*args, platform=..., **static)``; returns (name, why) pairs to
            try before the default order. This is where measured break-even points stand.

    Example:
        >>> dispatcher = Dispatcher("neg", (Implementation("xla", "operator:neg"),))
        >>> dispatcher(3)
        -3
        >>> dispatcher.choose(3).why
        'first in the default order that can serve'
    """

    op: str
    implementations: tuple[Implementation, ...]
    prefer: Callable[..., tuple[tuple[str, str], ...]] | None = None

    def choose(
        self,
        *args: Any,
        implementation: str | None = None,
        platform: str | None = None,
        **static: Any,
    ) -> Choice:
        """Says which implementation would run, and why; runs nothing.

        Args:
            *args: arrays or `jax.ShapeDtypeStruct`.
            implementation: a name that must serve, or None to choose.
            platform: "cpu", "gpu" or "tpu"; None is the current one.
            **static: the op's keyword arguments.

        Returns:
            The `Choice`.

        Raises:
            ValueError: unknown name.
            NotImplementedError: the named implementation cannot serve; the message says why.
            ExceptionGroup: no implementation can serve; it holds every reason.
        """
        known = {entry.name: entry for entry in self.implementations}
        platform = platform or current_platform()
        if implementation is not None:
            if implementation not in known:
                raise ValueError(
                    f"{self.op}: unknown implementation {implementation!r}, "
                    f"known are None and {', '.join(map(repr, known))}"
                )
            refusal = self._refusal(known[implementation], platform, args, static)
            if refusal is not None:
                raise refusal
            return Choice(implementation, "asked for by name", {})

        order: dict[str, str] = {}
        if self.prefer is not None:
            order.update(self.prefer(*args, platform=platform, **static))
        for name in known:
            order.setdefault(name, "first in the default order that can serve")
        refusals: dict[str, NotImplementedError] = {}
        for name, why in order.items():
            refusal = self._refusal(known[name], platform, args, static)
            if refusal is None:
                return Choice(name, why, {key: str(error) for key, error in refusals.items()})
            refusals[name] = refusal
        raise ExceptionGroup(
            f"{self.op}: no implementation can serve on {platform}", list(refusals.values())
        )

    def __call__(self, *args: Any, implementation: str | None = None, **static: Any) -> Any:
        """Chooses an implementation, loads it and calls it with the same arguments."""
        choice = self.choose(*args, implementation=implementation, **static)
        path = next(entry.load for entry in self.implementations if entry.name == choice.name)
        return _load(path)(*args, **static)

    def _refusal(
        self, entry: Implementation, platform: str, args: tuple[Any, ...], static: dict[str, Any]
    ) -> NotImplementedError | None:
        if entry.check is None:
            return None
        try:
            entry.check(*args, platform=platform, **static)
        except NotImplementedError as error:
            return NotImplementedError(f"{self.op}: {entry.name!r} cannot serve: {error}")
        return None
