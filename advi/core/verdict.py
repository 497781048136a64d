"""The verdict: whether a fit's means and sds may be used, and what to do if not."""

import html
from dataclasses import dataclass
from typing import Literal, NamedTuple

Level = Literal["good", "means_only", "poor", "not checked"]
Cause = Literal[
    "gradient",
    "family",
    "improper",
    "diverged",
    "interrupted",
    "max_steps",
    "moving",
    "labels",
    "multimodal",
]

# Behind white letters, on light and on dark pages: green, amber, red, grey.
COLOURS: dict[Level, str] = {
    "good": "#1a7f37",
    "means_only": "#8f5a00",
    "poor": "#c62828",
    "not checked": "#5f6b76",
}
# Actions for faults that no comparison of moments shows.
REMEDIES: dict[Cause, str] = {
    "improper": "check the sign of log_joint and the priors of the latents named; "
    "advi.check(model, data) looks at both.",
    "diverged": "do what the status says, mend log_joint where it fails, or start elsewhere with "
    "init={...}.",
    "interrupted": "let the fit go on: advi.fit(model, data, init=fit).",
    "max_steps": "let the fit go on: advi.fit(model, data, init=fit), with a larger max_steps or "
    "none; where the status speaks of rounding, with x64=True.",
    "moving": "let the fit go on with more steps: init=fit.",
    "family": "mend the draw of the family named; its ELBO, weights and verdicts rest on log q.",
    "gradient": "see what advi.check(model, data) finds, and mend log_joint.",
    "labels": "declare one of these latents by advi.ordered, so that one labelling is left.",
    "multimodal": "fit with family='mixture', a Gaussian for every mode, or with restarts=8 to "
    "find the highest. Modes that are copies of one another vanish with a constraint, such as "
    "advi.ordered; of others sample the posterior by MCMC.",
}


class Alarm(NamedTuple):
    """A reason for calling a fit poor whatever its moments."""

    cause: Cause
    reason: str  # a sentence


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether a fit can be trusted, why, and what to do next.

    Attributes
    ----------
    level
        "good": means and sds may be used (means within a quarter sd, sds within a factor 1.25).
        "means_only": the means may. "poor": neither is vouched for. "not checked": nothing was
        examined. A verdict equals its level, and is true if that is "good".
    reasons
        The findings, one sentence each, naming the latents concerned.
    action
        The next step.

    Examples
    --------
    >>> verdict = Verdict("means_only", ("By HMC, the sd of tau is 30% too small.",))
    >>> verdict == "means_only", bool(verdict), bool(Verdict("good"))
    (True, False, True)
    """

    level: Level
    reasons: tuple[str, ...] = ()
    action: str = ""

    def __bool__(self) -> bool:
        return self.level == "good"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Verdict):
            mine, theirs = ((v.level, v.reasons, v.action) for v in (self, other))
            return mine == theirs
        return self.level == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.level)

    def __str__(self) -> str:
        lines = [f"verdict: {self.level.replace('_', ' ')}", *self.reasons]
        if self.action:
            lines.append(f"Next: {self.action}")
        return "\n  ".join(lines)

    def _repr_html_(self) -> str:
        word = self.level.replace("_", " ")
        style = f"background:{COLOURS[self.level]};color:#fff;padding:0 .5em;border-radius:.3em"
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        return (
            f'<div>verdict: <span style="{style}">{word}</span></div>'
            + (f"<ul>{reasons}</ul>" if reasons else "")
            + (f"<div>Next: {html.escape(self.action)}</div>" if self.action else "")
        )
