"""Blocks of rows in tests, where few rows count as many."""

import contextlib

from advi.model import row_blocks


@contextlib.contextmanager
def blocks_of(monkeypatch, size, least):
    """Take blocks of `size` rows meanwhile, of `least` rows and more."""
    for name, value in {"MIN_ROWS": least, "BLOCK_ROWS": size, "MIN_BLOCK_ROWS": size}.items():
        monkeypatch.setattr(row_blocks, name, value)
    row_blocks.row_blocks.cache_clear()
    yield
    row_blocks.row_blocks.cache_clear()
