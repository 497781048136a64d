"""A background thread that makes the next items ready while the present one is used."""

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

DEPTH = 2  # items that are ready and wait
POLL = 0.1  # seconds between two looks at whether the reader has gone


class _Ready(NamedTuple):
    item: Any
    error: BaseException | None


class Prefetch:
    """Items of a generator, each passed through a function, in their order.

    Used in a ``with`` block, at whose end the thread has ended, however it is left. What the
    generator or the function raises is raised in the reader's thread, after the items before it.

    Parameters
    ----------
    items
        Generator; it runs in the thread.
    prepare
        Function of an item, which runs there too.

    Examples
    --------
    >>> import itertools
    >>> with Prefetch((i for i in itertools.count()), lambda i: i * i) as squares:
    ...     [next(squares) for _ in range(4)]
    [0, 1, 4, 9]
    """

    def __init__(self, items: Generator[Any, None, None], prepare: Callable[[Any], Any]) -> None:
        self._items, self._prepare = items, prepare
        self._queue: queue.Queue[_Ready] = queue.Queue(DEPTH)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._work, name="advi-prefetch", daemon=True)

    def __enter__(self) -> "Prefetch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def __iter__(self) -> "Prefetch":
        return self

    def __next__(self) -> Any:
        ready = self._queue.get()
        if ready.error is not None:
            raise ready.error
        return ready.item

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put(_Ready(self._prepare(item), None)):
                    break
            self._items.close()
            self._put(_Ready(None, StopIteration()))
        except BaseException as error:  # the reader's thread is where it belongs
            self._put(_Ready(None, error))

    def _put(self, ready: _Ready) -> bool:
        """Wait for a place in the queue; return False if the reader has gone."""
        while not self._left.is_set():
            try:
                self._queue.put(ready, timeout=POLL)
            except queue.Full:
                continue
            return True
        return False
