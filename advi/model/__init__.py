"""The model p: latents, the log-joint, and its log density on R^D."""
