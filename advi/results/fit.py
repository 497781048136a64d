"""The result of a fit: draws, moments and densities of the posterior approximation."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer
from numpy.typing import NDArray

from advi.core import interrupts
from advi.core.archive import Name
from advi.core.arrays import on_host, real_numbers
from advi.core.draw_set import PROBS, DrawSet
from advi.core.errors import check_bool, check_count, check_positive
from advi.core.jax_config import default_float
from advi.core.keys import Stream, device_key
from advi.core.progress_bar import ProgressBar, is_shown
from advi.core.status import Estimate, EvalTrace, RowValues, Status
from advi.core.table import Table
from advi.core.verdict import Verdict
from advi.diagnostics.alarms import verdict_on
from advi.diagnostics.chain_moments import Budget
from advi.diagnostics.correct import corrected
from advi.diagnostics.examine import examined
from advi.diagnostics.figures import figures
from advi.diagnostics.linear_response import linear_response
from advi.diagnostics.loo import Loo, psis_loo
from advi.diagnostics.nuts import Settings, nuts
from advi.inference.plan.run import refined
from advi.model.resolve import check_on_host
from advi.posterior import predict
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.local_posterior import LocalPosterior
from advi.posterior.record import FitRecord
from advi.posterior.replicated import replicated
from advi.results import arviz, pickled, plots, report, storage
from advi.results.improve import improved
from advi.results.kfold import kfold
from advi.variational.objective import check_draws, check_weights


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """A posterior approximation and how it was found.

    Moments and quantiles are those of q on the constrained scale, computed from 4,000 orthogonal
    antithetic draws (fewer above 1,000 coordinates): they are the same at every call, and for
    real latents of a Gaussian exact. `fit`, `load` and the methods below make it.
    """

    _record: FitRecord

    @property
    def posterior(self) -> GlobalPosterior | LocalPosterior:
        """The approximation itself.

        Its variational distribution ``guide`` with its parameters ``params``, the log density
        ``density`` with the data, and without local latents the ``gaussian`` on R^D: its mean and
        scale, by draws if it is no Gaussian.
        """
        return self._record.posterior

    @property
    def status(self) -> Status:
        """Status "converged", "max_steps", "interrupted" or "diverged"; `.message` says why."""
        return self._record.outcome.status

    @property
    def elbo(self) -> Estimate:
        """Evidence lower bound in nats on fresh draws, with its Monte Carlo standard error.

        After Ctrl-C that of the last steps; NaN if there were none.
        """
        return self._record.outcome.elbo

    @property
    def elbo_trace(self) -> NDArray[np.float64]:
        """ELBO in nats over the course of the fit, (steps,)."""
        return np.array([progress.elbo for progress in self._record.outcome.trace])

    @property
    def eval_trace(self) -> EvalTrace:
        """Held-out ELBO in nats over the course of a fit that was given `eval_data`."""
        found = [p for p in self._record.outcome.trace if math.isfinite(p.eval_elbo)]
        steps = np.array([p.step for p in found], dtype=np.int64)
        return EvalTrace(steps, np.array([p.eval_elbo for p in found], dtype=np.float64))

    @property
    def verdict(self) -> Verdict:
        """Whether means and sds are reliable, with reasons and the next action."""
        return verdict_on(self._record)

    @property
    def khat(self) -> float:
        """Pareto k-hat of q as an importance proposal; NaN if it was not checked."""
        return self._record.khat

    @property
    def diagnostics(self) -> dict[str, Any]:
        """The numbers behind the verdict, by name.

        ``elbo``; ``held_out_gap``, ELBO on the plan's fixed draws less that on fresh ones, nats;
        ``drift``, the estimated distance of a fit by steps from convergence, sds (NaN for the
        automatic plan, infinite where the ELBO was still rising); ``khat``; ``num_gradients`` and
        ``num_values`` of the log density; ``restarts``, the optima of other starts; and after an
        examination its ``method``, ``mean_shift`` in sds and ``sd_ratio`` by entry.
        """
        return figures(self._record)

    def sample(self, n: int, key: Any = 0, data: Any = None, *, corrected: bool = False) -> Any:
        """Draw from the approximation.

        Parameters
        ----------
        n
            Number of draws.
        key
            Integer or JAX key; the same key gives the same draws. Inside of `jax.jit` it is a
            JAX key that is traced, and gives draws made by JAX, of the latents alone; a fit with
            local latents does not take one.
        data
            New rows whose local latents an encoder computes, a tree like the data of the fit with
            any number of rows; by default the rows that were fitted. Leaves that the encoder does
            not read may be left out.
        corrected
            Draw from `corrected()` instead. A fit that is corrected, or sampled by `nuts`, draws
            from its weighted draws again.

        Returns
        -------
        pytree
            The tree of the latents, every leaf ``(n, *shape)``, of a local latent
            ``(n, rows, *shape)``, on the constrained scale: JAX arrays, or NumPy arrays for a
            float64 fit where JAX has 64 bits switched off. Leaves of a NumPyro model have the axes
            of its sites, with the rows where their plate is. Its deterministic sites are included,
            unless the fit holds only some of the rows or `data` is given; in moments
            too, unless latents are local.

        Raises
        ------
        ValueError
            If `n` is not a positive integer, or `data` is given where no encoder reads it.

        Examples
        --------
        >>> import advi
        >>> model = advi.Model(lambda z, data: -0.5 * z["x"] ** 2, {"x": advi.real()})
        >>> advi.fit(model).sample(5)["x"].shape
        (5,)
        """
        check_count("n", n)
        check_bool("corrected", corrected)
        if corrected:
            return self.corrected().sample(n, key)
        posterior = self.posterior
        if not isinstance(key, Tracer):
            check_on_host()
        elif isinstance(posterior, GlobalPosterior) and data is None:
            return posterior.model.to_tree(posterior.traced_sample(n, key))
        if posterior.guide.local:
            posterior = posterior.on(data)
        elif data is not None:
            raise ValueError(
                "data: no latent has parameters by data row, so that draws do not depend on data; "
                "expected a fit with an advi.Amortised or advi.PerRow family."
            )
        return self._device_tree(posterior.sample(n, key))

    def to_dict(self, n: int = 1000, key: Any = 0) -> dict[str, NDArray]:
        """Return the draws of `sample` by the latent's name, NumPy arrays ``(n, *shape)``."""
        return arviz.to_dict(self._record, n, key)

    def to_arviz(
        self,
        n: int = 1000,
        key: Any = 0,
        *,
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return draws, densities, log-likelihoods and data for ArviZ.

        Parameters
        ----------
        n
            Number of draws.
        key
            Integer or JAX key; the draws are those of `sample`. A fit of `nuts` has all its draws,
            by chain, whatever `n` and `key` are.
        dims
            Name of a latent or a data leaf to the names of its axes; those of latents are by
            default the model's.
        coords
            Name of an axis to the labels along it; by default those of the fit.

        Returns
        -------
        xarray.DataTree
            For ArviZ before 1.0, where no later one is installed, `arviz.InferenceData`. Groups:

            - ``posterior``, with status, ELBO and verdict as attributes;
            - ``sample_stats``: ``log_p`` and ``log_q``, log densities of the draws on R^D in nats;
              corrected draws have no ``log_q``, and with local latents there is no such group;
            - ``log_likelihood``, if the log-joint returns `Terms`: ``rows``, never scaled;
            - ``observed_data``: all leaves of the data;
            - ``trace``: the ELBO over the course of the fit.

        Warns
        -----
        UserWarning
            If the verdict is "poor": ArviZ takes draws for those of the posterior, and cannot see
            how far these are from it. ``fit.corrected().to_arviz()`` carries the correction.

        Raises
        ------
        ImportError
            If xarray is not installed, which comes with ``advi-engine[arviz]``.
        TypeError, ValueError
            If `dims` or `coords` do not fit.
        """
        return arviz.to_arviz(self._record, n, key, dims, coords)

    def mean(self) -> Any:
        """Return posterior means, a tree of arrays shaped like the latents."""
        return self._device_tree(self.posterior.moments(DrawSet.mean))

    def sd(self) -> Any:
        """Return posterior standard deviations, a tree of arrays shaped like the latents."""
        return self._device_tree(self.posterior.moments(DrawSet.sd))

    def quantile(self, q: float | Sequence[float]) -> Any:
        """Return posterior quantiles.

        Parameters
        ----------
        q
            Probability, or several, between 0 and 1.

        Returns
        -------
        pytree
            The tree of the latents, every leaf ``(*q.shape, *shape)``.
        """
        probabilities = on_host(real_numbers("q", q))
        if not np.all((probabilities >= 0) & (probabilities <= 1)):
            raise ValueError(f"q: got {q}; expected probabilities between 0 and 1.")
        found = self.posterior.moments(lambda draws: draws.quantile(probabilities))
        return self._device_tree(found)

    def cov(self, names: Sequence[str] | str | None = None) -> NDArray[np.float64]:
        """Return the covariance (K, K) of scalar coordinates, in the order of names and entries.

        Parameters
        ----------
        names
            Names of latents or of their entries, "eta", "eta[3]" or "eta[Aitkin]"; by default all.

        Raises
        ------
        TypeError, ValueError
            If a name is unknown.
        """
        return self._record.global_posterior.cov(names)

    def log_prob(self, z: Any) -> Array:
        """Return the log density of the family's approximation on the constrained scale.

        Parameters
        ----------
        z
            Tree of the latents' values, each of its shape, or all with one leading axis of the
            same length n.

        Returns
        -------
        Array
            Scalar or (n,), nats, with respect to the latents' free coordinates: -inf outside of
            their support, and where a latent that is held by `Fixed` has another value. Latents
            that were estimated as a point contribute nothing. It is traced inside `jax.jit` and
            `jax.grad`.

        Raises
        ------
        ValueError
            If the tree or a shape does not fit, or a latent's transform has no inverse (unit
            vectors and circular latents), or every data row has parameters of its own, or a family
            has no `log_prob`.
        """
        return self.posterior.log_prob(z)

    def summary(
        self,
        names: Sequence[str] | str | None = None,
        *,
        probs: float | Sequence[float] = PROBS,
        sort: str | None = None,
        top: int | None = None,
    ) -> Table:
        """Return mean, sd and quantiles of scalar coordinates.

        Two digits of the sd are printed, and the other numbers of a row to the same place; the
        columns hold all digits.

        There is no r_hat and no effective sample size: the draws of q are independent, and those
        of chains have theirs in the verdict. With local latents the table has only the inferred
        shared ones.

        Parameters
        ----------
        names
            Names of latents or deterministic sites, or of their entries, "eta", "eta[3]" or by
            label "eta[Aitkin]"; by default all. Entries whose labels are whole numbers go by their
            labels alone.
        probs
            Probabilities of the quantiles, whose columns are named "5%".
        sort
            A column: "mean" for the rows with the largest means first, "-mean" for the smallest.
        top
            How many rows to keep, the first ones; by default all. A longer table is printed in
            part.

        Raises
        ------
        TypeError, ValueError
            If a name or the column is unknown, `top` is not a positive integer, or `probs` are no
            probabilities.

        Examples
        --------
        >>> import advi
        >>> model = advi.Model(
        ...     lambda z, data: -0.5 * ((z["b"] - data) ** 2).sum(), {"b": advi.real(100)}
        ... )
        >>> fit = advi.fit(model, np.arange(100.0))
        >>> fit.summary("b", sort="mean", top=2).rows
        ('b[99]', 'b[98]')
        >>> print(fit.summary("b[3]", probs=(0.025, 0.975)))
              mean   sd  2.5%  97.5%
        b[3]   3.0  1.0   1.0    5.0
        """
        return self.posterior.summary(names, sort, top, probs)

    def log_marginal(self, data: Any = None, draws: int = 5000, key: Any = 0) -> RowValues:
        """Estimate each row's log p(x), its local latents integrated out, by importance draws.

        Parameters
        ----------
        data
            New rows, as for `sample`, or the rows that were fitted. `Terms.shared` is left out.
        draws
            Draws from q of each row's latents. Fewer give a lower estimate on average: with one
            it is the row's ELBO.
        key
            Integer or JAX key.

        Returns
        -------
        RowValues
            ``rows`` (n,), nats, and ``mean``, over rows, with its standard error as an estimate
            for all rows like these.

        Raises
        ------
        ValueError
            If no latent is local, a shared latent is inferred instead of estimated as a `Point`,
            or `draws` is not a positive integer.

        References
        ----------
        Burda, Grosse & Salakhutdinov (2016), Importance Weighted Autoencoders, section 5.
        """
        check_draws("log_marginal", draws)
        check_weights("log_marginal", self.posterior.guide)
        at = self.posterior.on(data)
        assert isinstance(at, LocalPosterior)
        return at.log_marginal(draws, device_key(key, Stream.MARGINAL))

    def predict(self, fn: Callable[..., Any], n: int, data: Any = None, key: Any = 0) -> Any:
        """Apply a function to posterior draws, such as the prediction for new data.

        Parameters
        ----------
        fn
            ``fn(z, data)`` of one draw, `z` in the tree of the latents, or ``fn(z, data, key)``
            with a JAX key of the draw's own; it returns a pytree of arrays. It is compiled once
            for data of one shape.
        n
            Number of draws, those of `sample`.
        data
            Data for `fn`, with any number of rows; by default the data of the fit.
        key
            Integer or JAX key.

        Returns
        -------
        pytree
            The values of `fn` with one more leading axis, (n, ...): NumPy arrays, since together
            they may exceed the memory of the device.

        Raises
        ------
        TypeError, ValueError
            If `fn` is no such function, or `n` no positive integer.

        Examples
        --------
        >>> import advi
        >>> model = advi.Model(lambda z, data: -0.5 * z["x"] ** 2, {"x": advi.real()})
        >>> fit = advi.fit(model)
        >>> fit.predict(lambda z, data: z["x"] * data, 100, np.array([1.0, -1.0])).shape
        (100, 2)
        """
        return predict.predict(self.posterior, fn, n, data, key)

    def predictive(
        self, n: int = 1000, data: Any = None, key: Any = 0, *, prior: bool = False
    ) -> dict[str, NDArray]:
        """Draw the observed sites of a NumPyro model given posterior draws of its latents.

        Parameters
        ----------
        n
            Number of draws, those of `sample`.
        data
            Arguments of the model with any number of rows, without values of the sites that are
            drawn where its signature has a default for them; by default the data of the fit.
        key
            Integer or JAX key.
        prior
            Draw the latents from their prior, and return them too. Parameters are those of the fit.

        Returns
        -------
        dict
            Name of an observed or a deterministic site to its draws, NumPy arrays ``(n, *shape)``.

        Raises
        ------
        TypeError
            If the model is none of NumPyro's, does not take the data, or has an improper prior that
            would be drawn from.

        Examples
        --------
        >>> import advi, numpyro, numpyro.distributions as dist
        >>> def line(x, y=None):
        ...     w = numpyro.sample("w", dist.Normal(0, 1))
        ...     with numpyro.plate("rows", len(x)):
        ...         numpyro.sample("y", dist.Normal(w * x, 1), obs=y)
        >>> x = np.arange(5.0)
        >>> fit = advi.fit(advi.from_numpyro(line), {"x": x, "y": x})
        >>> fit.predictive(100)["y"].shape, fit.predictive(100, {"x": x[:2]})["y"].shape
        ((100, 5), (100, 2))
        """
        return predict.predictive(self.posterior, n, data, key, prior)

    def log_likelihood(self, data: Any = None, n: int = 1000, key: Any = 0) -> NDArray:
        """Return the log-likelihood of every row at posterior draws, unscaled `Terms.rows`.

        Parameters
        ----------
        data
            Data for the log-joint, with any number of rows; by default those of the fit. The
            log-joint is compiled again for another number of rows.
        n
            Number of draws, those of `sample`.
        key
            Integer or JAX key.

        Returns
        -------
        NDArray
            (n, N), nats.

        Raises
        ------
        ValueError
            If the log-joint returns a scalar.
        """
        return predict.log_likelihood(self.posterior, data, n, key)

    def loo(self, data: Any = None, n: int = 1000, key: Any = 0) -> Loo:
        """Estimate the log predictive density of rows that are left out one at a time.

        Pareto-smoothed importance sampling from q, whose error as an approximation of the
        posterior is part of the weights. Where that error is too large, the result says so, and
        ``fit.corrected().loo()`` weights draws that are nearer to the posterior. It takes n N
        numbers of memory.

        Parameters
        ----------
        data
            The data of the fit, if the fit does not hold them.
        n
            Number of draws, at least 100.
        key
            Integer or JAX key.

        Raises
        ------
        ValueError
            If the log-joint returns a scalar, or `n` is too small.

        References
        ----------
        Vehtari, Gelman & Gabry (2017), Practical Bayesian model evaluation using leave-one-out
        cross-validation and WAIC. Magnusson, Andersen, Jonasson & Vehtari (2019), Bayesian
        leave-one-out cross-validation for large data, eq. 5.
        """
        return psis_loo(self._record.global_posterior, data, n, key)

    def kfold(self, k: Any = 10, key: Any = 0, *, progress: bool | None = None) -> Loo:
        """Estimate the log predictive density of rows by fits without them, fold by fold.

        The fits are made by one compiled program, as those of `fit_many`, with a weight of zero for
        the rows of a fold, and their draws weighted to the posterior. It has none of the bias of
        importance weights where rows are influential, and takes k fits.

        Parameters
        ----------
        k
            Number of folds, to which rows are assigned at random, at most the number of rows; or
            the fold of each row, an array (N,) of numbers or texts. Groups that are left out as a
            whole are given so: ``k=labels``, each row's group.
        key
            Integer or JAX key.
        progress
            Whether to show a progress bar; None shows one in a terminal and in a notebook.

        Returns
        -------
        Loo
            As `loo` has it, and comparable with it by `advi.compare`.

        Raises
        ------
        ValueError
            If the log-joint returns a scalar, latents are local, or `k` is wrong.
        """
        with interrupts.held(), ProgressBar(progress) as bar:
            return kfold(self._record, k, key, bar.count)

    def check(self, data: Any = None) -> "Fit":
        """Return the fit with its verdict, also where the examination takes long.

        Parameters
        ----------
        data
            All rows of a fit that does not hold them, of a stream or of memory-mapped arrays: as
            arrays, or as the stream again, which is read for every round of importance sampling
            and, where that is unreliable, for every step of the chains: some five times, or a
            hundred. Some of the rows would not do: the posterior of n of N rows lies about
            sqrt(N/n - 1) of its sds from that of all.

        Raises
        ------
        TypeError, ValueError
            If the data are not like those of the fit, or not all of its rows; or if latents are
            local, of which no joint posterior is compared.
        """
        if self.posterior.weighted is not None and self._record.examination is not None:
            if data is not None:
                raise ValueError(
                    "data: the draws of this fit are corrected, and were checked as that was done; "
                    "expected none. Call fit.check()."
                )
            return self  # the verdict is on the draws, not on q
        return Fit(examined(self._record, data))

    def linear_response(
        self, names: str | Sequence[str] | None = None, *, progress: bool | None = None
    ) -> "Fit":
        """Return a fit with the same means and the linear-response covariance, of full rank.

        It gives a mean-field fit the correlations and sds that the family cannot express, and
        costs Hessian-vector products; the first call compiles them.

        Parameters
        ----------
        names
            Latents whose joint covariance is wanted, of at most 2,048 coordinates; the others keep
            their sds and are independent of these. None: all, or above 200 coordinates those of
            at most 8, such as hyperparameters.
        progress
            Whether to show a progress bar; None shows one in a terminal and in a notebook.

        Raises
        ------
        ValueError
            If the fit is not at a maximum of its ELBO, is no Gaussian or one with a sparse
            precision, or a name is not that of an inferred latent.

        References
        ----------
        Giordano, Broderick & Jordan (2018), Covariances, Robustness, and Variational Bayes.
        """
        with ProgressBar(progress) as bar:
            return Fit(linear_response(self._record, names, bar.begin))

    def corrected(self, *, seconds: float | None = None, progress: bool | None = None) -> "Fit":
        """Return a fit whose draws and moments are corrected beyond the family.

        By adaptive importance sampling, where that is unreliable by short Hamiltonian Monte Carlo
        chains, and from there by 16 chains that go on until R-hat is below 1.01. Draws and chains
        move in the coordinates of a Gaussian fit, or of the noise of any other family. The verdict
        says whether the correction is reliable, and if not, why.
        Ctrl-C keeps the draws so far, once the long chains run.

        Parameters
        ----------
        seconds
            Time that long chains may take, by the clock. None: some ten seconds, by the predicted
            work, so that the same fit has the same correction anywhere. With a number, a fit that
            is corrected already is corrected anew.
        progress
            Whether to show a progress bar; None shows one in a terminal and in a notebook.

        Raises
        ------
        ValueError
            If there is no posterior to correct: local latents, points only, or too many latents.
        """
        if seconds is not None:
            check_positive("seconds", seconds)
            return self._anew(Budget(seconds=float(seconds)), progress)
        if self.posterior.weighted is not None:
            return self
        kept = vars(self)
        if "correction" not in kept:
            kept["correction"] = self._anew(Budget(), progress)
        return kept["correction"]

    def _anew(self, budget: Budget, progress: bool | None) -> "Fit":
        with interrupts.held(), ProgressBar(progress) as bar:
            record = self._record
            if self.posterior.weighted is not None:
                posterior = dataclasses.replace(record.global_posterior, weighted=None)
                record = dataclasses.replace(record, posterior=posterior)
            return Fit(corrected(record, budget._replace(report=bar.begin)))

    def nuts(
        self,
        *,
        num_samples: int = 1000,
        num_warmup: int = 500,
        num_chains: int = 4,
        target_accept_prob: float = 0.95,
        dense_mass: bool = False,
        key: Any = 0,
        progress: bool | None = None,
    ) -> "Fit":
        """Sample the posterior by NumPyro's No-U-Turn Sampler; return a fit of its draws.

        Chains begin at draws of the fit, at corrected ones if it has them, and move in the
        coordinates of its noise: a Gaussian fit is their mass matrix, and a triangular one also
        straightens the posterior. `sample`, `mean`, `sd` and `quantile` are the chains', the
        verdict rests on split R-hat, effective draws and divergences; `to_arviz` has the chains.

        Parameters
        ----------
        num_samples, num_warmup, num_chains, target_accept_prob, dense_mass
            As NumPyro's ``MCMC`` and ``NUTS`` take them; the chains run together.
        key
            Of the random draws.
        progress
            Whether to show a progress bar; None shows one in a terminal and in a notebook.

        Raises
        ------
        ValueError
            If there is no posterior to sample: local latents, or points only; or if a number is
            wrong, or a family has other numbers of standard normals than of coordinates.
        """
        settings = Settings(num_samples, num_warmup, num_chains, target_accept_prob, dense_mass)
        check_on_host(key)
        return Fit(nuts(self._record, settings, key, is_shown(progress)))

    def refine(self, family: Any = None, *, reparam: Any = None) -> "Fit":
        """Return a fit of another family, or in other coordinates, begun at this fit.

        The log density is that of this fit: values that the log-joint reads from outside are as
        they were, whereas ``advi.fit(model, data, init=fit)`` reads them again. Other coordinates
        need the NumPyro model again: there, such values must not have changed.

        Parameters
        ----------
        family
            As in `advi.fit`, usually a richer one. With `reparam` None stands for the family of
            this fit; where "auto" made it, what follows a Gaussian follows again. A dict may name
            latents by their sites.
        reparam
            Of a NumPyro model, the coordinates of sites with a location and a scale, such as
            ``theta ~ Normal(mu, tau)``: a dict from names of sites to "centred", "non-centred", or
            a number between 1, centred, and 0, as in `numpyro.infer.reparam.LocScaleReparam`. Sites
            that are not named stay as they are. "auto" chooses for all latents whose location or
            scale depends on others, together and then, of up to 20, one by one: Gaussians are
            fitted centred, non-centred and half way between, and the highest ELBO wins, if it is
            higher by .1 nats and two standard errors. These ELBOs may be compared, since all are
            those of the same joint density in other coordinates, with the same log evidence.

        Returns
        -------
        Fit
            With its verdict. In other coordinates "theta_decentered" is the latent, and "theta" a
            deterministic site, of the same shape, in draws, moments and summaries. The line "made
            by" says what was chosen, and how many nats it gained.

        Raises
        ------
        TypeError, ValueError
            If `family` is none; if `reparam` is given for a log-joint, names a site that does not
            exist, is observed or has no location and scale, or one that is estimated as a point; or
            if "auto" finds no site.
        RuntimeError
            If the fit was loaded: the model is not in its file.

        References
        ----------
        Papaspiliopoulos, Roberts & Sköld (2007), A general framework for the parametrization of
        hierarchical models. Gorinova, Moore & Hoffman (2020), Automatic reparameterisation of
        probabilistic programs.

        Examples
        --------
        >>> import advi, numpyro, numpyro.distributions as dist
        >>> def schools(y):
        ...     mu, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample(
        ...         "tau", dist.HalfNormal(5)
        ...     )
        ...     with numpyro.plate("schools", 4):
        ...         theta = numpyro.sample("theta", dist.Normal(mu, tau))
        ...         numpyro.sample("y", dist.Normal(theta, 10.0), obs=y)
        >>> fit = advi.fit(advi.from_numpyro(schools), np.array([9.0, 2.0, -3.0, 4.0]))
        >>> sorted(fit.refine(reparam={"theta": "non-centred"}).mean())
        ['mu', 'tau', 'theta', 'theta_decentered']
        """
        if reparam is None:
            if family is None:
                raise TypeError(
                    "refine(): got neither family nor reparam; expected one, such as "
                    "fit.refine('triangular'), or of a NumPyro model fit.refine(reparam='auto')."
                )
            found = examined(refined(self._record, family))
            if family != "auto":
                return Fit(found)
            with interrupts.held(), ProgressBar(False) as bar:
                return Fit(improved(found, bar))
        from advi.inference.plan.coordinates import made_by_auto, reparametrised  # with NumPyro

        with interrupts.held(), ProgressBar(False) as bar:
            found = reparametrised(self._record, reparam, family)
            if found.outcome.status.cause is not None:
                return Fit(found)
            found = examined(found)
            by_auto = family is None and made_by_auto(self.posterior.guide)
            return Fit(improved(found, bar) if by_auto or family == "auto" else found)

    def plot(
        self,
        names: Sequence[str] | str | None = None,
        *,
        sort: str | None = None,
        top: int | None = None,
        corrected: bool = False,
        against: "Fit | Mapping[str, Fit] | None" = None,
        axes: Any = None,
    ) -> NDArray[Any]:
        """Draw the marginals of scalar coordinates in a panel each; return the axes (K,).

        Of a Gaussian, a latent that is transformed entry by entry has the exact density;
        other latents, a NumPyro model's deterministic sites, and corrected fits have a histogram
        of draws.

        Parameters
        ----------
        names
            Names of latents or deterministic sites, or of their entries, "eta", "eta[3]" or
            "eta[Aitkin]"; by default all, as in the summary. Of more than 24 panels the first 24
            are drawn.
        sort
            A column of the summary, by which the coordinates are ordered: "mean" for the largest
            means first, "-mean" for the smallest; by default the order of the latents.
        top
            How many coordinates to draw, the first ones of that order.
        corrected
            Lay `corrected()` over it, and the `linear_response()` of a mean-field fit.
        against
            Another fit of these latents, or a dict from labels to fits, to lay over it.
        axes
            Matplotlib axes to draw on, one for each coordinate; a new figure by default.

        Raises
        ------
        ImportError
            If Matplotlib is not installed, which comes with ``advi-engine[plots]``.
        TypeError, ValueError
            If a name or the column is unknown, `top` is not a positive integer, `against` has other
            latents, or `axes` are too many or too few.
        """
        return plots.plot(self._layers(corrected, against), names, sort, top, axes)

    def plot_forest(
        self,
        names: Sequence[str] | str | None = None,
        *,
        sort: str | None = "mean",
        top: int | None = None,
        corrected: bool = False,
        against: "Fit | Mapping[str, Fit] | None" = None,
        ax: Any = None,
    ) -> Any:
        """Draw a forest, or caterpillar, plot of scalar coordinates; return the axes.

        Each has a line with its mean as a dot, and its 50 % and 90 % intervals. Arguments and
        errors are those of `plot`, but for the order, which is that of the means: None is that of
        the latents. Thousands of coordinates can be drawn; up to 60 have their names.

        Parameters
        ----------
        ax
            Matplotlib axes; a new figure by default.
        """
        return plots.plot_forest(self._layers(corrected, against), names, sort, top, ax)

    def plot_pairs(
        self,
        names: Sequence[str] | str | None = None,
        *,
        corrected: bool = False,
        against: "Fit | Mapping[str, Fit] | None" = None,
        axes: Any = None,
    ) -> NDArray[Any]:
        """Draw the scalar coordinates two by two, as scatters of 1,000 draws.

        Arguments and errors are those of `plot`; of more than 8 coordinates the first 8 are drawn.

        Returns
        -------
        NDArray
            The axes (K, K), with marginals on the diagonal and nothing above it.
        """
        return plots.plot_pairs(self._layers(corrected, against), names, axes)

    def plot_elbo(self, ax: Any = None) -> Any:
        """Draw the ELBO over the course of the fit, by stage, and on fresh draws; return the axes.

        And the held-out ELBO, if there was `eval_data`: it is scaled to the rows of the fit, so
        that both curves may be compared. Of steps on rows the scale on the right is per row. The
        view leaves out a start that is far below the rest.

        Parameters
        ----------
        ax
            Matplotlib axes; a new figure by default.

        Raises
        ------
        ImportError
            If Matplotlib is not installed.
        """
        return plots.plot_elbo(self._record.outcome, ax)

    def plot_ppc(
        self,
        n: int = 50,
        data: Any = None,
        key: Any = 0,
        *,
        fn: Callable[..., Any] | None = None,
        prior: bool = False,
        names: Sequence[str] | str | None = None,
        axes: Any = None,
    ) -> NDArray[Any]:
        """Draw a predictive check: `n` replications of the data over the observed; return the axes.

        Real values are drawn as densities, integers as a rootogram: bars of the observed counts,
        and means and 90 % intervals of the replicated ones, on the scale of square roots. Missing
        and masked values are left out, of the replications too. Of a site with more than 10,000
        values, 10,000 chosen at random stand for all.

        Parameters
        ----------
        n
            Number of replications, each at a draw of `sample`.
        data
            As for `predictive`, or with `fn` as for `predict`, with observed values; by default
            the data of the fit.
        key
            Integer or JAX key.
        fn
            Of a log-joint of your own, which does not say how data are drawn: ``fn(z, data, key)``
            of one draw, as for `predict`, that returns replicated data by the names of data leaves,
            such as ``{"y": ...}``, in their shapes.
        prior
            Draw the latents of a NumPyro model from their prior: a prior predictive check.
        names
            Observed sites of a NumPyro model to draw; by default all.
        axes
            Matplotlib axes, one for each observed site or data leaf; a new figure by default.

        Returns
        -------
        NDArray
            The axes (K,).

        Raises
        ------
        ImportError
            If Matplotlib is not installed.
        TypeError, ValueError
            If nothing is observed, a name is unknown, `fn` is missing or draws no data leaf,
            `prior` or `names` is given with `fn`, or `axes` are too many or too few.

        References
        ----------
        Gabry, Simpson, Vehtari, Betancourt & Gelman (2019), Visualization in Bayesian workflow.
        Kleiber & Zeileis (2016), Visualizing count data regressions using rootograms.
        """
        found = replicated(self.posterior, n, data, key, fn, prior, names)
        return plots.plot_ppc(found, "prior" if prior else "posterior", axes)

    def save(self, path: Name) -> None:
        """Write the fit to one file, from which `advi.load` reads it without the model or the data.

        The file is written completely or not at all: one of that name is replaced at the end. Of a
        fit that `corrected` returned it holds the corrected draws; it holds no deterministic sites
        of a NumPyro model. An encoder is code: the file holds a table of its values at the fitted
        rows instead. So are the classes of a network among the latents: the file holds its arrays
        by their paths, and ``advi.load(path, like=...)`` puts them back. `pickle` has the same
        content, and needs the user's classes where it is read; `copy.deepcopy` is the fit itself,
        which nothing changes.

        Parameters
        ----------
        path
            Its name, kept as given, such as "radon.advi".

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            If there is no such folder, or `path` is one.
        TypeError
            If a transform or a family holds a function.
        ValueError
            If a parameter is not finite, or an encoder was fitted to a stream, whose rows are gone.
        """
        storage.save(self._record, path)

    def _layers(self, corrected: bool, against: Any) -> list[plots.Layer]:
        """Return the layers of a plot: the fit, its corrections if asked for, and others."""
        others = {} if against is None else {"another fit": against}
        if isinstance(against, Mapping):
            others = dict(against)
        for other in others.values():
            plots.check_is_fit(isinstance(other, Fit), other)
        records = {name: other._record for name, other in others.items()}
        make_corrected = (lambda: self.corrected()._record) if corrected else None
        return plots.lay_over(self._record, make_corrected, records)

    def __dir__(self) -> list[str]:
        """Return the names to complete, without those of another kind of fit."""
        program, guide = self.posterior.model.program, self.posterior.guide
        others = {
            "predictive": program.predictive is None,
            "log_marginal": not guide.local,
            "eval_trace": not len(self.eval_trace.steps),
        }
        return [name for name in super().__dir__() if not others.get(name, False)]

    def __reduce__(self) -> tuple[Callable[[Any], "Fit"], tuple[Any]]:
        return _of_pickle, (pickled.to_state(self._record),)

    def __deepcopy__(self, memo: Any) -> "Fit":
        return self  # nothing changes it

    def __copy__(self) -> "Fit":
        return self

    def __repr__(self) -> str:
        return report.text(self._record)

    def _repr_html_(self) -> str:
        return report.markup(self._record)

    def _device_tree(self, values: dict[str, Any]) -> Any:
        dtype = self.posterior.float_dtype
        arrays: dict[str, Any] = {k: np.asarray(v, dtype) for k, v in values.items()}
        # in 32-bit mode JAX warns at every use of a float64 array of its own
        if default_float(None) == "float64" or dtype == "float32":
            arrays = {k: jax.device_put(v) for k, v in arrays.items()}
        return self.posterior.model.to_tree(arrays)


def _of_pickle(state: pickled.State) -> Fit:
    return Fit(pickled.of_state(state))
