"""compare(): fits of the same data by their ELBO, with paired standard errors."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from advi.core.errors import describe
from advi.core.keys import Stream, host_rng
from advi.core.status import Estimate
from advi.core.table import Table
from advi.core.types import Floats
from advi.results.fit import Fit
from advi.variational import draws

DRAWS = 1000
DIGITS = 7  # an ELBO of thousands of nats may differ in the hundredths


def compare(fits: Mapping[str, Fit], data: Any = None, *, key: Any = 0) -> Table:
    """Compare fits by their ELBO, the best first.

    Fits of models with as many real coordinates, such as one model under several families, are
    compared on common draws: the error of their difference is far smaller than that of each.

    Parameters
    ----------
    fits
        Name to fit.
    data
        Data to evaluate all fits on; by default each one's own.
    key
        Integer or JAX key of the draws.

    Returns
    -------
    Table
        One row for each fit: its ELBO in nats, higher is better, with the Monte Carlo standard
        error; its difference from the best one, and the standard error of that.

    Raises
    ------
    TypeError
        If `fits` is not a mapping from names to fits.

    Examples
    --------
    >>> import advi
    >>> def log_joint(z, data):
    ...     return -0.5 * (z["a"] ** 2 + (z["b"] - z["a"]) ** 2)
    >>> model = advi.Model(log_joint, {"a": advi.real(), "b": advi.real()})
    >>> fits = {name: advi.fit(model, family=name) for name in ("mean_field", "full_rank")}
    >>> advi.compare(fits).rows
    ('full_rank', 'mean_field')
    """
    if not isinstance(fits, Mapping) or not all(isinstance(f, Fit) for f in fits.values()):
        raise TypeError(
            f"fits: got {describe(fits)}; expected a dict from names to fits, "
            'e.g. {"mean field": fit_1, "full rank": fit_2}.'
        )
    if not all(isinstance(name, str) for name in fits):
        raise TypeError(f"fits: got the names {', '.join(map(repr, fits))}; expected text.")
    if not fits:
        raise ValueError("fits: got none; expected at least one.")
    elbos = {name: _elbos(fit, data, key) for name, fit in fits.items()}
    order = sorted(elbos, key=lambda name: -elbos[name].mean())
    best = elbos[order[0]]
    estimates = [Estimate.of(elbos[name]) for name in order]
    sizes = {name: fit.posterior.model.size for name, fit in fits.items()}
    differences = [
        _difference(elbos[name], best, paired=sizes[name] == sizes[order[0]]) for name in order
    ]
    columns = {
        "ELBO": [e.value for e in estimates],
        "mcse": [e.mcse for e in estimates],
        "difference": [d.value for d in differences],
        "s.e.": [d.mcse for d in differences],
    }
    return Table(tuple(order), {name: np.array(values) for name, values in columns.items()}, DIGITS)


def _elbos(fit: Fit, data: Any, key: Any) -> Floats:
    posterior = fit._record.global_posterior.on(data)
    guide = posterior.guide
    # noise of all coordinates, so that fits with other point estimates are paired too
    size = max(posterior.model.size, guide.noise_dim)
    E = draws.antithetic(host_rng(key, Stream.COMPARE), DRAWS, size)
    of_random = np.flatnonzero(posterior.structure.random) if guide.is_gaussian else slice(None)
    return posterior.elbos(E[:, of_random][:, : guide.noise_dim])


def _difference(elbos: Floats, best: Floats, *, paired: bool) -> Estimate:
    if paired:
        return Estimate.of(elbos - best)
    error = np.hypot(Estimate.of(elbos).mcse, Estimate.of(best).mcse)
    return Estimate(float(elbos.mean() - best.mean()), float(error))
