"""What every room uses and which knows none of them: arrays, keys, errors, files, traces."""
