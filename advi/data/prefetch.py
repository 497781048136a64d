"""A background thread that prepares the next items while the present one is used."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from advi.core import interrupts

DEPTH = 2  # items that are ready and wait
POLL = 0.1  # seconds between two checks whether the reader has left or Ctrl-C was pressed
GRACE = 0.3  # seconds that an abandoned thread is waited for


class _Ready(NamedTuple):
    item: Any
    error: BaseException | None


class Prefetch:
    """Items of a generator, each passed through a function in a thread, in their order.

    Used in a ``with`` block, at whose end the thread has ended. After Ctrl-C it is not waited for
    longer than a moment, and ends when the generator yields its present item. Errors of the
    generator or the function are raised in the reader's thread, after the items before them.

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
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, name="advi-prefetch", daemon=True)

    def __enter__(self) -> "Prefetch":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._left.set()
        if self._abandoned or (kind is not None and issubclass(kind, KeyboardInterrupt)):
            self._thread.join(GRACE)
            return
        with contextlib.suppress(KeyboardInterrupt):  # which costs only the wait
            while self._thread.is_alive():
                self._thread.join(POLL)
                interrupts.check()

    def abandon(self) -> None:
        """Do not wait for the thread at the end of the block."""
        self._abandoned = True

    def __iter__(self) -> "Prefetch":
        return self

    def __next__(self) -> Any:
        while True:
            interrupts.check()
            with contextlib.suppress(queue.Empty):
                ready = self._queue.get(timeout=POLL)
                break
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
        except BaseException as error:  # to be raised in the reader's thread
            self._put(_Ready(None, error))

    def _put(self, ready: _Ready) -> bool:
        """Wait for room in the queue; return False if the reader has left."""
        while not self._left.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(ready, timeout=POLL)
                return True
        return False
