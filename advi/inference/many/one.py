"""The compiled plan as an algorithm of `fit`, for one data set."""

from typing import Any

from advi.core.progress_bar import ProgressBar
from advi.data.source import Source
from advi.inference.many.many_fits import Varied
from advi.inference.many.run import MAX_DIM, fit_again, run, suits
from advi.inference.plan.run import Plan
from advi.model.model import Model
from advi.model.resolve import traced_model
from advi.posterior.initial import initial
from advi.posterior.record import FitRecord
from advi.variational.family_check import check_families
from advi.variational.resolve_family import resolve_family


class CompiledPlan(Plan):
    """The plan of one Gaussian as one compiled program, that of many fits."""

    def run(
        self, model: Model, source: Source, family: Any, init: Any, key: Any, bar: ProgressBar
    ) -> FitRecord:
        """Fit one data set, by the plan on the host where the compiled one has not ended.

        ValueError for a guide that has no compiled plan.
        """
        if self != CompiledPlan():
            raise ValueError(
                "compile: the compiled plan has its own starts and steps; leave out `restarts` and "
                "`max_steps`, or compile."
            )
        of_rows, log_joint = traced_model(model, source)
        guide = resolve_family(of_rows, family)
        check_families(guide, any_scale=True)
        if not suits(guide):
            raise ValueError(
                f"compile: got {guide.description}, {guide.model.size} real coordinates; expected "
                f"a mean-field or full-rank Gaussian of at most {MAX_DIM}. Leave compile out."
            )
        first, _ = initial(guide.model, init)
        varied = Varied(1, [source.example], keys=[key])
        many = run(guide, log_joint, source.spec, varied, first, lambda _: None)
        fit_again(many, bar.begin)
        return many.record(0)
