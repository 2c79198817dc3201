"""What the products, projections and layers refuse, and in which words."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers import structured as st
from tests.structured.cases import CASES

F = np.float32
X, C = np.ones(4, F), np.ones((2, 4), F)
G = np.ones((2, 4), F)
OPERATOR = np.ones((3, 4), F)
ORDER = np.arange(4)

REFUSED = [
    (st.circulant_multiply, (np.ones(5, F), C), {}, ValueError, "between 1 and N = 4 features"),
    (st.circulant_multiply, (F(1), C), {}, ValueError, "x must have between 1 and N = 4"),
    (st.circulant_multiply, (X.astype(int), C), {}, TypeError, "x must be floating point"),
    (st.circulant_multiply, (X, C.astype(int)), {}, TypeError, "c must be floating point"),
    (
        st.circulant_multiply,
        (X, np.ones((2, 2, 4), F)),
        {},
        ValueError,
        r"c must have shape \(N,\)",
    ),
    (st.circulant_multiply, (X, C[:0]), {}, ValueError, "c must have no empty axis"),
    (
        st.circulant_multiply,
        (X, C),
        {"out_features": 9},
        ValueError,
        "at most stacks .* = 8, got 9",
    ),
    (st.circulant_multiply, (X, C), {"precision": "best"}, ValueError, "precision must be"),
    (st.circulant_to_dense, (C,), {"out_features": 0}, ValueError, "out_features must be at least"),
    (st.toeplitz_like_multiply, (X, G, G[:1]), {}, ValueError, r"h must have shape \(2, 4\), got"),
    (st.toeplitz_like_multiply, (X, G, G[None]), {}, ValueError, r"h must have shape \(2, 4\)"),
    (st.toeplitz_like_multiply, (X, G[None, None], G), {}, ValueError, r"g must have shape \(r, N"),
    (st.toeplitz_like_to_dense, (G, G[:, :3]), {}, ValueError, r"h must have shape \(2, 4\)"),
    (
        st.ldr_multiply,
        (X, G, G, OPERATOR[:2], OPERATOR),
        {},
        ValueError,
        r"a must have shape \(3, 4",
    ),
    (st.ldr_multiply, (X, G, G, OPERATOR, OPERATOR[None]), {}, ValueError, r"b must have shape"),
    (st.ldr_to_dense, (G, G, OPERATOR, OPERATOR > 0), {}, TypeError, "b must be floating point"),
    (st.fastfood_multiply, (X, X, X, X, ORDER[:3]), {}, ValueError, r"permutation must have shape"),
    (
        st.fastfood_multiply,
        (X, X, X, X, X),
        {},
        TypeError,
        "permutation must be integers, got floa",
    ),
    (st.fastfood_multiply, (X, X, X, X, 0 * ORDER), {}, ValueError, "hold every index from 0 to 3"),
    (
        st.fastfood_multiply,
        (X, X[:3], X[:3], X[:3], ORDER),
        {},
        ValueError,
        "must be a power of two",
    ),
    (st.fastfood_to_dense, (X, X[:2], X, ORDER), {}, ValueError, r"g must have shape \(4,\)"),
    (
        st.low_rank_multiply,
        (X[:3], np.ones((5, 2), F), G.T),
        {},
        ValueError,
        r"with n = 4 as v has",
    ),
    (
        st.low_rank_multiply,
        (X, np.ones((5, 1), F), G.T),
        {},
        ValueError,
        r"v must have shape \(n, 1",
    ),
    (st.low_rank_multiply, (X, X, G.T), {}, ValueError, r"u must have shape \(m, r\)"),
    (
        st.low_rank_to_dense,
        (np.ones((5, 0), F), np.ones((4, 0), F)),
        {},
        ValueError,
        "no empty axis",
    ),
    (st.project_to_circulant, (X,), {}, ValueError, r"matrix must have shape \(m, n\)"),
    (st.project_to_circulant, (np.ones((0, 4), F),), {}, ValueError, "matrix must have no empty"),
    (st.project_to_toeplitz_like, (C, 5), {}, ValueError, "rank must be at most n = 4, got 5"),
    (
        st.project_to_low_rank,
        (C, 3),
        {},
        ValueError,
        r"rank must be at most min\(m, n\) = 2, got 3",
    ),
    (st.project_to_low_rank, (C.astype(int), 1), {}, TypeError, "matrix must be floating point"),
]


@pytest.mark.parametrize(("fn", "args", "options", "error", "message"), REFUSED)
def test_refused(fn, args, options, error, message):
    with pytest.raises(error, match=message):
        fn(*args, **options)


@pytest.mark.parametrize("name", CASES)
def test_unknown_implementation(name: str, rng: np.random.Generator):
    case = CASES[name]
    with pytest.raises(ValueError, match="unknown implementation 'cuda', known are None and"):
        case.multiply(jnp.ones(4), *case.weights(rng, 4, F, None), implementation="cuda")


LAYERS = (
    st.CirculantLinear,
    st.ToeplitzLikeLinear,
    st.LDRLinear,
    st.FastfoodLinear,
    st.LowRankLinear,
)


@pytest.mark.parametrize("layer", LAYERS)
def test_bad_layers(layer):
    rngs = nnx.Rngs(0)
    for sizes, message in (
        ((0, 4), "in_features must be at least 1"),
        ((4, 0), "out_features must"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(*sizes, rngs=rngs)
    with pytest.raises(ValueError, match="precision must be None"):
        layer(4, 4, precision="exact", rngs=rngs)
    with pytest.raises(TypeError, match="param_dtype must be real floating point, got complex64"):
        layer(4, 4, param_dtype=jnp.complex64, rngs=rngs)
    with pytest.raises(ValueError, match=r"inputs must have shape \(\*B, 4\), got \(2, 3\)"):
        layer(4, 4, rngs=rngs)(jnp.ones((2, 3)))


@pytest.mark.parametrize("layer", [st.ToeplitzLikeLinear, st.LDRLinear, st.LowRankLinear])
def test_bad_rank(layer):
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        layer(4, 4, rank=0, rngs=nnx.Rngs(0))


def test_bad_permutation_of_a_layer():
    with pytest.raises(ValueError, match="permutation must hold every index from 0 to 3"):
        st.FastfoodLinear(4, 4, permutation=[0, 1, 2, 2], rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"\(S, N\) = \(1, 4\)"):
        st.FastfoodLinear(4, 4, permutation=[0, 1, 2], rngs=nnx.Rngs(0))


def test_complex_kernels_are_not_projected():
    linear = nnx.Linear(4, 4, param_dtype=jnp.complex64, rngs=nnx.Rngs(0))
    for layer in (st.CirculantLinear, st.ToeplitzLikeLinear, st.LowRankLinear):
        with pytest.raises(TypeError, match="the kernel of linear must be real"):
            layer.from_linear(linear)


def test_low_rank_initializer_with_metadata():
    annotated = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "model"))
    with pytest.raises(TypeError, match="by kernel_metadata instead"):
        st.LowRankLinear(4, 4, kernel_init=annotated, rngs=nnx.Rngs(0))
