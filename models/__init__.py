"""Worked models, one a file: ``python -m models.NAME`` fits one and prints what it found."""
