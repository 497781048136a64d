"""fit_many(): the automatic plan of many fits of one shape as one compiled program."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advi.core import interrupts
from advi.core.arrays import on_host, real_numbers
from advi.core.axes import check_coords
from advi.core.errors import check_bool, describe
from advi.core.jax_config import default_float, precision
from advi.core.keys import is_key, key_words
from advi.core.progress_bar import ProgressBar
from advi.core.types import Floats
from advi.data.several import each, explained, prepared
from advi.data.source import InMemory
from advi.data.spec import check_static
from advi.diagnostics.by_weights import Known, by_weights
from advi.diagnostics.examine import examined
from advi.diagnostics.target import Moments
from advi.inference.many.many_fits import ManyFits, Varied
from advi.inference.many.run import ROUNDS, fit_again, one_by_one, run, suits
from advi.model.model import Model
from advi.model.resolve import (
    ModelFactory,
    check_model,
    check_on_host,
    resolve_model,
    traced_model,
)  # fmt: skip
from advi.posterior.initial import initial
from advi.results.fit import Fit
from advi.results.fits import Fits
from advi.variational.family_check import check_families
from advi.variational.resolve_family import resolve_family


def fit_many(
    model: Model | ModelFactory,
    datasets: Any = None,
    *,
    weights: Any = None,
    keys: Sequence[Any] | None = None,
    family: Any = "auto",
    key: Any = 0,
    init: Any = None,
    coords: Mapping[str, Any] | None = None,
    x64: bool | None = None,
    refit: bool = True,
    diagnose: bool = True,
    progress: bool | None = None,
) -> Fits:
    """Fit a model many times by one compiled program: to data sets of one shape, weights or keys.

    The program has the stages of the automatic plan, with fewer starts, and ends where `fit` would.
    It takes some seconds to compile, and then a small part of the time of as many calls of `fit`.
    What has not ended is fitted by that plan.

    Parameters
    ----------
    model
        The model, or what `from_numpyro` returns.
    datasets
        A list of data sets, or a pytree of arrays with one leading axis that runs over them; a
        tuple is such a pytree. With `weights` or `keys` one data set, as `fit` takes it.
    weights
        ``(n, N)``, at least 0: each fit multiplies the rows of `Terms` by its own, as the bootstrap
        and cross-validation do.
    keys
        A key of each fit of the same data.
    family
        As in `fit`; "auto" is the Gaussian alone. Those without a compiled program are fitted one
        by one: low rank, sparse, triangular and mixtures, latents on the circle, local ones, and
        more than 256 coordinates.
    key
        Integer or JAX key. The same key, data and kind of machine give the same bits, which are not
        those of `fit`.
    init
        A dict of constrained values for some or all latents, where every fit starts.
    coords
        Labels by the name of an axis, as in `fit`; of columns of categories those of all data sets.
    x64
        True computes the fits in float64, False in float32; None follows JAX's setting.
    refit
        Whether fits that have not ended, or whose starts ended apart, are made again by the plan
        of `fit`.
    diagnose
        Whether to give verdicts: by importance sampling in the same program, and where it does not
        suffice, as `fit` does.
    progress
        Whether to show a progress bar; None shows one in a terminal and in a notebook.

    Returns
    -------
    Fits
        After Ctrl-C with those that had ended; the others are "interrupted".

    Raises
    ------
    TypeError, ValueError
        For wrong arguments, such as data sets of unequal shapes, before anything is compiled.

    Examples
    --------
    >>> import advi, numpy as np
    >>> def log_joint(z, y):
    ...     return -0.5 * (z["mu"] ** 2 + ((y - z["mu"]) ** 2).sum())
    >>> model = advi.Model(log_joint, {"mu": advi.real()})
    >>> fits = advi.fit_many(model, np.arange(12.0).reshape(4, 3), diagnose=False)
    >>> np.round(fits.mean()["mu"], 2).tolist(), round(float(fits[3].sd()["mu"]), 2)
    ([0.75, 3.0, 5.25, 7.5], 0.5)
    """
    check_model(model)
    for name, flag in (("refit", refit), ("diagnose", diagnose)):
        check_bool(name, flag)
    key_words(key)
    _check_init(init)
    float_dtype, labels = default_float(x64), check_coords(coords)
    with interrupts.held(), precision(float_dtype), ProgressBar(progress) as bar:
        check_on_host(datasets, weights, key)
        alone = weights is not None or keys is not None
        given = [datasets] if alone else each(datasets)
        data, spec, names = prepared(given, float_dtype, labels)
        source = InMemory(data[0], spec, None, names=names)
        with explained(None if alone else datasets):
            resolved = resolve_model(model, source, labels)
            for arrays in data:
                check_static(resolved.program.static, arrays, spec)
            of_rows, log_joint = traced_model(resolved, source)
        guide = resolve_family(of_rows, family)
        check_families(guide, any_scale=True)
        varied = _varied(data, weights, keys, key, log_joint.num_rows)
        first, _ = initial(of_rows, init)
        if not suits(guide):
            many = one_by_one(guide, spec, varied, first, bar.count)
        else:
            many = run(guide, log_joint, spec, varied, first, bar.count, ROUNDS * diagnose)
            if refit:
                fit_again(many, bar.begin)
        if diagnose:
            _examine(many)
        return Fits(many)


def _check_init(init: Any) -> None:
    """Raise TypeError unless `init` is None or a dict: a fit has the labels of its own data."""
    if init is not None and not isinstance(init, Mapping):
        got = "a Fit" if isinstance(init, Fit) else describe(init)
        raise TypeError(
            f"init: got {got}; expected a dict from latent names to constrained values, where "
            "every fit starts, such as init=fit.mean()."
        )


def _examine(many: ManyFits) -> None:
    """Examine all fits, by known weights if these suffice; Ctrl-C leaves the others out."""
    try:
        for index in range(many.varied.num):
            interrupts.check()
            record = many.record(index)
            if record.outcome.status == "interrupted":
                continue
            found = None
            if index not in many.refitted:
                end = many.judged(index)
                known = Known(
                    end.log_ratios, end.weighted.log_ratios, float(end.weighted.last_share),
                    Moments(end.mean, end.sd), Moments(end.weighted.mean, end.weighted.sd), end.far,
                )  # fmt: skip
                found = by_weights(record, known)
            many.replaced[index] = (
                examined(record)
                if found is None
                else dataclasses.replace(record, examination=found)
            )
    except KeyboardInterrupt:
        return


def _varied(data: list[Any], weights: Any, keys: Any, key: Any, num_rows: int | None) -> Varied:
    """Return what differs between fits; TypeError or ValueError if it is given twice or wrong."""
    if weights is not None and keys is not None:
        raise ValueError("fit_many(): got weights and keys; expected one of them.")
    if keys is not None:
        if is_key(keys) or (not isinstance(keys, Sequence) and not hasattr(keys, "shape")):
            raise TypeError(f"keys: got {describe(keys)}; expected a key for each fit.")
        if not len(keys):
            raise ValueError("keys: got none; expected at least one.")
        for each_key in keys:
            key_words(each_key)
        return Varied(len(keys), data, keys=list(keys))
    if weights is None:
        return Varied(len(data), data, keys=[key])
    return Varied(len(weights), data, _weights(weights, num_rows), [key])


def _weights(weights: Any, num_rows: int | None) -> Floats:
    """Return weights (n, N) of the rows; ValueError if they are none."""
    found = on_host(real_numbers("weights", weights), float)
    if num_rows is None:
        raise ValueError(
            "weights: the log-joint returned a scalar, and nothing says which part of it belongs "
            "to a row; expected advi.Terms(shared, rows), or a plate over the rows."
        )
    if found.ndim != 2 or found.shape[1] != num_rows or not len(found):
        raise ValueError(
            f"weights: got shape {found.shape}; expected (n, {num_rows}), a weight of each row for "
            "each fit."
        )
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)).all(1))
    if len(wrong):
        raise ValueError(
            f"weights: those of number {wrong[0]} are negative or not finite; expected numbers of "
            "at least 0."
        )
    return found
