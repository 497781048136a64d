"""Grey images for the models here: MNIST where a folder has it, else scikit-learn's digits."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from models import bundled

VARIABLE = "ADVI_DATA"
FILES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
IMAGES_MAGIC = 2051  # the first four bytes of an idx file of images
HELD_OUT = 0.2

Rule = Literal["grey", "dynamic", "fixed-1603"]
Floats = NDArray[np.float32]


class Images(NamedTuple):
    """Training and held-out images."""

    train: Floats  # (N, height * width), from 0 to 1
    test: Floats  # the same
    shape: tuple[int, int]  # height and width
    description: str  # what was loaded, one line


def load(folder: str | None = None) -> Images:
    """Return MNIST from a folder, or the digits that scikit-learn brings.

    Parameters
    ----------
    folder
        Has MNIST's four idx files, gzipped or not, or a folder ``mnist`` that has. By default the
        environment variable ``ADVI_DATA``; without either, the digits.

    Raises
    ------
    FileNotFoundError
        If the folder that was named has no MNIST: 8 x 8 digits never stand in for it.
    ValueError
        If a file is not an idx file of images.

    References
    ----------
    LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document
    recognition: MNIST. Alpaydin & Kaynak (1998), UCI: the digits.
    """
    named = folder or os.environ.get(VARIABLE)
    if named is None:
        return _digits()
    root = Path(named)
    places = {
        split: path
        for split, name in FILES.items()
        for path in (p / (name + end) for p in (root, root / "mnist") for end in (".gz", ""))
        if path.exists()
    }
    if set(places) != set(FILES):
        raise FileNotFoundError(
            f"{root}: found no MNIST; expected {' and '.join(FILES.values())}, with or without "
            ".gz, here or in a folder mnist. Without a folder the digits of scikit-learn are used."
        )
    train, test = (_read_idx(places[split]) for split in ("train", "test"))
    height, width = train.shape[1:]
    return Images(
        _flat(train, 255),
        _flat(test, 255),
        (height, width),
        f"MNIST: {len(train)} images to fit, {len(test)} held out, {height} x {width}",
    )


def binarised(images: NDArray, rule: Rule, seed: int = 1603) -> Floats:
    """Return images as one of the field's rules has them; name it with every number.

    Parameters
    ----------
    images
        (N, P) grey, from 0 to 1.
    rule
        "grey" leaves them as they are, soft targets of the cross-entropy. "dynamic" draws every
        pixel as Bernoulli of its grey value, anew for every use: another `seed` each time.
        "fixed-1603" draws once, from PCG64(1603).
    seed
        Of "dynamic".

    Raises
    ------
    ValueError
        If the rule is unknown.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule: got {rule!r}; expected one of {', '.join(get_args(Rule))}.")
    if rule == "grey":
        return images.astype(np.float32)
    rng = np.random.Generator(np.random.PCG64(1603 if rule == "fixed-1603" else seed))
    return (rng.random(images.shape) < images).astype(np.float32)


def dynamic_epochs(images: NDArray, batch_size: int) -> Callable[[], object]:
    """Return a function that begins an epoch: shuffled batches, binarised anew.

    The third epoch of two runs is the same; two epochs of one run are not.
    """
    seeds = iter(np.random.SeedSequence(0).spawn(2**16))

    def epoch() -> object:
        rng = np.random.default_rng(next(seeds))
        order = rng.permutation(len(images))
        for start in range(0, len(images) - batch_size + 1, batch_size):
            grey = images[order[start : start + batch_size]]
            yield {"x": (rng.random(grey.shape) < grey).astype(np.float32)}

    return epoch


def _digits() -> Images:
    digits = bundled.datasets().load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    test, train = np.split(digits.images[order], [round(HELD_OUT * len(order))])
    height, width = train.shape[1:]
    return Images(
        _flat(train, 16),
        _flat(test, 16),
        (height, width),
        f"digits (Alpaydin & Kaynak 1998), from scikit-learn: {len(train)} images to fit, "
        f"{len(test)} held out, {height} x {width}",
    )


def _flat(images: NDArray, white: float) -> Floats:
    return (images.reshape(len(images), -1) / white).astype(np.float32)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        raw = file.read()
    magic, num, height, width = np.frombuffer(raw[:16], ">i4") if len(raw) >= 16 else (0, 0, 0, 0)
    if magic != IMAGES_MAGIC or len(raw) != 16 + num * height * width:
        raise ValueError(f"{path}: not a whole idx file of images.")
    return np.frombuffer(raw, np.uint8, offset=16).reshape(num, height, width)
