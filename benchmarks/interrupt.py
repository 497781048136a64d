"""Interrupt fits at random moments, and count what comes back and how soon.

Every fit runs in a process of its own, which gets SIGINT, as by Ctrl-C, at a random moment from
where `fit` was entered to where it would end: while it compiles, searches for a start, takes steps,
reads a stream or examines what it has found. A `Fit` has to come back each time, within a second
but for a compilation, which nothing can interrupt.
"""

import argparse
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import print_header, print_table, save

ROWS, COLUMNS, BATCH, STEPS = 20_000, 10, 200, 6000
PAUSE = 0.002  # seconds between two batches of the stream
KINDS = ("plan", "verdict", "minibatches", "stream")


class Return(NamedTuple):
    """What came back from one fit."""

    fit: bool
    status: str  # or the name of the exception
    seconds: float  # from the signal to the return; NaN if it came too late
    message: str = ""


def fit(kind: str, pipe: Any) -> None:
    """Fit, and send the moments of its beginning and its end; what a process does."""
    import numpyro.distributions as dist

    import advi

    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    noise = rng.standard_normal(ROWS).astype(np.float32)
    data: Any = {"x": x, "y": x @ np.linspace(-1, 1, COLUMNS, dtype=np.float32) + noise}

    def log_joint(z: Any, d: Any) -> advi.Terms:
        prior = dist.Normal(0, 1).log_prob(z["w"]).sum() + dist.HalfNormal(1).log_prob(z["s"])
        return advi.Terms(prior, rows=dist.StudentT(5.0, d["x"] @ z["w"], z["s"]).log_prob(d["y"]))

    def epoch() -> Iterator[Any]:
        for start in range(0, ROWS, BATCH):
            time.sleep(PAUSE)
            yield {name: leaf[start : start + BATCH] for name, leaf in data.items()}

    model = advi.Model(log_joint, {"w": advi.real(COLUMNS), "s": advi.positive()})
    arguments: dict[str, Any] = {
        "plan": {"data": data},
        "verdict": {"data": data, "diagnose": True},
        "minibatches": {"data": data, "batch_size": BATCH, "max_steps": STEPS, "diagnose": True},
        "stream": {"data": epoch, "num_rows": ROWS, "max_steps": STEPS // 10},
    }[kind]
    arguments = {"diagnose": False, "progress": False, **arguments}
    try:
        pipe.send(time.monotonic())
        found: Any = None
        try:
            found = advi.fit(model, **arguments)
            end = time.monotonic()
        except BaseException as error:
            end, found = time.monotonic(), error
        status = found.status if isinstance(found, advi.Fit) else type(found).__name__
        message = found.status.message if isinstance(found, advi.Fit) else str(found)
        pipe.send((end, isinstance(found, advi.Fit), str(status), message))
    except KeyboardInterrupt:  # it came when the fit had returned already
        pipe.send((time.monotonic(), True, "too late", ""))


def run(num: int, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> dict[str, list[Return]]:
    """Interrupt so many fits, of all kinds in turn."""
    # every process is a fork of one that has imported all, and computed nothing
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["advi", "numpyro.distributions"])
    rng = np.random.default_rng(seed)
    lasts = {kind: _once(context, kind, None)[1] for kind in kinds}
    found: dict[str, list[Return]] = {kind: [] for kind in kinds}
    while sum(map(len, found.values())) < num:
        kind = min(kinds, key=lambda kind: len(found[kind]))
        result, lasted = _once(context, kind, rng.uniform(0, lasts[kind]))
        if np.isnan(result.seconds):
            lasts[kind] = min(lasts[kind], lasted)  # it was over: not an interruption
        else:
            found[kind].append(result)
    return found


def _once(context: Any, kind: str, delay: float | None) -> tuple[Return, float]:
    """Run a fit and interrupt it after a delay; return what came back and how long it took."""
    here, there = context.Pipe()
    process = context.Process(target=fit, args=(kind, there))
    process.start()
    began = here.recv()
    sent = np.nan
    if delay is not None and not here.poll(max(0.0, began + delay - time.monotonic())):
        sent = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
    end, is_fit, status, message = here.recv()
    process.join()
    late = not end > sent or status == "too late"
    return Return(is_fit, status, np.nan if late else end - sent, message), end - began


def main(arguments: list[str] | None = None) -> None:
    """Interrupt, print the counts and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--n", type=int, default=120, help="interruptions")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)

    print_header("Does a fit that is interrupted at any moment return what it has?")
    found = run(args.n, args.seed)
    rows = []
    for kind, returns in found.items():
        seconds = np.array([r.seconds for r in returns])
        fits = sum(r.fit for r in returns)
        stopped = sum(r.status == "interrupted" for r in returns)
        rows.append([
            kind, f"{fits} of {len(returns)}", str(stopped), f"{np.median(seconds):.2f}",
            f"{np.max(seconds):.2f}", str(int((seconds > 1).sum())),
        ])  # fmt: skip
        for r in returns:
            if not r.fit or r.seconds > 1:
                print(f"{kind}: {r.seconds:.2f} s, {r.status}: {r.message}")
    print_table(["kind", "fits", "interrupted", "median s", "longest s", "over 1 s"], rows)

    def draw(axes: Any) -> None:
        axes.boxplot([[r.seconds for r in returns] for returns in found.values()])
        axes.set_xticks(range(1, len(found) + 1), found)
        axes.set(ylabel="seconds to return", title="Fits that were interrupted")

    results = {kind: [r._asdict() for r in returns] for kind, returns in found.items()}
    save("interrupt", {"n": args.n, "seed": args.seed, "returns": results}, draw, args.out)


if __name__ == "__main__":
    main()
