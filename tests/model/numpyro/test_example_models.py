"""NumPyro's examples, called as there: ``mcmc.run(key, X, Y, 5)`` is a fit of ``(X, Y, 5)``."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpyro import handlers
from numpyro.infer import Predictive
from numpyro.infer.util import log_density

import advi
from advi.model.numpyro.call import inside_handlers
from tests.model.numpyro.example_models import (
    APPLICATIONS,
    AT_BATS,
    DESIGN,
    EXAMPLES,
    LABELS,
    MALE,
    POPULATION,
    SERIES,
    X,
    Y,
)

KEY = jax.random.key(1)
FAST = {"xla_backend_optimization_level": 0}
# others of the same kind are not slow
SLOW = {"baseball, not pooled", "horseshoe, bernoulli", "holt-winters, future", "hmm, loop", "cvae"}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in EXAMPLES]


def by_name(example):
    names = inspect.signature(inside_handlers(example.model)).parameters
    return dict(zip(names, example.args, strict=False)) | example.kwargs


def made(example):
    """Return the model, and the data that are not bound."""
    if not example.bound:
        return advi.from_numpyro(example.model), example.data
    rest = {name: v for name, v in by_name(example).items() if name not in example.bound}
    return advi.from_numpyro(example.model, **example.bound), tuple(rest.values())


def in_numpyro(example, z):
    """Return NumPyro's log density of all rows at values of the latents."""
    kwargs = {**by_name(example), **example.whole}
    arrays = {k: jnp.asarray(v) for k, v in kwargs.items() if isinstance(v, np.ndarray)}
    return log_density(example.same or example.model, (), {**kwargs, **arrays, **example.bound}, z)[
        0
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_log_joint_is_numpyros(name):
    example = EXAMPLES[name]
    log_p = advi.log_density(*made(example))
    x = np.random.default_rng(0).uniform(-0.5, 0.5, log_p.dim)

    def both(x):
        log_dets = log_p._model.unravel(x)[1]
        return log_p(x) - sum(map(jnp.sum, log_dets.values())), in_numpyro(
            example, log_p.unravel(x)
        )

    ours, theirs = jax.jit(both, compiler_options=FAST)(x.astype(log_p.init.dtype))
    assert math.isfinite(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_fits_end_with_a_status(name):
    example = EXAMPLES[name]
    model, data = made(example)
    fit = advi.fit(model, data, diagnose=False, **example.fit)
    assert math.isfinite(fit.elbo.value)
    assert fit.status in ("converged", "max_steps")


# Arguments for new rows, without the values that are drawn where the model can do without.
NEW = {
    "baseball, logit": {"at_bats": AT_BATS},
    "holt-winters": {"y": SERIES, "n_seasons": 4, "future": 3},
    "thompson": {"X": X[:4]},
    "mortality": {"population": POPULATION},
    "bnn": {"X": X[:4], "Y": Y[:4], "D_H": 5},
    "horseshoe": {"X": X[:5], "Y": None},
    "hsgp": {"x": X[:7, 0], "y": None, "L": 3.0, "M": 4},
    "proportion test": {"design_matrix": DESIGN[:3], "n": np.full(3, 7)},
    "zero-inflated poisson": {"X": X[:5], "Y": None},
    "ucbadmit": {"male": MALE, "applications": APPLICATIONS},
    "covtype": {"data": X[:5], "labels": LABELS[:5], "subsample_size": 4},
    "stein bnn": {"x": X[:5]},
    "keywords": {"x": X[:4, 0], "width": 3.0},
    "transform reparam": {"y": Y[:3]},
    "mixture": {"y": Y[:5], "K": 2},
}
PLAIN = ("covtype",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in PLAIN)) for name in NEW]
)
def test_predictive_is_numpyros_at_the_same_draws(name):
    example, new, num = EXAMPLES[name], NEW[name], 1000
    steps = {"optimizer": optax.adam(1e-3), "max_steps": 1, "diagnose": False}
    fit = advi.fit(*made(example), **(example.fit | steps))
    found, draws = fit.predictive(num, new), fit.sample(num)
    latents = {k: v for k, v in draws.items() if k in fit.posterior.model.latents}
    kwargs = {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in new.items()}
    model = handlers.uncondition(example.model)
    theirs = Predictive(model, latents)(KEY, **(kwargs | example.bound | example.whole))
    assert found.keys() == theirs.keys()
    for site, values in found.items():
        assert values.shape == theirs[site].shape
        if site in draws or (name == "hsgp" and site == "trend__f"):  # a function of the latents
            np.testing.assert_allclose(values, theirs[site], rtol=1e-3, atol=1e-4)
            continue
        # medians, since some have no variance
        ours, others = (np.median(v, 0) for v in (values, theirs[site]))
        spread = np.subtract(
            *np.quantile(np.concatenate([values, theirs[site]]), [0.8, 0.2], axis=0)
        )
        rounding = 1.01 if np.issubdtype(values.dtype, np.integer) else 1e-3
        np.testing.assert_array_less(np.abs(ours - others), 0.25 * spread + rounding)
    prior = fit.predictive(5, new, prior=True)
    assert prior.keys() == found.keys() | latents.keys()
    assert fit.predictive(5).keys() <= found.keys()
