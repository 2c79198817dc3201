"""replace_linear: which linears it finds, what it puts in their place, what it refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers import replace_linear
from structlayers.butterfly import ButterflyLinear, MonarchLinear


class Doubled(nnx.Module):
    """Wraps a linear and doubles what it gives: easy to see in values, holds the old layer."""

    def __init__(self, linear: nnx.Linear):
        self.inner = linear

    def __call__(self, x: jax.Array) -> jax.Array:
        return 2 * self.inner(x)


class Everywhere(nnx.Module):
    """Linears in every kind of place: attribute, shared attribute, and six containers."""

    def __init__(self, rngs: nnx.Rngs):
        def linear() -> nnx.Linear:
            return nnx.Linear(4, 4, rngs=rngs)

        self.up = linear()
        self.tied = self.up
        self.pair = nnx.data((linear(), linear()))
        self.table: dict[str, Any] = nnx.data({"a": linear(), "b": [linear()]})
        self.stack = nnx.List([linear(), jnp.tanh])
        self.named = nnx.Dict(x=linear())
        self.chain = nnx.Sequential(linear(), nnx.relu, linear())
        self.name = "everywhere"
        self.nothing = None
        self.scale = nnx.Param(jnp.ones(4))

    def __call__(self, x: jax.Array) -> jax.Array:
        layers = (self.up, self.tied, *self.pair, self.table["a"], self.table["b"][0])
        for layer in (*layers, self.stack[0], self.named["x"], self.chain):
            x = layer(x)
        return x * self.scale.reshape(1, 4)


PATHS = {
    ("up",),
    ("tied",),
    ("pair", 0),
    ("pair", 1),
    ("table", "a"),
    ("table", "b", 0),
    ("stack", 0),
    ("named", "x"),
    ("chain", "layers", 0),
    ("chain", "layers", 2),
}


@pytest.fixture
def model() -> Everywhere:
    return Everywhere(nnx.Rngs(0))


@pytest.fixture
def x() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (3, 4))


def linear_paths(model: nnx.Module) -> set:
    """Paths of the linears as `replace_linear` shows them to `where`."""
    paths: set = set()
    with pytest.raises(ValueError, match="chose none"):
        replace_linear(model, lambda path, _: bool(paths.add(path)), Doubled)
    return paths


def test_finds_every_place(model: Everywhere):
    assert linear_paths(model) == PATHS


def test_replaces_everywhere_in_place(model: Everywhere, x: jax.Array):
    calls: list[nnx.Linear] = []

    def make(linear: nnx.Linear) -> nnx.Module:
        calls.append(linear)
        return nnx.Linear(4, 4, rngs=nnx.Rngs(len(calls)))

    old = {id(layer) for _, layer in nnx.iter_modules(model) if isinstance(layer, nnx.Linear)}
    assert replace_linear(model, "**", make) is model
    new = {id(layer) for _, layer in nnx.iter_modules(model) if isinstance(layer, nnx.Linear)}
    assert not old & new
    # `tied` is `up`: nine linears at ten paths
    assert len(calls) == len(new) == len(old) == 9
    assert linear_paths(model) == PATHS
    assert isinstance(model.pair, tuple)
    assert isinstance(model.table["b"], list)
    assert model(x).shape == (3, 4)


def test_identity_when_the_values_are_copied(model: Everywhere, x: jax.Array):
    expected = model(x)

    def copy(linear: nnx.Linear) -> nnx.Linear:
        new = nnx.Linear(4, 4, rngs=nnx.Rngs(9))
        new.kernel[...] = linear.kernel[...]
        return new

    replace_linear(model, "**", copy)
    np.testing.assert_array_equal(model(x), expected)


def test_shared_stays_shared_when_one_path_is_chosen(model: Everywhere):
    replace_linear(model, "tied", Doubled)
    assert isinstance(model.up, Doubled)
    assert model.up is model.tied
    assert len(linear_paths(model)) == 9  # the wrapped linear is seen once, inside the wrapper


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("up", {"up"}),
        ("pair/*", {"pair/0", "pair/1"}),
        ("*/0", {"pair/0", "stack/0"}),
        ("**/0", {"pair/0", "stack/0", "table/b/0", "chain/layers/0"}),
        ("chain/**", {"chain/layers/0", "chain/layers/2"}),
        ("table/[ab]", {"table/a"}),
        ("chain/lay*/2", {"chain/layers/2"}),
    ],
)
def test_globs(model: Everywhere, pattern: str, chosen: set[str]):
    replace_linear(model, pattern, Doubled)
    doubled = {
        "/".join(map(str, path))
        for path, module in nnx.iter_modules(model)
        if isinstance(module, Doubled)
    }
    # the shared linear is listed by its first attribute in the order of names
    assert {"up" if path == "tied" else path for path in doubled} == chosen


def test_predicate_sees_the_module(x: jax.Array):
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs))
    expected = 2 * model(x)
    replace_linear(model, lambda path, linear: linear.in_features == 8, Doubled)
    assert [type(layer) for layer in model.layers] == [nnx.Linear, Doubled]
    np.testing.assert_allclose(model(x), expected, rtol=1e-6)


def test_root(x: jax.Array):
    linear = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    new = replace_linear(linear, "**", Doubled)
    assert isinstance(new, Doubled)
    np.testing.assert_array_equal(new(x), 2 * linear(x))


def test_cyclic_model():
    class Node(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.linear = nnx.Linear(2, 2, rngs=rngs)
            self.parent: nnx.Module | None = nnx.data(None)

    child, parent = Node(nnx.Rngs(0)), Node(nnx.Rngs(1))
    child.parent, parent.parent = parent, child
    replace_linear(parent, "**", Doubled)
    assert isinstance(child.linear, Doubled)
    assert isinstance(parent.linear, Doubled)


def test_abstract_model(x: jax.Array):
    model = nnx.eval_shape(lambda: Everywhere(nnx.Rngs(0)))
    replace_linear(model, "up", lambda linear: nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0)))
    assert model.up.bias is None
    assert isinstance(model.named["x"].kernel.get_value(), jax.ShapeDtypeStruct)


def test_trains_after_replacement(model: Everywhere, x: jax.Array):
    replace_linear(model, "pair/0", lambda _: nnx.Linear(4, 4, rngs=nnx.Rngs(5)))
    graphdef, state = nnx.split(model)

    @jax.jit
    def loss(state: nnx.State) -> jax.Array:
        return jnp.sum(nnx.merge(graphdef, state)(x) ** 2)

    gradient = jax.grad(loss)(state)
    assert jnp.any(gradient["pair"][0]["kernel"].get_value() != 0)


def test_wrong_sizes_change_nothing(model: Everywhere, x: jax.Array):
    before = model(x)
    made = iter([4, 7])

    def make(linear: nnx.Linear) -> nnx.Linear:
        return nnx.Linear(4, next(made), rngs=nnx.Rngs(3))

    with pytest.raises(ValueError, match=r"\(2, 4\) to \(2, 7\) at 'chain/layers/2', wanted"):
        replace_linear(model, "chain/layers/*", make)
    np.testing.assert_array_equal(model(x), before)


def test_wrong_input_size_is_named(model: Everywhere):
    with pytest.raises(ValueError, match=r"does not take inputs of shape \(2, 4\) at 'up'"):
        replace_linear(model, "up", lambda _: nnx.Linear(3, 4, rngs=nnx.Rngs(0)))


def test_nothing_chosen_lists_the_linears(model: Everywhere):
    with pytest.raises(ValueError, match=r"'ups' chose none of .* 'pair/0' \(4 -> 4\)"):
        replace_linear(model, "ups", Doubled)


def test_nothing_to_choose():
    with pytest.raises(ValueError, match=r"has no nnx\.Linear"):
        replace_linear(nnx.Sequential(nnx.relu), "**", Doubled)


def test_long_lists_are_cut():
    model = nnx.List([nnx.Linear(2, 2, rngs=nnx.Rngs(0)) for _ in range(23)])
    with pytest.raises(ValueError, match="and 3 more"):
        replace_linear(model, "missing", Doubled)


def test_stacked_linear_is_refused():
    model = nnx.Dict(
        stacked=nnx.vmap(lambda key: nnx.Linear(4, 2, rngs=nnx.Rngs(key)))(
            jax.random.split(jax.random.key(0), 3)
        )
    )
    with pytest.raises(ValueError, match=r"'stacked' has a kernel of shape \(3, 4, 2\)"):
        replace_linear(model, "**", Doubled)


def test_make_must_return_a_module(model: Everywhere):
    wrong: Any = jnp.tanh  # a function, where a module is wanted
    with pytest.raises(TypeError, match=r"must return a flax\.nnx\.Module, got .* for 'up'"):
        replace_linear(model, "up", lambda _: wrong)


def test_an_error_of_make_says_where(model: Everywhere):
    def make(linear: nnx.Linear) -> nnx.Module:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no") as caught:
        replace_linear(model, "pair/1", make)
    assert caught.value.__notes__ == ["in replace_linear, at 'pair/1' (4 -> 4)"]


@pytest.mark.parametrize(
    "make",
    [
        MonarchLinear.from_linear,
        ButterflyLinear.from_linear,
        lambda linear: ButterflyLinear(
            linear.in_features, linear.out_features, complex=True, rngs=nnx.Rngs(2)
        ),
    ],
    ids=["monarch", "butterfly", "complex butterfly"],
)
def test_structured_layers_stand_in(make, x: jax.Array):
    """The structured model equals the dense one that holds the same matrices."""
    rngs = nnx.Rngs(0)
    wide, head = nnx.Linear(4, 10, rngs=rngs), nnx.Linear(10, 3, rngs=rngs)
    model = nnx.Sequential(wide, nnx.relu, head)
    replace_linear(model, "layers/*", make)
    assert not any(isinstance(layer, nnx.Linear) for layer in model.layers)
    for dense, place in ((wide, 0), (head, 2)):
        structured: Any = model.layers[place]
        dense.kernel[...] = structured.dense_kernel()
    np.testing.assert_allclose(model(x), head(nnx.relu(wide(x))), rtol=1e-5, atol=1e-5)
