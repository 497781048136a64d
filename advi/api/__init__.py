"""The calls that a user makes."""
