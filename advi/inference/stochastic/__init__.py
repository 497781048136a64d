"""Steps of an Optax optimiser on fresh draws."""
