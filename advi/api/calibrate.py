"""calibrate(): simulation-based calibration of a model and its fits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from advi.api.fit_many import fit_many
from advi.core.arrays import on_host, real_numbers
from advi.core.errors import check_bool, check_count, describe, listed, unknown
from advi.core.keys import Stream, device_key
from advi.core.types import Floats
from advi.data.several import check_same
from advi.data.spec import converted, find_nan
from advi.data.tables import tables_and_names
from advi.diagnostics.quantities import quantities, quantity_names
from advi.diagnostics.reweighted import reweighted
from advi.inference.many.many_fits import ManyFits
from advi.model.model import Model
from advi.model.resolve import ModelFactory, check_model
from advi.results.calibration import Calibration
from advi.results.fits import Fits

Simulate = Callable[[Any], tuple[Mapping[str, Any], Any]]

MIN_SETS = 20


def calibrate(
    model: Model | ModelFactory,
    simulate: Simulate,
    n: int = 1000,
    *,
    family: Any = "auto",
    corrected: bool = True,
    key: Any = 0,
    x64: bool | None = None,
    progress: bool | None = None,
) -> Calibration:
    """Check a model and its fits by simulation: whether posteriors are calibrated.

    Latents are drawn from the prior and data given them, a fit is made to each data set, and the
    rank of the true value among the posterior's draws is kept. If prior, likelihood and fit are
    right, the ranks are uniform; a wrong one, such as another prior in the simulation, shows as a
    slope, and a posterior that is too narrow as a U.

    Parameters
    ----------
    model
        The model, or what `from_numpyro` returns.
    simulate
        ``simulate(key)``, of a JAX key: a draw of the latents from the prior, a dict from names to
        values, and data given them, of one shape for all. Latents that it leaves out have no
        ranks.
    n
        Number of data sets, at least 20.
    family
        As for `fit_many`, which makes the fits.
    corrected
        Whether draws are weighted to the posterior by importance weights, and where these are
        unreliable replaced by those of many short chains. Then the ranks are of the model; without,
        of the approximation, which may be too narrow.
    key
        Integer or JAX key.
    x64
        As for `fit`.
    progress
        Whether to show a progress bar; None shows one in a terminal and in a notebook.

    Raises
    ------
    TypeError, ValueError
        If `simulate` does not return latents of the model and data, data sets differ in their
        shapes or hold NaN; the message has the number of the data set.

    References
    ----------
    Talts, Betancourt, Simpson, Vehtari & Gelman (2018), Validating Bayesian Inference Algorithms
    with Simulation-Based Calibration. Modrák et al. (2023), Simulation-Based Calibration Checking
    for Bayesian Computation. Säilynoja, Bürkner & Vehtari (2022), for the bands.

    Examples
    --------
    >>> import advi, jax, jax.numpy as jnp
    >>> def log_joint(z, y):
    ...     return -0.5 * z["mu"] ** 2 - 0.5 * ((y - z["mu"]) ** 2).sum()
    >>> def simulate(key):
    ...     drawn = jax.random.normal(key, (6,))
    ...     return {"mu": drawn[0]}, drawn[0] + drawn[1:]
    >>> model = advi.Model(log_joint, {"mu": advi.real()})
    >>> advi.calibrate(model, simulate, 100).verdict
    {'mu': 'calibrated'}
    """
    check_model(model)
    check_count("n", n, MIN_SETS)
    check_bool("corrected", corrected)
    if not callable(simulate):
        raise TypeError(
            f"simulate: got {describe(simulate)}; expected a function of a JAX key that returns "
            "latents, a dict, and data."
        )
    drawn = [_simulated(simulate, number, key) for number in range(n)]
    data = [data for _, data in drawn]
    _check_alike(drawn)
    fits = fit_many(model, data, family=family, key=key, x64=x64, diagnose=False, progress=progress)
    names, ranks = _ranks(fits, [latents for latents, _ in drawn], corrected)
    reliable = np.isfinite(ranks).all(1)
    return Calibration(names, ranks[reliable], tuple(np.flatnonzero(~reliable).tolist()))


def _simulated(simulate: Simulate, number: int, key: Any) -> tuple[dict[str, Any], Any]:
    """Return the latents and the data of one data set, host arrays."""
    of_set = jax.random.fold_in(device_key(key, Stream.SIMULATE), number)
    try:
        out = simulate(of_set)
    except Exception as error:
        error.add_note(f"advi called simulate for data set {number}.")
        raise
    if not isinstance(out, tuple) or len(out) != 2 or not isinstance(out[0], Mapping):
        raise TypeError(
            f"simulate: returned {describe(out)}; expected a pair of latents, a dict from names to "
            "values, and data."
        )
    if not out[0]:
        raise ValueError(
            f"simulate: in data set {number} there are no latents; expected a dict from names to "
            "values with one latent or more, which are ranked in their posteriors."
        )
    latents = {k: on_host(real_numbers(f"latent {k!r}", v), float) for k, v in out[0].items()}
    data, spec = converted(out[1], "float64")
    if where := find_nan(data, spec):
        raise ValueError(f"simulate: in data set {number} the {where}; expected finite numbers.")
    for name, value in latents.items():
        if not np.isfinite(value).all():
            raise ValueError(
                f"simulate: in data set {number} the latent {name!r} is not finite; expected "
                "numbers inside of its support."
            )
    return latents, out[1]


def _check_alike(drawn: Sequence[tuple[dict[str, Any], Any]]) -> None:
    """Raise ValueError unless all simulations have the same latents, and data of one shape."""
    (latents, data), first = drawn[0], None
    names = tables_and_names(data)[1]
    for number, (own, data) in enumerate(drawn):
        if own.keys() != latents.keys():
            raise ValueError(
                f"simulate: in data set {number} the latents are {listed(list(own))}, in data set "
                f"0 {listed(list(latents))}; expected the same in all."
            )
        _, spec = converted(data, "float64", names.categories)
        first = first or spec
        check_same("simulate: data set", number, spec, first)


def _ranks(
    fits: Fits, truths: list[dict[str, Any]], corrected: bool
) -> tuple[tuple[str, ...], Floats]:
    """Return the coordinates that were simulated, and their ranks (n, K), NaN of a failed fit."""
    posterior = fits[0]._record.global_posterior
    given = [_by_name(posterior.model, truth, number) for number, truth in enumerate(truths)]
    wanted = [name for name in posterior.model.latents if name in given[0]]
    names = quantity_names(posterior, wanted)
    ranks = np.full((len(fits), len(names)), np.nan)
    for number, truth in enumerate(given):
        drawn = _draws(fits, number, corrected)
        if drawn is None:
            continue
        values, weights = drawn
        columns = quantities(posterior, values, wanted)
        at = quantities(posterior, {name: truth[name][None] for name in wanted}, wanted)
        ranks[number] = weights @ (columns < at) + 0.5 * (weights @ (columns == at))
    return names, ranks


def _by_name(model: Model, truth: dict[str, Any], number: int) -> dict[str, Any]:
    """Return simulated latents by name; ValueError if a name or a shape is wrong."""
    for name, value in truth.items():
        if name not in model.latents:
            raise ValueError(f"simulate: {unknown('latent', name, model.latents)}")
        shape = model.latents[name].shape
        if value.shape != shape:
            raise ValueError(
                f"simulate: in data set {number} latent {name!r} has shape {value.shape}; "
                f"expected {shape}."
            )
    return truth


def _draws(fits: Fits, number: int, corrected: bool) -> tuple[dict[str, Any], Floats] | None:
    """Return draws of a fit by latent and their weights, or None where it has failed."""
    many = fits._many
    assert isinstance(many, ManyFits)
    record = many.record(number)
    if record.outcome.status != "converged":
        return None
    posterior = record.global_posterior
    points, log_ratios = many.draws(number)
    if not corrected:
        return posterior.constrain(points), np.full(len(points), 1 / len(points))
    draws, _ = reweighted(record, points, log_ratios)
    return posterior.constrain(draws.points), draws.weights
