"""A catalogue of NumPyro models, each with the arguments to bind and the data to fit.

They are written from their densities, in the ways that NumPyro models are written: plates and
nested plates, scans, reparametrisation, masks and scales, factors, parameters and networks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.example_libraries import stax
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.distributions import constraints
from numpyro.distributions.transforms import AffineTransform, OrderedTransform
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

RNG = np.random.default_rng(0)


class Case(NamedTuple):
    """A model with its arguments."""

    model: Callable[..., Any]
    data: Any = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}  # noqa: RUF012
    num_rows: int | None = None  # rows that are found without being named


SCHOOLS = {
    "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
    "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
}


def eight_schools(num_schools, sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", num_schools):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_whitened(num_schools, sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", num_schools):
        with handlers.reparam(config={"theta": TransformReparam()}):
            standard = dist.Normal(0, 1)
            theta = numpyro.sample(
                "theta", dist.TransformedDistribution(standard, AffineTransform(mu, tau))
            )
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def logistic(x, y):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0, 5))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ w + b), obs=y)


def horseshoe(x, y):
    tau = numpyro.sample("tau", dist.HalfCauchy(1))
    with numpyro.plate("columns", x.shape[1]):
        local = numpyro.sample("lambda", dist.HalfCauchy(1))
        beta = numpyro.sample("beta", dist.Normal(0, 1))
    sigma = numpyro.sample("sigma", dist.InverseGamma(2, 1))
    mean = numpyro.deterministic("mean", x @ (tau * local * beta))
    numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


def local_level(y):
    """A random walk inside a scan, observed with noise inside it."""
    drift = numpyro.sample("drift", dist.HalfNormal(1))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    start = numpyro.sample("start", dist.Normal(0, 2))

    def step(level, y_t):
        level = numpyro.sample("level", dist.Normal(level, drift))
        numpyro.sample("y", dist.Normal(level, noise), obs=y_t)
        return level, numpyro.deterministic("doubled", 2 * level)

    scan(step, start, y)


def panel(y):
    """A scan over time with a plate of units inside."""
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))

    def step(last, y_t):
        with numpyro.plate("units", y.shape[1]):
            numpyro.sample("y", dist.Normal(phi * last, 1), obs=y_t)
        return y_t, None

    scan(step, jnp.zeros(y.shape[1]), y)


def stochastic_volatility(returns):
    step = numpyro.sample("step", dist.Exponential(10))
    nu = numpyro.sample("nu", dist.Exponential(0.1))
    s = numpyro.sample("s", dist.GaussianRandomWalk(step, num_steps=len(returns)))
    numpyro.sample("r", dist.StudentT(nu, 0, jnp.exp(s)), obs=returns)


def gaussian_process(x, y):
    variance = numpyro.sample("variance", dist.LogNormal(0, 1))
    length = numpyro.sample("length", dist.LogNormal(0, 1))
    noise = numpyro.sample("noise", dist.LogNormal(-1, 1))
    squared = ((x[:, None] - x) / length) ** 2
    covariance = variance * jnp.exp(-0.5 * squared) + (noise + 1e-4) * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance), obs=y)


def random_effects(num_groups, group, x, y):
    """Correlated intercepts and slopes."""
    centre = numpyro.sample("centre", dist.Normal(0, 5).expand([2]).to_event(1))
    scales = numpyro.sample("scales", dist.HalfNormal(1).expand([2]).to_event(1))
    corr = numpyro.sample("corr", dist.LKJCholesky(2, 2.0))
    with numpyro.plate("groups", num_groups):
        tril = scales[:, None] * corr
        effects = numpyro.sample("effects", dist.MultivariateNormal(centre, scale_tril=tril))
    with numpyro.plate("rows", len(y)):
        mean = effects[group, 0] + effects[group, 1] * x
        numpyro.sample("y", dist.Normal(mean, 1), obs=y)


def mixture(num_components, y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(num_components)))
    ordered = dist.TransformedDistribution(
        dist.Normal(0, 3).expand([num_components]).to_event(1), OrderedTransform()
    )
    centres = numpyro.sample("centres", ordered)
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    components = dist.Normal(centres, scale)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=y)


def hidden_markov(y):
    """Two hidden states summed out by the forward algorithm."""
    transition = numpyro.sample("transition", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))
    rates = numpyro.sample("rates", dist.Gamma(2, jnp.array([1.0, 0.2])).to_event(1))
    emission = dist.Poisson(rates).log_prob(y[:, None])

    def forward(log_alpha, log_emission):
        moved = jax.nn.logsumexp(log_alpha[:, None] + jnp.log(transition), axis=0)
        return moved + log_emission, None

    first = jnp.log(0.5) + emission[0]
    numpyro.factor("y", jax.nn.logsumexp(jax.lax.scan(forward, first, emission[1:])[0]))


def capture_recapture(captures):
    """Animals seen or not on each occasion; from the last sighting on their fate is summed out."""
    survival = numpyro.sample("survival", dist.Uniform(0, 1))
    detection = numpyro.sample("detection", dist.Beta(2, 2))
    occasions = captures.shape[1]
    position = jnp.arange(occasions)
    last = jnp.max(jnp.where(captures > 0, position, 0), axis=1)

    def unseen(chi, _):
        chi = 1 - survival + survival * (1 - detection) * chi
        return chi, chi

    _, later = jax.lax.scan(unseen, 1.0, None, length=occasions - 1)
    never_again = jnp.concatenate([later[::-1], jnp.ones(1)])  # by occasion of the last sighting
    seen = captures[:, 1:]
    known = position[1:] <= last[:, None]
    per_occasion = jnp.log(survival) + jnp.where(
        seen > 0, jnp.log(detection), jnp.log1p(-detection)
    )
    with numpyro.plate("animals", len(captures)):
        log_lik = jnp.where(known, per_occasion, 0).sum(1) + jnp.log(never_again[last])
        numpyro.factor("captures", log_lik)


def ordinal(num_levels, x, y):
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    cutpoints = numpyro.sample(
        "cutpoints",
        dist.ImproperUniform(constraints.ordered_vector, (), event_shape=(num_levels - 1,)),
    )
    numpyro.factor("prior", dist.Normal(0, 3).log_prob(cutpoints).sum())
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.OrderedLogistic(slope * x, cutpoints), obs=y)


def dirichlet_multinomial(counts):
    concentration = numpyro.sample(
        "concentration", dist.Exponential(1).expand([counts.shape[1]]).to_event(1)
    )
    with numpyro.plate("rows", len(counts)):
        numpyro.sample("y", dist.DirichletMultinomial(concentration, counts.sum(1)), obs=counts)


def zero_inflated(x, y):
    gate = numpyro.sample("gate", dist.Beta(1, 1))
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.ZeroInflatedPoisson(gate, jnp.exp(slope * x)), obs=y)


def two_way(y):
    """Rows and columns, crossed."""
    rows = numpyro.plate("rows", y.shape[0], dim=-2)
    columns = numpyro.plate("columns", y.shape[1], dim=-1)
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with columns:
        b = numpyro.sample("b", dist.Normal(0, 1))
    with rows, columns:
        numpyro.sample("y", dist.Normal(b, sigma), obs=y)


def subsampled(x, y, size=None, subsample_size=10):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", size or len(y), subsample_size=subsample_size) as index:
        numpyro.sample("y", dist.Normal(x[index] @ w, 1), obs=y[index])


def subsample_statement(x, y, subsample_size=10):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=subsample_size):
        x, y = numpyro.subsample(x, event_dim=1), numpyro.subsample(y, event_dim=0)
        with handlers.scale(scale=0.5):
            numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)


def masked(y):
    """Missing values are NaN."""
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)), handlers.mask(mask=~jnp.isnan(y)):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def weighted(weights, y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)), handlers.scale(scale=weights):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def potential(x):
    z = numpyro.sample("z", dist.ImproperUniform(constraints.real, (2,), ()))
    numpyro.factor("ring", -2 * (jnp.linalg.norm(z) - x) ** 2)


def parameters(y):
    """Every unknown is estimated, but one."""
    loc = numpyro.param("loc", 0.5)
    scale = numpyro.param("scale", lambda key: jnp.full(2, 2.0), constraint=constraints.positive)
    with numpyro.plate("columns", 2):
        z = numpyro.sample("z", dist.Normal(loc, scale))
    numpyro.sample("y", dist.Normal(z, 1).to_event(1), obs=y)


def network(x, y):
    """A stax network, whose parameters are a tree."""
    net = numpyro.module(
        "net", stax.serial(stax.Dense(3), stax.Tanh, stax.Dense(1)), (-1, x.shape[1])
    )
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(net(x)[:, 0], sigma), obs=y)


def tank(serial_numbers):
    """The support of the latent depends on the data."""
    total = numpyro.sample("total", dist.Uniform(serial_numbers.max(), 1000.0))
    with numpyro.plate("rows", len(serial_numbers)):
        numpyro.sample("y", dist.Uniform(0, total), obs=serial_numbers)


def moving_supports(y):
    """Supports that depend on other latents, inside and outside plates."""
    top = numpyro.sample("top", dist.HalfNormal(3))
    low = numpyro.sample("low", dist.Uniform(0, top))
    with numpyro.plate("columns", 2):
        above = numpyro.sample("above", dist.TruncatedNormal(low, 1.0, low=low))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(above, 1).to_event(1), obs=y)


def branches(flag, y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))

    def near(_):
        return numpyro.sample("scale", dist.HalfNormal(1.0))

    def far(_):
        return numpyro.sample("scale", dist.HalfNormal(10.0))

    scale = cond(flag, near, far, None)
    numpyro.sample("y", dist.Normal(mu, scale), obs=y)


def directions(y):
    centre = numpyro.sample("centre", dist.VonMises(0, 1))
    with handlers.scope(prefix="inner"):
        concentration = numpyro.sample("concentration", dist.Gamma(2, 1))
    numpyro.sample("y", dist.VonMises(centre, concentration), obs=y)


X = RNG.standard_normal((30, 3))
NOISE = RNG.standard_normal(30)
Y = X @ np.array([1.0, -1.0, 0.5]) + NOISE
COUNTS = RNG.poisson(2.0, 30)

CASES = {
    "eight schools": Case(eight_schools, SCHOOLS, (8,), num_rows=8),
    "eight schools, TransformReparam": Case(eight_schools_whitened, SCHOOLS, (8,), num_rows=8),
    "eight schools, LocScaleReparam": Case(
        handlers.reparam(eight_schools, config={"theta": LocScaleReparam(0)}),
        SCHOOLS,
        (8,),
        num_rows=8,
    ),
    "eight schools, centredness estimated": Case(
        handlers.reparam(eight_schools, config={"theta": LocScaleReparam()}),
        SCHOOLS,
        (8,),
        num_rows=8,
    ),
    "eight schools, conditioned": Case(
        handlers.condition(eight_schools, data={"y": SCHOOLS["y"]}), None, (8, SCHOOLS["sigma"])
    )._replace(num_rows=8),
    "logistic": Case(logistic, {"x": X, "y": (Y > 0).astype(int)}, num_rows=30),
    "horseshoe": Case(horseshoe, (X, Y)),
    "local level": Case(local_level, NOISE.cumsum()),
    "panel": Case(panel, NOISE.reshape(10, 3)),
    "stochastic volatility": Case(stochastic_volatility, {"returns": 0.1 * NOISE}),
    "Gaussian process": Case(gaussian_process, {"x": X[:12, 0], "y": Y[:12]}),
    "random effects": Case(
        random_effects,
        {"group": np.arange(30) % 5, "x": X[:, 0], "y": Y},
        kwargs={"num_groups": 5},
        num_rows=30,
    ),
    "mixture": Case(mixture, {"y": Y}, (3,), num_rows=30),
    "hidden Markov": Case(hidden_markov, COUNTS),
    "capture-recapture": Case(
        capture_recapture, np.maximum(RNG.integers(0, 2, (12, 5)), np.eye(5)[0, None]), num_rows=12
    ),
    "ordinal": Case(ordinal, {"x": X[:, 0], "y": np.arange(30) % 4}, (4,), num_rows=30),
    "Dirichlet-multinomial": Case(
        dirichlet_multinomial, RNG.multinomial(20, [0.2, 0.3, 0.5], 6), num_rows=6
    ),
    "zero-inflated": Case(zero_inflated, {"x": X[:, 0], "y": COUNTS}, num_rows=30),
    "two-way": Case(two_way, {"y": NOISE.reshape(10, 3)}, num_rows=10),
    "mask": Case(masked, np.where(NOISE > 1, np.nan, NOISE), num_rows=30),
    "scale": Case(weighted, {"weights": np.exp(NOISE), "y": Y}, num_rows=30),
    "factor": Case(potential, 2.0),
    "parameters": Case(parameters, NOISE.reshape(15, 2)),
    "network": Case(network, {"x": X, "y": Y}, num_rows=30),
    "tank": Case(tank, np.array([61.0, 19.0, 250.0]), num_rows=3),
    "moving supports": Case(moving_supports, NOISE.reshape(15, 2), num_rows=15),
    "branches": Case(branches, {"y": Y}, (True,)),
    "directions": Case(directions, NOISE),
    "subsample": Case(subsampled, {"x": X, "y": Y}, num_rows=30),
    "subsample statement": Case(subsample_statement, {"x": X, "y": Y}, num_rows=30),
}
