"""Traces of functions: compared by what they compute, frozen, and looked into."""
