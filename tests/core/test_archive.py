"""One file of JSON and arrays: what is read is what was written, or one error."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from advi.core import archive
from advi.core.archive import COMMENT, DIGITS, ArchiveError, read, write

DOCUMENT = {"text": "naïve", "numbers": [1, -2.5], "nothing": None}
ARRAYS = {
    "matrix": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype="int32").reshape(2, 3)),
    "scalar": np.array(np.nan),
    "empty": np.zeros((0, 4), "float32"),
    "words": np.array(["mean_field", "polish"]),
    "yes": np.array([True]),
}


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "a.advi", "a thing", 2, DOCUMENT, ARRAYS)
    return tmp_path / "a.advi"


def same(got):
    return (
        got.document == DOCUMENT
        and list(got.arrays) == list(ARRAYS)
        and all(
            got.arrays[name].dtype == array.dtype
            and np.array_equal(got.arrays[name], array, equal_nan=array.dtype.kind == "f")
            for name, array in ARRAYS.items()
        )
    )


def sealed(raw):
    """Return bytes with the digest that belongs to them, as someone with ill will gives them."""
    return raw[:-DIGITS] + archive._digest(raw[:-DIGITS])


def test_what_is_read_is_what_was_written(path):
    got = read(path, "a thing", 2)
    assert same(got)
    assert got.num_bytes == path.stat().st_size
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["matrix"], ARRAYS["matrix"])


def test_the_same_content_gives_the_same_bytes(path, tmp_path):
    write(tmp_path / "b", "a thing", 2, DOCUMENT, ARRAYS)
    assert (tmp_path / "b").read_bytes() == path.read_bytes()


def test_damage_is_always_found(path):
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(1000):
        raw = bytearray(whole)
        place = int(rng.integers(len(raw)))
        if trial % 4 == 0:
            raw = raw[:place]
        elif trial % 4 == 1:
            raw[place : place + 16] = raw[place : place + 16][::-1] + b"x"
        else:
            for k in (place, *rng.integers(len(raw), size=trial % 3)):
                raw[k] ^= 1 << int(rng.integers(8))
        path.write_bytes(raw)
        with pytest.raises(ArchiveError, match=f"{path.name} is (cut short|not a file that advi)"):
            read(path, "a thing", 2)


def test_damage_under_a_matching_digest_is_an_error_or_content(path):
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(1000):
        raw = bytearray(whole)
        raw[int(rng.integers(len(raw) - DIGITS))] ^= 1 << int(rng.integers(8))
        path.write_bytes(sealed(bytes(raw)))
        try:
            got = read(path, "a thing", 2)
        except ArchiveError:
            refused += 1
        else:
            assert all(isinstance(array, np.ndarray) for array in got.arrays.values())
    assert refused > 500  # a member's checksum guards its bytes, too


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """Write the members again, changed, with a digest that belongs to them."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, compression)
        file.comment = COMMENT + b"0" * DIGITS
    path.write_bytes(sealed(buffer.getvalue()))


def swap(first, second):
    def change(members):
        members[first], members[second] = members[second], members[first]

    return change


def pickled(members):
    content = io.BytesIO()
    np.lib.format.write_array(content, np.array([print], object), allow_pickle=True)
    members["matrix.npy"] = content.getvalue()


def claiming(shape):
    def change(members):
        header = io.BytesIO()
        form = {"descr": "<f8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, form)
        members["matrix.npy"] = header.getvalue()
        text = members["advi.json"].decode()
        members["advi.json"] = text.replace("[2, 3]", str(list(shape)), 1).encode()

    return change


def text(old, new):
    def change(members):
        before = members["advi.json"].decode()
        assert old in before
        members["advi.json"] = before.replace(old, new, 1).encode()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap("matrix.npy", "fortran.npy"), "dtype and shape"),
        (swap("advi.json", "matrix.npy"), "does not hold a thing"),
        (lambda members: members.pop("matrix.npy"), "matrix.npy"),
        (lambda members: members.update({"more.npy": members["matrix.npy"]}), "more than"),
        (pickled, "dtype and shape"),
        (claiming((10**6, 10**6)), "not of its length"),
        (claiming((-1, 6)), "does not hold a thing"),
        (text('"a thing"', '"a bird"'), "holds a bird; expected a thing"),
        (text('"version": 2', '"version": 3'), "by a later version of advi.*number 3.*up to 2"),
        (text('"version": 2', '"version": "2"'), "does not hold a thing"),
        (text("-2.5", "NaN"), "NaN stands for a number"),
        (text("-2.5", "[" * 100_000), "does not hold a thing"),
        (text('"kind"', '"sort"'), "kind"),
        (text("{", "["), "does not hold a thing"),
    ],
)
def test_crafted_files_are_refused(path, change, message):
    rewritten(path, change)
    with pytest.raises(ArchiveError, match=message) as error:
        read(path, "a thing", 2)
    assert str(path) in str(error.value)


def test_compressed_files_are_refused(path):
    rewritten(path, lambda members: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(ArchiveError, match="compressed"):
        read(path, "a thing", 2)


@pytest.mark.parametrize("content", [b"", b"PK", b"radon,county\n1,2\n", bytes(10_000)])
def test_foreign_files_are_refused(tmp_path, content):
    (tmp_path / "b").write_bytes(content)
    with pytest.raises(ArchiveError, match="b is not a file that advi has written"):
        read(tmp_path / "b", "a thing", 2)


def test_another_zip_is_refused(tmp_path):
    np.savez(tmp_path / "b.npz", x=np.zeros(100))
    with pytest.raises(ArchiveError, match="not a file that advi has written"):
        read(tmp_path / "b.npz", "a thing", 2)


def test_a_name_is_needed_that_can_be_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere; make"):
        write(tmp_path / "nowhere" / "a", "a thing", 1, {}, {})
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write(tmp_path, "a thing", 1, {}, {})
    with pytest.raises(TypeError, match=r"path: got 3 \(int\)"):
        write(3, "a thing", 1, {}, {})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="path: got None"):
        read(None, "a thing", 1)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere", "a thing", 1)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fails", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_is_interrupted_leaves_the_old_file(path, monkeypatch, fails):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fails, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(path, "a thing", 2, {}, {})
    assert same(read(path, "a thing", 2))
    assert os.listdir(path.parent) == [path.name]


def test_a_link_is_written_through(path):
    link = path.with_name("link")
    link.symlink_to(path)
    write(link, "a thing", 2, {}, {})
    assert link.is_symlink()
    assert read(path, "a thing", 2).document == {}
    write(os.fspath(link), "a thing", 2, DOCUMENT, ARRAYS)
    assert same(read(Path(path), "a thing", 2))
