"""Summary of the TPU estimates: the smallest quotient, what is refused and what is not known."""

from experiments.butterfly.tpu_estimates import TpuEstimates


def row(butterfly: float | None, dense: float | None) -> dict[str, float | None]:
    kernels = None if butterfly is None else butterfly / 2
    return {"butterfly": butterfly, "kernels": kernels, "dense": dense, "bytes": 1e-5}


def test_sizes_without_an_estimate_are_counted_and_not_compared() -> None:
    experiment = TpuEstimates({"forward": (128, 256, 512)}, 8, ("float32",), ("v4", "v6e"))
    metrics = experiment.finish(
        {
            "forward_float32_n128": {"v4": row(1e-4, 4e-4), "v6e": row(1e-4, 1e9)},
            "forward_float32_n256": {"v4": row(4e-4, 2e-4), "v6e": row(1e-4, None)},
            "forward_float32_n512": {"v4": row(None, 1e-4), "v6e": row(None, 1e-4)},
        }
    )
    assert metrics["forward/float32/v4/min_speedup"] == 0.5
    assert metrics["forward/float32/v4/max_speedup"] == 4.0
    assert round(metrics["forward/float32/v4/over_bytes"], 6) == 20.0
    assert "forward/float32/v6e/min_speedup" not in metrics
    assert (metrics["refused"], metrics["unknown"]) == (2, 2)
