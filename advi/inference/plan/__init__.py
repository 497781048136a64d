"""The automatic plan: fixed draws, Newton steps and L-BFGS, one stage a file.

A stage is a generator: it yields points on R^D where it wants the log density and its gradient, and
is sent both. Written for one path of optimisation, several of them run in lockstep and share every
evaluation of the model.
"""
