"""What the benchmarks share: fair timing, a description of the machine, and how results are kept.

Timings are medians over repeats in which the candidates take turns, every other round in reverse
order, so that a slow minute of the machine falls on all of them.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"  # git-ignored
Seconds = dict[str, list[float]]


def run_fresh(code: str) -> str:
    """Run a program in a new Python process, from the root of the repository.

    Returns
    -------
    str
        Its standard output.

    Raises
    ------
    RuntimeError
        If it fails; the message ends with what it wrote to its standard error.
    """
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"a timed program failed:\n{code}\n{done.stderr}")
    return done.stdout


def take_turns(
    tasks: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Seconds:
    """Time every task `repeats` times in alternating order.

    Parameters
    ----------
    tasks
        Name to a function that returns when its work is done: one that dispatches to JAX must wait
        for the result itself. Each is called once beforehand, so that compilation is not timed.
    repeats
        Timed calls of each task.
    clock
        Seconds so far: of the wall clock, if nothing else is asked for.

    Returns
    -------
    dict
        Name to seconds, one a repeat, in the order of time.
    """
    for task in tasks.values():
        task()
    seconds: Seconds = {name: [] for name in tasks}
    for repeat in range(repeats):
        names = list(tasks) if repeat % 2 == 0 else list(tasks)[::-1]
        for name in names:
            begin = clock()
            tasks[name]()
            seconds[name].append(clock() - begin)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of every candidate's timings, in their unit."""
    return {name: float(np.median(values)) for name, values in seconds.items()}


def machine() -> dict[str, str]:
    """Return what a timing depends on: processor, device, operating system and versions."""
    device = jax.devices()[0]
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "numpy", "numpyro", "optax"))
    return {
        "processor": f"{_processor()}, {os.cpu_count()} logical cores",
        "device": f"{device.platform} ({device.device_kind})",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": packages,
    }


def print_header(title: str) -> None:
    """Print the question a benchmark answers and the machine it is answered on."""
    print(f"{title}\n")
    for name, value in machine().items():
        print(f"{name:<10} {value}")
    print()


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text below a header, the first column to the left and the others right."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print("  ".join([row[0].ljust(widths[0]), *rest]))


def save(
    name: str, result: Mapping[str, Any], draw: Callable[[Any], None], folder: Path | None = None
) -> None:
    """Write a result as JSON and a plot, and print where they are.

    Parameters
    ----------
    name
        File name without its suffix.
    result
        JSON-serialisable; the machine and the time are added.
    draw
        Draws the result on the Matplotlib axes it is given. Without Matplotlib there is no plot.
    folder
        Where to write; `RESULTS` by default.
    """
    folder = folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    record = {"when": datetime.now(UTC).isoformat(), "machine": machine(), **result}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(record, indent=1))
    print(f"\nwritten: {path}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('no plot: it needs Matplotlib, pip install "advi-engine[benchmarks]"')
        return
    figure = Figure(figsize=(7, 4), layout="constrained")  # not pyplot: no window, no global state
    draw(figure.subplots())
    figure.savefig(path.with_suffix(".png"), dpi=150)
    print(f"written: {path.with_suffix('.png')}")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
