"""Combinations of latents along which the log density does not change: an improper posterior.

An example is an intercept and the effects of all groups without priors: a constant can be added to
the one and subtracted from the others.
"""

import numpy as np

from advi.core.types import Floats
from advi.model.checks.flat import MOVES, ROUNDING, UNIT
from advi.model.density import Density
from advi.model.model import Model
from advi.transforms.base import base_of

MAX_DIM = 256
MORE = 16  # points beyond the number of coordinates
BASES = 4
NULL = 1e-5  # of the largest singular value, for single precision
SMALL = 1e-3  # of a direction's largest entry
TERMS = 8  # of a combination, that are named


def ridges(density: Density, rng: np.random.Generator, radius: float) -> Floats:
    """Return directions (k, D) along which a log density does not change, or none.

    Gradients at random points, uniform in [-radius, radius], have no component along such a
    direction, and moving along it leaves the values as they are. Only latents on the real line are
    examined.
    """
    size, spans = density.model.size, density.model.spans
    latents = density.model.latents.items()
    real = [np.arange(*spans[n]) for n, v in latents if isinstance(base_of(v.bijection), UNIT)]
    none = np.zeros((0, size))
    if not real or sum(map(len, real)) > MAX_DIM:
        return none
    columns = np.concatenate(real)
    X = rng.uniform(-radius, radius, (len(columns) + MORE, size))
    with np.errstate(all="ignore"):
        values, gradients = density.value_and_grad(X)
        finite = np.isfinite(values) & np.isfinite(gradients).all(1)
        G = gradients[finite][:, columns]
        if len(G) < len(columns) + MORE // 2 or not np.abs(G).max(initial=0):
            return none
        units = np.abs(G).max(0)
        if not units.all():
            return none  # flat entries, which are named by themselves
        _, singular, rows = np.linalg.svd(G / units, full_matrices=False)
        limit = NULL * np.sqrt(np.finfo(density.dtype).eps / np.finfo(np.float32).eps)
        directions = np.zeros((int((singular <= limit * singular[0]).sum()), size))
        if not len(directions):
            return none
        directions[:, columns] = _reduced(rows[-len(directions) :] / units)
        best = X[finite][np.argsort(-values[finite], kind="stable")[:BASES]]
        kept = [d for d in directions if _stays(density, best, d)]
    return np.array(kept).reshape(-1, size)


def combination(model: Model, direction: Floats) -> str:
    """Return a direction in words: "a - b[0] - b[1]"."""
    names = _coordinates(model)
    terms = [(float(v), n) for v, n in zip(direction, names, strict=True) if abs(v) > SMALL]
    text = ""
    for value, name in terms[:TERMS]:
        sign = ("- " if value < 0 else "+ ") if text else ("-" if value < 0 else "")
        factor = "" if abs(abs(value) - 1) < SMALL else f"{abs(value):.3g} "
        text += f"{' ' if text else ''}{sign}{factor}{name}"
    return text + (f" and {len(terms) - TERMS} more" if len(terms) > TERMS else "")


def _coordinates(model: Model) -> list[str]:
    found = []
    for name, latent in model.latents.items():
        if latent.unconstrained_shape == latent.shape:
            found += model.coordinates[name]
        else:
            found += [f"{name}, coordinate {i}" for i in range(latent.size)]
    return found


def _reduced(rows: Floats) -> Floats:
    """Return the reduced row echelon form of a matrix."""
    rows, done = rows.copy(), 0
    for column in range(rows.shape[1]):
        if done == len(rows):
            break
        pivot = done + int(np.argmax(np.abs(rows[done:, column])))
        if abs(rows[pivot, column]) <= SMALL * np.abs(rows).max():
            continue
        rows[[done, pivot]] = rows[[pivot, done]]
        rows[done] /= rows[done, column]
        others = np.arange(len(rows)) != done
        rows[others] -= rows[others, column, None] * rows[done]
        done += 1
    return rows


def _stays(density: Density, X: Floats, direction: Floats) -> bool:
    moved = [X, *(X + move * direction / np.abs(direction).max() for move in MOVES)]
    values = density.value(np.concatenate(moved)).reshape(len(moved), -1)
    size = 1 + np.abs(values).max()
    return bool(np.all(np.abs(values - values[0]) <= ROUNDING * np.finfo(density.dtype).eps * size))
