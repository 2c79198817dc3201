"""Partitioned Pallas kernels through the real TPU compiler, for four chips that are not here."""

import json
import subprocess
import sys

import pytest

from structlayers.testing.tpu.driver import skip_without_compiler, worker_environment

pytestmark = pytest.mark.pallas

PROGRAM = """
import contextlib, json
import jax, numpy as np
from jax.experimental import pallas as pl, topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from structlayers._core.partitioning import partition_over_batch, result_struct, shard_batch_over

def kernel(x_ref, w_ref, o_ref):
    o_ref[...] = x_ref[...] * w_ref[...]

def bare(x, w):
    row = pl.BlockSpec((8, 128), lambda i: (i, 0))
    return pl.pallas_call(
        kernel,
        out_shape=result_struct(x.shape, x.dtype, x, w),
        grid=(x.shape[0] // 8,),
        in_specs=[row, pl.BlockSpec((1, 128), lambda i: (0, 0))],
        out_specs=row,
    )(x, w)

partitioned = partition_over_batch(bare, batched=(True, False))
devices = np.asarray(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)

def compiled(fn, kind, context):
    mesh = Mesh(devices.reshape(4), ("data",), axis_types=(kind,))
    def array(shape, *spec):
        return jax.ShapeDtypeStruct(shape, "float32", sharding=NamedSharding(mesh, P(*spec)))
    with context(mesh):
        try:
            lowered = jax.jit(fn).lower(array((64, 128), "data"), array((1, 128)))
            text = lowered.compile().as_text()
        except (NotImplementedError, jax.errors.JaxRuntimeError) as error:
            return str(error)
    return {"kernels": text.count("tpu_custom_call"), "gathers": text.count("all-gather")}

@contextlib.contextmanager
def named(mesh):
    with jax.set_mesh(mesh), shard_batch_over("data"):
        yield

def mapped(x, w):
    return jax.shard_map(partitioned, in_specs=(P("data"), P()), out_specs=P("data"))(x, w)

nothing = lambda mesh: contextlib.nullcontext()
print(json.dumps({
    "bare": compiled(bare, AxisType.Auto, nothing),
    "automatic": compiled(partitioned, AxisType.Auto, nothing),
    "explicit": compiled(partitioned, AxisType.Explicit, jax.set_mesh),
    "named": compiled(partitioned, AxisType.Auto, named),
    "shard_map": compiled(mapped, AxisType.Auto, jax.set_mesh),
}))
"""


@pytest.fixture(scope="module")
def outcome():
    skip_without_compiler()
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=worker_environment(""),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("mode", ["explicit", "named", "shard_map"])
def test_one_kernel_a_chip_and_no_gather(mode, outcome):
    assert isinstance(outcome[mode], dict), outcome[mode]
    assert outcome[mode]["kernels"] >= 1
    assert outcome[mode]["gathers"] == 0


def test_what_the_compiler_refuses_is_what_the_module_says(outcome):
    """When these pass on a newer JAX, the module's docstring has to say so (jax#38196)."""
    assert "Mosaic kernels cannot be automatically partitioned" in outcome["bare"]
    assert "Custom emitter for CustomSPMDPartitioning not found" in outcome["automatic"]
