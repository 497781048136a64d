"""What a neural flow of flowjax gains over the families of advi, and what it costs.

Each family fits each target with several keys in a process of its own. The first fit compiles, the
others do not; seconds are CPU seconds of the process, with the verdict and, for the default, all
that follows the Gaussian. Errors of means and sds are the worst of all scalars and keys.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import advi
from benchmarks import real_models, targets
from benchmarks.accuracy import DRAWS, errors, read_references
from benchmarks.common import print_header, print_table, save
from benchmarks.targets import Target

ROOT = Path(__file__).parents[1]
FLOW = "flow"
FAMILIES = ("auto", "full_rank", "triangular", FLOW)


def coal_process() -> Target:
    """Return the Poisson counts of a Gaussian process, 31 latents."""
    [p] = real_models.load(names=["coal_process"])
    return Target(p.name, p.model, p.data, read_references(real_models.FILE)[p.name])


TARGETS: dict[str, Callable[[], Target]] = {
    "eight_schools_centred": targets.eight_schools_centred,
    "coal_process": coal_process,
    "banana": lambda: targets.banana(1),
}


def family_of(name: str) -> Any:
    """Return what `advi.fit` takes as the family."""
    if name != FLOW:
        return name
    from models.coupling_flow import CouplingFlow  # needs flowjax

    return CouplingFlow()


def work(target: str, family: str, keys: int) -> list[dict[str, Any]]:
    """Fit with every key in this process."""
    made, found = TARGETS[target](), []
    for key in range(keys):
        begin = time.process_time()
        fit = advi.fit(made.model, made.data, family=family_of(family), key=key)
        seconds = time.process_time() - begin
        off = errors(made.columns(fit.sample(DRAWS)), made.reference)
        found.append({
            "elbo": fit.elbo.value,
            "shift": off.shift,
            "least": off.least,
            "greatest": off.greatest,
            "verdict": fit.verdict.level,
            "seconds": seconds,
        })  # fmt: skip
    return found


def run_fresh(target: str, family: str, keys: int) -> list[dict[str, Any]]:
    """Call `work` in a new process.

    Raises
    ------
    RuntimeError
        If it fails; the message ends with what it wrote to its standard error.
    """
    call = f"flows.work({target!r}, {family!r}, {keys})"
    code = f"import json; from benchmarks import flows; print(json.dumps({call}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{family} failed on {target}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def row(target: str, family: str, found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the line of one family on one target."""
    elbos = [f["elbo"] for f in found]
    later = [f["seconds"] for f in found[1:]]
    return [
        target,
        family,
        f"{min(elbos):.2f} to {max(elbos):.2f}",
        f"{max(f['shift'] for f in found):.2f}",
        f"{min(f['least'] for f in found):.2f} to {max(f['greatest'] for f in found):.2f}",
        ", ".join(dict.fromkeys(f["verdict"] for f in found)),
        f"{found[0]['seconds']:.1f}",
        f"{np.median(later):.1f}" if later else "",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Fit, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--names", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--keys", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)

    print_header(f"A flow beside the families of advi, {args.keys} keys")
    found = {
        name: {family: run_fresh(name, family, args.keys) for family in args.families}
        for name in args.names
    }
    header = ["target", "family", "ELBO, nats", "|dm|, sd", "sd ratios", "verdict", "first, s"]
    rows = [row(name, family, f) for name, of in found.items() for family, f in of.items()]
    print_table([*header, "next, s"], rows)
    print("auto shows corrected draws where it has corrected them; its ELBO is that of its family")

    def draw(axes: Any) -> None:
        for family in args.families:
            best = [max(f["elbo"] for k in of for f in of[k]) for of in found.values()]
            below = [b - of[family][0]["elbo"] for b, of in zip(best, found.values(), strict=True)]
            axes.plot(below, range(len(found)), "o", label=family)
        axes.set_yticks(range(len(found)), list(found))
        axes.set(xlabel="ELBO below the best, nats", title="A flow beside other families")
        axes.legend()

    settings = {"names": args.names, "families": args.families, "keys": args.keys}
    save("flows", {"settings": settings, "found": found}, draw, args.out)


if __name__ == "__main__":
    main()
