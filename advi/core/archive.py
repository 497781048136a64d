"""One file of JSON and arrays, written whole or not at all, and read whole or refused.

It is an uncompressed zip as `numpy.savez` makes it, so that `numpy.load` reads the arrays too: a
member "advi.json" with the document and every array's dtype and shape, then "NAME.npy" for each
array. Its comment ends in the SHA-256 of all bytes before: no damage goes unseen. It holds no code
and nothing compressed, so that no content can be larger than the file.
"""

import hashlib
import io
import json
import math
import os
import stat
import uuid
import zipfile
from collections.abc import Iterator, Mapping
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
    """A file that is damaged, or not of the expected kind."""


class Archive(NamedTuple):
    """The content of a file."""

    document: dict[str, Any]  # JSON values
    arrays: dict[str, NDArray[Any]]
    num_bytes: int  # of the file


def write(
    path: Name, kind: str, version: int, document: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write a file under a temporary name and move it to `path`: a reader sees the old or the new.

    The document holds finite JSON values, the arrays numbers or text. A file that exists is
    replaced by one of its mode. OSError if the folder does not exist, or `path` is anything but a
    regular file; TypeError if it is no name.
    """
    target = Path(os.path.realpath(_name(path)))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {target.parent}; make it first.")
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected the name of a file.")
    if target.exists() and not target.is_file():
        raise OSError(f"{path} is no regular file, and would be replaced; expected another name.")
    raw = _pack(kind, version, document, arrays)
    temporary = target.parent / f".advi-{uuid.uuid4().hex}"
    # from the first byte the new file is as private as the old
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, 0o666 if mode is None else mode)

    try:
        with open(temporary, "xb", opener=opener) as file:
            if mode is not None:
                temporary.chmod(mode)
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Name, kind: str, version: int) -> Archive:
    """Read a file of a kind, up to a version of its format; ArchiveError if it is not one."""
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
    """Turn every error that a file's content causes into one `ArchiveError` that names the file."""
    try:
        yield
    except (ArchiveError, OSError):
        raise
    except Exception as error:
        # crafted bytes make zipfile, json, NumPy and constructors raise a dozen kinds
        raise ArchiveError(
            f"{path} does not hold {kind} as advi writes it: {error or type(error).__name__}"
        ) from error


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
            raise ValueError("its members are compressed, or overlap")
        members = {info.filename: file.read(info) for info in infos}
    if len(members) != len(infos):
        raise ValueError("two members have one name")
    return json.loads(members[DOCUMENT], parse_constant=_no_number), members


def _no_number(text: str) -> float:
    raise ValueError(f"{text} stands for a number")


def _array(content: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array of an .npy file, without a copy, if it agrees with the document."""
    stream = io.BytesIO(content)
    np.lib.format.read_magic(stream)
    got_shape, fortran, got_dtype = np.lib.format.read_array_header_1_0(stream)
    if (got_dtype.str, got_shape, fortran) != (dtype, shape, False):
        raise ValueError("an array does not have the dtype and shape that the document says")
    size = math.prod(shape) * got_dtype.itemsize
    given = len(content) - stream.tell()
    # empty text takes no bytes, however long the array
    if got_dtype.kind not in KINDS or not got_dtype.itemsize or given != size:
        raise ValueError("an array is not of numbers or text, or not of its length")
    return np.ndarray(shape, got_dtype, content, stream.tell())
