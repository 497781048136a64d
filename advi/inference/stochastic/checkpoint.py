"""Checkpoints of a stochastic fit: the same call, repeated, continues where it was stopped."""

import hashlib
import os
import re
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advi.core.archive import Name, read, refused, write
from advi.core.errors import describe
from advi.core.folder_lock import FolderLock
from advi.core.keys import key_words
from advi.core.status import Status
from advi.inference.stochastic.convergence import Distance
from advi.inference.stochastic.loop import History, lowered
from advi.inference.stochastic.steps import State, Steps
from advi.inference.stochastic.validation import Best, Validation

KIND, VERSION = "a checkpoint", 1
FILE = "fit.checkpoint"
HALF_WRITTEN = re.compile(r"\.advi-[0-9a-f]{32}")  # as `archive.write` names files
EVERY = 10.0  # seconds between two writes
MAX_SHARE = 0.05  # of the time, for writing
NAMED = 4  # differences named in an error
NOISE, OF_VERSION = "random numbers of the steps", "2"  # which a version of advi may change


class Checkpoint:
    """The folder that keeps a fit while it runs; None keeps nothing.

    Its one file is replaced as a whole, so that a process may be killed at any moment. Within a
    ``with`` block no other fit may use the folder; BlockingIOError if another one does. Other files
    in it are left alone.
    """

    def __init__(self, folder: Name | None) -> None:
        if folder is not None and not isinstance(folder, (str, os.PathLike)):
            raise TypeError(f"checkpoint: got {describe(folder)}; expected the name of a folder.")
        if folder is not None and not os.fspath(folder):
            raise ValueError("checkpoint: got an empty name; expected that of a folder.")
        self.folder = None if folder is None else Path(folder)
        self._run: dict[str, dict[str, str]] = {}
        self._due = 0.0
        self._lock: FolderLock | None = None
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"checkpoint: {folder} is a file; expected a folder.")

    def __enter__(self) -> "Checkpoint":
        if self.folder is None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = FolderLock(self.folder)
        except BlockingIOError:
            raise BlockingIOError(
                f"checkpoint: {self.folder} is in use by another fit, of this process or of "
                "another; expected a folder for each. Wait for its end, or give another folder."
            ) from None
        for entry in self.folder.iterdir():
            if HALF_WRITTEN.fullmatch(entry.name) and entry.is_file():
                entry.unlink()  # left by a process that was killed
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()

    def resume(
        self,
        steps: Steps,
        start: State,
        history: History,
        data: Any,
        key: Any,
        max_steps: int | None,
        held_out: Validation | None = None,
    ) -> tuple[State, History, Status | None]:
        """Return where the fit goes on, its start if the folder is empty, and why it had ended.

        ArchiveError if the file is damaged; ValueError if it is of another fit, apart from a larger
        `max_steps`, or of another version's steps, or has taken more steps.
        """
        if self.folder is None:
            return start, history, None
        path = self.folder / FILE
        self._run = _fingerprint(steps, start, data, key, max_steps is None, held_out)
        if not path.exists():
            self._write(start, history, None)  # a folder that cannot be written is found now
            return start, history, None
        self._due = time.monotonic() + EVERY
        document, arrays, _ = read(path, KIND, VERSION)
        with refused(path, KIND):
            earlier = document["run"]["words"].get(NOISE) != OF_VERSION
            differences = _differences(document["run"], self._run)
        if earlier:
            raise ValueError(
                f"checkpoint: {self.folder} is of another version of advi, whose steps have other "
                "random numbers, so that this one cannot go on with them. Finish the fit with that "
                "version, or give another folder, or remove this one to begin anew."
            )
        if differences:
            raise ValueError(
                f"checkpoint: {self.folder} is of another fit. What differs: "
                f"{', '.join(differences[:NAMED])}. Make the call that was stopped again, or give "
                "another folder, or remove this one to begin anew."
            )
        with refused(path, KIND):
            leaves, treedef = jax.tree.flatten(start)
            state = jax.tree.unflatten(
                treedef, [_from_bytes(arrays[f"state.{k}"], leaf) for k, leaf in enumerate(leaves)]
            )
            evals = zip(arrays["evals.step"].tolist(), arrays["evals.elbo"].tolist(), strict=True)
            drift = Distance(*arrays["drift"].tolist()) if len(arrays["drift"]) else None
            best = _best(document["best"], arrays, start) if document.get("best") else None
            history = History([arrays["elbos"]], list(evals), document["eval_due"], drift, best)
            status = Status(*document["status"]) if document["status"] else None
        step = int(jax.device_get(state.step))
        if held_out is not None and held_out.exact:
            history = history._replace(eval_due=held_out.next_due(step))
        if max_steps is not None and step > max_steps:
            raise ValueError(
                f"checkpoint: {self.folder} holds {step} steps, and max_steps is {max_steps}; "
                "expected as many at least. Give another folder to take fewer."
            )
        if status == "max_steps" and max_steps is not None and step < max_steps:
            status = None
        return state, history, status

    def offer(self, state: State, history: History) -> None:
        if time.monotonic() >= self._due:
            self.save(state, history, None)

    def save(self, state: State, history: History, status: Status | None) -> None:
        """Write the fit; `status` is why it has ended, if the same call is not to go on."""
        try:
            self._write(state, history, status)
        except OSError as error:
            # a full disk must not end the fit
            warnings.warn(f"checkpoint: not written, {error}", RuntimeWarning, stacklevel=2)

    def _write(self, state: State, history: History, status: Status | None) -> None:
        if self.folder is None:
            return
        began = time.monotonic()
        arrays = {f"state.{k}": _to_bytes(leaf) for k, leaf in enumerate(jax.tree.leaves(state))}
        step = int(jax.device_get(state.step))
        evals = [(at, elbo) for at, elbo in history.evals if at <= step]
        arrays["elbos"] = history.elbos(step)
        arrays["evals.step"] = np.array([at for at, _ in evals], np.int64)
        arrays["evals.elbo"] = np.array([elbo for _, elbo in evals], float)
        arrays["drift"] = np.array([] if history.drift is None else history.drift, float)
        ended = None if status is None else [str(status), status.message]
        document = {"run": self._run, "status": ended, "eval_due": history.eval_due, "best": None}
        if history.best is not None:
            at, elbo, params = history.best
            document["best"] = [at, elbo]
            leaves = enumerate(jax.tree.leaves(params))
            arrays |= {f"best.{k}": _to_bytes(leaf) for k, leaf in leaves}
        write(self.folder / FILE, KIND, VERSION, document, arrays)
        now = time.monotonic()
        self._due = now + max(EVERY, (now - began) / MAX_SHARE)


def _best(found: list[Any], arrays: dict[str, Any], start: State) -> Best:
    step, elbo = found
    leaves, treedef = jax.tree.flatten(start.params)
    params = [_from_bytes(arrays[f"best.{k}"], leaf) for k, leaf in enumerate(leaves)]
    return Best(int(step), float(elbo), treedef.unflatten(params))


def _fingerprint(
    steps: Steps,
    start: State,
    data: Any,
    key: Any,
    until_converged: bool,
    held_out: Validation | None,
) -> dict[str, dict[str, str]]:
    """Return all that a run depends on by name: settings in words, and digests of the rest."""
    guide, spec, batching = steps.guide, steps.spec, steps.batching
    leaves = dict(zip(spec.names, jax.tree.leaves(data), strict=True))
    words = {
        **{f"latent {n!r}": f"{v.constraint} {v.shape}" for n, v in guide.model.latents.items()},
        **{f"data {n!r}": f"{leaf.dtype} {leaf.shape}" for n, leaf in leaves.items()},
        "family": guide.description,
        "objective": repr(steps.objective),
        "batch_size": str(None if batching is None else batching.batch_size),
        "key": str(key_words(key)),
        "float type": spec.float_dtype,
        NOISE: OF_VERSION,
        "max_steps": "None" if until_converged else "a number",
    }
    digests = {
        **{f"the values of data {n!r}": _digest([leaf]) for n, leaf in leaves.items()},
        **{f"the value of {n!r}": _digest([value]) for n, value in guide.model.held.items()},
        "where it starts": _digest(jax.tree.leaves(start)),
        "the log-joint, a transform, the optimizer or the version of JAX": _digest(
            [], lowered(steps, start, data)
        ),
    }
    if held_out is not None and held_out.keep_best:  # or else it changes no parameter
        words |= {"keep_best": "True", "eval_every": str(held_out.every)}
        digests["the values of eval_data"] = _digest(jax.tree.leaves(held_out.data))
    return {"words": words, "digests": digests}


def _differences(there: dict[str, dict[str, str]], here: dict[str, dict[str, str]]) -> list[str]:
    """Return the differences in words, or the names of the digests that differ."""
    before, now = there["words"], here["words"]
    return [
        f"{name} ({before.get(name)} before, {now.get(name)} now)"
        for name in dict.fromkeys([*now, *before])
        if before.get(name) != now.get(name)
    ] or [name for name, digest in here["digests"].items() if there["digests"][name] != digest]


def _digest(arrays: Sequence[Any], text: str = "") -> str:
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        digest.update(_to_bytes(array))
    return digest.hexdigest()


def _to_bytes(leaf: Any) -> Any:
    """Return an array's bytes; its dtype and shape are those of the start."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.frombuffer(np.asarray(jax.device_get(leaf), order="C").tobytes(), np.uint8)


def _from_bytes(raw: Any, like: jax.Array) -> jax.Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        words = _from_bytes(raw, jax.random.key_data(like))
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(like))
    return jax.device_put(np.frombuffer(raw.tobytes(), like.dtype).reshape(like.shape))
