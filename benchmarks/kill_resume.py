"""Kill a checkpointed fit again and again, and compare what it ends with bit for bit.

A minibatch fit runs in a process of its own, which is killed (SIGKILL) at a random moment and
started anew, until it ends; then it begins again in an empty folder. Every finished fit is
compared, file against file, with that of a run that was not stopped: parameters, course and ELBO.
"""

import argparse
import multiprocessing
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import print_header, print_table, save

ROWS, COLUMNS, BATCH, STEPS = 4000, 60, 100, 12_000
MAX_DELAY = 1.5  # seconds from the first steps of a process to its end


class Outcome(NamedTuple):
    """What came of one series of kills."""

    kills: int
    finished: int  # fits that came to their end
    equal: int  # of these, with the same bits as the fit left alone
    halves: int  # kills in the middle of a write


def fit(folder: str, result: str, steps: int, started: Any = None) -> None:
    """Run the fit to its end and save it; what a process does."""
    import jax
    import numpyro.distributions as dist

    import advi
    from advi.inference.stochastic import checkpoint

    # what the run that is left alone has compiled serves all others
    jax.config.update("jax_compilation_cache_dir", str(Path(result).parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    checkpoint.EVERY = 0.0  # a write after every chunk of steps, so that kills meet writes
    checkpoint.MAX_SHARE = 1.0
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, COLUMNS))
    data = {"x": x, "y": x @ rng.standard_normal(COLUMNS) + rng.standard_normal(ROWS)}

    def log_joint(z: Any, d: Any) -> advi.Terms:
        prior = dist.Normal(0, 1).log_prob(z["w"]).sum() + dist.HalfNormal(1).log_prob(z["s"])
        return advi.Terms(prior, rows=dist.Normal(d["x"] @ z["w"], z["s"]).log_prob(d["y"]))

    def tell(_: advi.Progress) -> None:
        if started is not None:
            started.set()

    advi.fit(
        advi.Model(log_joint, {"w": advi.real(COLUMNS), "s": advi.positive()}),
        data,
        family="full_rank",
        batch_size=BATCH,
        max_steps=steps,
        checkpoint=folder,
        callback=tell,
        diagnose=False,
        progress=False,
    ).save(result)


def run(kills: int, steps: int = STEPS, max_delay: float = MAX_DELAY) -> Outcome:
    """Kill a fit so often, and compare what it ends with."""
    # every process is a fork of one that has imported all, and computed nothing
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["advi", "numpyro.distributions"])
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder, result, expected = (Path(name, part) for part in ("run", "result", "expected"))
        _finish(context, Path(name, "alone"), expected, steps)
        done = finished = equal = halves = 0
        while done < kills or folder.exists():
            delay = rng.uniform(0, max_delay) if done < kills else None
            if delay is None or not _killed(context, folder, result, steps, delay):
                if delay is None:
                    _finish(context, folder, result, steps)
                finished += 1
                equal += result.read_bytes() == expected.read_bytes()
                shutil.rmtree(folder)
            else:
                done += 1
                halves += any(folder.glob(".advi-*"))
        return Outcome(done, finished, equal, halves)


def _start(context: Any, *arguments: Any) -> Any:
    process = context.Process(target=fit, args=arguments)
    process.start()
    return process


def _finish(context: Any, folder: Path, result: Path, steps: int) -> None:
    process = _start(context, str(folder), str(result), steps)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"a fit ended with exit code {process.exitcode}")


def _killed(context: Any, folder: Path, result: Path, steps: int, delay: float) -> bool:
    """Start the fit and kill it after a while; return False if it ended before."""
    started = context.Event()
    process = _start(context, str(folder), str(result), steps, started)
    while process.is_alive() and not started.wait(0.05):
        pass
    process.join(delay)
    if process.exitcode is None:
        process.kill()
        process.join()
        return True
    if process.exitcode:
        raise RuntimeError(f"a fit ended with exit code {process.exitcode}")
    return False


def main(arguments: list[str] | None = None) -> None:
    """Kill, compare, print the counts and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)

    print_header("Does a fit that is killed again and again end with the same bits?")
    outcome = run(args.kills)
    print_table(
        ["kills", "in the middle of a write", "finished fits", "with the same bits"],
        [[str(n) for n in (outcome.kills, outcome.halves, outcome.finished, outcome.equal)]],
    )

    def draw(axes: Any) -> None:
        axes.bar(Outcome._fields, outcome)
        axes.set(title="Fits that were killed and went on")

    save("kill_resume", {"kills": args.kills, **outcome._asdict()}, draw, args.out)


if __name__ == "__main__":
    main()
