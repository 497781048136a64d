"""The functions of the public interface."""
