"""A fit that was saved and loaded is the fit, without its model and data."""

import copy
import dataclasses
import functools
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import advi
from advi.core import archive
from advi.core.archive import ArchiveError
from advi.core.keys import key_words
from advi.data.spec import prepare
from advi.model.density import Density
from advi.model.latents import Latent
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.local_posterior import LocalPosterior
from advi.posterior.record import FitRecord, Outcome
from advi.results.codec import from_data, to_data
from advi.results.storage import KIND, VERSION
from advi.transforms import Identity
from advi.variational.gaussian import Gaussian
from advi.variational.resolve_family import resolve_family
from tests.transforms.test_transforms import CASES

DATA = {"y": np.random.default_rng(0).normal(1.0, 0.5, 30)}


def log_joint(z, data):
    return (
        dist.Normal(0.0, 2.0).log_prob(z["mu"]).sum()
        + dist.HalfNormal(1.0).log_prob(z["scale"]["s"])
        + dist.Normal(z["mu"][0], z["scale"]["s"]).log_prob(data["y"]).sum()
    )


MODEL = advi.Model(log_joint, {"scale": {"s": advi.positive()}, "mu": advi.real(2)})
FITS = {
    "full_rank": {},
    "low_rank": {"family": advi.LowRank(1)},
    "float64": {"family": "mean_field", "x64": True, "key": jax.random.key(3)},
    "blocks": {"family": {"scale": advi.Point(), "mu": "full_rank"}, "restarts": 2, "key": 2**40},
    "minibatch": {"optimizer": None, "max_steps": 300},
}


def made(name):
    if name == "minibatch":
        import optax

        return advi.fit(MODEL, DATA, optimizer=optax.adam(0.05), max_steps=300, diagnose=False)
    return advi.fit(MODEL, DATA, **FITS[name])


@pytest.fixture(scope="module")
def fit():
    return advi.fit(MODEL, DATA, family="full_rank")


@pytest.fixture(scope="module")
def file(fit, tmp_path_factory):
    path = tmp_path_factory.mktemp("storage") / "radon.advi"
    fit.save(path)
    return path


def by_hand(latents, family="mean_field", float_dtype="float32"):
    """Return a fit that was never fitted, of a model with these latents."""
    model = advi.Model(lambda z, data: sum(v.sum() for v in jax.tree.leaves(z)), latents)
    guide = resolve_family(model, family)
    rng = np.random.default_rng(1)
    gaussian = Gaussian.diagonal(rng.normal(size=model.size), rng.uniform(0.1, 0.5, model.size))
    density = Density(model, *prepare(None, float_dtype), guide.estimated)
    status = advi.Status("converged", "by hand")
    posterior = GlobalPosterior(guide, guide.params_of(gaussian, float_dtype), density)
    return advi.Fit(FitRecord(posterior, Outcome(status, advi.Estimate(-1.0, np.nan), [], 0)))


def assert_same_answers(loaded, fit):
    """What can be asked of any fit without its model has the same bits."""
    for ask in (
        lambda f: f.sample(20, key=4),
        lambda f: f.mean(),
        lambda f: f.sd(),
        lambda f: f.quantile([0.1, 0.5]),
        lambda f: f.cov() if not f.posterior.guide.local else (),
        lambda f: f.elbo_trace,
        lambda f: f.diagnostics,
        lambda f: [f.elbo, f.khat, f.diagnostics["held_out_gap"]],
    ):
        got, expected = ask(loaded), ask(fit)
        assert jax.tree.structure(got) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            assert isinstance(a, jax.Array) == isinstance(b, jax.Array)
            np.testing.assert_array_equal(a, b, strict=True)


def assert_same(loaded, fit):
    """Everything that can be asked of a fit without its model is the same."""
    assert_same_answers(loaded, fit)
    assert repr(loaded) == repr(fit)
    assert loaded._repr_html_() == fit._repr_html_()
    assert loaded.status.message == fit.status.message
    assert loaded.verdict == fit.verdict
    for got, expected in zip(loaded._record.outcome.trace, fit._record.outcome.trace, strict=True):
        assert (got.stage, got.step, got.elbo) == (expected.stage, expected.step, expected.elbo)
        np.testing.assert_array_equal(got.eval_elbo, expected.eval_elbo)  # NaN, if not evaluated
    assert key_words(loaded._record.key) == key_words(fit._record.key)
    assert repr(loaded.posterior.model) == repr(fit.posterior.model)


@pytest.mark.parametrize("name", FITS)
def test_a_loaded_fit_is_the_fit(name, tmp_path):
    fit = made(name)
    fit.save(tmp_path / "a")
    loaded = advi.load(tmp_path / "a")
    assert_same(loaded, fit)
    z = fit.sample(3)
    np.testing.assert_array_equal(loaded.log_prob(z), fit.log_prob(z))
    loaded.save(tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert_same(pickle.loads(pickle.dumps(fit)), fit)


def test_a_pickled_fit_brings_the_users_classes_and_no_model():
    model = advi.Model(lambda z, d: -0.5 * z["x"] ** 2, {"x": advi.real(transform=Stretched(2.0))})
    fit = advi.fit(model)
    pickled = pickle.loads(pickle.dumps(fit))
    assert_same(pickled, fit)
    with pytest.raises(RuntimeError, match="loaded from a pickle, without its model"):
        pickled.check().corrected()
    assert copy.deepcopy(fit) is copy.copy(fit) is fit


@dataclasses.dataclass(frozen=True)
class Stretched:
    """A user's own transform, of a real latent."""

    by: float
    codomain = constraints.real
    event_dim, bijective = 0, True

    def unconstrained_shape(self, shape):
        return shape

    def forward(self, x):
        return self.by * x, np.log(self.by) + 0.0 * x

    def inverse(self, y):
        return y / self.by


def test_corrected_draws_are_stored(fit, tmp_path):
    corrected = fit.corrected()
    corrected.save(tmp_path / "a")
    loaded = advi.load(tmp_path / "a")
    assert_same(loaded, corrected)
    np.testing.assert_array_equal(
        loaded.sample(5, corrected=True)["mu"], fit.sample(5, corrected=True)["mu"]
    )


def test_every_kind_of_latent(tmp_path):
    low = np.array([-1.0, 0.5])
    latents = {
        "tail": constraints.positive,
        "real": advi.real(2),
        "positive": advi.positive(2, transform="softplus"),
        "interval": advi.interval(low, 3.0, 2),
        "bounds": (advi.greater_than(2.0), [advi.less_than(-1.0), advi.unit_interval()]),
        "simplex": advi.simplex(3, 2),
        "ordered": advi.ordered(3),
        "corr_cholesky": advi.corr_cholesky(3),
        "cov": advi.cov_matrix(2),
        "zero_sum": advi.zero_sum(4),
        "direction": advi.unit_vector(3),
        "angle": advi.circular(),
        "net": advi.tree({"w": np.ones((2, 2)), "b": np.zeros(2)}),
    }
    fit = by_hand(latents)
    fit.save(tmp_path / "a")
    assert_same(advi.load(tmp_path / "a"), fit)


def test_a_bare_latent(tmp_path):
    fit = by_hand(advi.positive(2), "full_rank", "float64")
    fit.save(tmp_path / "a")
    assert_same(advi.load(tmp_path / "a"), fit)


@pytest.mark.parametrize("name", CASES)
def test_every_support_is_written_as_data(name):
    case = CASES[name]
    latent = Latent(case.support, case.shape, transform=case.transform)
    again = from_data(to_data(latent))
    assert again.bijection == latent.bijection
    assert again.shape == latent.shape
    assert repr(again.support) == repr(latent.support)


def test_the_transform_of_the_fit_is_kept(fit, file, monkeypatch):
    """Whatever is registered by the time it is loaded."""
    registry = advi.transforms.registry
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    softplus = advi.transforms.HalfLine(link="softplus")
    advi.register_transform(constraints.positive, replace=True)(lambda c: softplus)
    np.testing.assert_array_equal(advi.load(file).mean()["scale"]["s"], fit.mean()["scale"]["s"])


def test_another_process_needs_no_model(fit, file):
    code = "import sys, advi; print(advi.load(sys.argv[1]))"
    root = str(Path(advi.__file__).parents[1])
    command = [sys.executable, "-W", "error", "-c", code, str(file)]
    done = subprocess.run(
        command, env={"PATH": "", "PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{fit}\n"


@pytest.mark.parametrize(
    "ask",
    [
        lambda f: f.check(),
        lambda f: f.corrected(),
        lambda f: f.sample(3, corrected=True),
        lambda f: f.linear_response(),
        lambda f: f.refine("mean_field"),
        lambda f: advi.compare({"a": f}),
        lambda f: advi.compare({"a": f}, DATA),
        lambda f: advi.fit(f.posterior.model, DATA),
        lambda f: advi.check(f.posterior.model, DATA),
    ],
)
def test_what_needs_the_model_says_so(file, ask):
    message = "loaded from .*radon.advi, without its model and data, .*: fit again"
    with pytest.raises(RuntimeError, match=message):
        ask(advi.load(file))


def test_a_fit_goes_on_from_a_loaded_one(fit, file):
    again = advi.fit(MODEL, DATA, init=advi.load(file), diagnose=False)
    np.testing.assert_allclose(again.mean()["mu"], fit.mean()["mu"], atol=1e-3)


# Classes of one's own, and what no file holds


class Even(constraints.Constraint):
    """Functions on a grid with f(-t) = f(t)."""

    event_dim = 1


@dataclasses.dataclass(frozen=True)
class Reversed(Identity):
    """The coordinates, last to first."""

    def forward(self, x):
        return x[..., ::-1], 0 * x


@dataclasses.dataclass(frozen=True)
class Named(Identity):
    """The coordinates, with a function."""

    of: Any = None


@pytest.fixture
def own(tmp_path):
    latents = {"even": Latent(Even(), (3,), transform=Identity(1))}
    latents["reversed"] = advi.real(2, transform=Reversed())
    fit = by_hand(latents)
    fit.save(tmp_path / "own")
    return fit, tmp_path / "own"


def test_classes_of_ones_own_are_passed_to_load(own):
    fit, path = own
    assert_same(advi.load(path, known=[Even, Reversed]), fit)


def test_a_class_that_is_not_known_is_named(own):
    message = r"Reversed, .* brings no code. Pass the class: .*known=\[Reversed\]"
    with pytest.raises(ArchiveError, match=message):
        advi.load(own[1], known=[Even])


def test_what_no_file_holds_is_refused(tmp_path):
    message = r"save: latent 'x': got <built-in function print> \(.*\), which a file cannot hold"
    with pytest.raises(TypeError, match=message):
        by_hand({"x": advi.real(2, transform=Named(of=print))}).save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def rows_of_their_own(z, data):
    rows = dist.Normal(0.0, 1.0).log_prob(z["h"]) + dist.Normal(z["h"], 1.0).log_prob(data["y"])
    return advi.Terms(0.0, rows=rows)


LOCAL = advi.Model(rows_of_their_own, {"h": advi.real(local=True)})


def encode(params, row):
    return params["slope"] * row["y"][None], params["log_sd"]


ENCODER = {"slope": np.float32(0.5), "log_sd": np.zeros(1, np.float32)}


def test_tables_of_rows(tmp_path):
    fit = advi.fit(LOCAL, DATA, family=advi.PerRow(), batch_size=10, max_steps=5, diagnose=False)
    fit.save(tmp_path / "a")
    loaded = advi.load(tmp_path / "a")
    assert_same(loaded, fit)
    assert loaded.sample(2)["h"].shape == (2, 30)
    assert loaded.to_dict(3)["h"].shape == (3, 30)
    with pytest.raises(ValueError, match="one for each row that was fitted"):
        loaded.sample(2, data=DATA)
    # with the same batches its steps are compiled
    steps = {"batch_size": 10, "max_steps": 5, "diagnose": False}
    again = advi.fit(LOCAL, DATA, family=advi.PerRow(), init=loaded, **steps)
    assert again.status == "max_steps"


@pytest.mark.parametrize("num", [None, 0, 29, 31, 10**12, True, "30"])
def test_tables_of_another_number_of_rows_are_refused(num, tmp_path):
    guide = resolve_family(LOCAL, advi.PerRow()).with_rows(30)
    params = guide.params_of(Gaussian.diagonal(np.zeros(30), 1.0), "float32")
    posterior = LocalPosterior.of(guide, params, Density(guide.model, *prepare(None, "float32")))
    record = by_hand({"x": advi.real()})._record
    advi.Fit(dataclasses.replace(record, posterior=posterior)).save(tmp_path / "a")
    whole = archive.read(tmp_path / "a", KIND, VERSION)
    document = {**whole.document, "num_rows": num}
    archive.write(tmp_path / "crafted", KIND, VERSION, document, dict(whole.arrays))
    with pytest.raises(ArchiveError, match=r"crafted does not hold a fit as advi writes it: .+"):
        advi.load(tmp_path / "crafted")


def test_an_encoder_becomes_a_table_of_what_it_gave(tmp_path):
    family = advi.Amortised(encode, ENCODER)
    fit = advi.fit(LOCAL, DATA, family=family, batch_size=10, max_steps=5, diagnose=False)
    fit.save(tmp_path / "a")
    loaded = advi.load(tmp_path / "a")
    assert_same_answers(loaded, fit)
    assert "mean_field per row" in repr(loaded)
    with pytest.raises(RuntimeError, match=r"loaded from .* without its model and data"):
        loaded.log_marginal(draws=2)


def test_an_encoder_of_a_stream_is_not_saved(tmp_path):
    batches = [{"y": part} for part in np.split(DATA["y"], 3)]
    family = advi.Amortised(encode, ENCODER)
    fit = advi.fit(LOCAL, batches, num_rows=30, family=family, max_steps=3, diagnose=False)
    with pytest.raises(ValueError, match=r"save: .* holds only some of them"):
        fit.save(tmp_path / "a")


def test_local_latents_of_one_family(tmp_path):
    fit = advi.fit(LOCAL, DATA, family="full_rank", diagnose=False)
    fit.save(tmp_path / "a")
    assert_same(advi.load(tmp_path / "a"), fit)


def test_parameters_that_are_not_finite_are_refused(tmp_path):
    fit = by_hand({"x": advi.real(2)})
    broken = fit.posterior.params[0]._replace(loc=np.array([0, np.nan], "float32"))
    posterior = dataclasses.replace(fit.posterior, params=(broken,))
    with pytest.raises(ValueError, match="not finite numbers of float32"):
        advi.Fit(dataclasses.replace(fit._record, posterior=posterior)).save(tmp_path / "a")


# Files that are not what a fit writes


def test_damage_is_always_found(fit, file, tmp_path):
    """`test_archive` does the same a thousand times to the layer below."""
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    path = tmp_path / "damaged.advi"
    for trial in range(150):
        raw = bytearray(whole)
        place = int(rng.integers(len(raw)))
        if trial % 3:
            raw[place] ^= 1 << int(rng.integers(8))
        else:
            del raw[place:]
        path.write_bytes(raw)
        with pytest.raises(ArchiveError, match=r"damaged.advi is (cut short|not a file)"):
            advi.load(path)


def entry(*keys):
    """Return the function that replaces one entry of a document."""

    def replacing(value):
        def change(document, arrays):
            for key in keys[:-1]:
                document = document[key]
            assert keys[-1] in document if isinstance(document, dict) else document[keys[-1]]
            document[keys[-1]] = value

        return change

    return replacing


def array(name, function):
    def change(document, arrays):
        arrays[name] = np.array(function(arrays[name]))

    return change


def drop(name):
    return lambda document, arrays: (document.pop(name, None), arrays.pop(name, None))


LATENT = ("latents", "dict", 1, 1, "fields")
HUGE = {"tuple": [10**5, 10**5]}
CRAFTED = {
    "float type": entry("float")("float16"),
    "no latents": entry("latents")({"dict": []}),
    "latents that are no tree": entry("latents")({"class": "MeanField", "fields": {}}),
    "a latent fewer": entry("latents", "dict")([]),
    "a word that is no class": entry(*LATENT, "support")({"class": "os.system", "fields": {}}),
    "a class of another kind": entry(*LATENT, "support")({"class": "MeanField", "fields": {}}),
    "more fields": entry(*LATENT)({"support": 1, "shape": 2, "loc": 3}),
    "a huge latent": entry(*LATENT, "shape")(HUGE),
    "a negative shape": entry(*LATENT, "shape")({"tuple": [-2]}),
    "another shape": entry(*LATENT, "shape")({"tuple": [3]}),
    "a discrete support": entry(*LATENT, "support")({"class": "numpyro._Boolean", "fields": {}}),
    "a transform of another shape": entry(*LATENT, "transform")(
        {
            "class": "HalfLine",
            "fields": {"bound": {"tuple": [0.0] * 7}, "below": False, "link": "exp"},
        }
    ),
    "nested beyond measure": entry(*LATENT, "transform")(
        functools.reduce(lambda inner, _: {"list": [inner]}, range(300), None)
    ),
    "no family": entry("blocks", 0, "fields", "family")(None),
    "a support for a family": entry("blocks", 0, "fields", "family")(
        {"class": "numpyro._Real", "fields": {}}
    ),
    "another family": entry("blocks", 0, "fields", "family")({"class": "MeanField", "fields": {}}),
    "a table for what has no rows": entry("blocks", 0, "fields", "family")(
        {"class": "PerRow", "fields": {"base": {"class": "FullRank", "fields": {}}}}
    ),
    "rows of no latent": entry("num_rows")(30),
    "a latent without family": entry("blocks", 0, "fields", "names")({"tuple": ["mu"]}),
    "latents in another order": entry("blocks", 0, "fields", "names")({"tuple": ["mu", "scale.s"]}),
    "an unknown status": entry("status")(["fine", "all is well"]),
    "a verdict unheard of": entry("verdict", 0)("perfect"),
    "a count that is none": entry("num_values")("many"),
    "a key that is none": entry("key")(["a"]),
    "no status": drop("status"),
    "no parameters": drop("params.0.0"),
    "no k-hat": drop("khat"),
    "an array too many": array("params.0.0", lambda a: a)
    and (lambda document, arrays: arrays.update(more=np.zeros(3))),
    "parameters of another shape": array("params.0.0", lambda a: a[:1]),
    "parameters of another type": array("params.0.0", lambda a: a.astype(float)),
    "parameters that are not finite": array("params.0.0", lambda a: a * np.nan),
    "text for numbers": array("elbo", lambda a: a.astype(str)),
    "an ELBO without error": array("elbo", lambda a: a[:1]),
    "a trace of two lengths": array("trace.elbo", lambda a: a[1:]),
    "a comparison of other columns": lambda document, arrays: arrays.update(
        shift=arrays["shift"][1:], log_ratio=arrays["log_ratio"][1:]
    ),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_fits_are_refused(file, tmp_path, name):
    """Whoever writes a file by hand can seal it, too."""
    whole = archive.read(file, KIND, VERSION)
    document, arrays = whole.document, dict(whole.arrays)
    CRAFTED[name](document, arrays)
    archive.write(tmp_path / "crafted", KIND, VERSION, document, arrays)
    with pytest.raises(ArchiveError, match=r"crafted does not hold a fit as advi writes it: .+"):
        advi.load(tmp_path / "crafted")


def test_another_kind_of_file_and_a_later_version(tmp_path, file):
    archive.write(tmp_path / "a", "a checkpoint", VERSION, {}, {})
    with pytest.raises(ValueError, match="holds a checkpoint; expected a fit"):
        advi.load(tmp_path / "a")
    archive.write(tmp_path / "a", KIND, VERSION + 1, {}, {})
    with pytest.raises(ValueError, match="later version of advi"):
        advi.load(tmp_path / "a")


def test_saving_replaces_the_file(fit, file):
    before = file.read_bytes()
    fit.save(str(file))
    assert file.read_bytes() == before
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        fit.save(file.parent / "nowhere" / "a")
