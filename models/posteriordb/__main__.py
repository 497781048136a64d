"""Fit posteriors of posteriordb with the defaults and print how near their references they are."""

import argparse
import time
from typing import NamedTuple

import advi
from models.posteriordb import NAMES, Posterior, load
from models.posteriordb.checkout import VARIABLE, find_root
from models.posteriordb.definition import Arrays

DRAWS = 20_000


class Agreement(NamedTuple):
    """How draws compare with the reference, over all scalars."""

    worst_mean: float  # largest difference of means, in reference sds
    least_sd: float  # smallest ratio of sds
    greatest_sd: float


def agreement(posterior: Posterior, columns: Arrays) -> Agreement:
    """Compare draws, named as the reference, with the reference."""
    pairs = [(columns[name], reference) for name, reference in posterior.reference.items()]
    means = [abs(ours.mean() - theirs.mean()) / theirs.std() for ours, theirs in pairs]
    ratios = [ours.std() / theirs.std() for ours, theirs in pairs]
    return Agreement(max(means), min(ratios), max(ratios))


def main() -> None:
    """Fit the posteriors named on the command line, or all, and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m models.posteriordb", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--posteriordb", metavar="DIR", help=f"a checkout (default: ${VARIABLE})")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"unknown posterior {unknown[0]!r}; expected one of {', '.join(NAMES)}")
    try:
        root = find_root(arguments.posteriordb)
    except FileNotFoundError as error:
        parser.error(str(error))

    print(f"reference draws and data: {root}")
    print("|dm|: largest difference of posterior means in reference sds; sd: ratio of sds\n")
    print("posterior                    D  status        ELBO, nats  gradients  seconds"
          "    |dm|   least and greatest sd")  # fmt: skip
    for name in arguments.names or NAMES:
        posterior = load(name, root)
        start = time.perf_counter()
        fit = advi.fit(posterior.model, posterior.data)
        seconds = time.perf_counter() - start
        near = agreement(posterior, posterior.columns(fit.sample(DRAWS)))
        print(
            f"{name:<26} {posterior.model.size:>3}  {fit.status:<10} {fit.elbo.value:>13.2f}  "
            f"{fit.diagnostics['num_gradients']:>9}  {seconds:>7.1f}  {near.worst_mean:>6.3f}   "
            f"{near.least_sd:.3f}  {near.greatest_sd:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
