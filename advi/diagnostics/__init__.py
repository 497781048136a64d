"""Whether to trust a fit, and moments beyond its family: arrays in, numbers out."""
