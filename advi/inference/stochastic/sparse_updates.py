"""Steps on a few rows of a table: the parameters and the optimiser's state of those rows."""

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
    """Return trees of bools: which leaves of the parameters and the optimiser's state are tables.

    None count as tables unless steps are `sparse`, on some of their rows.
    """
    if not sparse:
        return jax.tree.map(lambda _: False, params), jax.tree.map(lambda _: False, opt_state)
    blocks = zip(guide.blocks, params, strict=True)
    tables = tuple(jax.tree.map(lambda _, b=b: isinstance(b.family, PerRow), p) for b, p in blocks)
    in_state = optax.tree.map_params(
        optimizer,
        lambda _, table: table,
        opt_state,
        as_seen(optimizer, guide, tables),
        transform_non_params=lambda _: False,
    )
    return tables, in_state


def rows_of(tree: Any, tables: Any, index: Array) -> Any:
    """Return a tree with some rows (B,) of its tables, and the other leaves as they are."""
    return jax.tree.map(lambda leaf, table: leaf[index] if table else leaf, tree, tables)


def with_rows(tree: Any, new: Any, tables: Any, index: Array) -> Any:
    """Return a new tree whose tables are the old ones except for some rows (B,)."""
    return jax.tree.map(
        lambda old, leaf, table: old.at[index].set(leaf, unique_indices=True) if table else leaf,
        tree,
        new,
        tables,
    )
