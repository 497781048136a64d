"""Rows on disk: the memory that a fit of them takes, and what reading them costs a step.

A sparse file stands for data larger than memory: it has its size, and is read like any other, but
its zeros take no place on the disk. Anonymous memory is what the process itself holds; pages of
mapped files are not part of it, since the system may drop them at any time.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpyro.distributions as dist

import advi
from benchmarks.common import print_header, print_table, save

MAX_GIB = 1.0  # anonymous memory above that of a small fit of the same model
IN_MEMORY, MAPPED, LIST = "in memory", "mapped file", "list of batches"


def log_joint(z: Any, d: Any) -> advi.Terms:
    """Return the log-joint density of a linear regression in nats, a term for each row."""
    prior = dist.Normal(0, 1).log_prob(z["w"]).sum() + dist.HalfNormal(1).log_prob(z["s"])
    return advi.Terms(prior, rows=dist.Normal(d["x"] @ z["w"], z["s"]).log_prob(d["y"]))


def model(dim: int) -> advi.Model:
    """Return the model for `dim` predictors."""
    return advi.Model(log_joint, {"w": advi.real(dim), "s": advi.positive()})


def anonymous_gib() -> float:
    """Return the anonymous memory that this process holds, GiB; Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 2**20
    raise RuntimeError("the system does not tell anonymous memory apart")


def mapped(folder: Path, num_rows: int, dim: int) -> dict[str, np.ndarray]:
    """Return arrays of zeros in sparse files."""
    shapes = {"x": (num_rows, dim), "y": (num_rows,)}
    return {
        name: np.memmap(folder / name, np.float32, "w+", shape=shape)
        for name, shape in shapes.items()
    }


def memory(folder: Path, gib: float, dim: int, batch_size: int, steps: int) -> dict[str, float]:
    """Return anonymous memory in GiB: after a small fit, and at most in a fit of a large file."""
    num_rows = int(gib * 2**30 / (4 * (dim + 1)))
    data = mapped(folder, num_rows, dim)
    arguments: dict[str, Any] = {"batch_size": batch_size, "progress": False}
    small = {name: np.array(leaf[: 8 * batch_size]) for name, leaf in data.items()}
    advi.fit(model(dim), small, max_steps=256, **arguments)
    before = anonymous_gib()
    seen = [before]

    def watch(progress: advi.Progress) -> None:
        seen.append(anonymous_gib())

    begin = time.perf_counter()
    advi.fit(model(dim), data, max_steps=steps, callback=watch, **arguments)
    seconds = time.perf_counter() - begin
    return {"rows": num_rows, "before": before, "most": max(seen), "seconds": seconds}


def speed(
    folder: Path, num_rows: int, dim: int, batch_size: int, steps: int, repeats: int
) -> dict[str, list[float]]:
    """Return the steps per second of each way to hold the same rows, one entry a repeat."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num_rows, dim), np.float32)
    in_memory = {"x": x, "y": x.sum(1) + rng.standard_normal(num_rows, np.float32)}
    on_disk = mapped(folder, num_rows, dim)
    for name, leaf in on_disk.items():
        leaf[:] = in_memory[name]
    batches = [
        {name: leaf[i : i + batch_size] for name, leaf in in_memory.items()}
        for i in range(0, num_rows, batch_size)
    ]
    ways: dict[str, tuple[Any, dict[str, Any]]] = {
        IN_MEMORY: (in_memory, {"batch_size": batch_size}),
        MAPPED: (on_disk, {"batch_size": batch_size}),
        LIST: (batches, {"num_rows": num_rows}),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, (data, arguments) in ways.items():
            marks: list[tuple[float, int]] = []

            def mark(progress: advi.Progress, marks: Any = marks) -> None:
                marks.append((time.perf_counter(), progress.step))

            advi.fit(
                model(dim), data, max_steps=steps, diagnose=False, callback=mark, progress=False,
                **arguments,
            )  # fmt: skip
            if repeat:  # the first compiles
                (begin, first), (end, last) = marks[0], marks[-1]
                rates[name].append((last - first) / (end - begin))
    return rates


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--gib", type=float, default=8.0, help="size of the large file")
    parser.add_argument("--rows", type=int, default=200_000, help="rows whose speed is measured")
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files are, for a while")
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)

    print_header(f"Rows on disk: a file of {args.gib:g} GiB, {args.dim} predictors")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        used = memory(Path(folder), args.gib, args.dim, args.batch_size, args.steps)
    above = used["most"] - used["before"]
    print(
        f"{used['rows']:,} rows, {args.steps} steps of {args.batch_size} in {used['seconds']:.1f} "
        f"s\nanonymous memory: {used['before']:.2f} GiB after a small fit, at most "
        f"{used['most']:.2f} GiB: {above:.2f} GiB more; the bar of {MAX_GIB:.2f} is "
        f"{'met' if above <= MAX_GIB else 'missed'}\n"
    )
    size = args.rows, args.dim, args.batch_size, args.steps, args.repeats
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rates = speed(Path(folder), *size)
    median = {name: float(np.median(rate)) for name, rate in rates.items()}
    print(f"{args.rows:,} rows, medians of {args.repeats} fits\n")
    print_table(
        ["rows are", "steps per second", "time of a step in memory"],
        [[n, f"{r:.0f}", f"{median[IN_MEMORY] / r:.2f}"] for n, r in median.items()],
    )

    def draw(axes: Any) -> None:
        axes.bar(list(median), list(median.values()))
        axes.set(
            ylabel="steps per second", title=f"{args.rows:,} rows, batches of {args.batch_size}"
        )

    settings = {k: v for k, v in vars(args).items() if k not in ("out", "folder")}
    result = {"settings": settings, "anonymous_gib": used, "steps_per_second": rates}
    save("streams", result, draw, args.out)


if __name__ == "__main__":
    main()
