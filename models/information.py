"""Entropy and divergence of discrete distributions, and what makes them what they are.

Shannon asked three things of a measure of uncertainty: that it be continuous in the probabilities,
that it grow with the number of equally likely events, and that the uncertainty of a choice made in
two stages be the sum of the stages' uncertainties. Entropy is the only such measure, up to its
unit. What is expected to be lost by using q where p holds is the Kullback-Leibler divergence
KL(p, q), cross-entropy less entropy: never negative, zero only when q equals p, and not symmetric.

McElreath's example of the last: Earth is mostly water, Mars is nearly all land. To someone from
Earth, who knows land, Mars is a moderate surprise. To someone from Mars, where there is next to no
water, Earth is a great one.

References
----------
Shannon (1948), A Mathematical Theory of Communication, sections 6 and 12.
Cover & Thomas (2006), Elements of Information Theory, 2nd edition, chapter 2.
McElreath (2020), Statistical Rethinking, 2nd edition, section 7.2: the two planets.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr, rel_entr, xlogy

EARTH, MARS = (0.7, 0.3), (0.01, 0.99)  # shares of water and land


def entropy(p: ArrayLike) -> float:
    """Return the entropy of a distribution, nats.

    Examples
    --------
    >>> round(entropy([0.5, 0.5]), 4)
    0.6931
    """
    return float(entr(distribution(p)).sum())


def cross_entropy(p: ArrayLike, q: ArrayLike) -> float:
    """Return the expected surprise -sum p log q, nats; infinite where q rules out what p allows.

    Examples
    --------
    >>> round(cross_entropy([0.5, 0.5], [0.25, 0.75]), 4)
    0.837
    """
    p, q = pair(p, q)
    with np.errstate(divide="ignore"):
        return float(-xlogy(p, q).sum())


def kl(p: ArrayLike, q: ArrayLike) -> float:
    """Return the Kullback-Leibler divergence KL(p, q) = sum p log(p / q), nats.

    Examples
    --------
    >>> round(kl([0.5, 0.5], [0.25, 0.75]), 4)
    0.1438
    """
    return float(rel_entr(*pair(p, q)).sum())


def distribution(p: ArrayLike) -> NDArray[np.float64]:
    """Return probabilities as an array (K,), if they are probabilities."""
    array = np.asarray(p, float)
    if array.ndim != 1 or (array < 0).any() or not np.isclose(array.sum(), 1, atol=1e-9):
        raise ValueError(f"p: got {p}; expected a list of non-negative numbers that sum to one.")
    return array


def pair(p: ArrayLike, q: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two distributions over the same events, each (K,)."""
    first, second = distribution(p), distribution(q)
    if first.shape != second.shape:
        raise ValueError(f"p and q: got {len(first)} and {len(second)} events; expected as many.")
    return first, second


def in_stages(p: ArrayLike, groups: list[list[int]]) -> tuple[float, float]:
    """Return the entropy of choosing a group, and the mean one of choosing within it, nats.

    Parameters
    ----------
    p
        Probabilities of the events.
    groups
        Indices of the events in every group, each event in one.
    """
    p = distribution(p)
    weights = np.array([p[group].sum() for group in groups])
    within = [entropy(p[group] / w) for group, w in zip(groups, weights, strict=True)]
    return entropy(weights), float(weights @ within)


def main() -> None:
    """Show the three properties, and the divergence of Earth and Mars both ways."""
    print("entropy, nats\n\ncontinuous: a small change of p makes a small change")
    for step in (1e-1, 1e-2, 1e-3, 1e-4):
        change = entropy([0.3 + step, 0.7 - step]) - entropy([0.3, 0.7])
        print(f"  p = 0.3 + {step:<6g} changes it by {change:.6f}")
    print("\nmonotone: it grows with the number of equally likely events")
    for k in (1, 2, 4, 8):
        print(f"  {k} events  {entropy(np.full(k, 1 / k)):.6f}")
    print("\nadditive: the entropies of two stages sum to that of one")
    p = [0.1, 0.2, 0.3, 0.4]
    between, within = in_stages(p, [[0, 1], [2, 3]])
    print(f"  {between:.6f} + {within:.6f} = {between + within:.6f}, and {entropy(p):.6f} in one")

    print(f"\ndivergence, nats: Earth {EARTH}, Mars {MARS}, shares of water and land")
    for name, (truth, model) in {
        "KL(Mars, Earth)": (MARS, EARTH),
        "KL(Earth, Mars)": (EARTH, MARS),
        "KL(Earth, Earth)": (EARTH, EARTH),
    }.items():
        parts = f"{cross_entropy(truth, model):.4f} - {entropy(truth):.4f}"
        print(f"  {name:<16}  {kl(truth, model):.4f} = cross-entropy - entropy = {parts}")


if __name__ == "__main__":
    main()
