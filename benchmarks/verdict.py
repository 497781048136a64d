"""The verdict against the truth: how often "good" and "means only" are right, and what they cost.

The truth is good if every mean is within a quarter of the reference's sd and every sd within
[0.8, 1.25] of it; means only, if the means are; poor otherwise. The references are posteriordb's
draws, closed forms, and long NUTS runs (`benchmarks.targets`), and for Gaussians and regressions
with many predictors closed forms and importance sampling (`benchmarks.regressions`). Densities
without a posterior (`benchmarks.improper`) are poor whatever comes out. A verdict below the truth
costs an effort that was not needed; one above it is a violation, and every one is named.
"""

import argparse
import itertools
import json
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import advi
from benchmarks import angles, improper, regressions
from benchmarks.accuracy import DRAWS, Errors, errors, errors_of, moments
from benchmarks.common import print_header, print_table, save
from benchmarks.targets import Target, synthetic
from models.posteriordb import NAMES, load
from models.posteriordb.checkout import VARIABLE, find_root

LEVELS = ("good", "means_only", "poor")
FAMILIES = ("mean_field", "full_rank", "triangular", "auto")
KEYS = 5
POSTERIORDB, SYNTHETIC, GAUSSIAN = "posteriordb", "synthetic", "Gaussian"
ANGLES, STREAMS, IMPROPER = "angles", "streams", "improper"
SOURCES = (POSTERIORDB, SYNTHETIC, GAUSSIAN, ANGLES, STREAMS, IMPROPER)
ONLY_AUTO = (GAUSSIAN, STREAMS)
UNCHECKED = "not checked"
NO_POSTERIOR = Errors(np.inf, "all", 0.0, "all", np.inf, "all")

Record = dict[str, Any]


def from_posteriordb(name: str, root: Path) -> Target:
    """Return one posterior of posteriordb as a target."""
    p = load(name, root)
    return Target(p.name, p.model, p.data, moments(p.reference), p.columns)


def measure(target: Target, family: str, key: int) -> Record:
    """Fit once, judge, and return both beside the truth."""
    try:
        fit = advi.fit(
            target.model, target.data, family=family, key=key, diagnose=family == "auto",
            **target.options,
        )  # fmt: skip
    except ValueError as error:  # what has no posterior may be refused
        return refusal(target, family, key, error)
    density = fit.posterior.density
    before = density.num_gradients, density.num_values
    begin = time.perf_counter()
    fit = fit if family == "auto" else fit.check()  # which checks by itself, and goes on
    seconds = time.perf_counter() - begin
    cost = density.num_gradients - before[0], density.num_values - before[1]
    figures = fit.diagnostics
    found = "method" in figures  # there are none where the fit could not be checked
    shift = max(figures["mean_shift"].items(), key=lambda item: item[1]) if found else None
    ratio = (
        max(figures["sd_ratio"].items(), key=lambda item: abs(np.log(item[1]))) if found else None
    )
    if target.options:
        plain = errors(target.columns(fit.sample(DRAWS)), target.reference)
        corrected, corrected_level = plain, UNCHECKED  # a stream's rows are not there to correct by
    elif target.reference:
        plain, corrected, corrected_level = errors_of(fit, target.columns, target.reference)
    else:
        plain = corrected = NO_POSTERIOR
        corrected_level = fit.corrected().verdict.level
    return {
        "target": target.name,
        "family": family,
        "key": key,
        "status": str(fit.status),
        "gradients": fit.diagnostics["num_gradients"],
        "truth": plain.level,
        "verdict": fit.verdict.level,
        "reasons": fit.verdict.reasons,
        "errors": plain._asdict(),
        "khat": fit.khat,
        "method": figures.get("method", "nothing"),
        "shift_found": shift,
        "ratio_found": ratio,
        "check_gradients": cost[0],
        "check_values": cost[1],
        "check_seconds": seconds,
        "corrected_truth": corrected.level,
        "corrected_verdict": corrected_level,
        "corrected_errors": corrected._asdict(),
    }


def refusal(target: Target, family: str, key: int, error: ValueError) -> Record:
    """Return the record of a fit that was refused.

    Raises
    ------
    ValueError
        If the target has a posterior.
    """
    if target.reference:
        raise error
    of_fit = {
        "status": "refused",
        "gradients": 0,
        "reasons": (str(error),),
        "khat": np.nan,
        "method": "nothing",
        "shift_found": None,
        "ratio_found": None,
        "check_gradients": 0,
        "check_values": 0,
        "check_seconds": 0.0,
    }
    kinds = ("", "corrected_")
    of_kind = {f"{kind}truth": "poor" for kind in kinds}
    of_kind |= {f"{kind}verdict": UNCHECKED for kind in kinds}
    of_kind |= {f"{kind}errors": NO_POSTERIOR._asdict() for kind in kinds}
    return {"target": target.name, "family": family, "key": key, **of_fit, **of_kind}


def confusion(records: Sequence[Record], verdict: str, truth: str) -> list[list[int]]:
    """Return counts, a row for every truth and a column for every verdict."""
    counts = Counter((r[truth], r[verdict]) for r in records)
    return [[counts[t, v] for v in LEVELS] for t in LEVELS]


def overrated(verdict: str, truth: str) -> bool:
    """Return whether a verdict promises more than is true."""
    return verdict in LEVELS and LEVELS.index(verdict) < LEVELS.index(truth)


def print_confusion(title: str, counts: list[list[int]]) -> None:
    """Print a confusion table."""
    print(f"{title}: rows truth, columns verdict\n")
    rows = [[t, *map(str, row)] for t, row in zip(LEVELS, counts, strict=True)]
    print_table(["truth", *LEVELS], rows)
    print()


def print_violation(r: Record, kind: str = "") -> None:
    """Print one verdict that promises more than is true."""
    truth, verdict = r[f"{kind}truth"], r[f"{kind}verdict"]
    errors = Errors(**r[f"{kind}errors"])
    found = (
        ""
        if kind
        else f"; found by {r['method']}: mean of {r['shift_found'][0]} off by "
        f"{r['shift_found'][1]:.2f}, sd of {r['ratio_found'][0]} times {r['ratio_found'][1]:.2f}; "
        f"k-hat {r['khat']:.2f}"
    )
    print(
        f"{r['target']}, {r['family']}, key {r['key']}: called {verdict}, is {truth}: "
        f"{errors}{found}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Fit, judge, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--posteriordb", metavar="DIR", help=f"a checkout (default: ${VARIABLE})")
    parser.add_argument("--keys", type=int, default=KEYS)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--names", nargs="+", metavar="NAME", help="targets; all by default")
    parser.add_argument("--resume", type=Path, help="a file of the fits so far, and of more")
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)

    print_header(f"The verdict against the truth, {args.keys} keys")
    try:
        root = find_root(args.posteriordb)
    except FileNotFoundError as error:
        root = None
        print(f"skipped: {', '.join(NAMES)}, {error}")
    made = {
        POSTERIORDB: [] if root is None else [from_posteriordb(name, root) for name in NAMES],
        SYNTHETIC: synthetic(root),
        IMPROPER: [
            Target(name, advi.Model(*of), improper.data(), {})
            for name, of in improper.DENSITIES.items()
        ],
    }
    makers = {s: {t.name: partial(_itself, t) for t in targets} for s, targets in made.items()}
    makers |= {
        GAUSSIAN: regressions.makers(),
        ANGLES: angles.makers(),
        STREAMS: regressions.streams(),
    }
    names = [name for targets in makers.values() for name in targets]
    for name in args.names or []:
        if name not in names:
            parser.error(f"unknown target {name!r}; expected some of {', '.join(names)}")

    kept = read_records(args.resume)
    records = []
    for source, targets in makers.items():
        for name, make in targets.items():
            if args.names and name not in args.names:
                continue
            target = None
            families = args.families if source not in ONLY_AUTO else {"auto"} & {*args.families}
            for family, key in itertools.product(families, range(args.keys)):
                record = kept.get((name, family, key))
                if record is None:
                    target = target or make()
                    record = {"source": source, **measure(target, family, key)}
                    append_record(args.resume, record)
                records.append(record)
    print_targets(records)
    summary = print_summary(records)

    def draw(axes: Any) -> None:
        draw_confusion(axes, confusion(records, "verdict", "truth"))

    places = "out", "posteriordb", "resume"
    settings = {k: v for k, v in vars(args).items() if k not in places}
    result = {"settings": settings, "summary": summary, "fits": records}
    save("verdict", result, draw, args.out)


def read_records(file: Path | None) -> dict[tuple[str, str, int], Record]:
    """Return the fits of a file by target, family and key."""
    if file is None or not file.exists():
        return {}
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {(r["target"], r["family"], r["key"]): r for r in records}


def append_record(file: Path | None, record: Record) -> None:
    """Write a fit at the end of a file, if there is one."""
    if file is not None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")


def _itself(target: Target) -> Target:
    return target


def print_targets(records: list[Record]) -> None:
    """Print a line for every target and family."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for r in records:
        groups.setdefault((r["target"], r["family"]), []).append(r)

    def levels(group: list[Record], which: str) -> str:
        counts = Counter(r[which] for r in group)
        told = "/".join(str(counts[level]) for level in LEVELS)
        return told + (f" ({counts[UNCHECKED]} not)" if counts[UNCHECKED] else "")

    def median(group: list[Record], which: str, what: str) -> str:
        return f"{np.median([r[which][what] for r in group]):.3g}"

    rows = [
        [
            target,
            family,
            f"{sum(r['status'] == 'converged' for r in group)}/{len(group)}",
            *(median(group, "errors", what) for what in ("shift", "least", "greatest")),
            levels(group, "truth"),
            levels(group, "verdict"),
            *(median(group, "corrected_errors", what) for what in ("shift", "least", "greatest")),
            levels(group, "corrected_truth"),
            levels(group, "corrected_verdict"),
            str(sum(r["method"] == "HMC" for r in group)),
        ]
        for (target, family), group in groups.items()
    ]
    print("good/means only/poor (not checked) over keys; errors in the median; c: corrected\n")
    header = ["|dm|", "least sd", "greatest", "truth", "verdict"]
    corrected = [f"c {h}" for h in header]
    print_table(["target", "family", "converged", *header, *corrected, "by HMC"], rows)
    print()


def print_summary(records: list[Record]) -> dict[str, Any]:
    """Print confusion tables, violations and costs, and return the counts."""
    tables = {}
    for source in SOURCES:
        of_source = [r for r in records if r["source"] == source]
        if of_source:
            tables[source] = confusion(of_source, "verdict", "truth")
            print_confusion(source, tables[source])
    tables["all"] = confusion(records, "verdict", "truth")
    tables["corrected"] = confusion(records, "corrected_verdict", "corrected_truth")
    print_confusion("all", tables["all"])
    print_confusion("all, corrected moments", tables["corrected"])

    violations = [r for r in records if overrated(r["verdict"], r["truth"])]
    print(f"violations, verdicts that promise more than is true: {len(violations)}")
    for r in violations:
        print_violation(r)
    of_corrected = [r for r in records if overrated(r["corrected_verdict"], r["corrected_truth"])]
    print(f"\nviolations by corrected fits: {len(of_corrected)}")
    for r in of_corrected:
        print_violation(r, "corrected_")

    autos = [r for r in records if r["source"] == POSTERIORDB and r["family"] == "auto"]
    if autos:
        good = sum(r["verdict"] == "good" for r in autos)
        truly = sum(r["truth"] == "good" for r in autos)
        print(
            f"\nposteriordb, auto: verdict good on {good} of {len(autos)}, true of {truly} "
            f"({good / len(autos):.0%})"
        )
    gaussians = [r for r in records if r["source"] == GAUSSIAN and r["truth"] == "good"]
    if gaussians:
        good = sum(r["verdict"] == "good" for r in gaussians)
        print(
            f"\nGaussians and regressions that are good: called so {good} of {len(gaussians)} "
            f"({good / len(gaussians):.1%})"
        )
    costs = {}
    print("\ncost of a verdict: median, 90 % and most")
    for what in ("check_values", "check_gradients", "check_seconds"):
        values = [r[what] for r in records]
        costs[what] = [float(f(values)) for f in (np.median, _ninety, np.max)]
        print(f"{what.removeprefix('check_'):<10} " + "  ".join(f"{v:.4g}" for v in costs[what]))
    return {
        "confusion": tables,
        "violations": len(violations),
        "corrected_violations": len(of_corrected),
        "auto_good": sum(r["verdict"] == "good" for r in autos),
        "autos": len(autos),
        "costs": costs,
    }


def _ninety(values: Sequence[float]) -> Any:
    return np.percentile(values, 90)


def draw_confusion(axes: Any, counts: list[list[int]]) -> None:
    """Draw a confusion table: what is false is red."""
    shares = np.array(counts) / np.maximum(np.sum(counts, axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=2)
    words = [level.replace("_", " ") for level in LEVELS]
    for i, j in np.ndindex(len(LEVELS), len(LEVELS)):
        false = overrated(LEVELS[j], LEVELS[i]) and counts[i][j]
        color = "tab:red" if false else "black"
        axes.text(j, i, str(counts[i][j]), ha="center", va="center", color=color, fontsize=14)
    axes.set_xticks(range(len(LEVELS)), words)
    axes.set_yticks(range(len(LEVELS)), words)
    axes.set(xlabel="verdict", ylabel="truth", title="Fits by verdict and truth")


if __name__ == "__main__":
    main()
