"""Jaxprs: compared by value, frozen, and evaluated in part."""
