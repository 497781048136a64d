"""Steps on a few rows of a table: its parameters and the optimiser's state of those rows alone."""

from typing import Any

import jax
import optax
from jax import Array

from advi.inference.stochastic.by_latent import as_seen
from advi.variational.guide import Guide
from advi.variational.per_row import PerRow


def tables_of(
    sparse: bool, guide: Guide, optimizer: optax.GradientTransformation, opt_state: Any, params: Any
) -> tuple[Any, Any]:
    """Return which leaves of the parameters, and of the optimiser's state, are tables.

    Parameters
    ----------
    sparse
        Whether a step sees only some of their rows: otherwise nothing counts as a table.
    guide
        Whose parameters they are.
    optimizer
        The optimiser.
    opt_state, params
        What the answers are shaped like, trees of bools.
    """
    if not sparse:
        none = jax.tree.map(lambda _: False, (params, opt_state))
        return none[0], none[1]
    are = [isinstance(b.family, PerRow) for b in guide.blocks]
    tables = tuple(
        jax.tree.map(lambda _, table=table: table, p) for table, p in zip(are, params, strict=True)
    )
    in_state = optax.tree.map_params(
        optimizer,
        lambda _, table: table,
        opt_state,
        as_seen(optimizer, guide, tables),
        transform_non_params=lambda _: False,
    )
    return tables, in_state


def rows_of(tree: Any, tables: Any, index: Array) -> Any:
    """Return a tree with some rows (B,) of its tables, and the rest as it is."""
    return jax.tree.map(lambda leaf, table: leaf[index] if table else leaf, tree, tables)


def with_rows(tree: Any, new: Any, tables: Any, index: Array) -> Any:
    """Return a new tree whose tables are the old ones but for some rows (B,)."""
    return jax.tree.map(
        lambda old, leaf, table: old.at[index].set(leaf, unique_indices=True) if table else leaf,
        tree,
        new,
        tables,
    )
