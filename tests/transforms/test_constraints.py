"""Constraints by their names are NumPyro's."""

import numpy as np
import pytest
from numpyro.distributions import constraints

import advi
from advi.results.codec import from_data, to_data
from advi.transforms import HalfLine, registry
from advi.transforms.constraints import KINDS, NamedConstraint, as_numpyro, class_name, key_of

LATENTS = [
    advi.real(),
    advi.positive(),
    advi.interval(-1.0, np.array([1.0, 2.0]), 2),
    advi.greater_than(2),
    advi.less_than(-3.0),
    advi.unit_interval(),
    advi.simplex(3),
    advi.ordered(3),
    advi.positive_ordered(3),
    advi.corr_cholesky(2),
    advi.corr_matrix(2),
    advi.cov_matrix(2),
    advi.scale_tril(2),
    advi.zero_sum(3),
    advi.unit_vector(2),
    advi.circular(),
]


def test_every_kind_is_that_of_a_latent():
    assert {latent.constraint.name for latent in LATENTS} == set(KINDS)


@pytest.mark.parametrize("latent", LATENTS, ids=lambda latent: latent.constraint.name)
def test_a_name_stands_for_numpyros_constraint(latent):
    named, theirs = latent.constraint, latent.support
    assert isinstance(named, NamedConstraint)
    assert isinstance(theirs, constraints.Constraint)
    assert repr(named) == repr(theirs)
    assert named.event_dim == theirs.event_dim
    assert (key_of(named), class_name(named)) == (key_of(theirs), type(theirs).__name__)
    assert to_data(latent) == to_data(advi.Latent(theirs, latent.shape))
    assert repr(from_data(to_data(latent)).support) == repr(theirs)
    values = np.array([-np.inf, -4.0, -3.0, -0.0, 0.5, 1.0, 2.0, np.pi, np.inf, np.nan])
    if not latent.shape:
        np.testing.assert_array_equal(named(values), theirs(values))


def test_parameters_are_those_of_the_call():
    assert as_numpyro(advi.interval(0, 2).constraint) == constraints.interval(0, 2)
    assert advi.positive().support is constraints.positive
    assert advi.zero_sum(3).support == constraints.zero_sum(1)
    given = constraints.interval(0, 2)
    assert advi.Latent(given).support is given


def test_a_registered_transform_is_that_of_both(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    seen = []

    @advi.register_transform(constraints.positive, replace=True)
    def softplus(constraint):
        seen.append(constraint)
        return HalfLine(link="softplus")

    assert advi.positive().bijection == softplus(constraints.positive)
    assert advi.Latent(constraints.positive).bijection == HalfLine(link="softplus")
    assert seen == [constraints.positive] * 3
