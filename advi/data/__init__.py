"""Rows of data: in memory, on disk or from a stream; it knows no model."""
