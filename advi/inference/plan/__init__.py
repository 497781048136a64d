"""The automatic plan: fixed draws, Newton steps and L-BFGS, one stage a file.

A stage is a generator: it yields points on R^D at which it needs the log density and its gradient,
and is sent both, so that several stages share every evaluation of the model.
"""
