"""Arrays, keys, errors, files and traces: what every room uses."""
