"""What a fit prints above and below the table of its latents."""

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from advi.diagnostics.examine import khat_words
from advi.variational.guide import Guide
from advi.variational.per_row import Amortised

if TYPE_CHECKING:
    from advi.results.fit import Fit


def text(fit: "Fit") -> str:
    """Return a fit as it is printed."""
    table = fit.summary()
    head = "\n".join([*_above(fit), str(fit.verdict)])
    parts = [head, str(table) if table.rows else "", "\n".join(_below(fit.guide))]
    return "\n\n".join(part for part in parts if part)


def markup(fit: "Fit") -> str:
    """Return a fit as a notebook shows it, HTML."""
    head, foot = _divisions(_above(fit)), _divisions(_below(fit.guide))
    return f"{head}{fit.verdict._repr_html_()}{fit.summary()._repr_html_()}{foot}"


def _above(fit: "Fit") -> list[str]:
    kind, size = fit.guide.description, fit.model.size
    if fit.corrected_draws is not None:
        kind += ", corrected"
    lines = [
        f"Fit: {kind}, {size} real coordinate{'s' if size > 1 else ''}, {fit.float_dtype}",
        *fit.guide.choices,
        f"status: {fit.status}, {fit.status.message}",
        f"ELBO: {fit.elbo} nats",
    ]
    if not math.isnan(fit.khat):
        lines[-1] += f", {khat_words(fit.khat)}"
    return lines


def _below(guide: Guide) -> list[str]:
    """Return a line for each latent that is too much for the table."""
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
    estimated = [name for name in latents if name in guide.estimated - guide.local]
    for name in guide.abridged(estimated):
        size = sum(latents[part].size for part in guide.model.resolve(name))
        lines.append(f"{name}: {size:,} estimated")
    return lines


def _divisions(lines: Sequence[str]) -> str:
    return "".join(f"<div>{html.escape(line)}</div>" for line in lines)
