"""The text of a fit above and below the table of its latents."""

import html
import math
from collections.abc import Sequence

from advi.diagnostics.alarms import verdict_on
from advi.diagnostics.importance_sampling import ROUND_DRAWS
from advi.diagnostics.psis import khat_words
from advi.posterior.record import FitRecord
from advi.variational.amortised import Amortised
from advi.variational.guide import Guide


def text(record: FitRecord) -> str:
    """Return the printed form of a fit."""
    table = record.posterior.summary()
    head = "\n".join([*_above(record), str(verdict_on(record))])
    parts = [head, str(table) if table.rows else "", "\n".join(_below(record.posterior.guide))]
    return "\n\n".join(part for part in parts if part)


def markup(record: FitRecord) -> str:
    """Return the HTML of a fit for notebooks."""
    posterior = record.posterior
    head, foot = _divisions(_above(record)), _divisions(_below(posterior.guide))
    return f"{head}{verdict_on(record)._repr_html_()}{posterior.summary()._repr_html_()}{foot}"


def _above(record: FitRecord) -> list[str]:
    posterior, outcome = record.posterior, record.outcome
    kind, size = posterior.guide.description, posterior.model.size
    if posterior.weighted is not None:
        kind += ", corrected"
    route = " -> ".join(outcome.route)
    before = " before the chains" if outcome.num_chains else ""
    lines = [
        f"Fit: {kind}, {size} real coordinate{'s' if size > 1 else ''}, {posterior.float_dtype}",
        *posterior.guide.choices,
        *[f"made by {route}, {outcome.num_gradients:,} gradients{before}"] * bool(route),
        f"status: {outcome.status}, {outcome.status.message}",
        f"ELBO: {outcome.elbo} nats",
    ]
    if not math.isnan(record.khat):
        when = "" if posterior.weighted is None else " before its correction"
        lines[-1] += f", {khat_words(record.khat, ROUND_DRAWS, when)}"
    return lines


def _below(guide: Guide) -> list[str]:
    """Return a line for each latent that is not in the table."""
    lines, rows, latents = [], guide.num_rows, guide.model.latents
    if not guide.local:
        return lines
    for block in guide.blocks:
        kind = "amortised" if isinstance(block.family, Amortised) else "a table"
        lines += [
            f"{name}: {latents[name].size // rows} per row, {rows:,} rows, {kind}"
            for name in block.names
            if block.local
        ]
    estimated = [
        name for name in latents if name in guide.estimated - guide.local - guide.model.held.keys()
    ]
    for name in guide.collapse_names(estimated):
        size = sum(latents[part].size for part in guide.model.resolve(name))
        lines.append(f"{name}: {size:,} estimated")
    for name in guide.collapse_names(tuple(guide.model.held)):
        size = sum(math.prod(latents[part].shape) for part in guide.model.resolve(name))
        lines.append(f"{name}: {size:,} fixed")
    return lines


def _divisions(lines: Sequence[str]) -> str:
    return "".join(f"<div>{html.escape(line)}</div>" for line in lines)
