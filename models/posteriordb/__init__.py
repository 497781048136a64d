"""Sixteen posteriors of posteriordb, with its reference draws to compare a fit with.

Data and draws are read from a checkout of posteriordb, named by an argument or the environment
variable ``POSTERIORDB``; nothing of it is kept here. The models are those of the Stan programs
of the same names: same parameters, same priors, densities equal up to a constant.
``python -m models.posteriordb --posteriordb DIR`` fits them all.

References
----------
Magnusson et al. (2025), posteriordb: Testing, Benchmarking and Developing Bayesian Inference
Algorithms, AISTATS, arXiv:2407.04967; https://github.com/stan-dev/posteriordb.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

import advi
from models.posteriordb import regressions, structured, time_series
from models.posteriordb.checkout import find_root, read_data, read_draws
from models.posteriordb.definition import Arrays, Draws, Problem, Raw, scalar_columns

__all__ = ["NAMES", "Posterior", "load"]


class _Entry(NamedTuple):
    posterior: str  # its name in posteriordb
    problem: Callable[[Raw], Problem]


_ENTRIES = {
    "eight_schools_noncentered": _Entry(
        "eight_schools-eight_schools_noncentered", structured.eight_schools_noncentered
    ),
    "kidscore_interaction": _Entry("kidiq-kidscore_interaction", regressions.kidscore_interaction),
    "kidscore_momhs": _Entry("kidiq-kidscore_momhs", regressions.kidscore_momhs),
    "logmesquite": _Entry("mesquite-logmesquite", regressions.logmesquite),
    "logearn_height": _Entry("earnings-logearn_height", regressions.logearn_height),
    "earn_height": _Entry("earnings-earn_height", regressions.earn_height),
    "nes1996": _Entry("nes1996-nes", regressions.nes1996),
    "arK": _Entry("arK-arK", time_series.ark),
    "gp_regr": _Entry("gp_pois_regr-gp_regr", structured.gp_regr),
    "low_dim_gauss_mix": _Entry(
        "low_dim_gauss_mix-low_dim_gauss_mix", structured.low_dim_gauss_mix
    ),
    "hmm_drive_0": _Entry("bball_drive_event_0-hmm_drive_0", time_series.hmm_drive_0),
    "kilpisjarvi": _Entry("kilpisjarvi_mod-kilpisjarvi", regressions.kilpisjarvi),
    "sblrc-blr": _Entry("sblrc-blr", regressions.blr),
    "diamonds": _Entry("diamonds-diamonds", regressions.diamonds),
    "lotka_volterra": _Entry("hudson_lynx_hare-lotka_volterra", time_series.lotka_volterra),
    "garch11": _Entry("garch-garch11", time_series.garch11),
}
NAMES = tuple(_ENTRIES)


@dataclass(frozen=True)
class Posterior:
    """One posterior, with draws of it that posteriordb holds to be right.

    Attributes
    ----------
    name
        One of `NAMES`.
    model
        The model.
    data
        Arrays as the model's log-joint takes them.
    reference
        Draws by long runs of Stan's NUTS: scalar's name, such as "beta[1]", to (n,).
    """

    name: str
    model: advi.Model
    data: Arrays
    reference: Arrays
    parameters: Callable[[Draws], Draws]

    def columns(self, z: Draws) -> Arrays:
        """Return draws of the latents, such as `advi.Fit.sample` gives, named as the reference.

        Parameters
        ----------
        z
            Tree of the latents, every leaf with a leading axis of n draws.

        Returns
        -------
        dict
            Scalar's name to (n,), float64, for every scalar that has reference draws.
        """
        # on the host: JAX's arithmetic would round the float64 draws of an x64 fit
        draws = {name: np.asarray(leaf) for name, leaf in z.items()}
        columns = scalar_columns(self.parameters(draws))
        return {name: columns[name] for name in self.reference}


def load(name: str, root: str | os.PathLike[str] | None = None) -> Posterior:
    """Read one posterior from a checkout of posteriordb.

    Parameters
    ----------
    name
        One of `NAMES`.
    root
        The checkout, or its ``posterior_database`` folder; by default what the environment
        variable ``POSTERIORDB`` names.

    Raises
    ------
    ValueError
        If there is no posterior of that name.
    FileNotFoundError
        If there is no checkout.
    """
    if name not in _ENTRIES:
        raise ValueError(f"name: got {name!r}; expected one of {', '.join(NAMES)}.")
    entry, folder = _ENTRIES[name], find_root(root)
    model, data, parameters = entry.problem(read_data(folder, entry.posterior))
    return Posterior(name, model, data, read_draws(folder, entry.posterior), parameters)
