"""posteriordb: sixteen posteriors fitted with the defaults, against their reference draws.

Means and sds are those of 20,000 draws, plain and corrected, on the constrained scale, over the
scalars that have reference draws. |dm| is the largest difference of means in reference sds, and
the sd ratios are the fit's over the reference's. Warm timings include the verdict and leave out
compilation; cold ones are a first fit in a fresh process, compilation included.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import advi
from benchmarks.accuracy import Errors, errors_of, moments
from benchmarks.common import print_header, print_table, save
from models.posteriordb import NAMES, Posterior, load
from models.posteriordb.checkout import VARIABLE, find_root

ROOT = Path(__file__).parents[1]
FAMILIES = ("auto", "mean_field", "full_rank")
KEYS = 5

COLD = """
import sys, time, advi
from models.posteriordb import load
p = load(sys.argv[1], sys.argv[2])
begin = time.perf_counter()
advi.fit(p.model, p.data, family=sys.argv[3])
print(time.perf_counter() - begin)
"""

Record = dict[str, Any]


def measure(posterior: Posterior, family: str, key: int) -> Record:
    """Fit once and return the figures."""
    begin = time.perf_counter()
    fit = advi.fit(posterior.model, posterior.data, family=family, key=key)
    seconds = time.perf_counter() - begin
    plain, corrected, level = errors_of(fit, posterior.columns, moments(posterior.reference))
    return {
        "posterior": posterior.name,
        "dim": posterior.model.size,
        "family": family,
        "key": key,
        "status": str(fit.status),
        "message": fit.status.message,
        "gradients": fit.diagnostics["num_gradients"],
        "seconds": seconds,
        "elbo": fit.elbo.value,
        "khat": fit.khat,
        "plain": plain._asdict(),
        "corrected": corrected._asdict(),
        "verdict": fit.verdict.level,
        "reasons": fit.verdict.reasons,
        "corrected_verdict": level,
    }


def cold_seconds(name: str, root: Path, family: str) -> float:
    """Return the seconds of the first fit in a fresh process, without a compilation cache."""
    done = subprocess.run(
        [sys.executable, "-c", COLD, name, str(root), family],
        cwd=ROOT, env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the cold fit of {name} failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def spread(values: Sequence[float], digits: int, worst: Any = max) -> tuple[str, str]:
    """Return the median and the worst of some values, as text."""
    return f"{np.median(values):.{digits}f}", f"{worst(values):.{digits}f}"


def print_family(
    family: str, by_posterior: dict[str, list[Record]], cold: dict[str, float]
) -> None:
    """Print what the fits of one family cost, and how accurate they are."""
    fits, accuracy = [], []
    for name, records in by_posterior.items():
        converged = sum(r["status"] == "converged" for r in records)
        levels = [r["verdict"] for r in records]
        corrected_good = sum(r["corrected_verdict"] == "good" for r in records)
        fits.append(
            [
                name,
                str(records[0]["dim"]),
                f"{converged}/{len(records)}",
                *spread([r["gradients"] for r in records], 0),
                *spread([r["seconds"] for r in records], 2),
                f"{cold[name]:.2f}" if name in cold else "-",
                *spread([r["elbo"] for r in records], 2, min),
                *spread([r["khat"] for r in records], 2),
                "/".join(str(levels.count(x)) for x in ("good", "means_only", "poor")),
            ]
        )
        row = [name]
        for kind in ("plain", "corrected"):
            errors = [Errors(**r[kind]) for r in records]
            row += spread([e.shift for e in errors], 3)
            row += spread([e.least for e in errors], 3, min)
            row += spread([e.greatest for e in errors], 3)
            row.append(f"{sum(e.tight for e in errors)}/{len(errors)}")
        accuracy.append([*row, f"{corrected_good}/{len(records)}"])
    print(f"family {family}: fits, median and worst over keys\n")
    header = ["posterior", "D", "converged", "gradients", "worst", "warm s", "worst", "cold s"]
    print_table([*header, "ELBO, nats", "worst", "k-hat", "worst", "good/means/poor"], fits)
    print(f"\nfamily {family}: plain and corrected moments against the reference\n")
    header = ["|dm|", "worst", "least sd", "worst", "greatest", "worst", "tight"]
    print_table(["posterior", *header, *(f"c {h}" for h in header), "c good"], accuracy)
    print()


def summarise(records: list[Record]) -> dict[str, Any]:
    """Return the counts of one family's fits."""
    names = list(dict.fromkeys(r["posterior"] for r in records))

    def majority(kind: str) -> int:
        tight = [[Errors(**r[kind]).tight for r in records if r["posterior"] == n] for n in names]
        return sum(2 * sum(t) > len(t) for t in tight)

    gradients = [r["gradients"] for r in records]
    return {
        "fits": len(records),
        "converged": sum(r["status"] == "converged" for r in records),
        "posteriors": len(names),
        "tight_plain": majority("plain"),
        "tight_corrected": majority("corrected"),
        "gradients_median": float(np.median(gradients)),
        "gradients_90": float(np.percentile(gradients, 90)),
        "good": sum(r["verdict"] == "good" for r in records),
        "corrected_good": sum(r["corrected_verdict"] == "good" for r in records),
    }


def print_summary(family: str, s: dict[str, Any]) -> None:
    """Print the counts in words."""
    print(
        f"{family}: {s['converged']} of {s['fits']} fits converge; within .1 sd and 10 % on "
        f"{s['tight_plain']} of {s['posteriors']} posteriors plain, {s['tight_corrected']} "
        f"corrected (most keys); gradients {s['gradients_median']:.0f} in the median, "
        f"{s['gradients_90']:.0f} at 90 %; verdict good on {s['good']} of {s['fits']}, on "
        f"{s['corrected_good']} once corrected"
    )


def main(arguments: list[str] | None = None) -> None:
    """Fit, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--posteriordb", metavar="DIR", help=f"a checkout (default: ${VARIABLE})")
    parser.add_argument("--keys", type=int, default=KEYS)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES[:2]), choices=FAMILIES)
    parser.add_argument("--names", nargs="+", default=list(NAMES), choices=NAMES, metavar="NAME")
    parser.add_argument("--cold", action="store_true", help="also fit in fresh processes: slow")
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)
    root = find_root(args.posteriordb)

    print_header(f"Posteriors of posteriordb, fitted with the defaults, {args.keys} keys")
    posteriors = [load(name, root) for name in args.names]
    records: list[Record] = []
    summaries, cold = {}, {}
    for family in args.families:
        by_posterior = {}
        for posterior in posteriors:
            advi.fit(posterior.model, posterior.data, family=family, key=args.keys)  # compiles
            of_keys = [measure(posterior, family, key) for key in range(args.keys)]
            by_posterior[posterior.name] = of_keys
            records += of_keys
        cold[family] = (
            {name: cold_seconds(name, root, family) for name in args.names} if args.cold else {}
        )
        print_family(family, by_posterior, cold[family])
        summaries[family] = summarise([r for r in records if r["family"] == family])
    for family, summary in summaries.items():
        print_summary(family, summary)
    for r in records:
        if r["status"] != "converged":
            print(f"not converged: {r['posterior']}, {r['family']}, key {r['key']}: {r['message']}")

    def draw(axes: Any) -> None:
        draw_errors(axes, records, args.names)

    settings = {k: v for k, v in vars(args).items() if k not in ("out", "posteriordb")}
    result = {"settings": settings, "summary": summaries, "cold": cold, "fits": records}
    save("posteriordb", result, draw, args.out)


def draw_errors(axes: Any, records: list[Record], names: list[str]) -> None:
    """Draw every posterior's worst error, median over keys, plain and corrected."""
    families = list(dict.fromkeys(r["family"] for r in records))
    for i, family in enumerate(families):
        for kind, face in (("plain", "none"), ("corrected", f"C{i}")):
            of = [
                np.median(
                    [
                        Errors(**r[kind]).tolerances
                        for r in records
                        if r["posterior"] == name and r["family"] == family
                    ]
                )
                for name in names
            ]
            rows = np.arange(len(names)) + 0.22 * (i - (len(families) - 1) / 2)
            label = f"{family.replace('_', ' ')}, {kind}"
            axes.scatter(of, rows, s=18, facecolors=face, edgecolors=f"C{i}", label=label)
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.grid(axis="y", linewidth=0.3)
    axes.set_xlabel("worst error of a mean or sd, in units of 0.1 sd and 10 % (median over keys)")
    axes.set_title("Fits against the reference draws of posteriordb", fontsize=10)
    axes.legend(fontsize=7)


if __name__ == "__main__":
    main()
