"""NumPyro's examples, called as there: ``mcmc.run(key, X, Y, 5)`` is a fit of ``(X, Y, 5)``."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density

import advi
from advi.model.numpyro.call import inside_handlers
from tests.model.numpyro.example_models import EXAMPLES

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
