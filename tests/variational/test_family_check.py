"""A family of the user's own is moved by the plan only if it is a Gaussian that it knows."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import advi
from advi.variational.mean_field import MeanFieldParams


@dataclass(frozen=True)
class OneSd(advi.MeanField):
    """All coordinates have the same sd."""

    def from_gaussian(self, loc, scale):
        found = super().from_gaussian(loc, scale)
        return found._replace(log_sd=np.full_like(found.log_sd, found.log_sd.mean()))


@dataclass(frozen=True)
class Short(advi.MeanField):
    def draw(self, params, eps):
        return super().draw(params, eps)[:1]


@dataclass(frozen=True)
class Wide(advi.MeanField):
    def draw(self, params, eps):
        return super().draw(params, 2 * eps)


@dataclass(frozen=True)
class Sinh(advi.MeanField):
    def draw(self, params, eps):
        return super().draw(params, jnp.sinh(eps))


@dataclass(frozen=True)
class Peaked(advi.MeanField):
    def log_prob(self, params, x):
        return super().log_prob(params, params.loc + 1.5 * (x - params.loc))


@dataclass(frozen=True)
class Same(advi.MeanField):
    pass


@dataclass(frozen=True)
class SameFull(advi.FullRank):
    pass


@dataclass(frozen=True)
class SameLowRank(advi.LowRank):
    pass


VARIANCES = np.array([1.0, 9.0, 0.25])
MODEL = advi.Model(lambda z, d: -0.5 * (z["b"] ** 2 / VARIANCES).sum(), {"b": advi.real(3)})
FAULTS = {OneSd: "to_gaussian", Short: "shape", Wide: "draw", Sinh: "draw", Peaked: "log_prob"}


@pytest.mark.parametrize("family", FAULTS, ids=lambda family: family.__name__)
def test_the_plan_refuses_what_it_would_score_as_another(family):
    with pytest.raises(ValueError, match=rf"{FAULTS[family]}.*expected a Gaussian"):
        advi.fit(MODEL, family=family())
    fit = advi.fit(MODEL, diagnose=False)
    with pytest.raises(ValueError, match=r"expected a Gaussian"):
        fit.refine(family=family())


@pytest.mark.parametrize("family", [Same, SameFull, SameLowRank], ids=lambda f: f.__name__)
def test_the_plan_moves_gaussians_of_the_users_own(family):
    fit = advi.fit(MODEL, family=family(), diagnose=False)
    np.testing.assert_allclose(fit.sd()["b"], np.sqrt(VARIANCES), rtol=2e-2)


def test_an_optimizer_moves_a_family_that_the_plan_refuses():
    fit = advi.fit(MODEL, family=OneSd(), optimizer=optax.adam(0.02), max_steps=200)
    assert isinstance(fit.posterior.params[0], MeanFieldParams)
    assert fit.status == "max_steps"
