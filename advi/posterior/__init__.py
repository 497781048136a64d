"""The variational distribution together with its data: draws, moments, ELBO."""
