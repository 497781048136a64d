"""Mistakes that type checkers must find: one by one, on the lines that are marked with its rule.

Nothing here is run.
"""

from typing import Any

import advi


def callback_of_two(progress: advi.Progress, more: int) -> bool:
    return progress.step > more


def calls(model: advi.Model, data: Any) -> None:
    advi.fit()  # error: reportCallIssue
    advi.fit("x", data)  # error: reportArgumentType
    advi.fit(advi.Model, data)  # error: reportArgumentType
    advi.fit(model, data, "full_rank")  # error: reportCallIssue
    advi.fit(model, data, familly="full_rank")  # error: reportCallIssue
    advi.fit(model, data, max_steps="10")  # error: reportArgumentType
    advi.fit(model, data, batch_size=0.5)  # error: reportArgumentType
    advi.fit(model, data, restarts=None)  # error: reportArgumentType
    advi.fit(model, data, optimizer="adam")  # error: reportArgumentType
    advi.fit(model, data, objective=advi.Elbo)  # error: reportArgumentType
    advi.fit(model, data, checkpoint=3)  # error: reportArgumentType
    advi.fit(model, data, x64="yes")  # error: reportArgumentType
    advi.fit(model, data, callback=callback_of_two)  # error: reportArgumentType


def models() -> None:
    advi.Model({"mu": advi.real()})  # error: reportCallIssue
    advi.Model(None, {"mu": advi.real()})  # error: reportArgumentType
    advi.Model(lambda z: -(z["mu"] ** 2), {"mu": advi.real()})  # error: reportArgumentType
    advi.interval(0.0)  # error: reportCallIssue
    advi.real(2, shape=(2,))  # error: reportCallIssue
    advi.Terms(0.0)  # error: reportCallIssue


def families() -> None:
    advi.LowRank(rank="3")  # error: reportArgumentType
    advi.Elbo(estimator="pathwise")  # error: reportArgumentType
    advi.Iwae()  # error: reportCallIssue
    advi.FullRank().rank = 3  # error: reportAttributeAccessIssue


def results(fit: advi.Fit) -> None:
    print(fit.elbo.valu)  # error: reportAttributeAccessIssue
    print(fit.means())  # error: reportAttributeAccessIssue
    print(fit.verdict["level"])  # error: reportIndexIssue
    print(fit.status.cause.args)  # error: reportOptionalMemberAccess
    fit.verdict.level = "good"  # error: reportAttributeAccessIssue
    fit.elbo = 0.0  # error: reportAttributeAccessIssue
    fit.sample()  # error: reportCallIssue
    fit.sample(n="100")  # error: reportArgumentType
    fit.quantile("0.5")  # error: reportArgumentType
    advi.compare([fit, fit])  # error: reportArgumentType
