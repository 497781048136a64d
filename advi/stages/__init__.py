"""The automatic plan and the stochastic path, one stage a file.

A stage of the automatic plan is a generator: it yields points on R^D where it wants the log
density and its gradient, and is sent both. Written for one path of optimisation, several of them
run in lockstep (`advi.stages.lockstep`) and share every evaluation of the model.
"""
