"""Rounding of `gated_linear_attention` against the recurrence in float64, and what must be exact.

Standard normal q, k, v and initial states, signed; float32 log gates of several kinds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.experiment import Phase, Results
from structlayers.gla import batch_invariant, gated_linear_attention
from structlayers.testing import error_ratio

KINDS = ("start", "0", "-1e-6", "-0.05", "-5", "-50", "-200", "strong", "spiky", "mixed")
"""Gates: as at the start of training (sigmoid to the power of 1/16), constant logarithms, ten times
a log sigmoid, 5 % spikes of -20 among the former, and a mixture of the constants."""

OUTPUTS = ("o", "state", "gradients", "gate_gradients")
CALLS = ("again", "batch", "longer", "batch_by_default", "longer_by_default")
"""Calls whose values are compared bit by bit: one and one again; in a batch and with a longer T,
both inside `batch_invariant`; these two outside it."""
CHUNK = 64


@dataclass(frozen=True)
class Case:
    """One shape, two heads, and how its gates are drawn.

    Attributes:
        key: K, features of a query and a key.
        value: V, features of a value.
        time: T, tokens.
        gates: one of `KINDS`.
        gradients: whether gradients are compared, too.
    """

    key: int
    value: int
    time: int
    gates: str = "start"
    gradients: bool = True

    @property
    def name(self) -> str:
        """E.g. "k64_v128_t1000_start"."""
        return f"k{self.key}_v{self.value}_t{self.time}_{self.gates}"


def log_gates(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Float32 log gates of one of the `KINDS`."""
    x = -np.logaddexp(0, -rng.standard_normal(shape))
    if kind == "start":
        x = x / 16
    elif kind == "strong":
        x = 10 * x
    elif kind == "spiky":
        x = np.where(rng.random(shape) < 0.05, -20, x / 16)
    elif kind == "mixed":
        x = rng.choice([0, -1e-6, -0.05, -5, -200], shape)
    else:
        x = np.full(shape, float(kind))
    return x.astype(np.float32)


def draw(case: Case, dtype: str) -> tuple[np.ndarray, ...]:
    """q, k, v of a dtype, log gates and an initial state; cotangents of both results."""
    rng = np.random.default_rng([case.key, case.value, case.time, KINDS.index(case.gates)])
    heads, lead = 2, (case.time, 2)
    widths = (case.key, case.key, case.value)
    rows = [np.asarray(jnp.asarray(rng.standard_normal((*lead, n)), dtype)) for n in widths]
    gates = log_gates(rng, (*lead, case.key), case.gates)
    state = rng.standard_normal((heads, case.key, case.value)).astype(np.float32)
    do = np.asarray(jnp.asarray(rng.standard_normal((*lead, case.value)), dtype))
    return *rows, gates, state, do, rng.standard_normal(state.shape).astype(np.float32)


def results(implementation: str | None, *, gradients: bool) -> Any:
    """Function of what `draw` gives: o, final state and, if wanted, all gradients."""

    def forward(q: Any, k: Any, v: Any, gates: Any, state: Any) -> Any:
        return gated_linear_attention(
            q,
            k,
            v,
            gates,
            initial_state=state,
            output_final_state=True,
            implementation=implementation,
        )

    def run(q: Any, k: Any, v: Any, gates: Any, state: Any, do: Any, dstate: Any) -> Any:
        if not gradients:
            return *forward(q, k, v, gates, state), None
        (o, final), pull = jax.vjp(forward, q, k, v, gates, state)
        return o, final, pull((do, dstate))

    return jax.jit(run)


def exact(case: Case, arrays: Sequence[np.ndarray]) -> Any:
    """The same by the recurrence in float64 on the CPU."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        wide = [jnp.asarray(np.asarray(array), jnp.float64) for array in arrays]
        run = results("reference", gradients=case.gradients)
        return jax.tree.map(np.asarray, run(*wide))


def errors(case: Case, dtype: str, implementation: str | None) -> dict[str, float]:
    """Relative RMS errors of one case, by the names in `OUTPUTS`; the largest of all gradients."""
    arrays = draw(case, dtype)
    o, state, pulled = results(implementation, gradients=case.gradients)(*arrays)
    wanted_o, wanted_state, wanted = exact(case, arrays)
    found = {"o": error_ratio(o, wanted_o), "state": error_ratio(state, wanted_state)}
    if pulled is not None:
        # gates of -200 leave gradients that underflow: errors count against those of the values
        scale = max(float(np.sqrt(np.mean(np.square(array)))) for array in wanted)
        ratios = [
            error_ratio(got, want, scale=scale if case.gates in ("-200", "-50") else None)
            for got, want in zip(pulled, wanted, strict=True)
        ]
        found["gate_gradients"] = ratios.pop(3)
        found["gradients"] = max(ratios)
    return found


def changed_prefix(dtype: str, implementation: str | None, time: int, prefix: int) -> int:
    """How many outputs and gradients of a prefix change with what comes after it."""
    arrays = [np.array(array) for array in draw(Case(64, 64, time), dtype)]
    # the loss sees the prefix alone
    arrays[5][prefix:] = 0
    arrays[6][...] = 0
    rng = np.random.default_rng(time)
    other = [array.copy() for array in arrays]
    for array in other[:3]:
        array[prefix:] = np.asarray(jnp.asarray(rng.standard_normal(array[prefix:].shape), dtype))
    other[3][prefix:] = log_gates(rng, other[3][prefix:].shape, "spiky")
    run = results(implementation, gradients=True)
    (o, _, pulled), (o_other, _, pulled_other) = run(*arrays), run(*other)
    pairs = [(o, o_other), *zip(pulled[:4], pulled_other[:4], strict=True)]
    pairs = [(np.asarray(one)[:prefix], np.asarray(two)[:prefix]) for one, two in pairs]
    pairs.append((np.asarray(pulled[4]), np.asarray(pulled_other[4])))
    return sum(int(np.sum(one != two)) for one, two in pairs)


def changed_calls(dtype: str, implementation: str | None, time: int, prefix: int) -> list[int]:
    """How many values of other calls, in the order of `CALLS`, are not those of the first."""
    again, *by_default = _changed_calls(dtype, implementation, time, prefix)
    with batch_invariant():
        again_inside, *inside = _changed_calls(dtype, implementation, time, prefix)
    return [again + again_inside, *inside, *by_default]


def _changed_calls(dtype: str, implementation: str | None, time: int, prefix: int) -> list[int]:
    """Of a call again, in a batch and with a longer T.

    A call again and a call in a batch of three have results, states and gradients to compare; one
    for the prefix alone, up to its last whole chunk, has outputs.
    """
    kinds = ("start", "mixed", "strong")
    rows = [draw(Case(64, 64, time, kind), dtype) for kind in kinds]
    run = results(implementation, gradients=True)
    first, again = run(*rows[0]), run(*rows[0])
    together = run(*(np.stack(arrays) for arrays in zip(*rows, strict=True)))
    length = prefix // CHUNK * CHUNK
    *tokens, state, do, dstate = rows[0]
    tokens = [array[:length] for array in tokens]
    alone, _, _ = results(implementation, gradients=False)(*tokens, state, do[:length], dstate)
    pairs = (
        (first, again),
        (first, jax.tree.map(lambda array: array[0], together)),
        (first[0][:length], alone),
    )
    return [_unequal(one, two) for one, two in pairs]


def _unequal(one: Any, two: Any) -> int:
    counts = jax.tree.map(lambda a, b: int(np.sum(np.asarray(a) != np.asarray(b))), one, two)
    return sum(jax.tree.leaves(counts))


@dataclass(frozen=True)
class NumericsPhase:
    """One precision, one case a step, then one prefix a step.

    Attributes:
        dtype: of q, k and v.
        cases: the cases.
        prefixes: pairs of T and length of the prefix.
        implementation: of the op; None is what it chooses.
    """

    dtype: str
    cases: tuple[Case, ...]
    prefixes: tuple[tuple[int, int], ...]
    implementation: str | None
    chunk: int = 1
    allow_nonfinite: frozenset[str] = frozenset({"*"})  # a failure shows in the metrics

    @property
    def name(self) -> str:
        """The precision."""
        return self.dtype

    @property
    def num_steps(self) -> int:
        """Number of cases and of prefixes."""
        return len(self.cases) + len(self.prefixes)

    def init(self) -> dict[str, np.ndarray]:
        """Errors to be filled in, (cases, outputs), and how many values changed, by prefix."""
        shape = (len(self.cases), len(OUTPUTS))
        changed = np.zeros((len(self.prefixes), 1 + len(CALLS)))
        return {"errors": np.full(shape, np.nan), "changed": changed}

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Compares at the next cases and prefixes."""
        table, changed = np.array(state["errors"]), np.array(state["changed"])
        for index in range(step, step + num):
            if index < len(self.cases):
                found = errors(self.cases[index], self.dtype, self.implementation)
                table[index] = [found.get(name, np.nan) for name in OUTPUTS]
            else:
                row = index - len(self.cases)
                size = (self.dtype, self.implementation, *self.prefixes[row])
                changed[row] = [changed_prefix(*size), *changed_calls(*size)]
        seen = table[min(step + num, len(self.cases)) - 1]
        return {"errors": table, "changed": changed}, {"o": float(seen[0])}

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """By case and output the errors, and by prefix what changed."""
        table, changed = np.asarray(state["errors"]), np.asarray(state["changed"])
        cases = {
            case.name: {
                name: float(value)
                for name, value in zip(OUTPUTS, row, strict=True)
                if case.gradients or name in OUTPUTS[:2]
            }
            for case, row in zip(self.cases, table, strict=True)
        }
        names = [f"t{time}_prefix{prefix}" for time, prefix in self.prefixes]
        prefixes, *calls = (dict(zip(names, map(int, column), strict=True)) for column in changed.T)
        return {"cases": cases, "prefixes": prefixes, "calls": dict(zip(CALLS, calls, strict=True))}


@dataclass(frozen=True)
class OpNumerics:
    """A phase a precision.

    Attributes:
        dtypes: of q, k and v.
        cases: the cases of every dtype.
        prefixes: see `NumericsPhase`.
        implementation: see `NumericsPhase`.
        long: names of a short and a long case, whose errors of o are compared.
    """

    dtypes: tuple[str, ...]
    cases: tuple[Case, ...]
    prefixes: tuple[tuple[int, int], ...]
    implementation: str | None
    long: tuple[str, str] | None

    def phases(self) -> Sequence[Phase]:
        """By precision."""
        return [
            NumericsPhase(dtype, self.cases, self.prefixes, self.implementation)
            for dtype in self.dtypes
        ]

    def finish(self, results: Results) -> dict[str, float]:
        """`DTYPE/OUTPUT`: the largest error over the cases; `DTYPE/changed`: entries of prefixes.

        `DTYPE/changed_...`: values that are others in another call, see `CALLS`.
        `DTYPE/long_over_short`: quotient of the errors of o at many tokens and at few.
        """
        metrics: dict[str, float] = {}
        for dtype, result in results.items():
            for name in OUTPUTS:
                values = [case[name] for case in result["cases"].values() if name in case]
                metrics[f"{dtype}/{name}"] = float(np.max(values))
            metrics[f"{dtype}/changed"] = float(sum(result["prefixes"].values()))
            for name, counts in result["calls"].items():
                metrics[f"{dtype}/changed_{name}"] = float(sum(counts.values()))
            if self.long:
                short, long = (result["cases"][name]["o"] for name in self.long)
                metrics[f"{dtype}/long_over_short"] = long / short
        return metrics

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Any) -> None:
        """Errors of every case."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        del metrics
        figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
        names = [case.name for case in self.cases]
        for dtype, result in results.items():
            for output, marker in zip(OUTPUTS, "ox+^", strict=True):
                points = [
                    (case[output], names.index(name))
                    for name, case in result["cases"].items()
                    if output in case
                ]
                axes.plot(*zip(*points, strict=True), marker, ms=5, label=f"{dtype}, {output}")
        axes.set(xscale="log", xlabel="relative error", yticks=range(len(names)))
        axes.set_yticklabels(names, fontsize=7)
        axes.legend(fontsize=7)
        figure.savefig(path, dpi=130)
        plt.close(figure)
