"""One file of JSON and arrays, written whole or not at all, and read whole or refused.

It is an uncompressed zip as `numpy.savez` makes it, so that `numpy.load` reads the arrays too: a
member "advi.json" with the document and every array's dtype and shape, then "NAME.npy" for each
array. Its comment ends in the SHA-256 of all bytes before: no damage goes unseen. Nothing in it is
code, and none of it is compressed, so that nothing in it can be larger than the file.
"""

import hashlib
import io
import json
import math
import os
import stat
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi.core.errors import describe

Name = str | os.PathLike[str]

DOCUMENT = "advi.json"
LOCAL_HEADER = 30  # bytes of a zip's member before its name
COMMENT, DIGITS = b"advi sha256 ", 64
KINDS = "biufU"  # of dtypes: booleans, integers, floats, text


class ArchiveError(ValueError):
    """A file that is damaged, or not what was asked for."""


class Archive(NamedTuple):
    """What a file holds."""

    document: dict[str, Any]  # of what JSON can express
    arrays: dict[str, NDArray[Any]]
    num_bytes: int  # of the file


def write(
    path: Name, kind: str, version: int, document: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write a file beside its final place and move it there, so that a reader sees old or new.

    Parameters
    ----------
    path
        Name of the file, kept as it is. A file of that name is replaced, by one of its mode.
    kind, version
        What the file is, and the version of its form.
    document
        What JSON can express, without numbers that are not finite.
    arrays
        Name to array, of numbers or text.

    Raises
    ------
    OSError
        If there is no such folder, or `path` is one, or anything else but a regular file.
    TypeError
        If `path` is no name.
    """
    place = Path(os.path.realpath(_name(path)))
    if not place.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {place.parent}; make it first.")
    if place.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected the name of a file.")
    if place.exists() and not place.is_file():
        raise OSError(f"{path} is no regular file, and would be replaced; expected another name.")
    raw = _pack(kind, version, document, arrays)
    beside = place.parent / f".advi-{uuid.uuid4().hex}"
    # a file that others may not read is replaced by one that they never could
    mode = stat.S_IMODE(place.stat().st_mode) if place.exists() else None
    try:
        with open(beside, "xb", opener=_opener(mode)) as file:
            if mode is not None:
                beside.chmod(mode)
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def read(path: Name, kind: str, version: int) -> Archive:
    """Read a file of a kind, up to a version of its form.

    Raises
    ------
    ArchiveError
        If it is not such a file, or one of a later version, or damaged.
    OSError
        If it cannot be read at all.
    TypeError
        If `path` is no name.
    """
    with Path(_name(path)).open("rb") as file, refused(path, kind):
        raw = file.read(LOCAL_HEADER + len(DOCUMENT))
        if raw[LOCAL_HEADER:] != DOCUMENT.encode():
            raise ArchiveError(f"{path} is not a file that advi has written; expected {kind}.")
        raw += file.read()
        body, digest = raw[:-DIGITS], raw[-DIGITS:]
        if not body.endswith(COMMENT) or _digest(body) != digest:
            raise ArchiveError(
                f"{path} is cut short or altered: it does not have the SHA-256 it was written "
                "with. Take a copy that is whole."
            )
        head, members = _unpack(raw)
        if head["kind"] != kind:
            raise ArchiveError(f"{path} holds {head['kind']}; expected {kind}.")
        if head["version"] > version:
            raise ArchiveError(
                f"{path} was written by a later version of advi: its form is number "
                f"{head['version']}, and this version knows those up to {version}. Upgrade advi."
            )
        arrays = {
            name: _array(members[f"{name}.npy"], str(dtype), tuple(shape))
            for name, (dtype, shape) in head["arrays"].items()
        }
        if len(arrays) + 1 != len(members):
            raise ArchiveError(f"{path} holds more than its document says.")
        return Archive(head["document"], arrays, len(raw))


@contextmanager
def refused(path: Name, kind: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file's content into one `ArchiveError` that names it."""
    try:
        yield
    except (ArchiveError, OSError):
        raise
    except Exception as error:
        # crafted bytes make zipfile, json, NumPy and constructors raise a dozen kinds
        raise ArchiveError(
            f"{path} does not hold {kind} as advi writes it: {error or type(error).__name__}"
        ) from error


def _opener(mode: int | None) -> Callable[[str, int], int]:
    """Return what opens a new file with a mode, by default that of all new files."""
    return lambda name, flags: os.open(name, flags, 0o666 if mode is None else mode)


def _name(path: Name) -> Name:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: got {describe(path)}; expected the name of a file.")
    if "\0" in os.fspath(path):
        raise ValueError(f"path: got {describe(path)}; expected the name of a file.")
    return path


def _pack(kind: str, version: int, document: Any, arrays: Mapping[str, Any]) -> bytes:
    prepared = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    head = {
        "kind": kind,
        "version": version,
        "document": document,
        "arrays": {name: [a.dtype.str, list(a.shape)] for name, a in prepared.items()},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        # ZipInfo has a fixed date: the same content gives the same bytes
        file.writestr(zipfile.ZipInfo(DOCUMENT), json.dumps(head, allow_nan=False))
        for name, array in prepared.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
        file.comment = COMMENT + b"0" * DIGITS
    body = buffer.getvalue()[:-DIGITS]
    return body + _digest(body)


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _unpack(raw: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        infos = file.infolist()
        if any(i.compress_type != zipfile.ZIP_STORED or i.file_size != i.compress_size
               for i in infos) or sum(i.file_size for i in infos) > len(raw):  # fmt: skip
            raise ValueError("its members are compressed, or lie one over another")
        members = {info.filename: file.read(info) for info in infos}
    if len(members) != len(infos):
        raise ValueError("two members have one name")
    return json.loads(members[DOCUMENT], parse_constant=_no_number), members


def _no_number(text: str) -> float:
    raise ValueError(f"{text} stands for a number")


def _array(content: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array of an .npy file, without a copy, if it is what the document says."""
    stream = io.BytesIO(content)
    np.lib.format.read_magic(stream)
    got_shape, fortran, got_dtype = np.lib.format.read_array_header_1_0(stream)
    if (got_dtype.str, got_shape, fortran) != (dtype, shape, False):
        raise ValueError("an array does not have the dtype and shape that the document says")
    size = math.prod(shape) * got_dtype.itemsize
    told = len(content) - stream.tell()
    # empty text takes no bytes, however much of it there is
    if got_dtype.kind not in KINDS or not got_dtype.itemsize or told != size:
        raise ValueError("an array is not of numbers or text, or not of its length")
    return np.ndarray(shape, got_dtype, content, stream.tell())
