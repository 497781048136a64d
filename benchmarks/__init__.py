"""Benchmarks, one question a file: ``python -m benchmarks.NAME`` prints, and writes, the answer."""
