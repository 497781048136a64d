"""Keys of values without a hash, and classes of advi's own."""

from typing import Any, NamedTuple


class Identity(NamedTuple):
    """A value that is equal to itself alone."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def identified(value: Any) -> Any:
    """Return a value as part of a key: itself, or its identity if it has no hash."""
    try:
        hash(value)
    except TypeError:
        return Identity(value)
    return value


def is_of_advi(value: object) -> bool:
    """Return whether the class of a value is one of this package, not a user's own."""
    return type(value).__module__.split(".")[0] == "advi"
