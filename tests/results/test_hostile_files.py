"""Files made to do harm, signed as if `Fit.save` had written them: refused, and at little cost."""

import copy
import dataclasses
import inspect
import math
import os
import stat
import sys
import tracemalloc

import jax
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import advi
from advi.core import archive
from advi.core.archive import ArchiveError
from advi.core.status import Estimate, Progress, Status
from advi.data.spec import prepare
from advi.model.density import Density
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.local_posterior import LocalPosterior
from advi.posterior.record import FitRecord, Outcome
from advi.results import codec as vocabulary
from advi.results.fit import Fit
from advi.results.storage import KIND, VERSION
from advi.results.stored_params import SHAPES, shapes_of
from advi.variational.family import Family
from advi.variational.gaussian import Gaussian
from advi.variational.resolve_family import resolve_family
from advi.variational.scale import DiagonalScale

Y = np.linspace(-1.0, 2.0, 12)
MUCH = 2**26  # bytes, of a file of a few thousand


def log_joint(z, d):
    prior = -0.5 * (z["w"] ** 2).sum() - z["s"]
    return advi.Terms(prior, rows=dist.Normal(z["w"][0], z["s"]).log_prob(d["y"]))


def local(z, d):
    prior = dist.Normal(0.0, 1.0).log_prob(z["h"])
    return advi.Terms(0.0, rows=dist.Normal(z["h"], z["s"]).log_prob(d["y"]), prior=prior)


def encode(params, row):
    return params["a"] * row["y"][None], params["b"]


MODEL = advi.Model(log_joint, {"w": advi.real(2), "s": advi.positive()})
LOCAL = advi.Model(local, {"h": advi.real(local=True), "s": advi.positive()})
STEPS = {"batch_size": 4, "max_steps": 8, "diagnose": False}
ENCODER = advi.Amortised(encode, {"a": np.float32(0.5), "b": np.zeros(1, "f4")})


TRACE = [Progress("optimize", 1 + k, -20.0 + k) for k in range(8)]


def by_hand(latents, family="mean_field", sd=0.1, loc=0.0, trace=()):
    """A fit of given parameters, without any fitting."""
    model = advi.Model(lambda z, d: 0.0, latents)
    guide = resolve_family(model, family, auto=advi.MeanField())
    params = guide.params_of(Gaussian.diagonal(np.full(model.size, loc), sd), "float32")
    density = Density(model, *prepare(None, "float32"), guide.estimated)
    return Fit(FitRecord(GlobalPosterior(guide, params, density), outcome_of(trace)))


def local_by_hand(family):
    guide = resolve_family(LOCAL, family).with_rows(len(Y))
    params = guide.params_of(Gaussian.diagonal(np.zeros(guide.model.size), 0.1), "float32")
    data, spec = prepare({"y": Y}, "float32")
    density = Density(guide.model, data, spec.by_row(len(Y)), guide.estimated)
    return Fit(FitRecord(LocalPosterior.of(guide, params, density), outcome_of(TRACE)))


def outcome_of(trace):
    return Outcome(Status("max_steps", "by hand"), Estimate(0.0, 0.1), list(trace), 0)


@pytest.fixture(scope="module")
def fits():
    """Of every kind that a file holds; those by steps as if they had taken them."""
    plan = advi.fit(MODEL, {"y": Y})
    return {
        "plan": plan,
        "corrected": plan.corrected(),
        "minibatch": by_hand(MODEL.latents, trace=TRACE),
        "low rank": by_hand(MODEL.latents, advi.LowRank(1)),
        "blocks": by_hand(MODEL.latents, {"w": "full_rank", "s": advi.Point()}),
        "table": local_by_hand({"h": advi.PerRow(), "s": advi.Point()}),
        "encoder": local_by_hand({"h": ENCODER}),
    }


@pytest.fixture(scope="module")
def fitted(fits):
    table = {"h": advi.PerRow(), "s": advi.Point()}
    return {
        **fits,
        "minibatch": advi.fit(MODEL, {"y": Y}, optimizer=optax.adam(0.05), **STEPS),
        "table": advi.fit(LOCAL, {"y": Y}, family=table, **STEPS),
        "encoder": advi.fit(LOCAL, {"y": Y}, family={"h": ENCODER}, **STEPS),
    }


def contents(fit, folder):
    fit.save(folder / "saved")
    whole = archive.read(folder / "saved", KIND, VERSION)
    return copy.deepcopy(whole.document), {k: v.copy() for k, v in whole.arrays.items()}


def signed(folder, document, arrays):
    archive.write(folder / "crafted", KIND, VERSION, document, arrays)
    return folder / "crafted"


def peak_of(function):
    """The most memory that a call has at a time, bytes, and what it returns or raises."""
    tracemalloc.start()
    try:
        result = function()
    except ArchiveError as error:
        result = error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak, result


def test_a_vector_for_a_matrix_is_refused_before_it_is_made_one(tmp_path):
    """36 kB, which to look at took 1.5 GB."""
    document, arrays = contents(by_hand({"x": advi.real(3)}, "full_rank"), tmp_path)
    arrays["params.0.1"] = np.zeros(8000, "f4")
    path = signed(tmp_path, document, arrays)
    assert path.stat().st_size < 40_000
    peak, error = peak_of(lambda: advi.load(path))
    assert "do not have their shapes" in str(error)
    assert peak < MUCH


@pytest.mark.parametrize("family", ["FullRank", "LowRank"])
def test_a_long_vector_is_not_taken_for_a_matrix(tmp_path, family):
    document, arrays = contents(by_hand({"x": advi.real(9000)}), tmp_path)
    fields = {"rank": 10**9} if family == "LowRank" else {}
    document["blocks"][0]["fields"]["family"] = {"class": family, "fields": fields}
    path = signed(tmp_path, document, arrays)
    peak, error = peak_of(lambda: advi.load(path))
    assert "do not have their shapes" in str(error)
    assert peak < MUCH


def test_a_wide_mean_field_beside_a_matrix_stays_one(tmp_path):
    fit = by_hand({"x": advi.real(9000), "y": advi.real()}, {"x": "mean_field", "y": "full_rank"})
    fit.save(tmp_path / "a")
    peak, loaded = peak_of(lambda: advi.load(tmp_path / "a"))
    assert isinstance(loaded, Fit)
    assert peak < MUCH


def test_empty_text_without_end_is_refused(tmp_path):
    document, arrays = contents(by_hand({"x": advi.real()}), tmp_path)
    arrays["trace.stage"] = arrays["trace.step"] = np.ndarray((10**8,), "<U0", b"")
    path = signed(tmp_path, document, arrays)
    peak, error = peak_of(lambda: advi.load(path))
    assert isinstance(error, ArchiveError)
    assert peak < MUCH


CLASSES = [c for c in vocabulary.CLASSES.values() if inspect.isclass(c) and issubclass(c, Family)]


def test_every_family_of_its_own_is_known_by_its_shapes():
    # a sparse precision has as many entries as the file says, which are checked one by one
    assert set(CLASSES) == {*SHAPES, advi.SparsePrecision}
    assert advi.MeanField in SHAPES


@pytest.mark.parametrize("family", [*(c() for c in CLASSES), advi.LowRank(2)], ids=str)
@pytest.mark.parametrize("dim", [1, 2, 3, 11, 12])
def test_shapes_are_those_of_the_parameters(family, dim):
    made = family.init(Gaussian(np.zeros(dim), DiagonalScale(np.ones(dim))), None)
    assert shapes_of(family, dim) == tuple(np.shape(leaf) for leaf in jax.tree.leaves(made))


# What gives infinite draws


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("params.0.1", 0, 1e30),  # a log sd
        ("params.0.1", 0, 90.0),  # whose sd is no float32
        ("params.0.1", 0, 87.5),  # whose sd is one, and five are none
        ("params.0.0", 1, 100.0),  # the log of what is positive
        ("params.0.1", 1, 4.0),  # an sd of 55 of that log
    ],
)
def test_finite_parameters_of_infinite_draws_are_refused(tmp_path, name, place, value):
    document, arrays = contents(by_hand({"x": advi.real(), "s": advi.positive()}), tmp_path)
    arrays[name][place] = value
    with pytest.raises(ArchiveError, match=r"its draws of (x|s) are infinite"):
        advi.load(signed(tmp_path, document, arrays))


def test_rows_of_infinite_draws_are_refused(tmp_path, fits):
    document, arrays = contents(fits["table"], tmp_path)
    arrays["params.0.1"][7] = 95.0
    with pytest.raises(ArchiveError, match="its draws of h are infinite"):
        advi.load(signed(tmp_path, document, arrays))


def test_corrected_draws_that_are_infinite_are_refused(tmp_path, fits):
    document, arrays = contents(fits["corrected"], tmp_path)
    arrays["corrected.points"][5, 2] = 100.0
    with pytest.raises(ArchiveError, match="its draws of s are infinite"):
        advi.load(signed(tmp_path, document, arrays))


def test_a_fit_whose_draws_are_infinite_is_not_lost(tmp_path):
    """It says so in its file, and is what it was."""
    fit = by_hand({"x": advi.real(), "s": advi.positive()}, sd=40.0)
    document, arrays = contents(fit, tmp_path)
    assert document["infinite"] == ["s"]
    loaded = advi.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.sample(50)["s"], fit.sample(50)["s"])
    document["infinite"] = []
    with pytest.raises(ArchiveError, match="its draws of s are infinite"):
        advi.load(signed(tmp_path, document, arrays))


# Many mutants of each kind

VALUES = [
    None, True, 0, -1, 3, 10**6, 10**18, -(10**30), 1e300, "", "a", "w", "x" * 1000, [], {}, [[]],
    {"tuple": []}, {"list": [None]}, {"tuple": [10**4, 10**4]},
    {"array": [1, 2], "dtype": "float32"}, {"class": "FullRank", "fields": {}},
    {"class": "Point", "fields": {}}, {"class": "LowRank", "fields": {"rank": 10**9}},
    {"class": "Simplex", "fields": {}}, {"class": "Circular", "fields": {}},
    {"class": "PerRow", "fields": {"base": {"class": "FullRank", "fields": {}}}},
]  # fmt: skip
SHAPED = [
    lambda x: x[:1],
    lambda x: x[None],
    np.ravel,
    lambda x: np.concatenate([x, x]),
    lambda x: np.zeros(8000, x.dtype),
    lambda x: np.zeros((0, 10**12), x.dtype),
    np.transpose,
]
NUMBERS = [1e30, -1e30, 100.0, 3e38, 1e-45, np.nan, np.inf]
DTYPES = ["f2", "f4", "f8", "i1", "i8", "U3", "?", ">f4"]


def places(node, path=()):
    yield from [path] if path else []
    if isinstance(node, (dict, list)):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield from places(node[key], (*path, key))


def mutated_document(document, rng):
    options = list(places(document))
    path = options[rng.integers(len(options))]
    for key in path[:-1]:
        document = document[key]
    if rng.integers(4):
        document[path[-1]] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    else:
        del document[path[-1]]


@np.errstate(all="ignore")
def mutated_array(arrays, rng):
    name = list(arrays)[rng.integers(len(arrays))]
    x, kind = arrays[name], rng.integers(6)
    if kind < 3 and x.nbytes:
        raw = bytearray(x.tobytes())
        raw[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
        arrays[name] = np.frombuffer(bytes(raw), x.dtype).reshape(x.shape).copy()
    elif kind == 3 and x.ndim:
        arrays[name] = np.array(SHAPED[rng.integers(len(SHAPED))](x))
    elif kind == 4 and x.dtype.kind != "U":
        arrays[name] = x.astype(DTYPES[rng.integers(len(DTYPES))])
    elif x.dtype.kind == "f" and x.size:
        x.flat[rng.integers(x.size)] = NUMBERS[rng.integers(len(NUMBERS))]
    else:
        del arrays[name]


def try_mutants(fits, folder, num, seed):
    """Load mutants of every fit in turn; return how many were refused, and how many were not."""
    rng = np.random.default_rng(seed)
    originals = [contents(fit, folder) for fit in fits.values()]
    refused = 0
    for trial in range(num):
        document, arrays = copy.deepcopy(originals[trial % len(originals)])
        for _ in range(rng.integers(1, 3)):
            if rng.integers(2):
                mutated_document(document, rng)
            elif arrays:
                mutated_array(arrays, rng)
        path = signed(folder, document, arrays)
        peak, loaded = peak_of(lambda path=path: advi.load(path))
        assert peak < MUCH
        if isinstance(loaded, ArchiveError):
            refused += 1
            continue
        for leaf in jax.tree.leaves((loaded.sample(64), loaded.mean(), loaded.sd())):
            assert np.isfinite(leaf).all()
        assert repr(loaded)
    return refused, num - refused


def test_some_mutants(fits, tmp_path):
    refused, loaded = try_mutants(fits, tmp_path, 140, 0)
    assert min(refused, loaded) > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 3))
def test_thousands_of_mutants(fitted, tmp_path, seed):
    refused, loaded = try_mutants(fitted, tmp_path, 2000, seed)
    assert min(refused, loaded) > 100


# What saving leaves as it was


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_keeps_its_mode(tmp_path, mode):
    fit = by_hand({"x": advi.real()})
    path = tmp_path / "private"
    fit.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()
    path.chmod(mode)
    fit.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_private_file_is_private_while_it_is_written(tmp_path, monkeypatch):
    fit = by_hand({"x": advi.real()})
    path = tmp_path / "private"
    fit.save(path)
    path.chmod(0o600)
    seen = []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(stat.S_IMODE(os.fstat(fd).st_mode)))
    fit.save(path)
    assert seen == [0o600]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


More = dataclasses.make_dataclass(
    "More", [("far", float, math.nan), ("notes", tuple, ()), ("num", int, 0)], bases=(Outcome,),
    frozen=True,
)  # fmt: skip


def more(**fields):
    fit = by_hand({"x": advi.real()})
    own = {f.name: getattr(fit._record.outcome, f.name) for f in dataclasses.fields(Outcome)}
    return Fit(dataclasses.replace(fit._record, outcome=More(**own, **fields)))


def test_fields_without_a_form_of_their_own_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["advi.results.stored_fit"], "Outcome", More)
    for fields in ({"far": 0.25, "notes": ("a", "b"), "num": 3}, {"far": math.inf}, {}):
        more(**fields).save(tmp_path / "a")
        loaded = advi.load(tmp_path / "a")._record.outcome
        expected = {"far": math.nan, "notes": (), "num": 0} | fields
        np.testing.assert_equal({name: getattr(loaded, name) for name in expected}, expected)
    document, arrays = contents(more(), tmp_path)
    for further in ({"far": "x"}, {"num": "3"}, {"notes": {"tuple": [1]}}, {"trace": 1}, {"q": 1}):
        crafted = signed(tmp_path, {**document, "further": further}, arrays)
        with pytest.raises(ArchiveError):
            advi.load(crafted)
    del document["further"]  # as an earlier version wrote it
    assert advi.load(signed(tmp_path, document, arrays))._record.outcome.notes == ()
