"""Laws that every transform obeys, over a catalogue of supports, and the registry."""

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints
from numpyro.distributions import transforms as numpyro_transforms

from advi.transforms import (
    Circular,
    CorrCholesky,
    CorrMatrix,
    HalfLine,
    Identity,
    Independent,
    Interval,
    LowerCholesky,
    NumPyroAdapter,
    Ordered,
    PositiveDefinite,
    Simplex,
    Transform,
    UnitVector,
    ZeroSum,
    register_transform,
    transform_for,
)
from advi.transforms import registry as registry_module

# Free coordinates of a value, to which its log-Jacobian refers.


def entries(value):
    return value.ravel()


def all_but_last(value):
    return value[:-1]


def lower(value):
    return value[np.tril_indices(value.shape[-1])]


def below_diagonal(value):
    return value[np.tril_indices(value.shape[-1], -1)]


def real_and_imaginary(value):
    return jnp.stack([value.real, value.imag], -1).ravel()


# Distances of a value to the edges of its support, which a log density may take logs of.


def nothing(value):
    return value[..., :0] if value.ndim else value[None][:0]


def above(bound):
    return lambda value: value - np.asarray(bound, value.dtype)


def under(bound):
    return lambda value: np.asarray(bound, value.dtype) - value


def between(low, high):
    return lambda value: jnp.stack([above(low)(value), under(high)(value)])


def gaps(value):
    return jnp.diff(value, axis=-1)


def gaps_from_zero(value):
    return jnp.diff(value, axis=-1, prepend=jnp.zeros_like(value[..., :1]))


def diagonal(value):
    return jnp.diagonal(value, axis1=-2, axis2=-1)


@dataclass(frozen=True)
class Case:
    """One support, the shape of one value, and what is known about it."""

    name: str
    support: Any
    shape: tuple[int, ...]
    free: Callable = entries
    edges: Callable = nothing
    override: Any = None

    @property
    def transform(self) -> Transform:
        return transform_for(self.support, self.override)

    @property
    def coordinates(self) -> tuple[int, ...]:
        return self.transform.unconstrained_shape(self.shape)


LOW, HIGH = np.array([-1.0, 0.1, 100.0]), np.array([1.0, 0.7, 1000.0])
OWN = [
    Case("real", constraints.real, ()),
    Case("real_vector", constraints.real_vector, (3,)),
    Case("real_matrix", constraints.real_matrix, (2, 3)),
    Case("positive", constraints.positive, (), edges=above(0.0)),
    Case("positive_softplus", constraints.positive, (2,), edges=above(0.0), override="softplus"),
    Case("nonnegative", constraints.nonnegative, (2,), edges=above(0.0)),
    Case("greater_than", constraints.greater_than(2.5), (2,), edges=above(2.5)),
    Case("greater_than_negative", constraints.greater_than(-2.5), (), edges=above(-2.5)),
    Case("greater_than_array", constraints.greater_than(LOW), (3,), edges=above(LOW)),
    Case("greater_than_eq", constraints.greater_than_eq(1), (), edges=above(1.0)),
    Case("less_than", constraints.less_than(1.0), (2,), edges=under(1.0)),
    Case("less_than_negative", constraints.less_than(-7.0), (), edges=under(-7.0)),
    Case("less_than_eq", constraints.less_than_eq(0.0), (), edges=under(0.0), override="softplus"),
    Case("unit_interval", constraints.unit_interval, (), edges=between(0.0, 1.0)),
    Case("interval", constraints.interval(-3, 10), (2,), edges=between(-3.0, 10.0)),
    Case("interval_array", constraints.interval(LOW, HIGH), (3,), edges=between(LOW, HIGH)),
    Case("open_interval", constraints.open_interval(0.2, 0.3), (), edges=between(0.2, 0.3)),
    Case("simplex_1", constraints.simplex, (1,), all_but_last, above(0.0)),
    Case("simplex_2", constraints.simplex, (2,), all_but_last, between(0.0, 1.0)),
    Case("simplex_4", constraints.simplex, (4,), all_but_last, between(0.0, 1.0)),
    Case("simplex_40", constraints.simplex, (40,), all_but_last, between(0.0, 1.0)),
    Case("zero_sum_1", constraints.zero_sum(1), (1,)),
    Case("zero_sum_5", constraints.zero_sum(1), (5,)),
    Case("zero_sum_3x4", constraints.zero_sum(2), (3, 4)),
    Case("zero_sum_2x3x2", constraints.zero_sum(3), (2, 3, 2)),
    Case("ordered_1", constraints.ordered_vector, (1,)),
    Case("ordered_5", constraints.ordered_vector, (5,), edges=gaps),
    Case("ordered_300", constraints.ordered_vector, (300,), edges=gaps),
    Case("positive_ordered_1", constraints.positive_ordered_vector, (1,), edges=gaps_from_zero),
    Case("positive_ordered_5", constraints.positive_ordered_vector, (5,), edges=gaps_from_zero),
    Case("lower_cholesky_1", constraints.lower_cholesky, (1, 1), lower, diagonal),
    Case("lower_cholesky_3", constraints.lower_cholesky, (3, 3), lower, diagonal),
    Case("lower_softplus", constraints.lower_cholesky, (3, 3), lower, diagonal, "softplus"),
    Case("positive_definite_1", constraints.positive_definite, (1, 1), lower, diagonal),
    Case("positive_definite_4", constraints.positive_definite, (4, 4), lower, diagonal),
    Case("definite_softplus", constraints.positive_definite, (3, 3), lower, diagonal, "softplus"),
    Case("positive_semidefinite", constraints.positive_semidefinite, (2, 2), lower, diagonal),
    Case("corr_cholesky_1", constraints.corr_cholesky, (1, 1), below_diagonal, diagonal),
    Case("corr_cholesky_2", constraints.corr_cholesky, (2, 2), below_diagonal, diagonal),
    Case("corr_cholesky_6", constraints.corr_cholesky, (6, 6), below_diagonal, diagonal),
    Case("corr_matrix_1", constraints.corr_matrix, (1, 1), below_diagonal, diagonal),
    Case("corr_matrix_5", constraints.corr_matrix, (5, 5), below_diagonal, diagonal),
    Case(
        "independent_positive",
        constraints.independent(constraints.positive, 2),
        (2, 3),
        edges=above(0.0),
    ),
    Case("circular", constraints.circular, (2,)),
    Case("sphere_1", constraints.sphere, (1,)),
    Case("sphere_3", constraints.sphere, (3,)),
]
NUMPYRO = [
    Case("softplus_positive", constraints.softplus_positive, (2,)),
    Case("l1_ball", constraints.l1_ball, (3,)),
    Case("scaled_unit_lower", constraints.scaled_unit_lower_cholesky, (3, 3), lower),
    Case("softplus_lower", constraints.softplus_lower_cholesky, (3, 3), lower),
    Case("complex", constraints.complex, (2,), real_and_imaginary),
    Case("sigmoid_override", constraints.interval(0, 1), (2,), override=Interval(0.0, 1.0)),
    Case("exp_override", constraints.positive, (), override=numpyro_transforms.ExpTransform()),
]
if hasattr(constraints, "cat"):  # NumPyro 0.22
    parts = [constraints.real, constraints.positive]
    NUMPYRO.append(Case("cat", constraints.cat(parts, dim=-1, lengths=(1, 2)), (3,)))

# dear to compile; the same transforms of other sizes, links and names are always examined
SLOW = {
    "simplex_40",
    "ordered_300",
    "positive_definite_1",
    "positive_semidefinite",
    "definite_softplus",
    "corr_cholesky_2",
    "zero_sum_2x3x2",
    "greater_than_negative",
    "greater_than_eq",
    "less_than_negative",
    "nonnegative",
    "open_interval",
    "scaled_unit_lower",
    "sigmoid_override",
    "unit_interval",
    "interval",
    "less_than_eq",
    "simplex_2",
    "lower_softplus",
    "real_matrix",
}
CASES = {case.name: case for case in OWN + NUMPYRO}


def named(names):
    return [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in names]


NAMES = named(CASES)
BIJECTIONS = named(name for name, case in CASES.items() if case.transform.bijective)
OWN_NAMES = named(case.name for case in OWN)


@functools.cache
def laws(name):
    """Evaluate everything the laws compare at four points, float64, in one compiled program."""
    case = CASES[name]
    transform = case.transform

    def free(x):
        value, log_det = transform.forward(x)
        return case.free(value), (value, log_det)

    def program(x):
        value, log_det = transform.forward(x)
        back = transform.inverse(value)
        jacobian, vmapped = None, jax.vmap(transform.forward)(x)
        if transform.bijective:
            jacobian, vmapped = jax.vmap(jax.jacobian(free, has_aux=True))(x)
        return {
            "value": value,
            "log_det": log_det,
            "back": back,
            "value_again": transform.forward(back)[0],
            "jacobian": jacobian,
            "two_batch_axes": transform.forward(x.reshape(2, 2, *x.shape[1:])),
            "vmapped": vmapped,
            "alone": transform.forward(x[0]),
        }

    with jax.enable_x64(True):
        x = 1.5 * np.random.default_rng(0).normal(size=(4, *case.coordinates))
        strict = "strict" if case in OWN else "standard"
        with jax.numpy_dtype_promotion(strict):
            out = jax.jit(program)(jnp.asarray(x))
        return x, jax.tree.map(np.asarray, out)


@pytest.mark.parametrize("name", NAMES)
def test_shapes(name):
    case = CASES[name]
    x, out = laws(name)
    assert out["value"].shape == (4, *case.shape)
    assert out["log_det"].shape == (4, *case.shape)[: 1 + len(case.shape) - case.support.event_dim]
    assert out["back"].shape == x.shape
    assert case.transform.unconstrained_shape((7, 4, *case.shape)) == (7, *x.shape)
    assert case.transform.event_dim == case.support.event_dim


@pytest.mark.parametrize("name", NAMES)
def test_values_lie_in_the_support(name):
    _, out = laws(name)
    with jax.enable_x64(True):  # the tolerances of the checks follow the dtype
        assert np.all(CASES[name].support(out["value"]))


@pytest.mark.parametrize("name", BIJECTIONS)
def test_round_trip(name):
    # |x| < 6: logs of distances lose up to e^12 eps = 4e-11 to cancellation, matrices a bit more.
    x, out = laws(name)
    np.testing.assert_allclose(out["back"], x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_inverse_gives_a_preimage(name):
    _, out = laws(name)
    np.testing.assert_allclose(out["value_again"], out["value"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", BIJECTIONS)
def test_log_det_is_that_of_the_jacobian(name):
    # The determinant of autodiff's Jacobian, condition numbers up to 1e6: 1e6 eps = 2e-10.
    _, out = laws(name)
    log_det = out["log_det"].reshape(4, -1).sum(-1)
    J = out["jacobian"]
    J = J.reshape(*J.shape[:2], math.prod(CASES[name].coordinates))
    if J.shape[1] == J.shape[2]:
        log_volume = np.linalg.slogdet(J)[1]
    else:  # zero sums: volume of the subspace
        log_volume = 0.5 * np.linalg.slogdet(J.swapaxes(1, 2) @ J)[1]
    np.testing.assert_allclose(log_det, log_volume, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_batches_are_single_events_stacked(name):
    # The same arithmetic up to the order of sums: a few hundred eps.
    _, out = laws(name)
    batched = out["value"], out["log_det"]
    twice = [part.reshape(4, *part.shape[2:]) for part in out["two_batch_axes"]]
    alone = [part[None] for part in out["alone"]]
    for other in (twice, alone, out["vmapped"]):
        for got, expected in zip(other, batched, strict=True):
            np.testing.assert_allclose(got, expected[: len(got)], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "interval_array",
        "simplex_4",
        pytest.param("corr_cholesky_2", marks=pytest.mark.slow),
        pytest.param("sphere_3", marks=pytest.mark.slow),
    ],
)
def test_jit_changes_nothing(name):
    # Single precision; fusion may reorder a few operations: some eps of values of order 10.
    transform = CASES[name].transform
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, *CASES[name].coordinates)), "float32")
    for got, expected in zip(jax.jit(transform.forward)(x), transform.forward(x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


# Far out, in single precision


@functools.cache
def far_program(name):
    case = CASES[name]

    @jax.jit
    def program(x):
        (value, log_det), pull = jax.vjp(case.transform.forward, x)
        edges, pull_edges = jax.vjp(case.edges, value)
        slope_of_log_edges = pull_edges(1 / edges)[0]
        # A gradient of a sum is finite only if every term's is.
        return {
            "value": value,
            "log_det": log_det,
            "edges": edges,
            "log edges": jnp.log(edges),
            "gradient of value": pull((jnp.ones_like(value), jnp.zeros_like(log_det))),
            "gradient of log_det": pull((jnp.zeros_like(value), jnp.ones_like(log_det))),
            "gradient of log edges": pull((slope_of_log_edges, jnp.zeros_like(log_det))),
        }

    return program


@functools.cache
def far_out(name, distance=30):
    """Evaluate values, log-Jacobians, edges and gradients at 0 and +-distance, float32."""
    coordinates = CASES[name].coordinates
    size = math.prod(coordinates)
    sign = (-1.0) ** np.arange(size)
    points = distance * np.stack([np.ones(size), -np.ones(size), sign, -sign, np.zeros(size)])
    x = points.astype("float32").reshape(5, *coordinates)
    return jax.tree.map(np.asarray, far_program(name)(x))


@pytest.mark.parametrize("name", OWN_NAMES)
def test_far_out_everything_is_finite(name):
    out = far_out(name)
    assert out["value"].dtype == out["log_det"].dtype == np.float32
    for what, result in out.items():
        assert all(np.isfinite(array).all() for array in jax.tree.leaves(result)), what


@pytest.mark.parametrize("name", OWN_NAMES)
def test_far_out_values_stay_off_the_edges(name):
    case, out = CASES[name], far_out(name)
    assert (out["edges"] > 0).all()
    if not isinstance(case.transform, (PositiveDefinite, CorrMatrix)):
        # Those round to singular matrices here, as their docstrings say.
        assert np.all(case.support(out["value"]))


@pytest.mark.parametrize(
    "name", named(["interval_array", "interval", "simplex_4", "simplex_40", "corr_cholesky_6"])
)
def test_far_out_log_det_is_exact(name):
    # Against the same formula in double precision, where nothing underflows: 1e-5 is 100 eps.
    case, out = CASES[name], far_out(name)
    with jax.enable_x64(True):
        sign = (-1.0) ** np.arange(math.prod(case.coordinates)).reshape(case.coordinates)
        x = np.stack([30 * abs(sign), -30 * abs(sign), 30 * sign, -30 * sign])
        log_det = jax.jit(case.transform.forward)(x)[1]
    np.testing.assert_allclose(out["log_det"][:4], log_det, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["interval_array", "simplex_4", "corr_cholesky_6", "circular", "sphere_3"]
)
def test_bounded_supports_are_reached_from_any_distance(name):
    out = far_out(name, distance=10_000)
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(out))
    assert (out["edges"] > 0).all()


def test_angles_next_to_the_cut_are_inside():
    # Compared in double precision: pi rounds up in single precision.
    cuts = (math.pi * np.arange(-9, 10, 2)).astype("float32")
    x = np.stack([cuts, np.nextafter(cuts, np.float32(99)), np.nextafter(cuts, np.float32(-99))])
    value = np.asarray(jax.jit(Circular().forward)(x)[0], "float64")
    assert (abs(value) < math.pi).all()
    assert (abs(value) > math.pi - 1e-5).all()  # 5 units in the last place of 9 pi


def test_unit_vector_at_very_long_short_and_zero_vectors():
    x = jnp.array([[0.0, 0.0], [3e-30, 4e-30], [3e18, 4e18]], "float32")
    slope = jax.jit(jax.vmap(jax.grad(lambda x: UnitVector().forward(x)[0][0])))(x)
    value = jax.jit(UnitVector().forward)(x)[0]
    half = math.sqrt(0.5)
    np.testing.assert_allclose(value, [[half, half], [0.6, 0.8], [0.6, 0.8]], rtol=1e-6)
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[0], [0, 0])


@pytest.mark.parametrize(
    ("transform", "x", "curvature"),
    [
        (Interval(), np.zeros(()), -0.5),
        (HalfLine(link="softplus"), np.zeros(()), -0.25),
        (CorrCholesky(), np.zeros(1), -2.0),
        (Circular(), np.zeros(()), -8 * math.pi**2 / (math.exp(8 * math.pi**2 / 9) + 2) / 1.5**4),
    ],
)
def test_log_det_is_smooth_at_zero(transform, x, curvature):
    # Starting points are zeros, and |x| there would have slope and curvature zero.
    hessian = jax.jit(jax.hessian(lambda x: transform.forward(x)[1]))(jnp.asarray(x, "float32"))
    np.testing.assert_allclose(hessian.ravel(), curvature, rtol=1e-5)


# Densities integrate to the same number on both scales


def gamma(v):  # shape 3, rate 1
    return np.where(v > 0, 0.5 * v**2 * np.exp(-v), 0)


def beta(v):  # 2, 3
    return 12 * v * (1 - v) ** 2


def von_mises(angle):  # around 3, across the cut at pi, concentration 2
    return np.exp(2 * np.cos(angle - 3)) / (2 * math.pi * np.i0(2))


@pytest.mark.parametrize(
    ("transform", "density"),
    [
        (HalfLine(), gamma),
        (HalfLine(link="softplus"), gamma),
        (HalfLine(bound=-4.0), lambda v: gamma(v + 4)),
        (HalfLine(bound=2.0, below=True, link="softplus"), lambda v: gamma(2 - v)),
        (Interval(), beta),
        (Interval(-1.0, 3.0), lambda v: beta((v + 1) / 4) / 4),
        (Circular(), von_mises),
        (NumPyroAdapter(numpyro_transforms.ExpTransform()), gamma),
    ],
)
def test_scalar_densities_keep_their_integral(transform, density):
    # Trapezoid on a smooth integrand that vanishes at both ends: error below 1e-10.
    with jax.enable_x64(True):
        x = np.linspace(-60, 60, 40_001)
        value, log_det = map(np.asarray, jax.jit(transform.forward)(x))
    integral = np.sum(density(value) * np.exp(log_det)) * (x[1] - x[0])
    assert integral == pytest.approx(1, abs=1e-9)


def test_winding_weights_sum_to_one():
    with jax.enable_x64(True):
        x = np.linspace(-math.pi, math.pi, 101)[:-1] + 2 * math.pi * np.arange(-9, 10)[:, None]
        value, log_weight = jax.jit(Circular().forward)(x)
        np.testing.assert_allclose(np.exp(log_weight).sum(0), 1, rtol=1e-12)
        # 9 turns of rounding in 2 pi; the cut itself wraps to either end.
        np.testing.assert_allclose(np.cos(value), np.cos(x), atol=1e-13)


def sphere_rule(k):
    """Return nodes (m, k) and weights (m,) of a quadrature rule on the unit sphere."""
    if k == 1:
        return np.array([[-1.0], [1.0]]), np.ones(2)
    angle = np.arange(64) * 2 * math.pi / 64
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    if k == 2:
        return circle, np.full(64, 2 * math.pi / 64)
    height, weights = np.polynomial.legendre.leggauss(32)
    radius = np.sqrt(1 - height**2)
    nodes = np.concatenate(
        [radius[:, None, None] * circle, np.tile(height[:, None, None], (1, 64, 1))], -1
    )
    return nodes.reshape(-1, 3), np.repeat(weights, 64) * 2 * math.pi / 64


@pytest.mark.parametrize("k", [1, 2, 3])
def test_densities_on_the_sphere_keep_their_integral(k):
    # Polar quadrature over R^k: spectral on the sphere, Gauss-Legendre along the radius.
    nodes, weights = sphere_rule(k)
    radius, radial_weights = np.polynomial.legendre.leggauss(100)
    radius, radial_weights = 6 * (radius + 1), 6 * radial_weights  # [0, 12]
    with jax.enable_x64(True):
        x = radius[:, None, None] * nodes
        value, log_det = map(np.asarray, jax.jit(UnitVector().forward)(x))
    mean = np.array([0.6, 0.8, 0.0])[:k]
    integral = np.einsum(
        "ri,i,r->", np.exp(value @ mean + log_det), weights, radial_weights * radius ** (k - 1)
    )
    assert integral == pytest.approx(np.exp(nodes @ mean) @ weights, rel=1e-9)


def test_uniform_direction_is_a_standard_normal():
    x = np.float32([0.3, -1.2, 0.5])
    log_area = math.log(4 * math.pi)
    log_normal = -0.5 * (x**2).sum() - 1.5 * math.log(2 * math.pi)
    log_det = float(jax.jit(UnitVector().forward)(x)[1])
    assert log_det - log_area == pytest.approx(float(log_normal), rel=1e-6)


def test_zero_sum_is_an_isometry_in_numpyros_basis():
    x = np.random.default_rng(0).normal(size=(3, 2)).astype("float32")
    both = jax.jit(lambda x: (ZeroSum(2).forward(x)[0], numpyro_transforms.ZeroSumTransform(2)(x)))
    value, expected = jax.device_get(both(x))
    # float32: a few eps of entries of order 1.
    np.testing.assert_allclose((value**2).sum(), (x**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(value, expected, atol=1e-6)


# Shapes that no value has


@pytest.mark.parametrize(
    ("transform", "shape", "message"),
    [
        (Simplex(), (), "Simplex covers the last 1 axes of a value; got shape ()"),
        (Simplex(), (3, 0), "Simplex needs an event of at least one entry; got shape (3, 0)"),
        (CorrCholesky(), (3, 4), "CorrCholesky needs square matrices, (..., k, k); got shape"),
        (ZeroSum(2), (3,), "ZeroSum covers the last 2 axes"),
        (Independent(HalfLine(), 1), (), "Independent covers the last 1 axes"),
    ],
)
def test_impossible_shapes_are_refused(transform, shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        transform.unconstrained_shape(shape)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Interval(1.0, 1.0), "lower < upper"),
        (lambda: Interval(0.0, np.array([1.0, -1.0])), "lower < upper"),
        (lambda: Interval(0.0, np.inf), "must be finite"),
        (lambda: HalfLine(np.nan), "must be finite"),
        (lambda: HalfLine(link="softlus"), "did you mean 'softplus'"),
        (lambda: LowerCholesky("log"), "Known: exp, softplus"),
        (lambda: PositiveDefinite("log"), "Known: exp, softplus"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_bound_that_depends_on_a_latent_is_refused():
    with pytest.raises(TypeError, match="depends on another latent"):
        jax.make_jaxpr(lambda a: transform_for(constraints.greater_than(a)).forward(a))(1.0)


# The registry


@pytest.fixture
def registry(monkeypatch):
    """Undo registrations after a test."""
    monkeypatch.setattr(registry_module, "_REGISTRY", dict(registry_module._REGISTRY))


class Even(constraints.Constraint):
    event_dim = 1


@pytest.mark.parametrize("name", CASES)
def test_transforms_are_hashable_and_equal_by_value(name):
    case = CASES[name]
    again = transform_for(case.support, case.override)
    assert isinstance(again, Transform)
    assert again == case.transform
    assert hash(again) == hash(case.transform)


def test_different_settings_are_different_transforms():
    different = {
        HalfLine(),
        HalfLine(1.0),
        HalfLine(below=True),
        HalfLine(link="softplus"),
        HalfLine(np.zeros(2)),
        Interval(),
        Interval(0, 2),
        Identity(),
        Identity(1),
        Ordered(),
        Ordered(positive=True),
        LowerCholesky(),
        LowerCholesky("softplus"),
        NumPyroAdapter(numpyro_transforms.ExpTransform()),
        NumPyroAdapter(numpyro_transforms.SoftplusTransform()),
        NumPyroAdapter(numpyro_transforms.ZeroSumTransform(1)),
        NumPyroAdapter(numpyro_transforms.ZeroSumTransform(2)),
    }
    assert len(different) == 17
    assert HalfLine(1) == HalfLine(np.float32(1)) == HalfLine(jnp.ones(()))


def test_finding_transforms_runs_no_jax_operation():
    def find_all():
        for case in CASES.values():
            transform_for(case.support, case.override).unconstrained_shape(case.shape)
        return ()

    def control():
        jnp.zeros(3) + 1
        return ()

    assert jax.make_jaxpr(control)().eqns
    assert not jax.make_jaxpr(find_all)().eqns


@pytest.mark.parametrize("case", [c for c in NUMPYRO if c.override is None], ids=lambda c: c.name)
def test_numpyro_serves_what_is_not_registered(case):
    assert isinstance(case.transform, NumPyroAdapter)


def test_overrides_by_name():
    assert transform_for(constraints.positive, "exp") == HalfLine()
    assert transform_for(constraints.nonnegative, "softplus") == HalfLine(link="softplus")
    less = transform_for(constraints.less_than(3.0), "softplus")
    assert less == HalfLine(3.0, below=True, link="softplus")
    assert transform_for(constraints.lower_cholesky, "softplus") == LowerCholesky("softplus")
    positive_vector = constraints.independent(constraints.positive, 1)
    assert transform_for(positive_vector, "softplus") == Independent(HalfLine(link="softplus"), 1)


def test_overrides_by_transform():
    assert transform_for(constraints.positive, HalfLine(0.5)) == HalfLine(0.5)
    softplus = numpyro_transforms.SoftplusTransform()
    assert transform_for(constraints.positive, softplus) == NumPyroAdapter(softplus)
    # An elementwise transform is summed over the axes of the support's event.
    assert transform_for(constraints.real_vector, HalfLine()) == Independent(HalfLine(), 1)
    assert transform_for(constraints.real, Simplex()) == Simplex()
    assert transform_for(Even(), Identity(1)) == Identity(1)


class NoInverse:
    event_dim = 0

    def unconstrained_shape(self, shape):
        return shape

    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("support", "override", "error", "message"),
    [
        (constraints.positive, "sofplus", ValueError, "unknown transform 'sofplus'; did you mean"),
        (constraints.positive, "log", ValueError, "Known: exp, softplus"),
        (constraints.real, "exp", ValueError, r"positive part: positive, .*support is Real\(\)"),
        (constraints.simplex, "softplus", ValueError, "positive part"),
        (constraints.positive, 3, TypeError, r"expected an advi Transform .* got 3 \(int\)"),
        (constraints.positive, HalfLine, TypeError, r"expected an advi .* Call it: HalfLine\("),
        (constraints.positive, slice(0), TypeError, r"got slice\(None, 0, None\) \(slice\).$"),
        (constraints.positive, NoInverse(), TypeError, "It lacks bijective, inverse, of event_dim"),
        (constraints.boolean, None, TypeError, r"Boolean\(\) is discrete.*marginalise"),
        (constraints.nonnegative_integer, None, TypeError, "discrete"),
        (constraints.integer_interval(0, 3), None, TypeError, "discrete"),
        (constraints.multinomial(3), None, TypeError, "discrete"),
        (constraints.independent(constraints.boolean, 1), None, TypeError, "discrete"),
        (constraints.positive_integer, HalfLine(), TypeError, "discrete"),
        (constraints.dependent, None, TypeError, "depends on other values.*fixed support"),
        (constraints.independent(constraints.dependent, 1), None, TypeError, "depends on other"),
        (Even(), None, TypeError, r"no transform is known .*register_transform\(Even\)"),
        ("positive", None, TypeError, r"a support is a NumPyro constraint .* got 'positive'"),
        (constraints.interval, None, TypeError, r"constraints.interval\(0, 1\); got"),
    ],
)
def test_what_has_no_transform_is_refused(support, override, error, message):
    with pytest.raises(error, match=message):
        transform_for(support, override)


@pytest.mark.usefixtures("registry")
class TestRegister:
    def test_a_new_constraint(self):
        @register_transform(Even)
        def even(constraint):
            return Identity(1)

        assert transform_for(Even()) == Identity(1)
        assert even(Even()) == Identity(1)

    def test_a_numpyro_transform_is_adapted(self):
        register_transform(Even)(lambda constraint: numpyro_transforms.L1BallTransform())
        assert isinstance(transform_for(Even()), NumPyroAdapter)

    @pytest.mark.parametrize("constraint", [constraints.positive, type(constraints.positive)])
    def test_duplicates_are_refused(self, constraint):
        with pytest.raises(ValueError, match="registered already; pass replace=True"):
            register_transform(constraint)
        assert transform_for(constraints.positive) == HalfLine()

    def test_replacing_takes_effect_everywhere(self):
        register_transform(constraints.positive, replace=True)(lambda c: HalfLine(link="softplus"))
        assert transform_for(constraints.positive) == HalfLine(link="softplus")
        nested = constraints.independent(constraints.positive, 1)
        assert transform_for(nested) == Independent(HalfLine(link="softplus"), 1)

    def test_numpyros_choice_can_be_replaced(self):
        register_transform(constraints.softplus_positive)(lambda c: HalfLine())
        assert transform_for(constraints.softplus_positive) == HalfLine()

    def test_a_subclass_is_not_served_by_its_base(self):
        class Odd(Even):
            pass

        register_transform(Even)(lambda constraint: Identity(1))
        with pytest.raises(TypeError, match="no transform is known"):
            transform_for(Odd())

    def test_discrete_supports_may_be_registered(self):
        register_transform(constraints.boolean)(lambda c: Interval())
        assert transform_for(constraints.boolean) == Interval()

    def test_only_constraints_can_be_registered(self):
        with pytest.raises(TypeError, match="takes a NumPyro constraint or its class; got"):
            register_transform(int)  # type: ignore[arg-type]

    def test_what_a_factory_returns_is_checked(self):
        register_transform(Even)(lambda constraint: "exp")  # type: ignore[arg-type, return-value]
        with pytest.raises(TypeError, match=r"factory registered for .* got 'exp'"):
            transform_for(Even())
