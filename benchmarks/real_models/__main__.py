"""The default call and its verdict on models of applied statistics with real data.

Every model is fitted by ``advi.fit(model, data, key=key)``, and its draws are compared with the
reference. The true level is good if every mean is within a quarter of the reference's sd and every
sd within [0.8, 1.25] of it; means only, if the means are; poor otherwise.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import advi
from benchmarks.accuracy import DRAWS, Errors, Reference, errors, read_references
from benchmarks.common import print_header, print_table, save
from benchmarks.problem import Problem
from benchmarks.real_models import FILE, NAMES, load
from benchmarks.verdict import confusion, draw_confusion, overrated, print_confusion
from models.posteriordb.definition import scalar_columns
from models.shared_data import VARIABLE

KEYS = 3
FIT, CORRECTED = "fit", "corrected"

Record = dict[str, Any]


def measure(m: Problem, reference: Reference, key: int, corrected: bool) -> list[Record]:
    """Fit once by default; return the verdict beside the truth, and again once corrected."""
    begin = time.perf_counter()
    fit = advi.fit(m.model, m.data, key=key)
    records = [_record(m, key, FIT, fit, reference, time.perf_counter() - begin)]
    if corrected:
        begin = time.perf_counter()
        better = fit.corrected()
        records.append(_record(m, key, CORRECTED, better, reference, time.perf_counter() - begin))
    return records


def _record(
    m: Problem, key: int, kind: str, fit: Any, reference: Reference, seconds: float
) -> Record:
    draws = fit.sample(DRAWS)
    found = errors(scalar_columns({name: np.asarray(x) for name, x in draws.items()}), reference)
    return {
        "model": m.name,
        "key": key,
        "kind": kind,
        "size": len(reference),
        "status": str(fit.status) if kind == FIT else "",
        "verdict": fit.verdict.level,
        "reasons": list(fit.verdict.reasons),
        "truth": found.level,
        "errors": found._asdict(),
        "seconds": seconds,
    }


def print_records(records: Sequence[Record]) -> None:
    """Print a line for every fit."""
    rows = []
    for r in records:
        found = Errors(**r["errors"])
        rows.append([
            r["model"],
            str(r["key"]),
            r["kind"],
            str(r["size"]),
            r["verdict"],
            r["truth"],
            "FALSE" if overrated(r["verdict"], r["truth"]) else "",
            f"{found.shift:.2f} {found.shift_column}",
            f"{found.least:.2f} {found.least_column}",
            f"{found.greatest:.2f} {found.greatest_column}",
            f"{r['seconds']:.1f}",
        ])  # fmt: skip
    header = ["model", "key", "of", "D", "called", "is", "", "|dm|, sd", "least sd ratio"]
    print_table([*header, "greatest", "s"], rows)
    print()


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Count what was called good and what is."""

    def count(verdict: str, wrong: bool = False) -> int:
        return sum(
            r["verdict"] == verdict and (not wrong or overrated(verdict, r["truth"]))
            for r in records
        )

    return {
        "fits": len(records),
        "called_good": count("good"),
        "false_good": count("good", wrong=True),
        "false_means_only": count("means_only", wrong=True),
        "truly_good": sum(r["truth"] == "good" for r in records),
        "seconds": float(np.median([r["seconds"] for r in records])),
        "confusion": confusion(records, "verdict", "truth"),
    }


def main(arguments: list[str] | None = None) -> None:
    """Fit, judge, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", metavar="DIR", help=f"shared data (default: ${VARIABLE})")
    parser.add_argument("--keys", type=int, default=KEYS)
    parser.add_argument("--names", nargs="+", metavar="NAME", default=NAMES, help="default: all")
    parser.add_argument("--corrected", action="store_true", help="judge corrected fits, too")
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)
    for name in args.names:
        if name not in NAMES:
            parser.error(f"unknown model {name!r}; expected some of {', '.join(NAMES)}")

    print_header(f"The default call on real models, {args.keys} keys")
    references = read_references(FILE)
    records = []
    for m in load(args.data, args.names):
        for key in range(args.keys):
            records += measure(m, references[m.name], key, args.corrected)
            print(f"{m.name}, key {key}: {records[-1]['verdict']}, is {records[-1]['truth']}")
    print()
    print_records(records)

    summary = {}
    for kind in (FIT, CORRECTED) if args.corrected else (FIT,):
        of_kind = [r for r in records if r["kind"] == kind]
        summary[kind] = counts = summarise(of_kind)
        print_confusion(kind, counts["confusion"])
        print(
            f"{kind}: {counts['called_good']} of {counts['fits']} called good "
            f"({counts['called_good'] / counts['fits']:.0%}), {counts['false_good']} falsely; "
            f"{counts['false_means_only']} falsely means only; "
            f"{counts['truly_good']} truly good ({counts['truly_good'] / counts['fits']:.0%}); "
            f"{counts['seconds']:.1f} s in the median\n"
        )

    def draw(axes: Any) -> None:
        draw_confusion(axes, summary[FIT]["confusion"])

    settings = {k: v for k, v in vars(args).items() if k not in ("out", "data")}
    save("real_models", {"settings": settings, "summary": summary, "fits": records}, draw, args.out)


if __name__ == "__main__":
    main()
