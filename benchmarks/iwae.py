"""Importance-weighted training: whether a bound of more draws ends at a better model.

Autoencoders with the same networks and first weights are trained for the same number of epochs, by
bounds of different numbers of draws; with one draw the bound is the ELBO. All are then compared by
log p(x) of held-out images, from 5,000 importance draws each, and by what their own bounds give
with fewer draws. Pixels are binarised anew at every use while training, and once (fixed-1603)
for the held-out images. The reference is Burda, Grosse & Salakhutdinov (2016), table 1.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import advi
from advi.core.status import Estimate
from benchmarks.common import print_header, print_table, save
from models import vae
from models.images import Images, binarised, dynamic_epochs, load

DRAWS = (1, 5, 50)  # of the bounds that are trained on, and at which trained models are compared
EVIDENCE_DRAWS = 5000


def bounds(images: Images, trained_on: int, epochs: int, num_test: int) -> dict[str, Any]:
    """Train on one bound; return its seconds and held-out bounds of every row, nats."""
    begin = time.perf_counter()
    fitted = vae.fit(
        dynamic_epochs(images.train, vae.BATCH_SIZE),
        images.train.shape[1],
        epochs,
        num_rows=len(images.train),
        objective=advi.Iwae(trained_on),
    )
    seconds = time.perf_counter() - begin
    test = {"x": binarised(images.test[:num_test], "fixed-1603")}
    rows = {k: fitted.log_marginal(test, draws=k).rows for k in (*DRAWS, EVIDENCE_DRAWS)}
    return {"seconds": seconds, "rows": rows}


def table_row(trained_on: int, found: dict[str, Any], first: NDArray) -> list[str]:
    """Return a line of the table; `first` is log p(x) of the first model, by rows."""
    rows = found["rows"]
    gain = Estimate.of(rows[EVIDENCE_DRAWS] - first)
    return [
        str(trained_on),
        f"{found['seconds']:.0f}",
        *(f"{rows[k].mean():.2f}" for k in DRAWS),
        str(Estimate.of(rows[EVIDENCE_DRAWS])),
        "" if rows[EVIDENCE_DRAWS] is first else str(gain),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Train, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", metavar="FOLDER", help="with MNIST; default: bundled digits")
    parser.add_argument("--train", type=int, nargs="+", default=list(DRAWS), help="draws")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--test", type=int, default=1000, help="held-out images")
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)

    images = load(args.data)
    print_header(f"Autoencoders trained on bounds of more draws\n{images.description}")
    found = {k: bounds(images, k, args.epochs, args.test) for k in args.train}
    first = found[args.train[0]]["rows"][EVIDENCE_DRAWS]
    header = ["draws trained on", "seconds", *(f"bound of {k}" for k in DRAWS), "log p(x)", "gain"]
    print_table(header, [table_row(k, f, first) for k, f in found.items()])
    print(
        f"{args.epochs} epochs each; nats a held-out image, standard errors over images; log p(x) "
        f"by {EVIDENCE_DRAWS:,} draws; gain: of log p(x) over the first line, in pairs"
    )

    def draw(axes: Any) -> None:
        for trained_on, f in found.items():
            axes.semilogx(list(f["rows"]), [r.mean() for r in f["rows"].values()], "o-")
            axes.annotate(f"trained on {trained_on}", (1, f["rows"][1].mean()), va="bottom")
        axes.set(xlabel="draws", ylabel="bound (nats an image)", title=images.description)

    means = {
        k: {"seconds": f["seconds"], **{str(j): float(np.mean(r)) for j, r in f["rows"].items()}}
        for k, f in found.items()
    }
    save("iwae", {"epochs": args.epochs, "test": args.test, "found": means}, draw, args.out)


if __name__ == "__main__":
    main()
