"""The result of a fit: methods, printing, plots, files and exports."""
