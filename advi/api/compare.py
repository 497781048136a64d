"""compare(): fits by their ELBO, models by their predictions, both with paired standard errors."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from advi.core.errors import describe
from advi.core.keys import Stream, host_rng
from advi.core.status import Estimate
from advi.core.table import Table
from advi.core.types import Floats
from advi.diagnostics.loo import NEXT, Loo, error_of_sum
from advi.model.density import Density
from advi.posterior.global_posterior import GlobalPosterior
from advi.results.fit import Fit
from advi.variational import draws

DRAWS = 1000
# column to that of its error, which says how many digits are printed
ERRORS_OF_ELBO = {"ELBO": "mcse", "difference": "s.e."}
ERRORS_OF_LOO = {"elpd": "se", "difference": "se of difference"}
OTHER_MODELS = (
    "The log-joints differ: ELBOs of different models compare only if all priors and likelihoods "
    "are normalised. To compare predictions, compare what fit.loo() returns."
)


@dataclass(frozen=True)
class Comparison(Table):
    """The table of `compare`, the best first, and what to know of it.

    Attributes
    ----------
    notes
        Sentences that are printed below the table, such as which estimates are unreliable.
    """

    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *self.notes])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return super()._repr_html_() + notes


def compare(fits: Mapping[str, Fit | Loo], data: Any = None, *, key: Any = 0) -> Comparison:
    """Compare fits by their ELBO, or models by how well they predict; the best first.

    Fits of one model, such as under several families, are compared by their ELBO: a higher one is
    nearer to the posterior. Fits of models with as many real coordinates have common draws: the
    error of their difference is far smaller than that of each. ELBOs of different models are lower
    bounds on their log evidences, by amounts that differ, and may be compared only if all priors
    and likelihoods are normalised. Models are compared by their predictions instead: by the
    expected log predictive density of rows left out, which `Fit.loo` returns. It is paired by row.

    Parameters
    ----------
    fits
        Name to fit, or name to `Loo`, of the same rows in the same order.
    data
        Data to evaluate all fits on; by default each one's own.
    key
        Integer or JAX key of the draws.

    Returns
    -------
    Comparison
        A `Table` with one row for each fit. Of fits: the ELBO in nats, higher is better, with the
        Monte Carlo standard error; its difference from the best one, and the standard error of
        that. Of `Loo`: ``elpd``, the expected log predictive density in nats, higher is better,
        with its standard error ``se`` over the rows; its difference from the best one, and the
        standard error of that, which is too small for fewer than some 100 rows and for models whose
        predictions are alike; ``p_loo``; and ``high k-hat``, the number of rows whose estimate is
        unreliable. A note says where that is the fault of the approximation.

    Raises
    ------
    TypeError
        If `fits` is not a mapping from names to fits, or to `Loo`, or `data` or `key` is given with
        `Loo`.
    ValueError
        If there is none, or they have other numbers of rows.

    References
    ----------
    Vehtari, Gelman & Gabry (2017), Practical Bayesian model evaluation using leave-one-out
    cross-validation and WAIC, section 5.2.

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
    kinds = (Fit, Loo)
    if not isinstance(fits, Mapping) or not all(isinstance(f, kinds) for f in fits.values()):
        raise TypeError(
            f"fits: got {describe(fits)}; expected a dict from names to fits, or to what their "
            'loo() returned, e.g. {"mean field": fit_1, "full rank": fit_2}.'
        )
    if not all(isinstance(name, str) for name in fits):
        raise TypeError(f"fits: got the names {', '.join(map(repr, fits))}; expected text.")
    if not fits:
        raise ValueError("fits: got none; expected at least one.")
    whole = {name: fit for name, fit in fits.items() if isinstance(fit, Fit)}
    loos = {name: loo for name, loo in fits.items() if isinstance(loo, Loo)}
    if whole and loos:
        raise TypeError(
            f"fits: got fits ({', '.join(map(repr, whole))}) and leave-one-out estimates "
            f"({', '.join(map(repr, loos))}); expected one kind. Call loo() of all, or of none."
        )
    if whole:
        return _by_elbo(whole, data, key)
    if data is not None or not (isinstance(key, int) and key == 0):
        raise TypeError(
            "data, key: leave-one-out estimates are compared as they are; give neither."
        )
    return _by_loo(loos)


def _by_elbo(fits: Mapping[str, Fit], data: Any, key: Any) -> Comparison:
    posteriors = {name: fit._record.global_posterior.on(data) for name, fit in fits.items()}
    densities = {name: posterior.density for name, posterior in posteriors.items()}
    _check_rows(densities)
    elbos = {name: _elbos(posterior, key) for name, posterior in posteriors.items()}
    order = sorted(elbos, key=lambda name: -elbos[name].mean())
    best = elbos[order[0]]
    estimates = [Estimate.of(elbos[name]) for name in order]
    sizes = {name: posterior.model.size for name, posterior in posteriors.items()}
    differences = [
        _difference(elbos[name], best, paired=sizes[name] == sizes[order[0]]) for name in order
    ]
    columns = {
        "ELBO": [e.value for e in estimates],
        "mcse": [e.mcse for e in estimates],
        "difference": [d.value for d in differences],
        "s.e.": [d.mcse for d in differences],
    }
    first, *others = densities.values()
    notes = (OTHER_MODELS,) if any(_differ(first, other) for other in others) else ()
    return _table(order, columns, notes, ERRORS_OF_ELBO)


def _by_loo(loos: Mapping[str, Loo]) -> Comparison:
    rows = {name: len(loo.pointwise) for name, loo in loos.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(
            f"fits: got estimates of {_listed(rows)} rows; expected the same rows, in the same "
            "order, in all of them: the differences are taken row by row."
        )
    order = sorted(loos, key=lambda name: -loos[name].elpd)
    found = [loos[name] for name in order]
    differences = [loo.pointwise - found[0].pointwise for loo in found]
    columns = {
        "elpd": [loo.elpd for loo in found],
        "se": [loo.se for loo in found],
        "difference": [rows.sum() for rows in differences],
        "se of difference": [error_of_sum(rows) for rows in differences],
        "p_loo": [loo.p_loo for loo in found],
        "high k-hat": [len(loo.bad) for loo in found],
    }
    notes = tuple(
        f"{name}: the k-hats are high because of the approximation, not of the rows. Next: {NEXT}"
        for name in order
        if loos[name].fit_at_fault
    )
    return _table(order, columns, notes, ERRORS_OF_LOO)


def _table(
    order: list[str],
    columns: Mapping[str, list[Any]],
    notes: tuple[str, ...],
    errors: Mapping[str, str],
) -> Comparison:
    arrays = {name: np.array(values) for name, values in columns.items()}
    of_itself = {error: error for error in errors.values()}
    return Comparison(tuple(order), arrays, errors={**errors, **of_itself}, notes=notes)


def _check_rows(densities: Mapping[str, Density]) -> None:
    """Raise ValueError if fits cannot be of the same data, by the numbers of rows."""
    lengths = {name: _lengths(density) for name, density in densities.items()}
    (first, expected), *others = lengths.items()
    for name, got in others:
        if got and expected and got.isdisjoint(expected):
            shown = {n: " or ".join(map(str, sorted(lengths[n]))) for n in (first, name)}
            raise ValueError(
                f"fits: got fits of {_listed(shown)} rows; expected fits of the same data. Give "
                "data=..., on which all of them are evaluated."
            )


def _differ(one: Density, other: Density) -> bool:
    """Return whether two log-joints are known to differ; of other float types it is not known."""
    if one.spec.float_dtype != other.spec.float_dtype:
        return False
    return not one.log_joint.flat.is_like(other.log_joint.flat)


def _lengths(density: Density) -> set[int]:
    """Return the number of rows, or of a log-joint without rows the lengths of the data leaves."""
    if density.log_joint.num_rows is not None:
        return {density.log_joint.num_rows}
    return {shape[0] for shape, _ in density.spec.leaves if shape}


def _listed(numbers: Mapping[str, Any]) -> str:
    return ", ".join(f"{number} ({name!r})" for name, number in numbers.items())


def _elbos(posterior: GlobalPosterior, key: Any) -> Floats:
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
