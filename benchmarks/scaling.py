"""How time and memory of a fit grow: with latents and draws, beside NumPyro's SVI, and with rows.

It prints the CPU seconds, the gradients and the memory of each size, and the slope of log seconds
against log size: 1 is linear. Each fit is one of a new process, compilation included, and the
contestants take turns.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import scaling_latents, scaling_rows
from benchmarks.common import print_header, save


class Part(NamedTuple):
    """One thing that a problem grows in."""

    title: str
    measure: Callable[[argparse.Namespace], dict[str, Any]]  # prints its tables, returns figures
    draw: Callable[[Any, dict[str, Any]], None]  # on Matplotlib axes
    add_arguments: Callable[[argparse.ArgumentParser], None]


PARTS = {
    "latents": Part(
        "Mean fields of hierarchies of many groups",
        scaling_latents.measure,
        scaling_latents.draw,
        scaling_latents.add_arguments,
    ),
    "rows": Part(
        "Logistic regressions of many rows",
        scaling_rows.measure,
        scaling_rows.draw,
        scaling_rows.add_arguments,
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Measure the parts that are asked for, print their tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--what", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for the results")
    for part in PARTS.values():
        part.add_arguments(parser)
    args = parser.parse_args(arguments)
    for name in args.what:
        part = PARTS[name]
        print_header(part.title)
        found = part.measure(args)
        save(f"scaling_{name}", found, lambda axes, p=part, f=found: p.draw(axes, f), args.out)


if __name__ == "__main__":
    main()
