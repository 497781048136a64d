"""The two algorithms: the automatic plan and stochastic steps."""
