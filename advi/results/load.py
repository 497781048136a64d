"""load(): a fit from the file it was saved to."""

from collections.abc import Iterable
from typing import Any

from advi.core.archive import Name
from advi.core.errors import describe
from advi.results.fit import Fit
from advi.results.stored_fit import read_record


def load(path: Name, *, like: Any = None, known: Iterable[type] = ()) -> Fit:
    """Read a fit that `Fit.save` wrote, without the model's code or its data.

    Draws, moments, `summary`, `log_prob`, the verdict and all other numbers are those of the saved
    fit, bit for bit. Methods that evaluate the log-joint, such as `check`, `corrected`, `refine`
    and `compare`, raise RuntimeError, since the model is not in the file. The fit can be a start:
    ``advi.fit(model, data, init=loaded)``.

    Parameters
    ----------
    path
        The file.
    like
        The tree of the latents, where it holds more than dicts, lists and tuples, such as a module
        of Equinox or the state of Flax: a file has the names of their leaves, and no classes. A
        dict from names of latents to pytrees like their values, ``{"decoder": decoder}``; of a
        model whose latents are no dict, one such pytree. Only structure and shapes matter. By
        default these nodes are dicts, ``fit.mean()["decoder"]["layers"][0]["weight"]``.
    known
        Classes of your own that the fit needs: constraints, transforms or families. A file holds
        their names and settings, and never any code.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError
        If `known` holds other than classes.
    ValueError
        If the leaves of `like` are not those of the fit, or have other shapes; if the file holds no
        fit, is cut short or altered, was written by a later version of `advi`,
        or names a class that is not known.

    Examples
    --------
    >>> import advi, pathlib, tempfile
    >>> model = advi.Model(lambda z, data: -0.5 * z["x"] ** 2, {"x": advi.real()})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     advi.fit(model).save(pathlib.Path(folder, "normal.advi"))
    ...     loaded = advi.load(pathlib.Path(folder, "normal.advi"))
    >>> float(loaded.sd()["x"])
    1.0
    """
    if not isinstance(known, Iterable):
        raise TypeError(f"known: got {describe(known)}; expected classes, such as [MyConstraint].")
    classes = tuple(known)
    for cls in classes:
        if not isinstance(cls, type):
            raise TypeError(f"known: got {describe(cls)}; expected classes.")
    return Fit(read_record(path, classes, like=like))
