"""The log density of a block of random rows."""

import numpy as np

from advi.model.density import Density
from advi.model.row_blocks import BLOCK_POINTS


class BlockSample(Density):
    """Log density on R^D of a block of random rows, which stand for all, by the programs of all."""

    def __init__(self, whole: Density, rng: np.random.Generator) -> None:
        blocks = whole.blocks
        assert blocks is not None
        data, weights = blocks.sample(whole.data, rng)
        super().__init__(
            whole.model, data, blocks.block_spec, whole.estimated, by_gradient=True, weights=weights
        )
        self.log_joint, self.blocks, self._points = blocks.log_joint, None, BLOCK_POINTS
        self._given = *self._given, np.ones((), self.dtype)
