"""The posterior of all rows, for fits that read theirs a few at a time and hold only some."""

import math
from typing import Any

from advi.core.jax_config import precision
from advi.data.open_source import open_source
from advi.data.source import Source
from advi.data.tables import unknown_categories
from advi.model.density import Density
from advi.model.resolve import traced_model
from advi.model.source_density import StreamedDensity


def on_all_rows(density: Density, data: Any) -> Density:
    """Return the log density on the rows of a fit, which are handed in again.

    `density` is the fit's own, on some of the rows. TypeError or ValueError if the data are none of
    its form, or not all rows.
    """
    held = density.log_joint.num_rows
    if held is None:
        raise ValueError(
            "data: the log-joint returns a scalar, so that the fit holds all its data; expected "
            "none. Call fit.check()."
        )
    num_rows, float_dtype = round(held * density.scale), density.spec.float_dtype
    with precision(float_dtype):
        # batches of rows are for arrays on disk; others are taken as they are
        known = density.model.known_names
        source = open_source(data, num_rows, held, float_dtype, known)
        for name in source.names.categories.keys() - known.keys():
            raise unknown_categories(name)
        if source.spec.treedef != density.spec.treedef:
            raise ValueError(
                f"data: got the leaves {', '.join(source.spec.names)}; expected a tree like that "
                f"of the fit, with {', '.join(density.spec.names)}."
            )
        if not source.streamed:
            found = density.on(data)
            _check_all(found.log_joint.num_rows, num_rows)
            return found
        return _streamed(density, source, held, num_rows)


def _streamed(density: Density, source: Source, held: int, num_rows: int) -> Density:
    of_rows, log_joint = traced_model(density.model, source)
    assert log_joint.num_rows is not None
    batched = source.batched(log_joint.num_rows, min(held, log_joint.num_rows))
    assert batched.batching is not None
    _check_all(batched.batching.num_rows, num_rows)
    found = StreamedDensity(of_rows, batched, density.estimated)
    found.window = density.window
    return found


def _check_all(given: int | None, num_rows: int) -> None:
    """Raise ValueError unless rows are as many as those of the fit."""
    if given == num_rows:
        return
    few = ""
    if given and given < num_rows:
        away = math.sqrt(num_rows / given - 1)
        few = (
            f" The posterior of {given:,} of them, each counted {num_rows / given:.3g} times, lies "
            f"about {away:.2g} of its sds from that of all, so that no mean could be compared."
        )
    raise ValueError(
        f"data: got {given or 0:,} rows; expected all {num_rows:,} that were fitted, as arrays, in "
        f"memory or memory-mapped, or as a stream.{few}"
    )
