"""Faults of a model that are found by its values and gradients."""
