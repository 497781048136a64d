"""A lock on a folder, which ends with the process that holds it."""

import contextlib
import os
import warnings
from pathlib import Path

LOCK = "fit.lock"


class FolderLock:
    """Keeps other fits, of any process, out of a folder; BlockingIOError if one holds it.

    It is the system's lock on a file that stays: removing that could let two in at once.
    """

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(self._file)
        except BlockingIOError:
            self.release()
            raise
        except OSError as error:
            warnings.warn(
                f"checkpoint: {folder} cannot be locked ({error}); see to it that no other fit "
                "uses it.",
                RuntimeWarning,
                stacklevel=4,
            )

    def release(self) -> None:
        """Unlock the folder, although a child of this process may hold the file open."""
        with contextlib.suppress(OSError):  # where nothing is locked
            _unlock(self._file)
        os.close(self._file)


if os.name == "nt":
    import msvcrt

    def _lock(file: int) -> None:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except PermissionError as error:  # what Windows says of a byte that is locked
            raise BlockingIOError(*error.args) from None

    def _unlock(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
