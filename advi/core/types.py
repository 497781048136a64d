"""Types of arrays, and a constant of normal densities."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOG_2PI = math.log(2 * math.pi)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int_]
SparseMatrix = Any  # a sparse array of SciPy, whose own types know little of it
ValueAndGrad = Callable[[Floats], tuple[Floats, Floats]]  # (n, D) to nats (n,) and (n, D)
