"""The scale of independent blocks of coordinates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from advi.variational.precision_scale import PrecisionScale
from advi.variational.scale import DiagonalScale, LowRankScale, Scale, TriangularScale

MAX_DENSE_DIM = 2048  # of a dense matrix, where some blocks are coupled


def joined(size: int, indices: Sequence[NDArray], scales: Sequence[Any]) -> Scale:
    """Return the scale of independent blocks, D = `size`, of the simplest kind possible."""
    if len(scales) == 1 and len(indices[0]) == size:
        return scales[0]
    kinds = {scale.coupling for scale in scales}
    if "all" in kinds and size > MAX_DENSE_DIM and all((s.sds > 0).all() for s in scales):
        return _by_precision(size, indices, scales)
    if "all" in kinds:
        matrix = np.zeros((size, size))
        for i, scale in zip(indices, scales, strict=True):
            matrix[np.ix_(i, i)] = scale.tril()
        return TriangularScale(matrix)
    sd = np.zeros(size)
    for i, scale in zip(indices, scales, strict=True):
        sd[i] = scale.diagonal
    if kinds == {"none"}:
        return DiagonalScale(sd)
    parts: list[LowRankScale] = [scale.low_rank() for scale in scales]
    vectors = [np.zeros((size, len(part.stretch))) for part in parts]
    for i, part, padded in zip(indices, parts, vectors, strict=True):
        padded[i] = part.vectors
    stretch = np.concatenate([part.stretch for part in parts])
    return LowRankScale(sd, np.concatenate(vectors, axis=1), stretch)


def _by_precision(size: int, indices: Sequence[NDArray], scales: Sequence[Any]) -> PrecisionScale:
    """Return the scale of independent blocks with a sparse precision, the smallest block last."""
    parts, order = [], []
    for i, scale in sorted(zip(indices, scales, strict=True), key=lambda pair: -len(pair[0])):
        if isinstance(scale, PrecisionScale):
            of_block, own = scale.precision, scale.order
        elif scale.coupling == "none":
            of_block, own = scipy.sparse.diags_array(scale.sds**-2.0), np.arange(len(i))
        else:
            inverse = np.linalg.inv(scale.tril())
            of_block, own = scipy.sparse.coo_array(inverse.T @ inverse), np.arange(len(i))
        of_block = scipy.sparse.coo_array(of_block)
        rows, columns = of_block.coords
        parts.append((of_block.data, i[rows], i[columns]))
        order.append(i[own])
    data, rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
    whole = scipy.sparse.csc_array((data, (rows, columns)), shape=(size, size))
    return PrecisionScale(whole, np.concatenate(order))
