"""What worked models share: a fit, chains on request, and their figures beside known ones."""

import argparse
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import advi
from models.shared_data import VARIABLE

DRAWS = 2000
INTERVAL = (0.05, 0.95)

Draws = dict[str, NDArray[Any]]  # a leading axis of draws
Known = Mapping[str, tuple[float, ...]]  # an estimate, and its standard error where there is one


class Calibration(NamedTuple):
    """How draws lie around simulated values."""

    rms_error: float  # of the means
    rms_sd: float
    coverage: float  # share of the values inside of the 90 % intervals

    def __str__(self) -> str:
        return (
            f"RMS error {self.rms_error:.3f}, posterior sd {self.rms_sd:.3f}, "
            f"90 % intervals hold {self.coverage:.1%}"
        )


def options(doc: str | None, reads_data: bool = True) -> argparse.ArgumentParser:
    """Return the options of these models: a family, NUTS, and a folder if they read data."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    if reads_data:
        parser.add_argument(
            "--data", metavar="DIR", help=f"default: ${VARIABLE}; without it, simulated data"
        )
    parser.add_argument("--family", default="auto", help="as advi.fit takes it; default: auto")
    parser.add_argument(
        "--nuts", metavar="N", nargs="?", type=int, const=1000,
        help="also run NUTS, four chains of N draws each (default: 1000)",
    )  # fmt: skip
    return parser


def fits(
    model: advi.Model, rows: Mapping[str, Any], family: str = "auto", nuts: int | None = None
) -> dict[str, advi.Fit]:
    """Fit, print the fit and its seconds; then so for NUTS, if `nuts` is a number of draws."""
    begin = time.perf_counter()
    found = {"fit": advi.fit(model, dict(rows), family=family)}
    print(f"{found['fit']}\n\nfitted in {time.perf_counter() - begin:.1f} s")
    if nuts is not None:
        begin = time.perf_counter()
        found["NUTS"] = found["fit"].nuts(num_samples=nuts)
        print(f"NUTS in {time.perf_counter() - begin:.1f} s\n{found['NUTS'].verdict}")
    return found


def draws_of(fit: advi.Fit) -> Draws:
    """Return draws of all latents, (2000, ...)."""
    return {name: np.asarray(leaf) for name, leaf in fit.sample(DRAWS).items()}


def calibration(draws: NDArray[Any], truth: NDArray[Any]) -> Calibration:
    """Return how draws (n, ...) lie around the values (...) that the data were simulated with."""
    low, high = np.quantile(draws, INTERVAL, axis=0)
    return Calibration(
        float(np.sqrt(np.mean((draws.mean(0) - truth) ** 2))),
        float(np.sqrt(np.mean(draws.var(0)))),
        float(np.mean((low < truth) & (truth < high))),
    )


def print_effects(draws: Draws, effects: Mapping[str, NDArray[Any]]) -> None:
    """Print how draws of latents lie around the values that the data were simulated with."""
    for name, truth in effects.items():
        print(f"{name} effects: {calibration(draws[name], truth)} of {len(truth):,}")


def compare(figures: Mapping[str, Draws], known: Known, label: str) -> None:
    """Print mean and sd of scalar figures of every fit beside known values.

    Parameters
    ----------
    figures
        For the name of each fit, draws (n,) of every figure.
    known
        For every figure an estimate and its standard error, or a simulated value.
    label
        Where the known values are from.
    """
    fitted = "".join(f"{name + ' mean':>12}{'sd':>9}" for name in figures)
    errors = f"{'s.e.':>9}" if any(len(beside) > 1 for beside in known.values()) else ""
    print(f"\n{'':<16}{fitted}{label:>14}{errors}")
    for name, beside in known.items():
        cells = [f"{d[name].mean():12.4f}{d[name].std():9.4f}" for d in figures.values()]
        values = [
            f"{'-' if np.isnan(value) else f'{value:.3f}':>{width}}"
            for value, width in zip(beside, (14, 9), strict=False)
        ]
        print(f"{name:<16}{''.join(cells + values)}")
