"""amortisation_gap(): how much an encoder loses."""

from typing import Any

from advi.core.errors import describe
from advi.diagnostics.amortisation_gap import AmortisationGap, amortisation_gap_of
from advi.results.fit import Fit


def amortisation_gap(fit: Fit, data: Any, *, steps: int = 200, key: Any = 0) -> AmortisationGap:
    """Compare an encoder with parameters that are refined for each row, all else held.

    A large gap says that a larger encoder, or longer training, would raise the ELBO without any
    change to the model; what is left between the refined ELBO and `Fit.log_marginal` is the
    family's.

    Parameters
    ----------
    fit
        A fit with an `Amortised` family.
    data
        Rows, best held out from the fit; a tree like the data of the fit.
    steps
        Steps of Adam on the parameters of every row, at a rate that falls from 0.03 to zero.
    key
        Integer or JAX key.

    Returns
    -------
    AmortisationGap

    Raises
    ------
    TypeError, ValueError
        If `fit` has no encoder, `data` does not fit, or `steps` is not a positive integer.

    References
    ----------
    Cremer, Li & Duvenaud (2018), Inference Suboptimality in Variational Autoencoders, section 3.

    Examples
    --------
    >>> import advi
    >>> def log_joint(z, x):
    ...     return advi.Terms(0.0, rows=-0.5 * (z["h"] ** 2 + (x - z["h"]) ** 2))
    >>> model = advi.Model(log_joint, {"h": advi.real(local=True)})
    >>> def encode(params, x):
    ...     return params["a"] * x[None], params["log_sd"]
    >>> start = {"a": np.array([0.5]), "log_sd": np.array([-0.35])}
    >>> x = np.linspace(-1, 1, 20)
    >>> fit = advi.fit(model, x, family=advi.Amortised(encode, start), max_steps=1)
    >>> bool(abs(advi.amortisation_gap(fit, x).gap.value) < 0.01)
    True
    """
    if not isinstance(fit, Fit):
        raise TypeError(f"fit: got {describe(fit)}; expected an advi.Fit.")
    posterior = fit.posterior
    at = posterior.on(data) if posterior.guide.local else posterior
    return amortisation_gap_of(at, steps, key)
