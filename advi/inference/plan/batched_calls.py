"""Run several generators of evaluation requests together, one batched evaluation a round."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import numpy as np

from advi.core.types import Floats

Result = TypeVar("Result")
# yields points (n, D); is sent their log densities (n,) and gradients (n, D)
Stage = Generator[Floats, tuple[Floats, Floats], Result]


def run_batched(
    stages: Sequence[Stage[Any]], evaluate: Callable[[Floats], tuple[Floats, Floats]]
) -> list[Any]:
    """Run stages to their ends; return what each returned.

    `evaluate` maps points (n, D) to log densities (n,) and gradients (n, D).

    Examples
    --------
    >>> def probe(x):
    ...     value, gradient = yield np.array([[x]])
    ...     return float(value[0])
    >>> run_batched([probe(1.0), probe(2.0)], lambda X: (-X[:, 0] ** 2, -2 * X))
    [-1.0, -4.0]
    """
    joint = together(*stages)
    try:
        points = next(joint)
        while True:
            points = joint.send(evaluate(points))
    except StopIteration as end:
        return end.value


def together(*stages: Stage[Any]) -> Stage[list[Any]]:
    """Run stages as one, whose requests are those of all that have not ended."""
    results: list[Any] = [None] * len(stages)
    requests: dict[int, Floats] = {}

    def resume(i: int, answer: tuple[Floats, Floats] | None) -> None:
        try:
            requests[i] = stages[i].send(answer)  # type: ignore[arg-type]  # None starts a stage
        except StopIteration as end:
            results[i] = end.value
            requests.pop(i, None)

    for i in range(len(stages)):
        resume(i, None)
    while requests:
        waiting = list(requests.values())
        values, gradients = yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        stop = 0
        for i, points in list(requests.items()):
            start, stop = stop, stop + len(points)
            resume(i, (values[start:stop], gradients[start:stop]))
    return results
