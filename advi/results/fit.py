"""The result of a fit: draws, moments and densities of the posterior approximation."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.core.archive import Name
from advi.core.arrays import on_host, real_numbers
from advi.core.draw_set import DrawSet
from advi.core.errors import check_bool, check_names, describe
from advi.core.keys import Stream, device_key, host_rng
from advi.core.status import Estimate, EvalTrace, Progress, Status
from advi.core.table import Table
from advi.data.row_subset import RowData
from advi.diagnostics import trust
from advi.diagnostics.examine import Checked
from advi.diagnostics.loo import Loo, psis_loo
from advi.diagnostics.verdict import Verdict
from advi.diagnostics.weighted import WeightedDraws
from advi.inference.plan.plan import Rival
from advi.model.density import Density, default_float, precision
from advi.model.model import Model
from advi.posterior import constrained, predict
from advi.posterior.local import RowPosterior, RowValues
from advi.posterior.log_prob import log_prob
from advi.results import arviz, plots, storage
from advi.results import report as headlines
from advi.variational import draws
from advi.variational.gaussian import Gaussian, Structure, structure_of
from advi.variational.guide import Guide
from advi.variational.objective import check_draws, check_weights
from advi.variational.per_row import PerRow

MOMENT_DRAWS, FEW_DRAWS = 4000, 100
MOMENT_ELEMENTS = 2**27  # of all draws that moments come from
ORTHOGONAL_DIM = 512  # above it orthogonal draws cost more than they save


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """A posterior approximation and how it was found.

    Moments and quantiles are those of q on the constrained scale, computed from 4,000 orthogonal
    antithetic draws (fewer above 30,000 coordinates): they are the same at every call, and for
    real latents exact.

    Attributes
    ----------
    guide
        The variational distribution.
    params
        Its parameters, host arrays.
    status : Status
        "converged", "max_steps", "interrupted" or "diverged", with a sentence in `.message`.
    elbo : Estimate
        Evidence lower bound in nats on fresh draws, with its Monte Carlo standard error. After
        Ctrl-C that of the last steps, since nothing more was evaluated; NaN if there were none.
    trace
        ELBO in nats after every step of the plan, or every step of an optimiser.
    num_gradients
        Gradients of the log density, one per draw, that the fit used.
    density
        The log density and its data.
    key
        What the random draws of checks and corrections are seeded from.
    held_out_gap
        ELBO on the plan's fixed draws less that on fresh ones, nats: what they overfit.
    rivals
        Other starts that were carried to their end.
    corrected_draws
        Draws nearer to the posterior than q's, which moments and samples then come from.
    checked
        What the verdict is based on; None if nothing was checked.
    drift
        How far a fit by steps had still to go at its end, about, sds: the largest difference of
        means, or of log sds, between the averages over the last half of the steps and over the
        quarter before; or, where not all rows were read, how far the posterior of those that were
        is from that of all. Infinite where the ELBO still rose by more than a nat for each
        coordinate, which no sd tells. NaN for the automatic plan, and where nothing has an sd.
    alarms
        What the fit found to be wrong with the log density, a sentence each.
    """

    guide: Guide
    params: Any
    status: Status
    elbo: Estimate
    trace: Sequence[Progress]
    num_gradients: int
    density: Density
    key: Any = 0
    held_out_gap: float = math.nan
    rivals: tuple[Rival, ...] = ()
    corrected_draws: WeightedDraws | None = None
    checked: Checked | None = None
    drift: float = math.nan
    alarms: tuple[str, ...] = ()

    @property
    def model(self) -> Model:
        """The model that was fitted."""
        return self.guide.model

    @property
    def float_dtype(self) -> str:
        """Float type of the fit, "float32" or "float64"."""
        return self.density.spec.float_dtype

    @cached_property
    def gaussian(self) -> Gaussian:
        """Mean and scale of q on R^D, host arrays.

        Raises
        ------
        ValueError
            If every data row has parameters of its own, which are too many for one vector.
        """
        self._require_one_vector()
        return Gaussian(*self.guide.to_gaussian(self.params))

    def _require_one_vector(self) -> None:
        if self.guide.local:
            raise ValueError(
                f"{', '.join(map(repr, sorted(self.guide.local)))} is local, with parameters for "
                "every data row, and this needs all coordinates in one vector. Known for such a "
                "fit: sample, mean, sd, quantile, summary, elbo, log_marginal, and "
                "advi.amortisation_gap."
            )

    @cached_property
    def structure(self) -> Structure:
        """Which coordinates of R^D have noise, and which are coupled."""
        return structure_of(self.guide)

    @property
    def elbo_trace(self) -> NDArray[np.float64]:
        """ELBO in nats over the course of the fit, (steps,)."""
        return np.array([progress.elbo for progress in self.trace])

    @property
    def eval_trace(self) -> EvalTrace:
        """Held-out ELBO in nats over the course of a fit that was given `eval_data`."""
        found = [p for p in self.trace if math.isfinite(p.eval_elbo)]
        steps = np.array([p.step for p in found], dtype=np.int64)
        return EvalTrace(steps, np.array([p.eval_elbo for p in found], dtype=np.float64))

    @property
    def verdict(self) -> Verdict:
        """Whether means and sds can be trusted, why, and what to do next."""
        if self.checked is None and self.guide.local:
            return trust.unchecked(
                self,
                "Importance weights of all rows' latents together would tell nothing.",
                action="compare fit.log_marginal(data) with the ELBO, or see "
                "advi.amortisation_gap(fit, data).",
            )
        if self.checked is None and not self.structure.dim:
            return trust.unchecked(self, trust.ONLY_POINTS)
        if self.checked is None:
            return trust.unchecked(self, action="call fit.check().")
        return self.checked.verdict

    @property
    def khat(self) -> float:
        """Pareto k-hat of q as an importance proposal; NaN if it was not checked."""
        return math.nan if self.checked is None else self.checked.khat

    @property
    def diagnostics(self) -> dict[str, Any]:
        """The figures behind the verdict, by name."""
        return trust.diagnostics(self)

    def sample(self, n: int, key: Any = 0, data: Any = None, *, corrected: bool = False) -> Any:
        """Draw from the approximation.

        Parameters
        ----------
        n
            Number of draws.
        key
            Integer or JAX key; the same key gives the same draws.
        data
            New rows whose local latents an encoder computes, a tree like the data of the fit with
            any number of rows; by default the rows that were fitted. Leaves that the encoder does
            not read may be left out.
        corrected
            Draw from `corrected()` instead.

        Returns
        -------
        pytree
            The tree of the latents, every leaf ``(n, *shape)``, of a local latent
            ``(n, rows, *shape)``, on the constrained scale: JAX arrays, or NumPy arrays for a
            float64 fit where JAX has 64 bits switched off. A NumPyro model's deterministic sites
            stand beside the latents, unless the fit holds only some of the rows or `data` is given;
            so they do in moments, unless latents have parameters by row.

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
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise ValueError(f"n: got {describe(n)}; expected a number of draws, at least 1.")
        check_bool("corrected", corrected)
        if corrected:
            return self.corrected().sample(n, key)
        if self.guide.local or data is not None:
            values = self.rows(data).sample(n, host_rng(key, Stream.ROW_SAMPLE))
        else:
            values = self.constrain(self.sample_points(n, key)[0])
        # what is derived belongs to the data of the fit
        return self._device_tree(values | self.derive(values) if data is None else values)

    def sample_points(
        self, n: int, key: Any
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return the points of `sample` on the real scale, and their noise, both (n, D).

        Corrected draws come from no noise.
        """
        rng = host_rng(key, Stream.SAMPLE)
        if self.corrected_draws is not None:
            return self.corrected_draws.resample(n, rng), None
        E = self.structure.spread(rng.standard_normal((n, self.guide.noise_dim)))
        return self.gaussian.points(E), E

    def to_dict(self, n: int = 1000, key: Any = 0) -> dict[str, NDArray]:
        """Return the draws of `sample` by the latent's name, NumPy arrays ``(n, *shape)``."""
        return arviz.to_dict(self, n, key)

    def to_arviz(
        self,
        n: int = 1000,
        key: Any = 0,
        *,
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return draws and what belongs to them in the form that ArviZ takes.

        Parameters
        ----------
        n
            Number of draws.
        key
            Integer or JAX key; the draws are those of `sample`.
        dims
            Name of a latent or a data leaf to the names of its axes.
        coords
            Name of an axis to the labels along it.

        Returns
        -------
        xarray.DataTree
            For ArviZ before 1.0, where no later one is installed, `arviz.InferenceData`. Groups:

            - ``posterior``, with status, ELBO and verdict as attributes;
            - ``sample_stats``: ``log_p`` and ``log_q``, log densities of the draws on R^D in nats,
              as an importance sampler needs them; corrected draws have no ``log_q``, and with
              local latents the group is left out;
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
            If xarray is not installed, which comes with ``advi[arviz]``.
        TypeError, ValueError
            If `dims` or `coords` do not fit.
        """
        return arviz.to_arviz(self, n, key, dims, coords)

    def mean(self) -> Any:
        """Return posterior means, a tree of arrays shaped like the latents."""
        return self._device_tree(self._moments(DrawSet.mean))

    def sd(self) -> Any:
        """Return posterior standard deviations, a tree of arrays shaped like the latents."""
        return self._device_tree(self._moments(DrawSet.sd))

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
        return self._device_tree(self._moments(lambda draws: draws.quantile(probabilities)))

    def _moments(self, reduce: Callable[[DrawSet], dict[str, Any]]) -> dict[str, Any]:
        return self.rows().moments(reduce) if self.guide.local else reduce(self.shown_draws)

    def cov(self, names: Sequence[str] | str | None = None) -> NDArray[np.float64]:
        """Return the covariance of the scalar coordinates of some latents.

        Parameters
        ----------
        names
            One or several names of latents; all by default.

        Returns
        -------
        NDArray
            (K, K), in the order of the names and of each latent's entries.

        Raises
        ------
        ValueError
            If a name is unknown.
        """
        wanted = list(self.model.latents) if names is None else check_names("names", names)
        return self.moment_draws.unwrapped(self.guide.angles).cov(
            [k for part in wanted for k in self.model.resolve(part)]
        )

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
            Scalar or (n,), nats, with respect to the latents' free coordinates; latents that were
            estimated as a point contribute nothing.

        Raises
        ------
        ValueError
            If the tree or a shape does not fit, or a latent's transform has no inverse (unit
            vectors and circular latents), or every data row has parameters of its own.
        """
        self._require_one_vector()
        return log_prob(self.guide, self.params, z, self.float_dtype)

    def summary(self) -> Table:
        """Return mean, sd and 5 %, 50 % and 95 % quantiles of every scalar coordinate.

        There is no r_hat and no effective sample size: the draws are independent. Where every
        data row has latents of its own only those that all rows share, and that are inferred, are
        in the table.
        """
        if self.guide.local:
            shared = self._fitted_rows.shared()
            return shared.summary() if shared.values else Table((), {})
        return self.shown_draws.summary()

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
        check_weights("log_marginal", self.guide)
        rows = self.rows(data)
        return rows.log_marginal(draws, device_key(key, Stream.MARGINAL))

    def rows(self, data: Any = None) -> RowPosterior:
        """Return the variational distribution at the rows of some data, or at those fitted.

        Raises
        ------
        ValueError
            If no latent is local, or new data is given where a table knows the fitted rows only.
        """
        if not self.guide.local:
            raise ValueError(
                "data: no latent has parameters by data row, so that draws do not depend on data; "
                "expected a fit with an advi.Amortised or advi.PerRow family."
            )
        if data is None:
            self.density.on(None)  # which may not have all of the rows
            return self._fitted_rows
        tables = [b for b in self.guide.blocks if isinstance(b.family, PerRow)]
        if tables:
            raise ValueError(
                f"data: {', '.join(map(repr, tables[0].names))} has a table of parameters, one for "
                "each row that was fitted; expected data=None. For new rows fit with "
                "advi.Amortised(encode, params), or fit the new rows."
            )
        with precision(self.float_dtype):
            new = self._fitted_data.new(data)
        return RowPosterior(self.guide, self.params, new)

    @cached_property
    def _fitted_data(self) -> RowData:
        density = self.density
        return RowData.of(density.data, density.spec, density.model.num_rows or 1)

    @cached_property
    def _fitted_rows(self) -> RowPosterior:
        return RowPosterior(self.guide, self.params, self._fitted_data)

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
            What `fn` is given, rows of any number; by default the data of the fit.
        key
            Integer or JAX key.

        Returns
        -------
        pytree
            What `fn` returns with one more leading axis, (n, ...): NumPy arrays, since together
            they may exceed the memory of the device, which holds some draws' at a time.

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
        return predict.predict(self, fn, n, data, key)

    def log_likelihood(self, data: Any = None, n: int = 1000, key: Any = 0) -> NDArray:
        """Return the log-likelihood of every row of data at posterior draws.

        Parameters
        ----------
        data
            Data as the log-joint takes it, rows of any number; by default those of the fit. The
            log-joint is compiled again for another number of rows.
        n
            Number of draws, those of `sample`.
        key
            Integer or JAX key.

        Returns
        -------
        NDArray
            (n, N), nats: `Terms.rows`, never scaled.

        Raises
        ------
        ValueError
            If the log-joint returns a scalar.
        """
        return predict.log_likelihood(self, data, n, key)

    def loo(self, data: Any = None, n: int = 1000, key: Any = 0) -> Loo:
        """Estimate the log predictive density of rows that are left out one at a time.

        Pareto-smoothed importance sampling from q, whose error as an approximation of the
        posterior is part of the weights. Where that error is too large for them, in most rows at
        once, the result says so: ``fit.corrected().loo()`` weights draws that are nearer to the
        posterior. It holds n N numbers in memory.

        Parameters
        ----------
        data
            The data of the fit, where the fit does not hold them itself.
        n
            Number of draws, at least 100.
        key
            Integer or JAX key.

        Returns
        -------
        Loo

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
        return psis_loo(self, data, n, key)

    def check(self) -> "Fit":
        """Return the fit with a verdict, however long the examination takes."""
        return dataclasses.replace(self, checked=trust.checked(self))

    def linear_response(self) -> "Fit":
        """Return a full-rank fit with the same means and the linear-response covariance.

        It gives a mean-field fit the correlations and sds that the family cannot express, and
        costs Hessian-vector products; the first call compiles them.

        Raises
        ------
        ValueError
            If the fit is not at a maximum of its ELBO.

        References
        ----------
        Giordano, Broderick & Jordan (2018), Covariances, Robustness, and Variational Bayes.
        """
        return trust.linear_response(self)

    def corrected(self) -> "Fit":
        """Return a fit whose draws and moments are corrected beyond the family.

        By adaptive importance sampling, and where that is unreliable by short Hamiltonian Monte
        Carlo chains preconditioned by the fit. Its own verdict says how far to trust it.
        """
        return self._corrected

    @cached_property
    def _corrected(self) -> "Fit":
        return self if self.corrected_draws is not None else trust.corrected(self)

    def refine(self, family: Any) -> "Fit":
        """Return a fit of another family, usually a richer one, begun at this fit.

        The log density is that of this fit: what the log-joint reads from outside is as it was,
        where ``advi.fit(model, data, init=fit)`` reads it anew.

        Parameters
        ----------
        family
            As in `advi.fit`.

        Raises
        ------
        TypeError, ValueError
            If `family` is none.
        """
        return trust.refined(self, family)

    def plot(
        self,
        names: Sequence[str] | str | None = None,
        *,
        corrected: bool = False,
        against: "Fit | Mapping[str, Fit] | None" = None,
        axes: Any = None,
    ) -> NDArray[Any]:
        """Draw marginals on the constrained scale, one panel for each scalar coordinate.

        A latent that is transformed entry by entry has the exact density of the approximation;
        other latents, a NumPyro model's deterministic sites, and corrected fits, a histogram of
        draws.

        Parameters
        ----------
        names
            Names of latents or deterministic sites, or of their entries, "eta" or "eta[3]"; by
            default all, as in the summary. Of more than 24 coordinates the first 24 are drawn.
        corrected
            Lay `corrected()` over it, and the `linear_response()` of a mean-field fit.
        against
            Another fit of these latents, or a dict from labels to fits, to lay over it.
        axes
            Matplotlib axes to draw on, one for each coordinate; a new figure by default.

        Returns
        -------
        NDArray
            The axes, one for each coordinate.

        Raises
        ------
        ImportError
            If Matplotlib is not installed, which comes with ``advi[plots]``.
        ValueError
            If a name is unknown, `against` has other latents, or `axes` are too many or too few.
        """
        return plots.plot(self, names, corrected, against, axes)

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
        return plots.plot_pairs(self, names, corrected, against, axes)

    def plot_elbo(self, ax: Any = None) -> Any:
        """Draw the ELBO over the course of the fit, by stage, and on fresh draws; return the axes.

        The view leaves out a start that is far below the rest.

        Parameters
        ----------
        ax
            Matplotlib axes; a new figure by default.

        Raises
        ------
        ImportError
            If Matplotlib is not installed, which comes with ``advi[plots]``.
        """
        return plots.plot_elbo(self, ax)

    def save(self, path: Name) -> None:
        """Write the fit to one file, from which `advi.load` reads it without the model or the data.

        The file is written whole or not at all: one of that name stays as it is until it is
        replaced. Of a fit that `corrected` returned it holds the corrected draws; what a NumPyro
        model derives from its latents it does not hold. An encoder is code: of its latents the
        file holds a table, what it gives for each of the rows that were fitted.

        Parameters
        ----------
        path
            Its name, kept as given, such as "radon.advi".

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            If there is no such folder, or `path` is one.
        TypeError
            If a transform or a family holds a function, or the tree of the latents a node that is
            no dict, list or tuple, for files hold no code.
        ValueError
            If a parameter is not finite, or an encoder was fitted to a stream, whose rows are gone.
        """
        storage.save(self, path)

    def points(self, eps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the points (n, D) on the real scale that noise (n, noise_dim) stands for."""
        return self.gaussian.points(self.structure.spread(eps))

    @cached_property
    def moment_draws(self) -> DrawSet:
        """The draws that moments are computed from, double precision."""
        weights = None
        if self.corrected_draws is not None:
            X, weights = self.corrected_draws
        else:
            dim = self.guide.noise_dim
            make = draws.fixed if 0 < dim <= ORTHOGONAL_DIM else draws.antithetic
            num = int(np.clip(MOMENT_ELEMENTS // max(dim, 1), FEW_DRAWS, MOMENT_DRAWS)) // 2 * 2
            X = self.points(make(np.random.default_rng(0), num, dim))
        values = self.constrain(X)
        return DrawSet({name: v.astype(np.float64) for name, v in values.items()}, weights)

    @cached_property
    def shown_draws(self) -> DrawSet:
        """`moment_draws`, angles about their mean direction, and what the model derives."""
        values, weights = self.moment_draws
        derived = {name: v.astype(np.float64) for name, v in self.derive(values).items()}
        return DrawSet({**values, **derived}, weights).unwrapped(self.guide.angles)

    def constrain(self, X: NDArray[np.float64]) -> dict[str, NDArray]:
        """Return points (n, D) on the constrained scale, by name, host arrays ``(n, *shape)``."""
        return constrained.constrain(self.model, X, self.float_dtype)

    def derive(self, values: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return what the model derives from values by name, ``(n, *shape)``, host arrays."""
        return constrained.derive(self.density, values)

    def __repr__(self) -> str:
        return headlines.text(self)

    def _repr_html_(self) -> str:
        return headlines.markup(self)

    def _device_tree(self, values: dict[str, Any]) -> Any:
        arrays: dict[str, Any] = {k: np.asarray(v, self.float_dtype) for k, v in values.items()}
        if default_float(None) == "float64" or self.float_dtype == "float32":
            # elsewhere JAX would warn at every use of a float64 array of its own
            arrays = {k: jax.device_put(v) for k, v in arrays.items()}
        return self.model.to_tree(arrays)
