"""The `implementation=` contract: by name, by preference, by refusal."""

import jax
import jax.numpy as jnp
import pytest

from structlayers._core.dispatch import (
    Choice,
    Dispatcher,
    Implementation,
    assume_platform,
    current_platform,
)


def _only_tpu(x, *, platform, **static):
    if platform != "tpu":
        raise NotImplementedError(f"needs a TPU, not a {platform}")


def _only_even(x, *, platform, **static):
    if x.shape[-1] % 2:
        raise NotImplementedError(f"needs an even size, not {x.shape[-1]}")


def _never(x, **static):
    raise NotImplementedError("never serves")


KERNEL = Implementation("pallas_tpu", "jax.numpy:sin", _only_tpu)
EVEN = Implementation("even", "jax.numpy:cos", _only_even)
XLA = Implementation("xla", "jax.numpy:tan")
DISPATCHER = Dispatcher("op", (KERNEL, EVEN, XLA))


def test_default_order_takes_the_first_that_serves_and_keeps_the_reasons():
    choice = DISPATCHER.choose(jnp.ones(3), platform="cpu")
    assert choice == Choice(
        "xla",
        "first in the default order that can serve",
        {
            "pallas_tpu": "op: 'pallas_tpu' cannot serve: needs a TPU, not a cpu",
            "even": "op: 'even' cannot serve: needs an even size, not 3",
        },
    )
    assert DISPATCHER.choose(jnp.ones(4), platform="cpu").name == "even"
    assert DISPATCHER.choose(jnp.ones(3), platform="tpu").name == "pallas_tpu"


def test_choice_is_made_from_shapes_alone_and_loads_nothing():
    missing = Implementation("missing", "structlayers.no_such_module:function")
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    assert Dispatcher("op", (missing,)).choose(shape).name == "missing"
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        Dispatcher("op", (missing,))(shape)


def test_call_runs_what_choose_says():
    x = jnp.asarray([0.5, -1.5, 2.0])
    assert jnp.array_equal(DISPATCHER(x), jnp.tan(x))
    assert jnp.array_equal(DISPATCHER(x[:2]), jnp.cos(x[:2]))
    assert jnp.array_equal(DISPATCHER(x[:2], implementation="xla"), jnp.tan(x[:2]))
    assert jnp.array_equal(jax.jit(DISPATCHER)(x), jnp.tan(x))


def test_static_arguments_reach_check_prefer_and_function():
    seen = []

    def check(x, *, axis, platform):
        seen.append(("check", axis, platform))

    def prefer(x, *, axis, platform):
        seen.append(("prefer", axis, platform))
        return (("sum", "measured"),)

    dispatcher = Dispatcher("sum", (XLA, Implementation("sum", "jax.numpy:sum", check)), prefer)
    assert dispatcher(jnp.ones((2, 3)), axis=1).shape == (2,)
    assert seen == [("prefer", 1, "cpu"), ("check", 1, "cpu")]


def test_preference_goes_first_and_falls_back_to_the_default_order():
    dispatcher = Dispatcher("op", (KERNEL, EVEN, XLA), lambda x, **_: (("even", "n < 64"),))
    assert dispatcher.choose(jnp.ones(2), platform="tpu").why == "n < 64"
    assert dispatcher.choose(jnp.ones(3), platform="tpu").name == "pallas_tpu"


def test_a_named_implementation_serves_or_says_why_not():
    assert DISPATCHER.choose(jnp.ones(2), implementation="even").why == "asked for by name"
    with pytest.raises(NotImplementedError, match="op: 'pallas_tpu' cannot serve: needs a TPU"):
        DISPATCHER(jnp.ones(2), implementation="pallas_tpu")
    with pytest.raises(ValueError, match=r"op: unknown implementation 'cuda', known are None and"):
        DISPATCHER(jnp.ones(2), implementation="cuda")


def test_when_nothing_serves_every_reason_is_given():
    dispatcher = Dispatcher("op", (KERNEL, Implementation("never", "jax.numpy:sin", _never)))
    with pytest.raises(ExceptionGroup, match="no implementation can serve on cpu") as caught:
        dispatcher(jnp.ones(3))
    assert [str(error) for error in caught.value.exceptions] == [
        "op: 'pallas_tpu' cannot serve: needs a TPU, not a cpu",
        "op: 'never' cannot serve: never serves",
    ]


def test_only_not_implemented_is_a_refusal():
    def check(x, **static):
        raise ValueError("x is wrong")

    with pytest.raises(ValueError, match="x is wrong"):
        Dispatcher("op", (Implementation("checked", "jax.numpy:sin", check), XLA))(jnp.ones(3))


def test_assumed_platform_is_scoped_and_nested():
    assert current_platform() == jax.default_backend()
    with assume_platform("tpu"):
        assert DISPATCHER.choose(jnp.ones(3)).name == "pallas_tpu"
        with assume_platform("gpu"):
            assert current_platform() == "gpu"
        assert current_platform() == "tpu"
    assert current_platform() == jax.default_backend()


def test_default_device_decides_the_platform():
    with jax.default_device(jax.devices("cpu")[0]):
        assert current_platform() == "cpu"
