"""The result of a fit: draws, moments and densities of the posterior approximation."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi import draws
from advi.density import precision
from advi.errors import describe
from advi.gaussian import Gaussian, Structure, structure_of
from advi.guide import Guide
from advi.keys import host_rng
from advi.model import Model
from advi.status import Estimate, Progress, Status
from advi.table import Table

MOMENT_DRAWS = 4000
ORTHOGONAL_DIM = 512  # above it orthogonal draws cost more than they save
CHUNK_ELEMENTS = 2**22  # draws are mapped to the constrained scale in chunks of this size
MAX_CHUNK = 1024


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """A posterior approximation and how it was found.

    Moments and quantiles are those of q on the constrained scale, computed from 4,000 orthogonal
    antithetic draws: they are the same at every call, and for real latents exact.

    Attributes
    ----------
    guide
        The variational distribution.
    params
        Its parameters, host arrays.
    status : Status
        "converged", "max_steps", "interrupted" or "diverged", with a sentence in `.message`.
    elbo : Estimate
        Evidence lower bound in nats on fresh draws, with its Monte Carlo standard error.
    trace
        ELBO in nats after every step of the plan, or every step of an optimiser.
    num_gradients
        Gradients of the log density, one per draw, that the fit used.
    """

    guide: Guide
    params: Any
    status: Status
    elbo: Estimate
    trace: Sequence[Progress]
    num_gradients: int
    float_dtype: str = field(default="float32")

    @property
    def model(self) -> Model:
        """The model that was fitted."""
        return self.guide.model

    @cached_property
    def gaussian(self) -> Gaussian:
        """Mean and scale of q on R^D, host arrays."""
        return Gaussian(*self.guide.to_gaussian(self.params))

    @cached_property
    def structure(self) -> Structure:
        """Which coordinates of R^D have noise, and which are coupled."""
        return structure_of(self.guide)

    @property
    def elbo_trace(self) -> NDArray[np.float64]:
        """ELBO in nats over the course of the fit, (steps,)."""
        return np.array([progress.elbo for progress in self.trace])

    def sample(self, n: int, *, key: Any = 0) -> Any:
        """Draw from the approximation.

        Parameters
        ----------
        n
            Number of draws.
        key
            Integer or JAX key; the same key gives the same draws.

        Returns
        -------
        pytree
            The tree of the latents, every leaf (n, *shape), on the constrained scale.

        Raises
        ------
        ValueError
            If `n` is not a positive integer.

        Examples
        --------
        >>> import advi
        >>> model = advi.Model(lambda z, data: -0.5 * z["x"] ** 2, {"x": advi.real()})
        >>> advi.fit(model).sample(5)["x"].shape
        (5,)
        """
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise ValueError(f"n: got {describe(n)}; expected a number of draws, at least 1.")
        eps = host_rng(key).standard_normal((n, self.guide.noise_dim))
        return self._device_tree(self._constrained(self._points(eps)))

    def mean(self) -> Any:
        """Return posterior means, a tree of arrays shaped like the latents."""
        return self._device_tree({k: v.mean(0) for k, v in self._moment_draws.items()})

    def sd(self) -> Any:
        """Return posterior standard deviations, a tree of arrays shaped like the latents."""
        return self._device_tree({k: v.std(0) for k, v in self._moment_draws.items()})

    def quantile(self, q: float | Sequence[float]) -> Any:
        """Return posterior quantiles.

        Parameters
        ----------
        q
            Probability, or several, between 0 and 1.

        Returns
        -------
        pytree
            The tree of the latents, every leaf (*q.shape, *shape).
        """
        if np.any((np.asarray(q) < 0) | (np.asarray(q) > 1)):
            raise ValueError(f"q: got {q}; expected probabilities between 0 and 1.")
        return self._device_tree(
            {k: np.quantile(v, q, axis=0) for k, v in self._moment_draws.items()}
        )

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
        wanted = [names] if isinstance(names, str) else names or list(self.model.latents)
        resolved = [name for part in wanted for name in self.model.resolve(part)]
        columns = [self._moment_draws[name].reshape(MOMENT_DRAWS, -1) for name in resolved]
        return np.cov(np.concatenate(columns, axis=1), rowvar=False, ddof=0).reshape(
            (sum(c.shape[1] for c in columns),) * 2
        )

    def log_prob(self, z: Any) -> Array:
        """Return the log density of the approximation on the constrained scale.

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
            vectors and circular latents).
        """
        many_to_one = [n for n, v in self.model.latents.items() if not v.bijection.bijective]
        if many_to_one:
            raise ValueError(
                f"log_prob: {', '.join(map(repr, many_to_one))} is a wrapped latent, whose density "
                "under q has no closed form; use sample() instead."
            )
        values = self.model.from_tree(z)
        leading = {
            np.shape(v)[: np.ndim(v) - len(self.model.latents[k].shape)] for k, v in values.items()
        }
        if len(leading) != 1 or len(next(iter(leading))) > 1:
            raise ValueError(
                f"log_prob: got leading axes {sorted(leading)}; expected none, or one of the same "
                "length for every latent."
            )
        with self._precision():
            values = {k: np.asarray(v, self.float_dtype) for k, v in values.items()}
            return _log_prob_program(self.guide, bool(next(iter(leading))))(self.params, values)

    def summary(self) -> Table:
        """Return mean, sd and 5 %, 50 % and 95 % quantiles of every scalar coordinate.

        There is no r_hat and no effective sample size: the draws are independent.
        """
        flat = np.concatenate(
            [v.reshape(MOMENT_DRAWS, -1) for v in self._moment_draws.values()], axis=1
        )
        low, middle, high = np.quantile(flat, [0.05, 0.5, 0.95], axis=0)
        rows = tuple(c for names in self.model.coordinates.values() for c in names)
        columns = {"mean": flat.mean(0), "sd": flat.std(0), "5%": low, "50%": middle, "95%": high}
        return Table(rows, columns)

    def __repr__(self) -> str:
        return f"{self._headline()}\n\n{self.summary()}"

    def _repr_html_(self) -> str:
        import html  # only notebooks need it

        return f"<pre>{html.escape(self._headline())}</pre>{self.summary()._repr_html_()}"

    def _headline(self) -> str:
        return (
            f"Fit: {self.guide.description}, {self.model.size} real coordinates, "
            f"{self.float_dtype}\n"
            f"status: {self.status}, {self.status.message}\n"
            f"ELBO: {self.elbo} nats"
        )

    @cached_property
    def _moment_draws(self) -> dict[str, NDArray]:
        dim = self.guide.noise_dim
        make = draws.fixed if 0 < dim <= ORTHOGONAL_DIM else draws.antithetic
        eps = make(np.random.default_rng(0), MOMENT_DRAWS, dim)
        # sums of thousands of draws are taken in double precision
        values = self._constrained(self._points(eps))
        return {name: v.astype(np.float64) for name, v in values.items()}

    def _points(self, eps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the points (n, D) on the real scale that noise (n, noise_dim) stands for."""
        return self.gaussian.points(self.structure.spread(eps))

    def _constrained(self, X: NDArray[np.float64]) -> dict[str, NDArray]:
        """Return points (n, D) on the constrained scale, by name, host arrays (n, *shape)."""
        n, dim = X.shape
        chunk = int(np.clip(2 ** int(np.log2(CHUNK_ELEMENTS / dim)), 1, MAX_CHUNK))
        padded = np.zeros((-(-n // chunk) * chunk, dim), self.float_dtype)
        padded[:n] = X
        with self._precision():
            program = _constrain_program(self.model)
            parts = [program(part) for part in padded.reshape(-1, chunk, dim)]
            return {
                name: np.concatenate([np.asarray(part[name]) for part in parts])[:n]
                for name in self.model.latents
            }

    def _device_tree(self, values: dict[str, Any]) -> Any:
        with self._precision():
            arrays = {k: jax.device_put(np.asarray(v, self.float_dtype)) for k, v in values.items()}
        return self.model.to_tree(arrays)

    def _precision(self) -> contextlib.AbstractContextManager:
        return precision(self.float_dtype)


@lru_cache(maxsize=64)
def _constrain_program(model: Model) -> Any:
    return jax.jit(jax.vmap(lambda x: model.unravel(x)[0]))


@lru_cache(maxsize=64)
def _log_prob_program(guide: Guide, batched: bool) -> Any:
    def one(params: Any, values: dict[str, Array]) -> Array:
        x = guide.model.ravel(values)
        log_dets = guide.model.unravel(x)[1]
        jacobian = sum(v for name, v in log_dets.items() if name not in guide.estimated)
        return guide.log_prob(params, x) - jacobian

    return jax.jit(jax.vmap(one, in_axes=(None, 0)) if batched else one)
