"""The ops that can be measured: what the families' `arg_specs.py` and dispatchers say."""

import contextlib
import dataclasses
import difflib
import functools
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from unittest import mock

import jax

import structlayers
from experiments.bench.inputs import MakeInputs
from experiments.errors import CommandError
from structlayers._core.arg_spec import ArgSpec
from structlayers._core.dispatch import Choice, Dispatcher


@dataclasses.dataclass(frozen=True)
class Operation:
    """A public op with shapes to measure it at.

    Attributes:
        name: the op's public name.
        family: import path of its package.
        function: the op.
        specs: its shapes, in the family's order.
        make_inputs: the family's own generator of inputs, or None.
        dispatcher: what knows its implementations, or None for an op without a choice.
    """

    name: str
    family: str
    function: Callable[..., Any]
    specs: tuple[ArgSpec, ...]
    make_inputs: MakeInputs | None
    dispatcher: Dispatcher | None

    def implementations(self) -> tuple[str, ...]:
        """Names that `implementation=` takes, in the op's own order."""
        if self.dispatcher is None:
            return ()
        return tuple(entry.name for entry in self.dispatcher.implementations)

    def trace(self, spec: ArgSpec, implementation: str | None) -> tuple[Any, Choice | None]:
        """Shapes of the result, and what the dispatcher chose; nothing is computed.

        Args:
            spec: the shapes and the keyword arguments.
            implementation: a name, or None to see what the op would choose.

        Returns:
            Pytree of `jax.ShapeDtypeStruct`, and the choice (None for an op without one).

        Raises:
            NotImplementedError: the implementation cannot serve.
        """
        with recorded_choices() as choices:
            shapes = jax.eval_shape(self.bind(spec, implementation), *spec.arrays)
        return shapes, next((choice for op, choice in choices if op == self.name), None)

    def bind(self, spec: ArgSpec, implementation: str | None) -> Callable[..., Any]:
        """The op as a function of its arrays alone."""
        static = dict(spec.static)
        if implementation is not None:
            static["implementation"] = implementation
        return functools.partial(self.function, **static)


@contextlib.contextmanager
def recorded_choices() -> Iterator[list[tuple[str, Choice]]]:
    """Collects (op, choice) of every dispatch made inside.

    An op hands its dispatcher checked and converted arguments, so the question "what would run"
    is put to the op itself.
    """
    choices: list[tuple[str, Choice]] = []
    choose = Dispatcher.choose

    def recording(self: Dispatcher, *args: Any, **kwargs: Any) -> Choice:
        choice = choose(self, *args, **kwargs)
        choices.append((self.op, choice))
        return choice

    with mock.patch.object(Dispatcher, "choose", recording):
        yield choices


def suggest(kind: str, name: str, known: Iterable[str]) -> CommandError:
    """The error for an unknown name: the nearest known ones first, else all of them.

    Example:
        >>> print(suggest("op", "buterfly", ["butterfly", "monarch"]))
        unknown op 'buterfly'; did you mean 'butterfly'?
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return CommandError(
            f"unknown {kind} {name!r}; did you mean {' or '.join(map(repr, near))}?"
        )
    listed = ", ".join(map(repr, known)) or "none"
    return CommandError(f"unknown {kind} {name!r}; known are {listed}")


def families() -> list[str]:
    """Import paths of the families of the library that have an `arg_specs` module."""
    return [
        f"structlayers.{module.name}"
        for module in pkgutil.iter_modules(structlayers.__path__)
        if module.ispkg
        and importlib.util.find_spec(f"structlayers.{module.name}.arg_specs") is not None
    ]


def operations_of(family: str) -> dict[str, Operation]:
    """The ops of one family that have shapes to be measured at.

    Args:
        family: import path of a package with an `arg_specs` module.
    """
    arg_specs = importlib.import_module(f"{family}.arg_specs")
    grouped: dict[str, list[ArgSpec]] = {}
    for spec in arg_specs.ARG_SPECS:
        grouped.setdefault(spec.op, []).append(spec)
    return {
        name: Operation(
            name,
            family,
            getattr(importlib.import_module(family), name),
            tuple(specs),
            getattr(arg_specs, "make_inputs", None),
            _find_dispatcher(family, name),
        )
        for name, specs in grouped.items()
    }


def find_operation(name: str, searched: Sequence[str] | None = None) -> Operation:
    """The op of that name.

    Args:
        name: public name.
        searched: import paths of the families to search; None searches the whole library.

    Raises:
        CommandError: no family has it; the message names the nearest.
    """
    found: dict[str, Operation] = {}
    for family in families() if searched is None else searched:
        found.update(operations_of(family))
    if name not in found:
        raise suggest("op", name, found)
    return found[name]


def select_specs(
    operation: Operation, names: Sequence[str], tag: str | None, platform: str
) -> tuple[ArgSpec, ...]:
    """The shapes to measure.

    Args:
        operation: the op.
        names: names of specs; empty selects by tag.
        tag: tag that the specs must carry; None is the platform's own ("cpu" falls back to
            "smoke" where no spec is tagged "cpu").
        platform: "cpu", "gpu" or "tpu".

    Raises:
        CommandError: an unknown name, or no spec with the tag.
    """
    by_name = {spec.name: spec for spec in operation.specs}
    for name in names:
        if name not in by_name:
            raise suggest(f"spec of {operation.name}", name, by_name)
    if names:
        return tuple(by_name[name] for name in names)
    wanted = [tag] if tag else ["cpu", "smoke"] if platform == "cpu" else [platform]
    for each in wanted:
        selected = tuple(spec for spec in operation.specs if each in spec.tags)
        if selected:
            return selected
    tags = sorted(set().union(*(spec.tags for spec in operation.specs)))
    raise CommandError(
        f"no spec of {operation.name} is tagged {' or '.join(map(repr, wanted))}; "
        f"its specs are tagged {', '.join(map(repr, tags))}"
    )


def _find_dispatcher(family: str, op: str) -> Dispatcher | None:
    """The dispatcher of an op: whichever module of the family holds one of that name."""
    if importlib.util.find_spec(f"{family}.ops") is not None:
        importlib.import_module(f"{family}.ops")
    for path, module in list(sys.modules.items()):
        if path == family or path.startswith(f"{family}."):
            for value in list(vars(module).values()):
                if isinstance(value, Dispatcher) and value.op == op:
                    return value
    return None
