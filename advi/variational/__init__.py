"""The variational distribution q: families, Gaussians and their scales, objectives."""
