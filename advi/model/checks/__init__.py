"""Faults of a model that its values and gradients show."""
