"""The progress bar: where it is shown, what it says, and that it never breaks a fit."""

import io
import re
import sys
import types

import pytest

import advi
from advi.core.progress_bar import ProgressBar

STEP = advi.Progress("optimize", 128, -3.456)


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Notebook(io.StringIO):
    pass


Notebook.__module__ = "ipykernel.iostream"  # what tells a notebook's stderr


class Pipe(Terminal):
    """A terminal until its reader goes."""

    broken = False

    def write(self, text):
        if self.broken:
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)


def shown_on(stream, monkeypatch, shown=None, total=None):
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar(shown, total=total) as bar:
        bar.update(STEP)
        bar.begin("verdict")
    return stream.getvalue()


def test_a_terminal_shows_stage_steps_and_elbo(monkeypatch):
    text = shown_on(Terminal(), monkeypatch)
    assert text.lstrip("\r").startswith("compile: 0 steps")
    assert re.search(r"verdict: 128 steps \[.*ELBO -3.46", text)
    assert text.rstrip(" ").endswith("\r")  # and is left empty


def test_of_rows_there_is_the_elbo_per_row(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar(None) as bar:
        bar.update(advi.Progress("optimize", 128, -345.6, num_rows=100))
        bar.begin("verdict")
    assert "ELBO -345.60, -3.4560 per row" in stream.getvalue()


def test_with_a_limit_there_is_the_time_left(monkeypatch):
    text = shown_on(Terminal(), monkeypatch, total=1000)
    assert re.search(r"verdict:\s+13%.*128/1000 \[\d\d:\d\d<\d\d:\d\d", text)


@pytest.mark.parametrize(
    ("stream", "shown", "visible"),
    [(io.StringIO, None, False), (Terminal, False, False), (io.StringIO, True, True)],
)
def test_a_file_stays_empty_unless_asked_for(stream, shown, visible, monkeypatch):
    assert bool(shown_on(stream(), monkeypatch, shown)) == visible


@pytest.mark.parametrize("stream", [Terminal, Notebook])
def test_the_environment_can_switch_it_off(stream, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert not shown_on(stream(), monkeypatch)


def test_a_notebook_without_widgets_gets_text_and_no_warning(monkeypatch):
    for name in ("tqdm.auto", "tqdm.autonotebook", "tqdm.notebook"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", types.ModuleType("ipykernel.zmqshell"))
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert "compile: 0 steps" in shown_on(Notebook(), monkeypatch)


@pytest.mark.parametrize("shown", [None, True])
@pytest.mark.parametrize("stream", [None, Terminal()])
def test_without_a_stderr_nothing_is_drawn(shown, stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    if stream is not None:
        stream.close()
    with ProgressBar(shown, lambda progress: progress.step) as bar:
        assert bar.update(STEP) == 128


def test_a_stream_that_is_closed_under_way_ends_the_bar_only(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar(None, lambda progress: progress.step) as bar:
        stream.close()
        bar.begin("verdict")
        assert bar.update(STEP) == 128


def test_a_pipe_that_breaks_under_way_ends_the_bar_only(monkeypatch):
    stream = Pipe()
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar(None, lambda progress: progress.step) as bar:
        stream.broken = True
        bar.begin("verdict")
        assert bar.update(STEP) == 128
    stream.broken = False
    assert stream.getvalue().count("\r") == 1


def test_a_fit_shows_its_bar_before_it_compiles(monkeypatch):
    stream, seen = Terminal(), []
    monkeypatch.setattr(sys, "stderr", stream)

    def log_joint(z, data):
        seen.append(stream.getvalue())
        return -0.5 * z["x"] ** 2

    fit = advi.fit(advi.Model(log_joint, {"x": advi.real()}))
    assert "compile" in seen[0]
    assert "verdict" in stream.getvalue()
    assert fit.status == "converged"
