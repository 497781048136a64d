"""The guide that a `family` argument describes."""

from collections.abc import Iterable, Mapping
from typing import Any

from advi.core.errors import describe, unknown
from advi.model.model import Model
from advi.variational.block import NAMED_FAMILIES, Block, family_name
from advi.variational.block_transport import MAX_FULL_RANK
from advi.variational.family import Family, RowFamily
from advi.variational.fixed import Fixed, already_held, require_free, values_of
from advi.variational.full_rank import FullRank
from advi.variational.guide import Guide
from advi.variational.low_rank import LowRank
from advi.variational.mean_field import MeanField
from advi.variational.mixture import Mixture
from advi.variational.per_row import PerRow
from advi.variational.point import Point
from advi.variational.sparse_precision import SparsePrecision
from advi.variational.triangular import Triangular

# "auto" takes the richest Gaussian whose fixed draws are affordable: 4 D of them determine a full
# scale, 32 MB of them at this dimension, and 2 D a low-rank one, 128 MB at this one.
AUTO_FULL_RANK_DIM, AUTO_LOW_RANK_DIM = MAX_FULL_RANK, 2896

WHOLE = (Mixture, SparsePrecision)  # families of all latents together

# The plan holds 4 D draws with their gradients and a few D x D matrices, in double precision.
FULL_RANK_BYTES, MAX_FULL_RANK_BYTES = 128, 2**33


def has_row_family(family: Any) -> bool:
    """Return whether a `family` argument names a family of local latents."""
    values = family.values() if isinstance(family, Mapping) else [family]
    return any(isinstance(value, RowFamily) for value in values)


def resolve_family(model: Model, family: Any, *, auto: Family | None = None) -> Guide:
    """Return the guide that a `family` argument describes; `auto` replaces the automatic family.

    A tuple of names couples these latents in one block; a name of a subtree covers all below it.
    Latents that a dict leaves out form one block of the automatic family. A latent to which the
    model gives a family keeps it, unless a dict names the latent. The guide's model holds the
    latents that are `Fixed`; those that the model holds already stay as they are.
    """
    # where the model knows the number of rows, local latents need no family of their own
    local = frozenset() if model.num_rows else model.local
    kept = model.held
    if isinstance(family, Fixed):
        require_free(model, model.latents)
    if not isinstance(family, Mapping):
        free = [n for n in model.latents if n not in model.program.estimated and n not in kept]
        if not free and family != "auto":
            _family(family)  # checked even where it covers nothing
        family = {tuple(names): family for names in _by(local, free) if names}
    blocks, owner, values = [], {}, {}
    for key, value in family.items():
        wanted = key if isinstance(key, tuple) else (key,)
        names = [name for part in wanted for name in model.resolve(str(part))]
        if not names:
            raise ValueError(f"family: got {key!r}, which names no latent; expected at least one.")
        for name in names:
            if name in owner:
                raise ValueError(
                    f"family: latent {name!r} is named twice, by {owner[name]!r} and {key!r}; "
                    "expected each latent at most once."
                )
            owner[name] = key
        if isinstance(value, Fixed):
            values |= values_of(model, key, names, value.value, local)
            continue
        if set(names) <= set(kept):
            raise already_held(names[0])
        blocks.append(([name for name in names if name not in kept], value))
    require_free(model, kept | values)
    model = model.holding(values)
    held = tuple(model.held)
    rest = [name for name in model.latents if name not in owner and name not in held]
    own_family = {name: Point() if name in model.program.estimated else "auto" for name in rest}
    for own in dict.fromkeys(own_family.values()):
        names = [name for name in rest if own_family[name] == own]
        blocks += [(n, own) for n in _by(local, names) if n]
    position = {name: i for i, name in enumerate(model.latents)}
    made, choices = [], []
    for names, value in blocks:
        size = sum(model.latents[name].size for name in names)
        own, shared = _by(local, names)
        if isinstance(value, str) and value == "auto":
            chosen, why = (auto, "which an optimiser's steps move best") if auto else _richest(size)
            choices.append(f"auto chose {family_name(chosen)}, {why}")
        else:
            chosen = _family(value)
        _check_local(model, own, shared, chosen)
        if own and not isinstance(chosen, RowFamily):
            chosen = PerRow(chosen)  # type: ignore[arg-type]
        if not size:
            chosen = MeanField()  # nothing to couple
        _check_memory(chosen, size)
        names = tuple(sorted(names, key=position.__getitem__))
        if isinstance(chosen, Triangular):
            chosen = chosen.for_latents(tuple(model.latents[name].size for name in names))
        # points are not coupled: each latent has a block of its own
        apart = [(name,) for name in names] if isinstance(chosen, Point) else [names]
        made += [Block(part, chosen) for part in apart]
    whole = [block.base for block in made if isinstance(block.base, WHOLE)]
    if whole and len(made) == 1:
        return Guide(model, (Block(tuple(model.latents), whole[0]),), tuple(choices))
    if whole and len(made) > 1:
        name = type(whole[0]).__name__
        raise ValueError(
            f"family: {name} covers all latents together, got {len(made)} blocks; expected "
            f"family=advi.{name}() and no latent that is estimated as a point."
        )
    if held:
        made.append(Block(held, Point()))
    return Guide(model, tuple(made), tuple(dict.fromkeys(choices)))


def _by(local: frozenset[str], names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the local ones of some names, and the others."""
    return [n for n in names if n in local], [n for n in names if n not in local]


def _check_local(
    model: Model, local: list[str], shared: list[str], family: Family | RowFamily
) -> None:
    """Raise ValueError if a family covers latents that it cannot."""
    if shared and isinstance(family, RowFamily):
        if model.program.needs_all_rows:
            raise ValueError(f"family: {model.program.needs_all_rows}")
        raise ValueError(
            f"family: {type(family).__name__} is for local latents, and {', '.join(shared)} is not "
            "local. Declare it with local=True, in a NumPyro model inside the plate of its rows, "
            "or give a dict from latent names to families."
        )
    if shared and local:
        raise ValueError(
            f"family: {', '.join(local)} is local and {', '.join(shared)} is not, so that steps on "
            "batches cannot couple them; expected them in different entries of the dict."
        )


def _check_memory(family: Family | RowFamily, size: int) -> None:
    """Raise ValueError if a full-rank block would exceed `MAX_FULL_RANK_BYTES`."""
    needed = FULL_RANK_BYTES * size**2
    if isinstance(family, FullRank | Triangular | Mixture) and needed > MAX_FULL_RANK_BYTES:
        raise ValueError(
            f"family: full rank over {size} coordinates would take about {needed / 2**30:.0f} GiB; "
            f"expected at most {MAX_FULL_RANK_BYTES / 2**30:.0f} GiB. Use family='low_rank', or a "
            "dict that couples fewer latents in each block."
        )


def _family(value: Any) -> Family | RowFamily:
    if isinstance(value, str):
        if value not in NAMED_FAMILIES:
            raise ValueError(unknown("family", value, ["auto", *NAMED_FAMILIES]))
        return NAMED_FAMILIES[value]
    if isinstance(value, type):
        call = f"{value.__name__}({'value' if issubclass(value, Fixed) else ''})"
        raise TypeError(f"family: got the class {value.__name__}; call it: {call}.")
    if not isinstance(value, Family | RowFamily):
        raise TypeError(
            f"family: got {describe(value)}; expected 'auto', "
            f"{', '.join(map(repr, NAMED_FAMILIES))}, a family such as advi.MeanField(), or a dict "
            "from latent names to these."
        )
    return value


def _richest(size: int) -> tuple[Family, str]:
    """Return the richest family for a number of coordinates, and the reason."""
    if size <= AUTO_FULL_RANK_DIM:
        return FullRank(), f"the richest family, for up to {AUTO_FULL_RANK_DIM} coordinates"
    if size <= AUTO_LOW_RANK_DIM:
        return LowRank(), f"as full_rank is for up to {AUTO_FULL_RANK_DIM} coordinates"
    return MeanField(), f"as low_rank is for up to {AUTO_LOW_RANK_DIM} coordinates"
