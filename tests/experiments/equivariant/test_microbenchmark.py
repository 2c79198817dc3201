"""Microbenchmarks: counts against measured ones, what is left out, numbers, bad configs."""

import dataclasses
import importlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench.inputs import make_arrays
from experiments.bench.programs import program_digest
from experiments.config_files import CONFIGS, load
from experiments.equivariant.expressivity import PRODUCTS, closed_form
from experiments.equivariant.microbenchmark.experiment import numbers
from experiments.equivariant.microbenchmark.figures import CASES
from experiments.equivariant.microbenchmark.freedom import PRODUCTS as NAMES
from experiments.equivariant.microbenchmark.freedom import freedom_case
from experiments.equivariant.microbenchmark.published import FREEDOM, GAUNT
from structlayers._core.dispatch import assume_platform
from structlayers.equivariant.expressivity import expressivity_report, setting_degrees
from structlayers.equivariant.paths import tensor_product_paths
from structlayers.testing import error_ratio

FREEDOM_CONFIG: Any = load(CONFIGS / "equivariant" / "microbenchmark.py").config
FIGURES_CONFIG: Any = load(CONFIGS / "equivariant" / "gaunt_figures.py").config

# rows of the microbenchmark by products whose expressivity is measured
MEASURED = {
    "clebsch_gordan": ("clebsch_gordan_dense", "clebsch_gordan_sparse"),
    "gaunt": ("fourier_2d", "xla"),
    "matrix": ("matrix",),
    "vector_signal": ("vector_signal",),
}


def job_of(setting="mimo", lmax=2, names=NAMES, rows=5):
    return freedom_case(setting, lmax, rows, names, "highest").prepare()


@pytest.mark.parametrize(("setting", "lmax"), [("siso", 1), ("simo", 2), ("mimo", 2)])
def test_counts_are_those_that_are_measured(setting, lmax):
    job = job_of(setting, lmax)
    degrees = setting_degrees(setting, lmax)
    largest = [max(each) for each in degrees]
    assert job.paths == len(tensor_product_paths(*degrees))
    for product, names in MEASURED.items():
        run, weights = PRODUCTS[product](largest, tensor_product_paths(*degrees))
        report = expressivity_report(run, weights, *degrees)
        for name in names:
            counts = job.own if name == "xla" else job.counts[name]
            assert counts is not None
            assert counts.interactions == len(report.interactions)
            assert counts.degrees_of_freedom == report.degrees_of_freedom


def test_counts_at_degrees_that_are_not_measured():
    job = job_of(lmax=10, names=("xla", "clebsch_gordan_dense", "clebsch_gordan_sparse_even"))
    assert job.own is not None
    assert dataclasses.astuple(job.own) == (506, 41)
    assert job.counts["clebsch_gordan_sparse_even"].degrees_of_freedom == 506
    assert job.paths == closed_form("clebsch_gordan", "mimo", 10)["paths"] == 891
    assert job.counts["clebsch_gordan_dense"].degrees_of_freedom == 891


@pytest.mark.parametrize("setting", ["siso", "simo", "mimo"])
def test_products_of_one_job_are_of_the_same_shape(setting):
    job = job_of(setting)
    x, y = make_arrays(job.spec, job.operation.make_inputs)
    wanted = jax.eval_shape(job.operation.bind(job.spec, None), x, y)
    even = None
    for rival in job.rivals:
        found = rival.make(job.spec).run(x, y)
        if (setting, rival.name) == ("simo", "clebsch_gordan_sparse_even"):
            assert found.shape == (5, 1 + 5 + 9)  # 1 and 3 have no path of even sum
        else:
            assert found.shape == wanted.shape
        if rival.name == "fourier_2d":
            even = found
    assert even is not None
    own = job.operation.bind(job.spec, "xla")(x, y)
    assert error_ratio(np.asarray(even), np.asarray(own)) < 1e-5


def test_a_single_degree_is_the_part_of_a_signal():
    job = job_of("siso", 2, ("xla",))
    x, y = make_arrays(job.spec, job.operation.make_inputs)
    whole = importlib.import_module("structlayers.equivariant").gaunt_tensor_product(
        jnp.pad(x, ((0, 0), (4, 0))), jnp.pad(y, ((0, 0), (4, 0))), lmax=2
    )
    found = job.operation.bind(job.spec, "xla")(x, y)
    np.testing.assert_allclose(found, whole[:, 4:], rtol=1e-5, atol=1e-6)


def test_what_cannot_serve_is_left_out_with_its_reason():
    config = dataclasses.replace(
        FREEDOM_CONFIG.smoke(),
        settings=("siso",),
        products=("pallas_gpu", "clebsch_gordan_sparse_even"),
    )
    (phase,) = config.build().phases()
    phase.advance(phase.init(), 0, 1)
    rows = {row["implementation"]: row for row in phase.rows}
    assert rows["pallas_gpu"]["kind"] == "left out"
    assert "no path of even sum" in rows["clebsch_gordan_sparse_even"]["failure"]
    assert not any("pallas_gpu" in name for name in numbers(phase.rows))


@pytest.mark.parametrize(
    ("make", "chosen"),
    [
        (lambda: CASES["convolution"](2, "tf32"), "sparse"),
        (lambda: CASES["convolution"](3, "tf32"), "clebsch_gordan"),
        (lambda: CASES["feature"](1, "tf32"), "sparse"),
        (lambda: CASES["feature"](7, "tf32"), "xla"),
        (lambda: CASES["many_body"](2, "tf32"), "pallas_gpu"),
        (lambda: freedom_case("mimo", 1, 10_000, NAMES, "tf32"), "sparse"),
        (lambda: freedom_case("mimo", 2, 10_000, NAMES, "tf32"), "pallas_gpu"),
    ],
)
def test_what_a_gpu_chooses_is_among_the_rows(make, chosen):
    job = make().prepare()
    with assume_platform("gpu"):
        _, choice = job.operation.trace(job.spec, None)
    assert choice is not None
    assert choice.name == chosen
    assert chosen in job.implementations


@pytest.mark.parametrize("panel", ["feature", "convolution"])
def test_figures_compare_the_same_product(panel):
    job = CASES[panel](2, "highest").prepare()
    x, y = make_arrays(job.spec, job.operation.make_inputs)
    own = np.asarray(job.operation.bind(job.spec, "xla")(x, y))
    for rival in job.rivals:
        assert error_ratio(np.asarray(rival.make(job.spec).run(x, y)), own) < 1e-5


def test_filters_of_convolutions_are_harmonics():
    job = CASES["convolution"](3, "highest").prepare()
    _, y = make_arrays(job.spec, job.operation.make_inputs)
    norms = [float(np.sum(np.square(y[0, n * n : (n + 1) ** 2]))) for n in range(4)]
    np.testing.assert_allclose(norms, [(2 * n + 1) / (4 * np.pi) for n in range(4)], rtol=1e-5)


def test_many_bodies_have_one_shape():
    job = CASES["many_body"](1, "highest").prepare()
    arrays = make_arrays(job.spec, job.operation.make_inputs)
    own = job.operation.bind(job.spec, "xla")(*arrays)
    contender = job.rivals[0].make(job.spec)
    found = contender.run(*contender.prepare(*arrays))
    assert own.shape == (32, 128, 4)
    assert found.shape == (32, 512)


def row(name, seconds, **rest):
    kind = rest.pop("kind", "implementation")
    fields = {"chosen": False, "baseline": False, **rest}
    return {"implementation": name, "kind": kind, "seconds_median": seconds, **fields}


def test_numbers():
    found = numbers(
        [
            row("xla", 4e-6, chosen=True, interactions=5, degrees_of_freedom=5, paths=6),
            row("dense", 8e-6, kind="rival", baseline=True, degrees_of_freedom=6),
            row("sparse", 6e-6, kind="rival", baseline=True),
            row("vector", 1e-6, kind="rival", interactions=0, degrees_of_freedom=0),
            row("pallas_gpu", None, kind="left out", failure="why"),
        ]
    )
    assert found["chosen/us"] == pytest.approx(4)
    assert found["speedup"] == pytest.approx(1.5)
    assert found["dense/us_per_dof"] == pytest.approx(8 / 6)
    assert "vector/us_per_dof" not in found
    assert "pallas_gpu/us" not in found


def test_a_baseline_of_the_same_program_ties():
    rows = [
        row("sparse", 4e-6, chosen=True, program="a"),
        row("clebsch_gordan_sparse", 3.9e-6, kind="rival", baseline=True, program="a"),
        row("clebsch_gordan_dense", 5e-6, kind="rival", baseline=True, program="b"),
    ]
    found = numbers(rows)
    assert found["speedup"] == 1
    assert found["clebsch_gordan_sparse/us"] == pytest.approx(3.9)  # as measured
    rows[2] |= {"seconds_median": 2e-6}
    assert numbers(rows)["speedup"] == pytest.approx(0.5)
    rows[0] |= {"program": None}
    rows[1] |= {"program": None}
    assert numbers(rows[:2])["speedup"] == pytest.approx(3.9 / 4)


@pytest.mark.parametrize("degree", [2, 4])
def test_products_by_terms_are_one_program(degree):
    """As a Gaunt and as a Clebsch-Gordan product."""
    job = CASES["convolution"](degree, "tf32").prepare()
    shapes = job.spec.arrays
    (rival,) = (rival for rival in job.rivals if rival.name == "clebsch_gordan_sparse")
    both = (job.operation.bind(job.spec, "sparse"), rival.make(job.spec).run)
    own, other = (program_digest(jax.jit(run).lower(*shapes).compile()) for run in both)
    assert own == other


def test_a_baseline_that_fails_is_not_beaten():
    rows = [row("xla", 4e-6, chosen=True), row("dense", None, kind="rival", baseline=True)]
    assert math.isnan(numbers(rows)["speedup"])


@pytest.mark.parametrize("config", [FREEDOM_CONFIG, FIGURES_CONFIG], ids=["freedom", "figures"])
def test_goals_and_published_times_are_of_cases(config):
    keys = {case.key for case in config.cases()}
    assert {goal.metric.split("/")[0] for goal in config.goals()} <= keys
    assert config.published().keys() <= keys
    small = config.smoke()
    assert {goal.metric.split("/")[0] for goal in small.goals()} <= {c.key for c in small.cases()}
    assert not any(goal.paper for goal in small.goals())  # other rows, another precision


def test_published_times_are_of_rows():
    for found in FREEDOM.values():
        assert found.keys() <= {*NAMES, "chosen"}
    for found in GAUNT.values():
        assert found.keys() <= {"chosen", "symmetric_contraction"}


def test_pictures(tmp_path):
    config = dataclasses.replace(FREEDOM_CONFIG.smoke(), products=("xla",))
    built = config.build()
    results = {}
    for phase in built.phases():
        phase.advance(phase.init(), 0, 1)
        results[phase.name] = phase.finish(np.ones(1))
    built = dataclasses.replace(built, published={key: {"chosen": 1.0} for key in results})
    built.plot(results, built.finish(results), tmp_path / "times.png")
    assert (tmp_path / "times.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (FREEDOM_CONFIG, {"products": ("cross",)}, "products must be among xla, .* got 'cross'"),
        (FREEDOM_CONFIG, {"settings": ("miso",)}, "settings must be among siso"),
        (FREEDOM_CONFIG, {"degrees": (11,)}, "degrees must be 1 to 10, got 11"),
        (FREEDOM_CONFIG, {"rows": 0}, "rows must be at least 1, got 0"),
        (FREEDOM_CONFIG, {"precision": "half"}, "precision must be among"),
        (FIGURES_CONFIG, {"order": (8,)}, "order must be 2 to 7, got 8"),
        (FIGURES_CONFIG, {"repeats": 0}, "repeats must be at least 1, got 0"),
    ],
)
def test_bad_fields_are_refused(config, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)
