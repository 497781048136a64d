"""The progress bar of a fit."""

import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from advi.core import interrupts
from advi.core.errors import describe
from advi.core.status import Progress, Snapshot


class ProgressBar:
    """Shows the progress of a fit, and passes it on to the user's callback.

    It is there before anything is compiled. A terminal or a pipe that is closed meanwhile ends the
    bar, not the fit. `shown` None shows it in a terminal and in a notebook, unless the environment
    sets TQDM_DISABLE; `total` is the largest number of steps, or None. `fit_of` makes what users
    know as a fit of its record.
    """

    def __init__(
        self,
        shown: bool | None,
        callback: Callable[[Progress], object] | None = None,
        total: int | None = None,
        fit_of: Callable[[Any], Any] | None = None,
    ) -> None:
        self._began = time.perf_counter()
        self._fit_of = fit_of
        self._shown = is_shown(shown)
        self._callback, self._total = callback, total
        self._bar: Any = None

    def __enter__(self) -> "ProgressBar":
        if self._shown:
            # miniters: no watching thread; delay: nothing is drawn before `_draw` can catch it
            options = {"leave": False, "miniters": 1, "delay": 1e-9}
            self._bar = _tqdm()(desc="compile", total=self._total, unit=" steps", **options)
            self._draw(self._bar.refresh)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._draw(self._bar.close)

    def update(self, progress: Progress, snapshot: Snapshot | None = None) -> object:
        """Show progress; return the callback's answer, or raise TypeError without a truth value.

        The callback may ask for the snapshot, whose fit is a record here.
        """
        if self._bar is not None:
            self._bar.set_description_str(progress.stage, refresh=False)
            self._bar.set_postfix_str(_elbo_text(progress), refresh=False)
            self._draw(lambda: self._bar.update(progress.step - self._bar.n))
        if self._callback is None:
            return None
        asked = [] if snapshot is None else [self._of_users(snapshot)]
        seconds = time.perf_counter() - self._began
        try:
            with interrupts.at_once():
                answer = self._callback(replace(progress, seconds=seconds, _snapshots=asked))
        finally:
            asked.clear()
        try:
            bool(answer)
        except (TypeError, ValueError):
            raise TypeError(
                f"callback: returned {describe(answer)}; expected something true to end the fit, "
                "or nothing."
            ) from None
        return answer

    def reached(self, stage: str, step: int) -> None:
        """Show the number of steps, between two reports of progress."""
        if self._bar is not None and step > self._bar.n:
            self._bar.set_description_str(stage, refresh=False)
            self._draw(lambda: self._bar.update(step - self._bar.n))

    def _of_users(self, snapshot: Snapshot) -> Snapshot:
        fit_of = self._fit_of or (lambda record: record)
        return snapshot._replace(fit=lambda: fit_of(snapshot.fit()))

    def count(self, done: int) -> None:
        """Show how many fits are done."""
        if self._bar is not None:
            self._draw(lambda: self._bar.update(done - self._bar.n))

    def begin(self, stage: str) -> None:
        """Show the name of a stage that reports no progress of its own."""
        if self._bar is not None:
            self._draw(lambda: self._bar.set_description_str(stage))

    def _draw(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, ValueError):  # a broken pipe, a closed stream
            self._bar.disable = True  # or its finaliser would write once more
            self._bar = None


def _elbo_text(progress: Progress) -> str:
    per_row = f", {progress.elbo_per_row:.4f} per row" if (progress.num_rows or 1) > 1 else ""
    return f"ELBO {progress.elbo:.2f}{per_row}"


def is_shown(shown: bool | None) -> bool:
    """Return whether there is a bar: as asked for, or by None where someone reads stderr now."""
    can_be = sys.stderr is not None and not sys.stderr.closed
    return can_be and (_is_interactive() if shown is None else shown)


def _is_interactive() -> bool:
    """Return whether stderr is read by someone now: in a terminal or a notebook."""
    if os.environ.get("TQDM_DISABLE"):  # which tqdm's bar for notebooks does not read
        return False
    return sys.stderr.isatty() or type(sys.stderr).__module__ == "ipykernel.iostream"


def _tqdm() -> Any:
    """Return tqdm's bar for a notebook with widgets, or the one in text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where widgets are missing text will do
        from tqdm.auto import tqdm  # only where there is a bar to draw
    return tqdm
