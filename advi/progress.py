"""The progress bar of a fit."""

import sys
from collections.abc import Callable
from typing import Any

from advi.status import Progress


class Bar:
    """Shows where a fit is, and passes progress on to the user's callback.

    Parameters
    ----------
    shown
        Whether to show it; None shows it in a terminal.
    callback
        The user's function; what it returns is passed back.
    """

    def __init__(
        self, shown: bool | None, callback: Callable[[Progress], object] | None = None
    ) -> None:
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._callback = callback
        self._bar: Any = None

    def __enter__(self) -> "Bar":
        if self._shown:
            from tqdm import tqdm  # only where there is a bar to draw

            self._bar = tqdm(desc="compile", unit=" steps", leave=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, progress: Progress) -> object:
        """Show progress; return what the user's callback says."""
        if self._bar is not None:
            self._bar.set_description_str(progress.stage, refresh=False)
            self._bar.set_postfix_str(f"ELBO {progress.elbo:.2f}", refresh=False)
            self._bar.update(progress.step - self._bar.n)
        return self._callback(progress) if self._callback is not None else None
