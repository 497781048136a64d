"""Keys of values without a hash."""

from typing import Any, NamedTuple


class _Identity(NamedTuple):
    """Something without a hash, compared by what it is."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def identified(value: Any) -> Any:
    """Return what stands for a value in a key: itself, or without a hash its identity."""
    try:
        hash(value)
    except TypeError:
        return _Identity(value)
    return value
