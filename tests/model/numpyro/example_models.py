"""Models in the manner of NumPyro's examples, each with the call that its users write."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.example_libraries import stax
from jax.experimental.ode import odeint
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Example:
    """A model and the arguments of ``mcmc.run(key, *args, **kwargs)``."""

    model: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    bound: dict[str, Any] = field(
        default_factory=dict
    )  # arrays that decide about sizes, given to from_numpyro
    whole: dict[str, Any] = field(default_factory=dict)  # for NumPyro's density of all rows
    same: Any = None  # a model with this density in NumPyro; None for the model itself
    fit: dict[str, Any] = field(default_factory=dict)  # arguments of a fit

    @property
    def data(self) -> Any:
        """The same arguments as data of a fit."""
        return self.kwargs or self.args or None


# Baseball.

AT_BATS = np.full(8, 45)
HITS = RNG.binomial(45, 0.27, 8)


def fully_pooled(at_bats, hits=None):
    phi = numpyro.sample("phi", dist.Uniform(0, 1))
    with numpyro.plate("num_players", at_bats.shape[0]):
        numpyro.sample("obs", dist.Binomial(at_bats, probs=phi), obs=hits)


def not_pooled(at_bats, hits=None):
    with numpyro.plate("num_players", at_bats.shape[0]):
        phi = numpyro.sample("phi", dist.Uniform(0, 1))
        numpyro.sample("obs", dist.Binomial(at_bats, probs=phi), obs=hits)


def partially_pooled(at_bats, hits=None):
    m = numpyro.sample("m", dist.Uniform(0, 1))
    kappa = numpyro.sample("kappa", dist.Pareto(1, 1.5))
    with numpyro.plate("num_players", at_bats.shape[0]):
        phi = numpyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
        numpyro.sample("obs", dist.Binomial(at_bats, probs=phi), obs=hits)


def partially_pooled_logit(at_bats, hits=None):
    loc = numpyro.sample("loc", dist.Normal(-1, 1))
    scale = numpyro.sample("scale", dist.HalfCauchy(1))
    with numpyro.plate("num_players", at_bats.shape[0]):
        alpha = numpyro.sample("alpha", dist.Normal(loc, scale))
        numpyro.sample("obs", dist.Binomial(at_bats, logits=alpha), obs=hits)


# Regressions with sizes and hyperparameters.

X = RNG.standard_normal((12, 3)).astype("f")
Y = (X[:, 0] - X[:, 1] + 0.3 * RNG.standard_normal(12)).astype("f")
LABELS = (Y > 0).astype(int)


def bnn(X, Y, D_H, D_Y=1):
    N, D_X = X.shape
    w1 = numpyro.sample("w1", dist.Normal(jnp.zeros((D_X, D_H)), jnp.ones((D_X, D_H))))
    w2 = numpyro.sample("w2", dist.Normal(jnp.zeros((D_H, D_Y)), jnp.ones((D_H, D_Y))))
    z = jnp.matmul(jnp.tanh(jnp.matmul(X, w1)), w2)
    precision = numpyro.sample("prec_obs", dist.Gamma(3.0, 1.0))
    with numpyro.plate("data", N):
        scale = 1.0 / jnp.sqrt(precision)
        numpyro.sample("Y", dist.Normal(z, scale).to_event(1), obs=Y[:, None])


def horseshoe(y_scale):
    def model(X, Y):
        D_X = X.shape[1]
        lambdas = numpyro.sample("lambdas", dist.HalfCauchy(jnp.ones(D_X)))
        tau = numpyro.sample("tau", dist.HalfCauchy(jnp.ones(1)))
        unscaled = numpyro.sample("unscaled_betas", dist.Normal(0.0, jnp.ones(D_X)))
        mean = jnp.dot(X, numpyro.deterministic("betas", tau * lambdas * unscaled))
        if y_scale is None:
            numpyro.sample("Y", dist.Bernoulli(logits=mean), obs=Y)
        else:
            numpyro.sample("Y", dist.Normal(mean, y_scale), obs=Y)

    return model


def sparse_regression(X, Y, hypers):
    S, N, P = hypers["expected_sparsity"], X.shape[0], X.shape[1]
    sigma = numpyro.sample("sigma", dist.HalfNormal(hypers["alpha3"]))
    phi = sigma * (S / jnp.sqrt(N)) / (P - S)
    eta1 = numpyro.sample("eta1", dist.HalfCauchy(phi))
    msq = numpyro.sample("msq", dist.InverseGamma(hypers["alpha1"], hypers["beta1"]))
    lam = numpyro.sample("lambda", dist.HalfCauchy(jnp.ones(P)))
    kappa = jnp.sqrt(msq) * lam / jnp.sqrt(msq + jnp.square(eta1 * lam))
    kX = kappa * X
    k = jnp.matmul(kX, kX.T) + (sigma**2 + hypers["c"] ** 2) * jnp.eye(N)
    numpyro.sample("Y", dist.MultivariateNormal(jnp.zeros(N), covariance_matrix=k), obs=Y)


HYPERS = {"expected_sparsity": 1.0, "alpha1": 3.0, "beta1": 1.0, "alpha3": 1.0, "c": 1.0}


def gp(X, Y):
    var = numpyro.sample("kernel_var", dist.LogNormal(0.0, 1.0))
    noise = numpyro.sample("kernel_noise", dist.LogNormal(0.0, 1.0))
    length = numpyro.sample("kernel_length", dist.LogNormal(0.0, 1.0))
    delta = ((X[:, None] - X) / length) ** 2.0
    k = var * jnp.exp(-0.5 * delta) + (noise + 1e-3) * jnp.eye(X.shape[0])
    numpyro.sample("Y", dist.MultivariateNormal(jnp.zeros(X.shape[0]), covariance_matrix=k), obs=Y)


def hsgp(x, y, L, M):
    def periodic(M):
        alpha = numpyro.sample("alpha", dist.HalfNormal(1.0))
        length = numpyro.sample("length", dist.InverseGamma(5.0, 5.0))
        frequency = jnp.sqrt((jnp.arange(1, 1 + M) * jnp.pi / 2 / L) ** 2)
        spd = alpha * jnp.sqrt(length) * jnp.exp(-0.25 * (length * frequency) ** 2)
        with numpyro.plate("basis", M):
            beta = numpyro.sample("beta", dist.Normal(0, 1))
        phi = jnp.sin(frequency * (jnp.tile(x[:, None], M) + L)) / jnp.sqrt(L)
        return numpyro.deterministic("f", phi @ (spd * beta))

    f = handlers.scope(periodic, prefix="trend", divider="__")(M)
    sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))
    with numpyro.plate("obs", x.shape[0]):
        numpyro.sample("y", dist.Normal(f, sigma), obs=y)


DESIGN = np.column_stack([np.ones(6), RNG.integers(0, 2, 6)]).astype("f")


def proportion_test(design_matrix, n, outcomes=None):
    gender = numpyro.sample("gender", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("groups", len(n)):
        logits = design_matrix @ gender
        numpyro.sample("obs", dist.Binomial(n, logits=logits), obs=outcomes)


def zero_inflated_poisson(X, Y):
    b1 = numpyro.sample("b1", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    b2 = numpyro.sample("b2", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        gate = jax.nn.sigmoid(X @ b1)
        numpyro.sample("Y", dist.ZeroInflatedPoisson(gate, jnp.exp(X @ b2)), obs=Y)


def thompson(X, y=None):
    variance = numpyro.sample("variance", dist.InverseGamma(concentration=0.1, rate=0.1))
    weights = numpyro.sample("weights", dist.Normal(0, 1).expand([2]).to_event(1))
    mean = weights[0] * X[:, 0] ** 2 + weights[1] * X[:, 1]
    with numpyro.plate("data", X.shape[0]):
        numpyro.sample("obs", dist.Normal(mean, jnp.sqrt(variance)), obs=y)


# Groups: arrays that decide about sizes.

DEPT, MALE = np.repeat(np.arange(3), 2), np.tile([0, 1], 3)
APPLICATIONS, ADMIT = np.full(6, 30), RNG.binomial(30, 0.4, 6)


def ucbadmit(dept, male, applications, admit=None):
    v_mu = numpyro.sample("v_mu", dist.Normal(0, jnp.array([4.0, 1.0])))
    sigma = numpyro.sample("sigma", dist.HalfNormal(jnp.ones(2)))
    L_Rho = numpyro.sample("L_Rho", dist.LKJCholesky(2, concentration=2))
    scale_tril = sigma[..., jnp.newaxis] * L_Rho
    num_dept = len(np.unique(dept))
    z = numpyro.sample("z", dist.Normal(jnp.zeros((num_dept, 2)), 1))
    v = jnp.dot(scale_tril, z.T).T
    logits = v_mu[0] + v[dept, 0] + (v_mu[1] + v[dept, 1]) * male
    if admit is None:
        numpyro.deterministic("probs", jax.nn.sigmoid(logits))
    with numpyro.plate("N", len(applications)):
        numpyro.sample("admit", dist.Binomial(applications, logits=logits), obs=admit)


AGE, SPACE, TIME = (RNG.integers(0, n, 10) for n in (3, 2, 4))
AGE[:3], SPACE[:2], TIME[:4] = range(3), range(2), range(4)
POPULATION, DEATHS = np.full(10, 1000), RNG.poisson(20, 10)


@handlers.reparam(config={"age": LocScaleReparam(0), "space": LocScaleReparam(0)})
def mortality(age, space, time, population, deaths=None):
    alpha = numpyro.sample("alpha", dist.Normal(-4, 1))
    sd = numpyro.sample("sd", dist.HalfNormal(1).expand([2]).to_event(1))
    with numpyro.plate("age_plate", len(np.unique(age)), dim=-2):
        by_age = numpyro.sample("age", dist.Normal(0, sd[0]))
    with numpyro.plate("space_plate", len(np.unique(space)), dim=-1):
        by_space = numpyro.sample("space", dist.Normal(0, sd[1]))
    with numpyro.plate("time_plate", len(np.unique(time)) - 1):
        steps = numpyro.sample("steps", dist.Normal(0, 0.3))
    trend = jnp.pad(jnp.cumsum(steps), (1, 0))
    logits = alpha + by_age[age, 0] + by_space[space] + trend[time]
    with numpyro.plate("N", len(population)):
        numpyro.sample("deaths", dist.Binomial(population, logits=logits), obs=deaths)


# Series.

SERIES = np.cumsum(RNG.standard_normal(12)).astype("f") + 10


def stochastic_volatility(returns):
    step = numpyro.sample("sigma", dist.Exponential(50.0))
    s = numpyro.sample("s", dist.GaussianRandomWalk(scale=step, num_steps=jnp.shape(returns)[0]))
    nu = numpyro.sample("nu", dist.Exponential(0.1))
    numpyro.sample("r", dist.StudentT(df=nu, loc=0.0, scale=jnp.exp(s)), obs=returns)


def holt_winters(y, n_seasons, future=0):
    T = y.shape[0]
    level_sm = numpyro.sample("level_smoothing", dist.Beta(1, 1))
    adj = numpyro.sample("adj_seasonality_smoothing", dist.Beta(1, 1))
    season_sm = numpyro.deterministic("seasonality_smoothing", (1 - level_sm) * adj)
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    init = numpyro.sample("seasonality_init", dist.Normal(0, 1).expand([n_seasons]))

    def transition(carry, t):
        level, season = carry
        seen, mean = t < T, level + season[0]
        moved = level_sm * (y[t] - season[0]) + (1 - level_sm) * level
        turned = season_sm * (y[t] - level) + (1 - season_sm) * season[0]
        pred = numpyro.sample("pred", dist.Normal(mean, noise))
        last = jnp.where(seen, turned, season[0])
        return (jnp.where(seen, moved, level), jnp.append(season[1:], last)), pred

    with handlers.condition(data={"pred": y}):
        scan(transition, (jnp.zeros(()), init), jnp.arange(T + future))


def ar2_parameters():
    alpha = [numpyro.sample(f"alpha_{k}", dist.Normal(0, 1)) for k in (1, 2)]
    return (
        alpha,
        numpyro.sample("const", dist.Normal(0, 1)),
        numpyro.sample("sd", dist.HalfNormal(1)),
    )


def ar2_scan(y):
    (alpha_1, alpha_2), const, sd = ar2_parameters()

    def transition(carry, _):
        before, last = carry
        now = numpyro.sample("y", dist.Normal(const + alpha_1 * last + alpha_2 * before, sd))
        return (last, now), None

    with handlers.condition(data={"y": y[2:]}):
        scan(transition, (y[0], y[1]), jnp.arange(2, y.shape[0]))


def ar2_for_loop(y):
    (alpha_1, alpha_2), const, sd = ar2_parameters()
    before, last = y[0], y[1]
    for t in range(2, len(y)):
        mean = const + alpha_1 * last + alpha_2 * before
        now = numpyro.sample(f"y_{t}", dist.Normal(mean, sd), obs=y[t])
        before, last = last, now


PAIRS = RNG.standard_normal((9, 2)).astype("f")


def var2_scan(y):
    T, K = y.shape
    c = numpyro.sample("c", dist.Normal(0, 1).expand([K]).to_event(1))
    phi = numpyro.sample("Phi", dist.Normal(0, 1).expand([2, K, K]).to_event(3))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1).expand([K]).to_event(1))
    L = sigma[:, None] * numpyro.sample("L_omega", dist.LKJCholesky(K, 1.0))

    def transition(carry, _):
        before, last = carry
        mean = c + phi[0] @ last + phi[1] @ before
        now = numpyro.sample("y", dist.MultivariateNormal(mean, scale_tril=L))
        return (last, now), None

    with handlers.condition(data={"y": y[2:]}):
        scan(transition, (y[0], y[1]), jnp.arange(T - 2))


def dz_dt(z, t, theta):
    u, v = z
    return jnp.stack([(theta[0] - theta[1] * v) * u, (theta[3] * u - theta[2]) * v])


def lotka_volterra(N, y=None):
    z_init = numpyro.sample("z_init", dist.LogNormal(jnp.log(10.0), 1).expand([2]))
    centre = jnp.array([1.0, 0.05, 1.0, 0.05])
    theta = numpyro.sample(
        "theta", dist.TruncatedNormal(low=0.0, loc=centre, scale=jnp.array([0.2, 0.01, 0.2, 0.01]))
    )
    z = odeint(dz_dt, z_init, jnp.arange(float(N)), theta, rtol=1e-4, atol=1e-3, mxstep=200)
    sigma = numpyro.sample("sigma", dist.LogNormal(-1, 1).expand([2]))
    numpyro.sample("y", dist.LogNormal(jnp.log(z), sigma), obs=y)


# Words, with the forward algorithm.


def hmm(num_categories, num_words, categories, words, unsupervised, unroll_loop=False):
    prior = jnp.repeat(0.5, num_words)
    probs = numpyro.sample(
        "transition_prob", dist.Dirichlet(jnp.ones((num_categories, num_categories)))
    )
    emissions = numpyro.sample(
        "emission_prob", dist.Dirichlet(jnp.broadcast_to(prior, (num_categories, num_words)))
    )
    numpyro.sample("categories", dist.Categorical(probs[categories[:-1]]), obs=categories[1:])
    numpyro.sample("words", dist.Categorical(emissions[categories]), obs=words)
    log_t, log_e = jnp.log(probs), jnp.log(emissions)

    def forward(previous, word):
        return logsumexp(previous[:, None] + log_t + log_e[:, word], axis=0), None

    state = log_e[:, unsupervised[0]]
    if unroll_loop:
        for word in unsupervised[1:]:
            state = forward(state, word)[0]
    else:
        state, _ = jax.lax.scan(forward, state, unsupervised[1:])
    numpyro.factor("forward_log_prob", logsumexp(state, axis=0))


CATEGORIES, WORDS = RNG.integers(0, 2, 6), RNG.integers(0, 3, 6)
UNSUPERVISED = RNG.integers(0, 3, 5)


# Subsamples.


def covtype(data, labels, subsample_size=None):
    coefs = numpyro.sample("coefs", dist.Normal(jnp.zeros(data.shape[-1]), 1).to_event(1))
    with numpyro.plate("N", data.shape[0], subsample_size=subsample_size) as idx:
        logits = jnp.dot(data[idx], coefs)
        return numpyro.sample("obs", dist.Bernoulli(logits=logits), obs=labels[idx])


def hmcecs(data, obs, subsample_size):
    theta = numpyro.sample("theta", dist.Normal(jnp.zeros(data.shape[1]), 0.5).to_event(1))
    with numpyro.plate("N", data.shape[0], subsample_size=subsample_size):
        batch = numpyro.subsample(data, event_dim=1)
        of_batch = numpyro.subsample(obs, event_dim=0)
        numpyro.sample("obs", dist.Bernoulli(logits=theta @ batch.T), obs=of_batch)


def stein_bnn(x, y=None, hidden_dim=4, subsample_size=100):
    precision = numpyro.sample("prec", dist.Gamma(1.0, 0.1))
    w1 = numpyro.sample("nn_w1", dist.Normal(0.0, 1.0).expand((x.shape[1], hidden_dim)).to_event(2))
    w2 = numpyro.sample("nn_w2", dist.Normal(0.0, 1.0).expand([hidden_dim]).to_event(1))
    with numpyro.plate("data", x.shape[0], subsample_size=subsample_size, dim=-1):
        batch_x = numpyro.subsample(x, event_dim=1)
        batch_y = numpyro.subsample(y, event_dim=0) if y is not None else None
        mean = jnp.maximum(batch_x @ w1, 0) @ w2
        numpyro.sample("y", dist.Normal(mean, 1 / jnp.sqrt(precision)), obs=batch_y)


# Densities without data.


def funnel(dim=3):
    y = numpyro.sample("y", dist.Normal(0, 3))
    numpyro.sample("x", dist.Normal(jnp.zeros(dim - 1), jnp.exp(y / 2)))


funnel_reparam = handlers.reparam(funnel, config={"x": LocScaleReparam(0)})


def dual_moon():
    x = numpyro.sample("x", dist.Uniform(-4, 4).expand([2]).to_event(1))
    radius = (jnp.linalg.norm(x, axis=-1) - 2) / 0.4
    sides = logsumexp(-0.5 * ((x[..., :1] + jnp.array([-2.0, 2.0])) / 0.6) ** 2, axis=-1)
    numpyro.factor("moons", sides - 0.5 * radius**2)


# Networks.

IMAGES = (RNG.random((6, 2, 4)) > 0.5).astype("f")


def vae(batch, hidden_dim=5, z_dim=2):
    batch = jnp.reshape(batch, (batch.shape[0], -1))
    layers = stax.Dense(hidden_dim), stax.Softplus, stax.Dense(batch.shape[1]), stax.Sigmoid
    decode = numpyro.module("decoder", stax.serial(*layers), (batch.shape[0], z_dim))
    with numpyro.plate("batch", batch.shape[0]):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([z_dim]).to_event(1))
        numpyro.sample("obs", dist.Bernoulli(decode(z)).to_event(1), obs=batch)


def cvae(xs, ys):
    baseline = numpyro.module("baseline", stax.serial(stax.Dense(4), stax.Tanh), (6, 3))
    prior = numpyro.module("prior", stax.Dense(2), (6, 3))
    z = numpyro.sample("z", dist.Normal(prior(xs), 1.0).to_event(2))
    decode = numpyro.module("generation", stax.Dense(4), (6, 2))
    numpyro.sample("y", dist.Normal(baseline(xs) + decode(z), 1.0).to_event(2), obs=ys)


# Small idioms.


def minipyro(data):
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    with numpyro.plate("data", len(data), dim=-1):
        numpyro.sample("obs", dist.Normal(loc, 1.0), obs=data)


def seen(x, y, mask):
    b = numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(b * x, 1.0), obs=y, obs_mask=mask)


def seen_alone(x, y, mask):
    b = numpyro.sample("b", dist.Normal(0, 1))
    with handlers.mask(mask=mask):
        numpyro.sample("y", dist.Normal(b * x, 1.0), obs=y)


def with_keywords(*, x, y=None, scale: float = 1.0, **others):
    b = numpyro.sample("b", dist.Normal(0, others["width"]))
    with numpyro.plate("rows", len(x)):
        return numpyro.sample("y", dist.Normal(b * x, scale), obs=y)


@handlers.reparam(config={"theta": TransformReparam()})
def transformed(y):
    parts = dist.transforms.AffineTransform(1.0, 2.0)
    theta = numpyro.sample("theta", dist.TransformedDistribution(dist.Normal(0, 1), parts))
    numpyro.sample("y", dist.Normal(theta, 1.0).expand([len(y)]).to_event(1), obs=y)


def mixture(y, K):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        locs = numpyro.sample("locs", dist.Normal(0, 5))
    with numpyro.plate("data", len(y)):
        parts = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(locs, 1.0))
        numpyro.sample("y", parts, obs=y)


EXAMPLES = {
    "baseball, fully pooled": Example(fully_pooled, (AT_BATS, HITS)),
    "baseball, not pooled": Example(not_pooled, kwargs={"at_bats": AT_BATS, "hits": HITS}),
    "baseball, partially pooled": Example(partially_pooled, (AT_BATS, HITS)),
    "baseball, logit": Example(partially_pooled_logit, (AT_BATS, HITS)),
    "bnn": Example(bnn, (X, Y, 5)),
    "horseshoe": Example(horseshoe(1.0), (X, Y)),
    "horseshoe, bernoulli": Example(horseshoe(None), (X, LABELS)),
    "sparse regression": Example(sparse_regression, (X, Y, HYPERS)),
    "gp": Example(gp, (X[:, 0], Y)),
    "hsgp": Example(hsgp, kwargs={"x": X[:, 0], "y": Y, "L": 3.0, "M": 4}),
    "proportion test": Example(proportion_test, (DESIGN, np.full(6, 20), RNG.binomial(20, 0.5, 6))),
    "zero-inflated poisson": Example(zero_inflated_poisson, (X, RNG.poisson(1, 12))),
    "thompson": Example(thompson, (X, Y)),
    "ucbadmit": Example(ucbadmit, (DEPT, MALE, APPLICATIONS, ADMIT), bound={"dept": DEPT}),
    "mortality": Example(
        mortality,
        (AGE, SPACE, TIME, POPULATION, DEATHS),
        bound={"age": AGE, "space": SPACE, "time": TIME},
    ),
    "stochastic volatility": Example(stochastic_volatility, (0.01 * PAIRS[:, 0],)),
    "holt-winters": Example(holt_winters, (SERIES, 4)),
    "holt-winters, future": Example(
        holt_winters, kwargs={"y": SERIES, "n_seasons": 4, "future": 0}
    ),
    "ar2, scan": Example(ar2_scan, (SERIES,)),
    "ar2, loop": Example(ar2_for_loop, kwargs={"y": SERIES}),
    "var2": Example(var2_scan, (PAIRS,)),
    "lotka-volterra": Example(lotka_volterra, (6, np.exp(PAIRS[:6] / 5 + 2))),
    "hmm, scan": Example(hmm, (2, 3, CATEGORIES, WORDS, UNSUPERVISED)),
    "hmm, loop": Example(hmm, (2, 3, CATEGORIES, WORDS, UNSUPERVISED, True)),
    "covtype": Example(covtype, (X, LABELS, 4), whole={"subsample_size": None}),
    "hmcecs": Example(hmcecs, (X, LABELS, 4), whole={"subsample_size": None}),
    "stein bnn": Example(
        stein_bnn,
        kwargs={"x": X, "y": Y, "subsample_size": 4},
        whole={"subsample_size": None},
        fit={"batch_size": 4, "max_steps": 50},
    ),
    "funnel": Example(funnel),
    "funnel, reparam": Example(funnel_reparam),
    "dual moon": Example(dual_moon),
    "vae": Example(vae, (IMAGES,), fit={"batch_size": 3, "max_steps": 50}),
    "cvae": Example(cvae, (X[:6], PAIRS[:6] @ np.ones((2, 4), "f"))),
    "minipyro": Example(minipyro, (Y,)),
    "obs_mask": Example(seen, (X[:, 0], Y, LABELS > 0), same=seen_alone),
    "keywords": Example(with_keywords, kwargs={"x": X[:, 0], "y": Y, "scale": 2.0, "width": 3.0}),
    "transform reparam": Example(transformed, (Y,)),
    "mixture": Example(mixture, (Y, 2)),
}
