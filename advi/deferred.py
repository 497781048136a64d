"""Models whose latents are known only once there is data: resolved here, and nowhere else."""

from typing import Any, Protocol, runtime_checkable

from advi.data import DataSpec
from advi.errors import describe
from advi.model import Model
from advi.tracing import of_fit


@runtime_checkable
class Deferred(Protocol):
    """What stands for a model until there is data, such as a NumPyro model.

    It compares by what it was made from, so that compiled code is found again.
    """

    def bind(self, data: Any, spec: DataSpec) -> Model:
        """Return the model for data of these shapes."""
        ...


def bound(model: Model | Deferred, data: Any, spec: DataSpec) -> Model:
    """Return the model, or what a deferred model is for the data, for a fit of its own.

    What its functions read from outside is read anew, and stays as it is for what has this model.
    """
    if isinstance(model, Model):
        return of_fit(model, spec.float_dtype, {})
    made = model.bind(data, spec)
    return of_fit(made, spec.float_dtype, made.traces)


def check_model(model: Any) -> None:
    """Raise TypeError unless something is a model."""
    if isinstance(model, type) or not isinstance(model, (Model, Deferred)):
        raise TypeError(
            f"model: got {describe(model)}; expected an advi.Model. Write "
            "advi.Model(log_joint, latents), or advi.from_numpyro(model) for a NumPyro model."
        )
