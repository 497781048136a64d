"""from_numpyro(): a NumPyro model, unchanged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from advi.core.errors import describe
from advi.data.spec import DataSpec
from advi.model.latents import Latent
from advi.model.model import Model
from advi.model.numpyro.axes import of_latent
from advi.model.numpyro.binding import call_and_sites
from advi.model.numpyro.call import BoundCall, Call, static_data
from advi.model.numpyro.density import Predictive, SiteDensity, SiteValues
from advi.model.numpyro.imputation import flat_where_masked, predictions
from advi.model.numpyro.prior import PriorDraws
from advi.model.numpyro.reparam import Centred, Reparametrised, centredness, check_sites
from advi.model.numpyro.rows import RowsPlate, rows_plate
from advi.model.numpyro.sites import Sites
from advi.model.program import Deterministic, Program
from advi.model.rows import for_rows
from advi.model.trace import trace
from advi.model.trace_errors import MisplacedError

NO_ROWS = (
    "no plate of the NumPyro model is known to run over rows of the data; expected observed sites "
    "inside one whose size is the leading axis of the data. If there are several, name it: "
    "advi.from_numpyro(model, rows='NAME')."
)
PART_OF_ROWS = (
    "the data are {0} of the {2} rows of the plate {1!r}, and count for all of them, as in "
    "NumPyro; expected all rows, or a stream of batches with num_rows={2}."
)


@dataclass(frozen=True)
class NumPyroModel:
    """A NumPyro model with its bound arguments, for `fit` and `check`, which bring the data."""

    call: Call
    rows: str | None  # name of the plate of the rows; None for the one that is found
    centred: Centred = ()  # centredness of sites that were given other coordinates, or kept theirs

    def bind(self, data: Any, spec: DataSpec, streamed: bool = False) -> Model:
        """Return the model for data of these shapes; `streamed` of a batch, more of which follow.

        TypeError if the model cannot be called with the data, needs a value of which only the shape
        is known, or has a discrete latent; ValueError if it has no latent, `rows` is no plate of
        rows, or a site that is to be in other coordinates cannot be.
        """
        self.call.check(data)
        call, sites = call_and_sites(self.call, data, spec)
        if self.centred:
            check_sites(call, self.centred, sites.refusals)
            call, sites = call_and_sites(Reparametrised(call, self.centred), data, spec)
            sites = replace(sites, hierarchical=())
        make = partial(self._model, call, streamed)
        predicted: set[str] = set()
        if sites.imputed:
            model = make(sites, rows_plate(self.rows, sites, spec, call), data)
            predicted = predictions(sites, _site_density(model), for_rows(model, spec), spec)
            sites = sites.without(predicted)
        if not sites.unknowns:
            raise ValueError(f"{self.call!r} has no latent site and no parameter: nothing to fit.")
        build = partial(make, data=data, predicted=tuple(sorted(predicted)))
        plate = rows_plate(self.rows, sites, spec, call)
        model = build(sites, plate)
        try:
            used = trace(for_rows(model, spec), spec).used
        except MisplacedError as error:
            assert plate is not None  # without it no latent is local
            names = ", ".join(map(repr, error.names))
            plate = plate.without_local(f"a site outside the plate depends on {names}")
            model = build(sites, plate)
            used = trace(model, spec).used
        # a network with priors in place of its parameters may register these nevertheless
        unused = [name for name in sites.fitted_params if used.isdisjoint(model.resolve(name))]
        sites = sites.without(unused)
        masked = [name for name in sites.masked if name in sites.unknowns]
        if not unused and not masked:
            return model
        padded = [name for name in masked if name in sites.imputed]
        others = [name for name in masked if name not in sites.imputed]
        density, whole = _site_density(model), for_rows(model, spec)
        padded += flat_where_masked(others, density, whole, data, spec)
        return build(sites, plate, padded=tuple(padded))

    def _model(
        self,
        call: Call,
        streamed: bool,
        sites: Sites,
        plate: RowsPlate | None,
        data: Any,
        predicted: tuple[str, ...] = (),
        padded: tuple[str, ...] = (),
    ) -> Model:
        declared, needs_all_rows = None, plate.why_not_local if plate else NO_ROWS
        if plate is not None and plate.name in sites.filled:
            declared = plate.name, sites.filled[plate.name][0]
            if not streamed:  # a batch by itself counts for all rows, and has none of its own
                plate, needs_all_rows = None, PART_OF_ROWS.format(plate.size, *declared)
        rows = dict(plate.axes) if plate else {}
        latents = sites.latents(data, rows)
        params = tuple(sites.params.items())
        flat = tuple((n, latents[n].bijection if n in latents else None) for n in padded)
        filled = tuple((name, length) for name, (_, length) in sites.filled.items())
        log_joint = SiteDensity(call, plate, params, sites.dependent, predicted, flat, filled)
        shown = (*sites.dependent, *predicted, *sites.derived)
        model = Model(log_joint, latents, dims=_dims(sites, latents, rows))
        program = Program(
            frozenset(n for name in sites.fitted_params for n in model.resolve(name)),
            Deterministic(shown, SiteValues(log_joint, shown)),
            rows_leaf=plate.leaf if plate else None,
            needs_all_rows=needs_all_rows,
            static=static_data(call),
            declared_rows=declared,
            starts=PriorDraws(log_joint),
            predictive=Predictive(log_joint),
            factory=self,
            hierarchical=sites.hierarchical,
            coordinates={name: name for name, _ in self.centred} | sites.coordinates,
            shapes={name: sites.shapes[name] for name in shown if name in sites.shapes},
            dims={name: sites.dims[name] for name in shown if name in sites.dims},
            row_axes=sites.row_axes(dict(plate.axes) if plate else {}),
        )
        return model.with_program(program)


def _dims(
    sites: Sites, latents: Mapping[str, Any], rows: Mapping[str, int]
) -> dict[str, tuple[str | None, ...]]:
    """Return the names of the axes of latents: those of the plates around their sites."""
    found = {}
    for name, axes in sites.dims.items():
        latent = latents.get(sites.latent_name(name))
        if isinstance(latent, Latent):
            event_dim = sites.unknowns[name].event_dim
            ndim = len(latent.shape) + (name in rows)
            found[sites.latent_name(name)] = of_latent(axes, ndim, event_dim, rows.get(name))
    return found


def _site_density(model: Model) -> SiteDensity:
    assert isinstance(model.log_joint, SiteDensity)
    return model.log_joint


def from_numpyro(
    model: Callable[..., Any],
    *args: Any,
    rows: str | None = None,
    reparam: Mapping[str, float | str] | None = None,
    **kwargs: Any,
) -> NumPyroModel:
    """Take a NumPyro model as it is.

    Sample sites become latents, in NumPyro's order, and observed sites the likelihood. Parameters
    (`numpyro.param`, and networks registered by it) are estimated as a `Point`, unless a fit's
    ``family`` names them. A tree of them keeps its form, but one with empty nodes, as in Equinox,
    becomes a dict of its leaves by their paths. Deterministic sites are part of the draws and
    moments of a fit. So is a latent "x" whose support depends on other latents: fitted is
    "x_unconstrained", its coordinates on the real line. Effect handlers such as ``mask``,
    ``scale``, ``reparam`` and ``condition`` work as in NumPyro.

    Plates name the axes of the sites inside, for the `coords` of a fit: "theta[Choate]" for
    ``coords={"schools": [...]}``.

    The missing values of a site with an ``obs_mask`` are drawn given the latents, and are part of
    the draws as "x_unobserved", and in "x"; they are latents if another site depends on them. An
    entry of a latent that is masked out of the density, and that nothing else depends on, has a
    standard normal on the real line, which leaves the posterior of the rest and the evidence
    unchanged.

    Latents inside the plate of the rows are local: they have a value for each row of the data, in
    draws along the axis of the plate, as all values have the axes of their sites. They can have a
    `PerRow` or `Amortised` family, with or without `batch_size`; otherwise the automatic plan fits
    them like any others. If one of them cannot be local, none is, and the fit takes all rows at
    once: a parameter by row, a support with bounds that differ between rows or depend on other
    latents, or a site outside the plate that depends on them.

    Parameters
    ----------
    model
        Function with NumPyro primitives.
    *args, **kwargs
        Arguments of the model that are bound, such as arrays that decide about sizes. The ``data``
        of `fit` and `check` gives the others: a dict by name, a tuple by position after `args`, one
        array as the next argument. Integers and flags among them may decide about shapes and
        branches.
    rows
        Name of the plate that runs over rows of the data, whose observed sites are `Terms.rows`.
        By default the one plate that declares a subsample, or else the leading axis of every
        observed site, if data has that leading axis. With `batch_size` the model's data is a batch:
        the plate follows it, whatever subsample it declares, and its rows are scaled once. Data
        with as many rows as the subsample are a batch too: of a stream, or by itself.
    reparam
        Coordinates of latents with a location and a scale, such as ``theta ~ Normal(mu, tau)``: a
        dict from names of sites to "centred", "non-centred", or a number between 1, centred, and 0,
        as in `numpyro.infer.reparam.LocScaleReparam`. "theta_decentered" is then the latent, and
        "theta" a deterministic site. ``fit.refine(reparam="auto")`` chooses.

    Returns
    -------
    NumPyroModel
        For `fit` and `check`, which find the sites once they have the data.

    Raises
    ------
    TypeError
        If `model` is no function. Its sites are checked by `fit` and `check`: discrete latents must
        be summed out.
    ValueError
        If `reparam` is "auto", or a number in it is not between 0 and 1.

    Examples
    --------
    >>> import advi, numpyro, numpyro.distributions as dist
    >>> import numpy as np
    >>> def coin(flips):
    ...     p = numpyro.sample("p", dist.Beta(1, 1))
    ...     with numpyro.plate("flips", len(flips)):
    ...         numpyro.sample("y", dist.Bernoulli(p), obs=flips)
    >>> fit = advi.fit(advi.from_numpyro(coin), np.array([1, 1, 0, 1]))
    >>> fit.sample(1000)["p"].shape, fit.log_likelihood().shape
    ((1000,), (1000, 4))
    """
    if not callable(model):
        raise TypeError(
            f"model: got {describe(model)}; expected a function with NumPyro primitives. Its data "
            "goes to fit: advi.fit(advi.from_numpyro(model), data)."
        )
    if rows is not None and not isinstance(rows, str):
        raise TypeError(f"rows: got {describe(rows)}; expected the name of a plate.")
    if isinstance(reparam, str) and reparam == "auto":
        raise ValueError(
            "reparam: got 'auto', which compares fits; expected a dict from names of sites to "
            "their centredness. Fit the model as it is, and call fit.refine(reparam='auto')."
        )
    centred = () if reparam is None else centredness(reparam)
    return NumPyroModel(BoundCall(model, args, kwargs), rows, centred)
