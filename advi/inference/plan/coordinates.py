"""Fits of a NumPyro model in other coordinates: centred, non-centred or between, site by site."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from advi.core.errors import listed
from advi.core.jax_config import precision
from advi.core.jaxprs.frozen import ChangedError
from advi.core.keys import Stream, host_rng
from advi.core.status import Estimate
from advi.data.source import InMemory
from advi.data.spec import prepare
from advi.inference.plan.plan import NotFiniteError, run_plan
from advi.inference.plan.run import refit
from advi.model.density import Density
from advi.model.model import Model
from advi.model.numpyro import NumPyroModel
from advi.model.numpyro.recentre import Recentring
from advi.model.numpyro.reparam import ReparametrisedByData, centredness
from advi.model.prior_starts import prior_starts
from advi.model.resolve import bind, resolve_model, traced_model
from advi.model.rows import for_rows
from advi.model.trace import trace
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.initial import initial
from advi.posterior.record import FitRecord
from advi.variational.block import Block
from advi.variational.draws import antithetic
from advi.variational.family import GaussianFamily
from advi.variational.family_check import check_families
from advi.variational.full_rank import FullRank
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide
from advi.variational.mean_field import MeanField
from advi.variational.mixture import Mixture
from advi.variational.point import Point
from advi.variational.resolve_family import resolve_family

VALUES = (1.0, 0.0, 0.5)  # centredness that is tried
PASSES, MAX_SITES = 2, 20  # over single sites; of more sites only all together are tried
MAX_FULL_RANK = 256  # coordinates of a block that is compared at full rank
START_DRAWS = 1000
GAIN_NATS, ERRORS = 0.1, 2.0  # of the ELBO, by which other coordinates have to be better

Centredness = dict[str, float]  # by site


class _Trial(NamedTuple):
    elbo: Estimate
    gaussian: Gaussian


def reparametrised(record: FitRecord, reparam: Any, family: Any) -> FitRecord:
    """Return the automatic plan's fit in other coordinates, without a verdict.

    `reparam` is "auto", or a dict from sites to their centredness. `family` None stands for that of
    the fit.
    """
    posterior = record.global_posterior
    density = posterior.density.on(None)
    auto = isinstance(reparam, str) and reparam == "auto"
    asked = {} if auto else dict(centredness(reparam))
    with precision(posterior.float_dtype):
        factory = _factory(density)
        sites = _hierarchical(factory, density, posterior.guide.estimated) if auto else list(asked)
        now = dict.fromkeys(sites, 1.0) | dict(factory.centred)
        centred, gain = now | asked, 0.0
        # which knows the sites that are named, before anything is compiled
        made = None if auto else _resolved(factory, centred, density)
        trials = _Trials(record, factory, now, family)
        _refuse_points(trials.guide, sites)
        if auto:
            centred, gain = trials.best(sites)
        model, source = made or _resolved(factory, centred, density)
        of_rows = traced_model(model, source)[0].holding_as(posterior.model)
        guide = resolve_family(of_rows, family_in(of_rows, family, posterior))
        check_families(guide, any_scale=True)
        start = trials.fitted(centred).gaussian if auto else trials.start(centred)
        if _is_multimodal(record):
            start = None  # for all modes to be found again
        again = density.of(guide.model, guide.estimated, by_gradient=True)
        again.num_gradients = trials.num_gradients
        found = refit(record, again, guide, start)
    return found.with_outcome(route=(_in_words(centred, gain), guide.description))


def _is_multimodal(record: FitRecord) -> bool:
    """Return whether a fit holds several modes, or its plan has found others."""
    if isinstance(record.posterior.guide.blocks[0].base, Mixture):
        return True
    return any(mode.counts for mode in record.outcome.other_modes)


def made_by_auto(guide: Guide) -> bool:
    """Return whether a guide is that of family="auto", or of what follows it."""
    apart = guide.model.program.estimated | guide.model.held.keys()
    free = [b for b in guide.blocks if not set(b.names) <= apart]
    return bool(guide.choices) and len(free) == 1


def family_in(model: Model, family: Any, posterior: GlobalPosterior) -> Any:
    """Return a `family` argument for a model in other coordinates; of None that of a fit.

    Latents come in the same order in all coordinates. A dict may name them by their sites.
    """
    guide = posterior.guide
    if family is None and made_by_auto(guide):
        return "auto"
    if family is None:
        names = dict(zip(posterior.model.latents, model.latents, strict=True))
        found = {tuple(names[n] for n in block.names): block.family for block in guide.blocks}
        return {key: value for key, value in found.items() if not set(key) <= model.held.keys()}
    if not isinstance(family, Mapping):
        return family
    latent = model.program.coordinates

    def renamed(key: Any) -> Any:
        if isinstance(key, tuple):
            return tuple(latent.get(part, part) for part in key)
        return latent.get(key, key)

    return {renamed(key): value for key, value in family.items()}


def _factory(density: Density) -> NumPyroModel:
    """Return the NumPyro model of a fit's density; raise an error unless it is as it was."""
    log_joint, spec = density.log_joint, density.spec  # a loaded fit says that it has none
    factory = density.model.program.factory
    if not isinstance(factory, NumPyroModel):
        raise TypeError(
            "reparam: this is a fit of a log-joint, and its coordinates are the latents that it is "
            "written in; expected a fit of advi.from_numpyro(...). Write the log-joint in others, "
            "such as theta = mu + tau * score with a standard normal score for the latent."
        )
    again = for_rows(bind(factory, density.data, spec), spec, density.model.num_rows)
    if not trace(again, spec).flat.is_like(log_joint.flat):
        raise ChangedError("the NumPyro model", "in other coordinates")
    return factory


def _hierarchical(factory: NumPyroModel, density: Density, estimated: Collection[str]) -> list[str]:
    """Return the sites whose coordinates may matter: location or scale depends on other latents."""
    program = density.model.program
    latent, sites = program.coordinates, program.hierarchical
    if factory.centred:
        as_written = dataclasses.replace(factory, centred=())
        sites = bind(as_written, density.data, density.spec).program.hierarchical
    found = [name for name in sites if latent.get(name, name) not in estimated]
    if not found:
        raise ValueError(
            f"reparam: got 'auto', but {factory.call!r} has no latent with a location or a scale "
            "that depends on other latents and that is not estimated as a point; expected a "
            "hierarchy such as theta ~ Normal(mu, tau). A site may be named: "
            "reparam={'theta': 'non-centred'}."
        )
    return found


def _resolved(
    factory: NumPyroModel, centred: Centredness, density: Density
) -> tuple[Model, InMemory]:
    """Return the model in some coordinates for the data of a density, and the source of these."""
    chosen = dataclasses.replace(factory, centred=tuple(sorted(centred.items())))
    model = resolve_model(chosen, source := InMemory(density.data, density.spec, None))
    return model.with_labels(density.model.coords, density.model.categories), source


def _refuse_points(guide: Guide, sites: Collection[str]) -> None:
    """Raise ValueError if a site that is given other coordinates is estimated as a point."""
    latent = guide.model.program.coordinates
    for name in sites:
        if latent.get(name, name) in guide.estimated:
            raise ValueError(
                f"reparam: {name!r} is estimated as a point, and the maximum depends on the "
                "coordinates, or is held at a value; expected sites with a distribution. Leave it "
                "out."
            )


def _in_words(centred: Centredness, gain: float) -> str:
    kinds = {1.0: "centred", 0.0: "non-centred"}
    words = [f"{name} {kinds.get(value, f'{value:g} centred')}" for name, value in centred.items()]
    return listed(words) + (f" (+{gain:.2g} nats)" if 0 < gain < math.inf else "")


class _Trials:
    """Fits of a Gaussian in other coordinates, begun at the fit; one program serves them all."""

    def __init__(
        self, record: FitRecord, factory: NumPyroModel, centred: Centredness, family: Any
    ) -> None:
        self._record, self._from, self.num_gradients = record, centred, 0
        posterior = record.global_posterior
        density = posterior.density
        call = ReparametrisedByData(factory.call)
        by_data = NumPyroModel(call, factory.rows if density.spec.leaves else None)
        pair, self._spec = prepare((density.data, _arrays(centred, density)), posterior.float_dtype)
        self._data, source = pair[0], InMemory(pair, self._spec, None)
        made = traced_model(resolve_model(by_data, source), source)[0].holding_as(posterior.model)
        self.guide = _compared(resolve_family(made, family_in(made, family, posterior)))
        self._model = self.guide.model
        self._known: dict[tuple[float, ...], _Trial] = {}

    def best(self, sites: list[str]) -> tuple[Centredness, float]:
        """Return the best centredness that was found, and what it has gained, nats.

        All sites are tried together, then one after another.
        """
        begun = at = dict(self._from)
        turns = [sites] + [[name] for name in sites] * PASSES * (1 < len(sites) <= MAX_SITES)
        for turn in turns:
            at = self._better(at, turn)
        return at, self.fitted(at).elbo.value - self.fitted(begun).elbo.value

    def _better(self, at: Centredness, sites: list[str]) -> Centredness:
        """Return the best centredness with one value for some sites, or as it was."""
        here = self.fitted(at).elbo
        others = [at | dict.fromkeys(sites, value) for value in VALUES]
        found = max(others, key=lambda other: self.fitted(other).elbo.value)
        there = self.fitted(found).elbo
        gains = there.value - here.value > GAIN_NATS + ERRORS * math.hypot(here.mcse, there.mcse)
        return found if gains else at

    def fitted(self, to: Centredness) -> _Trial:
        """Return the fit for some centredness; its ELBO is -inf if there is none."""
        key = tuple(to.values())
        if key not in self._known:
            self._known[key] = self._fit(to)
        return self._known[key]

    def _fit(self, to: Centredness) -> _Trial:
        guide, posterior = self.guide, self._record.global_posterior
        own, data = posterior.density, (self._data, _arrays(to, posterior.density))
        density = Density(self._model, data, self._spec, guide.estimated, 1.0, True, own.weights)
        start = self.start(to)
        first = initial(self._model, None)[0] if start is None else start
        try:
            found = run_plan(
                density,
                guide.structure,
                self._rng(),  # common draws
                first,
                warm=start is not None,
                candidates=lambda: prior_starts(density, first.loc),
            )
        except NotFiniteError:
            return _Trial(Estimate(-math.inf, 0.0), first)
        finally:
            self.num_gradients += density.num_gradients
        if found.status.cause is not None:
            raise found.status.cause  # Ctrl-C
        known = math.isfinite(found.elbo.value) and found.status != "diverged"
        return _Trial(found.elbo if known else Estimate(-math.inf, 0.0), found.gaussian)

    def start(self, to: Centredness) -> Gaussian | None:
        """Return mean and sds of the fit's draws in other coordinates, or None without any."""
        X = self._draws.to(to)
        X = X[np.isfinite(X).all(1)]
        if len(X) < START_DRAWS // 2:
            return None
        return Gaussian.diagonal(X.mean(0), X.std(0)).positive()

    def _rng(self) -> np.random.Generator:
        return host_rng(self._record.key, Stream.COORDINATES)

    @cached_property
    def _draws(self) -> Recentring:
        posterior = self._record.global_posterior
        rng = self._rng().spawn(1)[0]
        if posterior.weighted is not None:
            X = posterior.weighted.resample(START_DRAWS, rng)
        else:
            noise = antithetic(rng, START_DRAWS, posterior.guide.noise_dim)
            X = posterior.transport.draw(noise).points
        pair = self._data, _arrays(self._from, posterior.density)
        return Recentring.of(self._model, X, pair)


def _arrays(centred: Centredness, density: Density) -> dict[str, Any]:
    return {name: np.asarray(value, density.dtype) for name, value in centred.items()}


def _compared(guide: Guide) -> Guide:
    """Return the guide of Gaussians whose ELBOs stand for those of a guide's families."""

    def plain(block: Block, size: int) -> Block:
        family = block.family
        if isinstance(family, Point | MeanField):
            return block
        if isinstance(family, GaussianFamily) and size <= MAX_FULL_RANK:
            return block
        return Block(block.names, FullRank() if size <= MAX_FULL_RANK else MeanField())

    pairs = zip(guide.blocks, guide.indices, strict=True)
    return dataclasses.replace(guide, blocks=tuple(plain(b, len(i)) for b, i in pairs))
