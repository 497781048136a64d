"""The support of a distribution: the declared one, or the image under its transforms."""

from collections.abc import Sequence

from numpyro import distributions as dist
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.distribution import ExpandedDistribution, MaskedDistribution
from numpyro.distributions.transforms import AffineTransform, ComposeTransform, Transform


def plain(fn: Distribution) -> Distribution:
    """Return the distribution inside masks, expansions and event axes."""
    while isinstance(fn, (MaskedDistribution, ExpandedDistribution, dist.Independent)):
        fn = fn.base_dist
    return fn


def support_of(fn: Distribution) -> Constraint:
    """Return the support of a distribution.

    An `AffineTransform` without a given domain declares all real numbers as its codomain, whatever
    it is applied to; applied to an interval or a half-line, its image is the support.

    Examples
    --------
    >>> from numpyro.distributions.transforms import SigmoidTransform
    >>> parts = [SigmoidTransform(), AffineTransform(0.0, 3.0)]
    >>> support_of(dist.TransformedDistribution(dist.Normal(), parts))
    Interval(lower_bound=0.0, upper_bound=3.0)
    """
    if isinstance(fn, (MaskedDistribution, ExpandedDistribution)):
        return support_of(fn.base_dist)
    if isinstance(fn, dist.Independent):
        of_base = support_of(fn.base_dist)
        if of_base is fn.base_dist.support:
            return fn.support
        return constraints.independent(of_base, fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.TransformedDistribution):
        reached = _image(fn.base_dist.support, fn.transforms)
        if fn.support is constraints.real and reached is not None:
            return reached
    return fn.support  # type: ignore[return-value]


def _image(reached: Constraint | None, parts: Sequence[Transform]) -> Constraint | None:
    """Return the image of a set of numbers under transforms; None if it is not known."""
    for part in parts:
        if isinstance(part, ComposeTransform):
            reached = _image(reached, part.parts)
        elif not isinstance(part, AffineTransform) or part.domain is not constraints.real:
            reached = part.codomain
        elif reached is not constraints.real and reached is not None:
            try:
                reached = AffineTransform(part.loc, part.scale, domain=reached).codomain
            except NotImplementedError:
                reached = None
    return reached
