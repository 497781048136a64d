"""Bijections from the real line to the supports of latents, with their log-Jacobians.

`transform_for` finds the transform of a NumPyro constraint. Those defined here stay inside the
support, with finite gradients, far out in single precision; all other constraints have NumPyro's
own; `register_transform` adds or replaces one.
"""

from advi.transforms.base import Identity, Independent, Transform
from advi.transforms.constant import Constant
from advi.transforms.matrices import CorrCholesky, CorrMatrix, LowerCholesky, PositiveDefinite
from advi.transforms.numpyro_adapter import NumPyroAdapter
from advi.transforms.periodic import Circular, UnitVector, is_angle, log_volume, log_window
from advi.transforms.registry import register_transform, transform_for
from advi.transforms.scalars import HalfLine, Interval
from advi.transforms.vectors import Ordered, Simplex, ZeroSum
from advi.transforms.windows import Window, wrapped

__all__ = [
    "Circular",
    "Constant",
    "CorrCholesky",
    "CorrMatrix",
    "HalfLine",
    "Identity",
    "Independent",
    "Interval",
    "LowerCholesky",
    "NumPyroAdapter",
    "Ordered",
    "PositiveDefinite",
    "Simplex",
    "Transform",
    "UnitVector",
    "Window",
    "ZeroSum",
    "is_angle",
    "log_volume",
    "log_window",
    "register_transform",
    "transform_for",
    "wrapped",
]
