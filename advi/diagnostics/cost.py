"""Predicted time of gradients, in place of a clock: the same fit takes the same steps anywhere."""

from advi.model.density import Density
from advi.model.sparse_hessian import SparseHessian
from advi.variational.precision_scale import PrecisionScale
from advi.variational.transport import GaussianTransport, JointTransport, Transport
from advi.variational.triangular_transport import TriangularTransport

# Seconds of one core for one draw of a batch, measured on densities that read 300 to 200,000
# elements and on maps of 4 to 1,000 coordinates.
PER_DRAW, PER_ELEMENT = 2e-6, 5e-10
PER_MAP, PER_COORDINATE, PER_WEIGHT, PER_PAIR = 2e-5, 1.5e-7, 5e-9, 2e-10
PER_ENTRY = 4.5e-9  # of a sparse factor, in two products
PRODUCT = 4.0  # gradients in a Hessian-vector product
PER_FACTOR, PER_FACTORED = 2e-3, 1e-7  # and of its entries
PER_EFFECT = 1.5e-7  # for each coordinate of a draw by a sparse factor
UNKNOWN_MAP = 1e-4  # of a family of the user's own


def seconds_per_gradient(density: Density, transport: Transport) -> float:
    """Return the predicted seconds of one gradient of the log density, pulled back by a map."""
    return PER_DRAW + PER_ELEMENT * density.log_joint.cost + _of_map(transport)


def _of_map(transport: Transport) -> float:
    if isinstance(transport, JointTransport):
        return sum(map(_of_map, transport.parts))
    dim = transport.noise_dim
    if isinstance(transport, GaussianTransport):
        if isinstance(transport.gaussian.scale, PrecisionScale):
            return PER_ENTRY * transport.gaussian.scale.factor.num_entries
        return PER_PAIR * dim**2
    if isinstance(transport, TriangularTransport):
        weights = sum(layer.num_parents * dim for layer in transport.layers)
        return PER_MAP + PER_COORDINATE * dim + PER_WEIGHT * weights + PER_PAIR * dim**2
    return UNKNOWN_MAP


def seconds_per_hessian(density: Density, hessian: SparseHessian) -> float:
    """Return the predicted seconds of a sparse Hessian of the log density."""
    per_product = PER_DRAW + PRODUCT * PER_ELEMENT * density.log_joint.cost
    return hessian.colouring.num * per_product


def seconds_per_effects(density: Density) -> float:
    """Return the predicted seconds of a draw by a sparse factor, and of its log density."""
    return PER_EFFECT * density.model.size + PER_ELEMENT * density.log_joint.cost


def seconds_per_factor(hessian: SparseHessian) -> float:
    """Return the predicted seconds of a factor of a sparse Hessian, and of a few products."""
    return PER_FACTOR + PER_FACTORED * hessian.elimination.entries
