"""Plots of a fit. Matplotlib is imported when one is asked for."""

from advi.plots.elbo import plot_elbo
from advi.plots.marginals import plot
from advi.plots.pairs import plot_pairs

__all__ = ["plot", "plot_elbo", "plot_pairs"]
