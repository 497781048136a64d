"""Ctrl-C during a fit: deferred until the fit can stop and return a result.

An exception from a signal comes at any moment, in the middle of a trace, a write or a finaliser,
which loses it or their work. So the first Ctrl-C only sets a flag. The fit looks at it wherever it
may stop: between two evaluations of a density, between two chunks of steps, and while it waits for
a stream.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_asked = False
_at_once = 0


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Defer Ctrl-C within a block, until `check` raises it, or a second one comes.

    Only where it would raise KeyboardInterrupt: in the main thread, unless the program handles
    the signal itself. If it has not been raised at the end of the block it is dropped: it was to
    end the block.
    """
    global _asked
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _asked = False


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt at any moment of a block: in the user's code."""
    global _at_once
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    check()
    _at_once += 1
    try:
        yield
    finally:
        _at_once -= 1


def check() -> None:
    """Raise the KeyboardInterrupt that is deferred, if there is one, in the main thread."""
    global _asked
    if _asked and threading.current_thread() is threading.main_thread():
        _asked = False
        raise KeyboardInterrupt


def _ask(signum: int, frame: FrameType | None) -> None:
    global _asked
    if _asked or _at_once:
        _asked = False
        raise KeyboardInterrupt
    _asked = True
