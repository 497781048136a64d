"""Plots of a fit; Matplotlib is imported on use."""

from advi.results.plots.elbo import plot_elbo
from advi.results.plots.forest import plot_forest
from advi.results.plots.marginals import plot
from advi.results.plots.pairs import plot_pairs
from advi.results.plots.panels import Layer, check_is_fit, lay_over
from advi.results.plots.ppc import plot_ppc

__all__ = [
    "Layer", "check_is_fit", "lay_over", "plot", "plot_elbo", "plot_forest", "plot_pairs",
    "plot_ppc",
]  # fmt: skip
