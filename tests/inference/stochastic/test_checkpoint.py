"""A stochastic fit that was stopped goes on as if it had not been."""

import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import advi
from advi.core import archive
from advi.core import folder_lock as lock
from advi.core.archive import ArchiveError
from advi.core.folder_lock import LOCK
from advi.inference.stochastic import checkpoint
from advi.inference.stochastic.checkpoint import FILE, KIND, VERSION
from benchmarks import kill_resume

RNG = np.random.default_rng(0)
X = RNG.standard_normal((500, 2))
DATA = {"x": X, "y": X @ [1.0, -2.0] + RNG.standard_normal(500)}
OFFSET = np.array([0.0, 0.0])


def log_joint(z, d):
    prior = -0.005 * z["w"] @ z["w"] - 0.5 * z["s"] ** 2
    off = (d["y"] - d["x"] @ z["w"]) / z["s"]
    return advi.Terms(prior, rows=-0.5 * off**2 - jnp.log(z["s"]))


def another(z, d):
    return log_joint({**z, "w": z["w"] + OFFSET}, d)


LATENTS = {"w": advi.real(2), "s": advi.positive()}
MODEL = advi.Model(log_joint, LATENTS)
# of the steps alone: those of the default optimiser begin with the plan on some rows
CALL = {"batch_size": 50, "max_steps": 1000, "optimizer": optax.adam(0.05)}


def fit(model=MODEL, data=DATA, **arguments):
    return advi.fit(model, data, diagnose=False, **{**CALL, **arguments})


def stopping(*steps):
    return lambda progress: progress.step in steps


def raising(step):
    def callback(progress):
        if progress.step >= step:
            raise KeyboardInterrupt

    return callback


def saved(result, path):
    result.save(path)
    return path.read_bytes()


SETTINGS = {
    "minibatch": {"key": np.uint32([3, 4]), "optimizer": None},
    "until it settles": {"max_steps": None, "optimizer": None},
    "float64": {"x64": True, "optimizer": optax.adam(0.02, mu_dtype="bfloat16")},
    "line search": {"optimizer": optax.lbfgs(), "batch_size": None, "max_steps": 300},
}


SLOW = ("line search", "float64")  # the others show the same of checkpoints


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in SETTINGS]
)
def test_a_stopped_fit_goes_on_bit_for_bit(name, tmp_path):
    arguments = SETTINGS[name]
    alone = fit(**arguments)
    arguments = {**arguments, "checkpoint": tmp_path / "run"}
    assert fit(**arguments, callback=stopping(128)).status == "interrupted"
    assert fit(**arguments, callback=raising(200)).status == "interrupted"
    resumed = fit(**arguments)
    assert resumed.status == alone.status
    assert saved(resumed, tmp_path / "a") == saved(alone, tmp_path / "b")
    assert sorted(os.listdir(tmp_path / "run")) == [FILE, LOCK]
    # made once more, the call returns what it ended with
    again = fit(**arguments, callback=raising(0))
    assert saved(again, tmp_path / "a") == saved(alone, tmp_path / "b")


def test_more_steps_go_on_from_fewer(tmp_path):
    fit(checkpoint=tmp_path / "run", max_steps=333)
    more = fit(checkpoint=tmp_path / "run")
    assert saved(more, tmp_path / "a") == saved(fit(), tmp_path / "b")
    with pytest.raises(ValueError, match="holds 1000 steps, and max_steps is 999"):
        fit(checkpoint=tmp_path / "run", max_steps=999)


def test_what_a_process_leaves_that_is_killed_goes_on(tmp_path, monkeypatch):
    """Of the folder as it is while the fit runs, not of what an interrupted fit writes at last."""
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", np.inf)
    left = []

    def callback(progress):
        if progress.step in (128, 512):
            left.append(shutil.copytree(tmp_path / "run", tmp_path / str(progress.step)))

    alone = saved(fit(checkpoint=tmp_path / "run", callback=callback), tmp_path / "a")
    first, second = ((folder / FILE).read_bytes() for folder in left)
    assert first != second
    for folder in left:
        assert saved(fit(checkpoint=folder), tmp_path / "b") == alone


@pytest.mark.slow  # short: test_what_a_process_leaves_that_is_killed_goes_on, and of its lock below
def test_a_process_that_is_killed_goes_on():
    outcome = kill_resume.run(kills=2, steps=1500, max_delay=0.1)
    assert outcome.kills == 2
    assert outcome.finished == outcome.equal > 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "run"
    fit(checkpoint=folder, max_steps=100)
    return folder


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (None, {"batch_size": 25}, r"batch_size \(50 before, 25 now\)\. Make"),
        (None, {"family": "full_rank"}, r"family \(mean_field before, full_rank now\)"),
        (None, {"key": 7}, r"key \(\(0,\) before, \(7,\) now\)"),
        (None, {"objective": advi.Elbo(draws=4)}, "objective .*draws=4"),
        (None, {"max_steps": None}, r"max_steps \(a number before, None now\)"),
        (None, {"x64": True}, r"data 'x' \(float32 \(500, 2\) before, float64 \(500, 2\) now\)"),
        (None, {"optimizer": optax.adam(0.3)}, "the log-joint, .*the optimizer"),
        (None, {"init": {"s": 2.0}}, r"where it starts\. Make"),
        (advi.Model(another, LATENTS), {}, r"the log-joint, a transform"),
        (
            advi.Model(log_joint, {**LATENTS, "s": advi.positive(transform="softplus")}),
            {},
            "the log-joint, a transform",
        ),
        (
            advi.Model(log_joint, {**LATENTS, "s": advi.greater_than(0.0)}),
            {},
            r"latent 's' \(Positive.* before, GreaterThan.* now\)",
        ),
        (None, {"data": {**DATA, "y": DATA["y"] + 1}}, "the values of data 'y'"),
        (None, {"data": {k: v[:400] for k, v in DATA.items()}}, r"data 'x' .*\(400, 2\) now"),
    ],
)
def test_another_fit_is_refused(run, model, arguments, message):
    before = (run / FILE).read_bytes()
    with pytest.raises(ValueError, match=r"run is of another fit\. What differs: .*" + message):
        fit(**{"model": model or MODEL, "checkpoint": run, **arguments})
    assert (run / FILE).read_bytes() == before


def test_steps_of_another_version_are_refused(run, monkeypatch):
    monkeypatch.setattr(checkpoint, "OF_VERSION", "3")
    with pytest.raises(ValueError, match=r"run is of another version of advi, .*to begin anew"):
        fit(checkpoint=run)


def test_what_a_log_joint_closes_over_counts(monkeypatch, tmp_path):
    def around_offset():
        return advi.Model(lambda z, d: -((z["w"] - OFFSET) ** 2).sum(), {"w": advi.real(2)})

    settings = {"data": None, "batch_size": None, "checkpoint": tmp_path}
    fit(around_offset(), max_steps=100, **settings)
    monkeypatch.setitem(globals(), "OFFSET", np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"differs: .*the log-joint"):
        fit(around_offset(), **settings)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    fit(checkpoint=tmp_path, max_steps=100)
    whole = (tmp_path / FILE).read_bytes()
    for place in (3, 100, len(whole) // 2, len(whole) - 3):
        raw = bytearray(whole)
        raw[place] ^= 1
        (tmp_path / FILE).write_bytes(raw)
        with pytest.raises(ArchiveError, match=FILE):
            fit(checkpoint=tmp_path)
    (tmp_path / FILE).write_bytes(whole)
    document, arrays, _ = archive.read(tmp_path / FILE, KIND, VERSION)
    archive.write(tmp_path / FILE, KIND, VERSION, document, {**arrays, "state.0": arrays["elbos"]})
    with pytest.raises(ArchiveError, match="does not hold a checkpoint as advi writes it"):
        fit(checkpoint=tmp_path)


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    """And nothing else: what is the user's own stays, whatever its name."""
    (tmp_path / f".advi-{'0f' * 16}").write_bytes(b"half of a file")
    own = [".advi-mine.txt", ".advi-0", f".advi-{'0f' * 16}.txt"]
    for name in own:
        (tmp_path / name).write_bytes(b"mine")
    folders = [".advi-backup", f".advi-{'a0' * 16}"]
    for name in folders:
        (tmp_path / name).mkdir()
    fit(checkpoint=tmp_path, max_steps=100)
    assert sorted(os.listdir(tmp_path)) == sorted([FILE, LOCK, *own, *folders])


# without all that advi imports
HOLDER = """
import runpy, sys
from pathlib import Path
held = runpy.run_path(sys.argv[1])["FolderLock"](Path(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


def test_one_fit_at_a_time_uses_a_folder(tmp_path):
    """Of this process or another; one that is killed leaves no lock behind."""
    inside = []

    def callback(progress):
        with pytest.raises(BlockingIOError, match="in use by another fit") as caught:
            fit(checkpoint=tmp_path)
        inside.append(caught)

    assert fit(checkpoint=tmp_path, callback=callback, max_steps=256).status == "max_steps"
    assert inside
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, lock.__file__, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match="expected a folder for each"):
            fit(checkpoint=tmp_path)
        other.kill()
    assert fit(checkpoint=tmp_path).status == "max_steps"


def test_where_nothing_can_be_locked_a_fit_is_kept_all_the_same(tmp_path, monkeypatch):
    def refuse(file):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock, "_lock", refuse)
    with pytest.warns(RuntimeWarning, match=r"cannot be locked .*No locks available"):
        fit(checkpoint=tmp_path, max_steps=100)
    assert (tmp_path / FILE).exists()


def test_a_full_disk_costs_only_the_checkpoint(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    def fill(progress):
        monkeypatch.setattr(checkpoint, "write", full)

    with pytest.warns(RuntimeWarning, match="not written, .*No space left"):
        result = fit(checkpoint=tmp_path, callback=fill)
    assert result.status == "max_steps"


def test_writes_are_seconds_apart(tmp_path, monkeypatch):
    """At the start and at the end; a short fit is not slowed down by more."""
    writes = []
    write = archive.write
    monkeypatch.setattr(checkpoint, "write", lambda *args: (writes.append(1), write(*args)))
    fit(checkpoint=tmp_path)
    assert len(writes) == 2
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", np.inf)
    fit(checkpoint=tmp_path, max_steps=2000)
    assert len(writes) > 6


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="checkpoint: the automatic plan has none"):
        advi.fit(MODEL, DATA, checkpoint=tmp_path)
    with pytest.raises(
        TypeError, match=r"checkpoint: got 3 \(int\); expected the name of a folder"
    ):
        fit(checkpoint=3)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; expected a folder"):
        fit(checkpoint=tmp_path / "file")
