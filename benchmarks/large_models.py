"""Models with hundreds to thousands of latents, whose moments are known: how good and how dear.

A fit with a sparse precision is judged against long runs of NUTS, or against quadrature, which
``--references`` makes and writes into ``large_models.json``. Where a cut is below the size from
which the default call takes that family it is asked for, and a fit that is not good is corrected
as the default call would. Time is CPU seconds, compilation included in those of the first key.
Groups and the full sizes of the others are only timed, each fit in a new process.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import advi
from benchmarks.accuracy import Errors, Reference, errors, read_references
from benchmarks.common import print_header, print_table, run_fresh, save
from benchmarks.large_problems import FULL, OWN, SHARED, Large, groups
from benchmarks.make_references import faults, make
from benchmarks.random_walk import walk, walk_moments
from benchmarks.verdict import overrated
from models.posteriordb.definition import scalar_columns
from models.shared_data import VARIABLE, find_data

FILE = Path(__file__).with_suffix(".json")
WALK, GROUPS, FULL_SIZES = "walk", "groups", "full"
ONLY_TIMED = GROUPS, FULL_SIZES
SIMULATED = {**OWN, WALK: walk}
NAMES = (*SHARED, *SIMULATED, *ONLY_TIMED)
SIZES = (12_500, 25_000, 50_000, 100_000)
QUANTILE = 0.95  # of the errors of effects
CHAINS, WARMUP, DRAWS, ACCEPT = 2, 1000, 2000, 0.8
# of the sds and levels that NUTS explores slowly
MORE_DRAWS = {"grid": 2800, "ratings": 3000, "volatility": 2800, "radon": 3300, "items": 4800}

Record = dict[str, Any]


def load(name: str, data: str | None) -> Large | None:
    """Return a problem, or None with a word on it where its data are not there."""
    if name in SIMULATED:
        return SIMULATED[name]()
    try:
        return SHARED[name](find_data(data))
    except FileNotFoundError as error:
        print(f"skipped: {name}, {error}")
        return None


def is_effect(column: str, large: Large) -> bool:
    """Return whether a scalar, ``name[1]``, is an entry of an effect."""
    return column.split("[")[0] in large.effects


def measure(large: Large, key: int, reference: Reference, family: str | None = None) -> Record:
    """Fit once, correct what is not good as the default would, and compare the moments."""
    problem, family = large.problem, family or large.family
    begin = time.process_time()
    fit = advi.fit(problem.model, problem.data, family=family, key=key, progress=False)
    first = fit.verdict.level
    if family != "auto" and first in ("means_only", "poor"):
        fit = fit.corrected()
    mean, sd = fit.mean(), fit.sd()
    seconds = time.process_time() - begin
    # two draws have the moments that the fit tells
    pairs = {k: np.stack([mean[k] - sd[k], mean[k] + sd[k]]) for k in problem.model.latents}
    columns = {k: x for k, x in scalar_columns(pairs).items() if k in reference}
    of_globals = {k: m for k, m in reference.items() if not is_effect(k, large)}
    each = [errors(columns, {k: m}) for k, m in reference.items() if is_effect(k, large)]
    found = errors(columns, of_globals)
    made = [line for line in repr(fit).splitlines() if line.startswith("made by ")]
    return {
        "problem": problem.name,
        "key": key,
        "status": str(fit.status),
        "first_verdict": first,
        "verdict": fit.verdict.level,
        "reasons": fit.verdict.reasons,
        "truth": found.level,
        "errors": found._asdict(),
        "effect_shift": float(np.quantile([e.shift for e in each], QUANTILE)),
        "effect_log_ratio": float(np.quantile([abs(np.log(e.least)) for e in each], QUANTILE)),
        "seconds": seconds,
        "made": (made or [family])[0].removeprefix("made by "),
    }


def line(r: Record) -> list[str]:
    """Return a fit's line of the table."""
    of = Errors(**r["errors"])
    return [
        r["problem"],
        str(r["key"]),
        r["first_verdict"],
        r["verdict"],
        r["truth"],
        f"{of.shift:.3f}",
        of.shift_column,
        f"{of.least:.3f}",
        f"{of.greatest:.3f}",
        f"{r['effect_shift']:.3f}",
        f"{r['effect_log_ratio']:.3f}",
        f"{r['seconds']:.1f}",
        r["made"],
    ]


def timed(
    name: str, size: int | None = None, data: str | None = None, family: str = "auto"
) -> Record:
    """Fit in this process; return its CPU seconds and peak memory since its start."""
    model, rows = groups(size) if size else FULL[name](data)
    fit = advi.fit(model, rows, family=family, progress=False)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "model": name,
        "latents": model.size,
        "seconds": used.ru_utime + used.ru_stime,
        "gib": used.ru_maxrss / 2**20,
        "elbo": fit.elbo.value,
        "verdict": fit.verdict.level,
        "size": size,
    }


def timed_anew(*args: Any) -> Record:
    """Call `timed` in a new process."""
    code = "import json; from benchmarks import large_models; "
    code += f"print(json.dumps(large_models.timed(*{args!r})))"
    return json.loads(run_fresh(code).splitlines()[-1])


def slope(sizes: list[Record]) -> float:
    """Return the slope of log CPU seconds against log groups."""
    x, y = (np.log([r[what] for r in sizes]) for what in ("size", "seconds"))
    return float(np.polyfit(x, y, 1)[0])


def make_references(names: list[str], data: str | None, file: Path) -> None:
    """Make the references of problems and keep them, those that fail their checks excepted."""
    for name in names:
        large = load(name, data) if name not in ONLY_TIMED else None
        if large is None:
            continue
        wrong: list[str] = []
        if name == WALK:
            of = walk_moments(large.problem.data["y"])
            made = {"data": large.problem.source, "sampler": "none: quadrature", "of": of}
        else:
            draws = MORE_DRAWS.get(name, DRAWS)
            with jax.enable_x64(True):
                made = make(large.problem, CHAINS, WARMUP, draws, ACCEPT)
            wrong = faults(made)
        print(name, {k: v for k, v in made.items() if k not in ("of", "data")})
        print(f"  not kept: {', '.join(wrong)}" if wrong else "  kept", flush=True)
        if not wrong:
            kept = json.loads(file.read_text()) if file.exists() else {}
            file.write_text(json.dumps(kept | {name: made}, indent=1) + "\n")


def cells(r: Record) -> list[str]:
    """Return a timed fit's line of the table."""
    numbers = f"{r['latents']:,}", f"{r['seconds']:.1f}", f"{r['gib']:.2f}", f"{r['elbo']:,.2f}"
    return [r["model"], *numbers, r["verdict"]]


def print_summary(records: list[Record]) -> Record:
    """Print how many are called good and how many of these are, and name the violations."""
    good = [r for r in records if r["verdict"] == "good"]
    truly = sum(r["truth"] == "good" for r in good)
    print(f"\ncalled good: {len(good)} of {len(records)}, of these truly: {truly}")
    violations = [r for r in records if overrated(r["verdict"], r["truth"])]
    for r in violations:
        print(f"violation: {r['problem']}, key {r['key']}, {r['verdict']}: {Errors(**r['errors'])}")
    return {"called_good": len(good), "truly": truly, "violations": len(violations)}


def main(arguments: list[str] | None = None) -> None:
    """Fit the problems named on the command line, or all; print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--data", metavar="DIR", help=f"shared data (default: ${VARIABLE})")
    parser.add_argument("--keys", type=int, default=5)
    parser.add_argument("--family", help="of every problem (default: sparse, auto of the walk)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="of groups")
    parser.add_argument("--references", action="store_true", help="make these, and no fits")
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)
    names = args.names or list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"unknown model {unknown[0]!r}; expected some of {', '.join(NAMES)}")
    if args.references:
        make_references(names, args.data, args.out / FILE.name if args.out else FILE)
        return

    print_header("Models with hundreds to thousands of latents")
    references, records = read_references(FILE), []
    for name in names:
        large = load(name, args.data) if name not in ONLY_TIMED else None
        if large is not None and name not in references:
            print(f"skipped: {name}, no reference in {FILE.name}; --references {name} makes it")
        elif large is not None:
            of = references[name]
            records += [measure(large, key, of, args.family) for key in range(args.keys)]
    summary: Record = {}
    if records:
        header = ["model", "key", "first", "verdict", "truth", "|dm|", "of", "least sd", "greatest"]
        header += [f"effects |dm| {QUANTILE:.0%}", "|log sd|", "CPU s", "made by"]
        print_table(header, [line(r) for r in records])
        summary = print_summary(records)
    family = args.family or "auto"
    full = [timed_anew(name, None, args.data, family) for name in FULL if FULL_SIZES in names]
    sizes = [timed_anew(GROUPS, size, None, family) for size in args.sizes if GROUPS in names]
    if full or sizes:
        print()
        print_table(
            ["model", "latents", "CPU s", "peak GiB", "ELBO", "verdict"],
            [cells(r) for r in full + sizes],
        )
    if len(sizes) > 1:
        summary["slope"] = slope(sizes)
        print(f"slope of log CPU seconds on log groups: {summary['slope']:.2f}")

    def draw(axes: Any) -> None:
        for r in records:
            axes.semilogy(r["seconds"], r["errors"]["shift"], "o", color="tab:blue")
            axes.annotate(r["problem"], (r["seconds"], r["errors"]["shift"]), fontsize=7)
        axes.axhline(0.25, color="grey")
        axes.set(xlabel="CPU seconds", ylabel="largest error of a global's mean, sds")

    result = {"fits": records, "full": full, "groups": sizes, "summary": summary}
    save("large_models", result, draw, args.out)


if __name__ == "__main__":
    main()
