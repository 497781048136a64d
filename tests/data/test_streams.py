"""Streams of batches, memory-mapped arrays, and held-out rows along the way."""

import dataclasses
import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm

import advi
from advi.data import memmap, reader
from advi.data.batching import Batching
from advi.data.open_source import open_source
from advi.data.prefetch import Prefetch
from advi.data.spec import prepare
from advi.data.streams import BatchStream
from advi.inference.stochastic import warm_start
from advi.inference.stochastic.steps import Steps
from advi.model.density import Density
from advi.model.resolve import traced_model
from advi.model.source_density import SourceDensity
from advi.variational.resolve_family import resolve_family
from tests import targets

TARGET = targets.conjugate_normal(n=60)
Y = TARGET.data["y"].astype(np.float32)
FEW = Y[:20]
SD = np.sqrt(TARGET.cov[0, 0])


def cut(size, y=Y):
    return [{"y": y[i : i + size]} for i in range(0, len(y), size)]


class Loader:
    """What loaders of other libraries look like: an iterator anew at every call of iter()."""

    def __init__(self, batches):
        self.batches, self.epochs = batches, 0

    def __iter__(self):
        self.epochs += 1
        return iter(self.batches)


class OnceOnly:
    """An iterable whose iterators all go on with one and the same pass."""

    def __init__(self, batches):
        self.rest = iter(batches)

    def __iter__(self):
        yield from self.rest


def fit(data, model=TARGET.model, **arguments):
    arguments = {"num_rows": 60, "max_steps": 512, "diagnose": False} | arguments
    return advi.fit(model, data, **arguments)


def threads():
    return [t for t in threading.enumerate() if t.name == "advi-prefetch"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert not threads()


# What a stream gives, in which order.


def read(batches, batch_size, block, num_rows=None):
    """Blocks of the numbers 0, 1, ... from a stream of batches of given lengths."""
    named = [{"n": batch} for batch in batches]
    num_rows = num_rows or sum(map(len, batches))
    stream = opened(lambda: iter(named), num_rows, Batching(num_rows, batch_size, block))
    epochs = (stream._begin() for _ in itertools.count())
    return stream._cut(itertools.chain.from_iterable(epochs))


def opened(epochs, num_rows, batching):
    """A stream in blocks of a given length."""
    stream = BatchStream.open(epochs, num_rows, "float32")
    [(length, *_)] = stream.spec.shapes.values()
    return dataclasses.replace(stream.batched(length, batching.batch_size), batching=batching)


@pytest.mark.parametrize("lengths", [(6, 6), (5, 5, 2), (1, 7, 4), (12,), (6, 0, 6)])
@pytest.mark.parametrize(("batch_size", "block"), [(1, 1), (3, 2), (5, 4), (12, 1)])
def test_blocks_go_through_the_epochs_whatever_the_batches(lengths, batch_size, block):
    numbers = np.split(np.arange(12), np.cumsum(lengths)[:-1])
    got = list(itertools.islice(read(numbers, batch_size, block, 12), 9))
    assert all(leaves[0].shape == (batch_size * block,) for leaves in got)
    joined = np.concatenate([leaves[0] for leaves in got])
    np.testing.assert_array_equal(joined, np.arange(len(joined)) % 12)


def test_blocks_are_copies_of_what_a_loader_may_overwrite():
    buffer = np.zeros(4, np.float32)

    def epoch():
        for i in range(3):
            buffer[:] = i
            yield {"n": buffer}

    stream = opened(epoch, 12, Batching(12, 4, 1))
    blocks = list(stream._cut(stream._begin()))
    assert [leaves[0][0] for leaves in blocks] == [0, 1, 2]


def test_a_dropped_last_batch_is_no_mistake():
    assert len(list(itertools.islice(read([np.arange(4)] * 2, 4, 1, num_rows=11), 5))) == 5
    with pytest.raises(reader.StreamError, match="epoch 1 of the stream had 8 rows"):
        list(itertools.islice(read([np.arange(4)] * 2, 4, 1, num_rows=12), 5))


def test_leaves_without_rows_are_those_of_every_batch():
    data = [{"y": y, "c": np.float32(2)} for y in np.split(Y, 4)]
    model = advi.Model(
        lambda z, d: advi.Terms(-(z["x"] ** 2), d["c"] * -((d["y"] - z["x"]) ** 2)),
        {"x": advi.real()},
    )
    found = fit(data, model, max_steps=2048)
    assert float(found.mean()["x"]) == pytest.approx(120 / 121 * Y.mean(), abs=0.01)


# A fit of a stream is the fit of its rows.

FORMS = {
    "list": lambda: cut(20),
    "loader": lambda: Loader(cut(20)),
    "function": lambda: lambda: (batch for batch in cut(20)),
    "endless function": lambda: lambda: itertools.cycle(cut(20)),
}


@pytest.mark.parametrize("optimizer", [None, optax.adam(0.02)])
def test_all_forms_of_a_stream_give_the_same_bits(optimizer):
    """But for one without end, which is no good to find a start by."""
    forms = [make for name, make in FORMS.items() if optimizer or name != "endless function"]
    fits = [fit(make(), optimizer=optimizer) for make in forms]
    assert len({f.posterior.params[0].loc.tobytes() for f in fits}) == 1
    assert fits[0].status == "max_steps"


@pytest.mark.parametrize("size", [16, pytest.param(60, marks=pytest.mark.slow)])
def test_a_stream_agrees_with_the_posterior(size):
    """In the given order, and with rows left over: 60 is no multiple of 16."""
    order = np.argsort(Y)[::-1]  # every batch differs from the whole
    found = fit(
        cut(size, Y[order]), max_steps=8192,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.02, 8192)),
    )  # fmt: skip
    assert abs(found.mean()["x"][0] - TARGET.mean[0]) < 0.05 * SD
    assert abs(found.sd()["x"][0] / SD - 1) < 0.03


def batched(data, num_rows, batch_size=None):
    """The rows of `TARGET` from wherever they are, in batches."""
    source = open_source(data, num_rows, batch_size, "float32")
    return source.batched(traced_model(TARGET.model, source)[1].num_rows, batch_size)


def test_all_rows_of_a_stream_have_the_density_of_rows_in_memory(mapped):
    """Cut in any way, with rows left over, and with a short last batch left out."""
    X = np.array([[0.3], [-2.0]])

    def density(data, num_rows, batch_size=None):
        source = batched(data, num_rows, batch_size)
        return SourceDensity(TARGET.model, source, frozenset(), source.batching.num_rows)

    def whole(y):
        return Density(TARGET.model, *prepare({"y": y}, "float32")).value_and_grad(X)

    loader = density(Loader(cut(16)), 60)
    for of_stream in (loader, loader, density(cut(60), 60, 7), density({"y": mapped(Y)}, None, 7)):
        for got, wanted in zip(of_stream.value_and_grad(X), whole(Y), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5)
    # what is left out is stood for by the rest
    [value], _ = density([{"y": Y[:20]}, {"y": Y[20:40]}], 45).value_and_grad(X[:1])
    prior = norm(0, 10).logpdf(0.3)
    assert value == pytest.approx(prior + (whole(Y[:40])[0][0] - prior) * 45 / 40, rel=1e-5)


@pytest.mark.parametrize("steps", [3, 10, 60, 180])
def test_a_start_reads_a_stream_as_often_as_the_steps_do(steps, monkeypatch):
    """But twice at least, and if they read less than an epoch, so does it."""
    monkeypatch.setattr(warm_start, "NUM_ROWS", 10)
    monkeypatch.setattr(warm_start, "ROWS_PER_DIM", 10)
    monkeypatch.setattr(reader, "BLOCK_STEPS", 1)
    given = []

    def epoch():
        for batch in cut(3):
            given.append(batch)
            yield batch

    stream = batched(epoch, 60)
    passes, whole = [], SourceDensity.value_and_grad
    monkeypatch.setattr(
        SourceDensity, "value_and_grad", lambda s, X: passes.append(1) or whole(s, X)
    )
    settings = Steps(
        resolve_family(TARGET.model, "full_rank"), stream.batch_spec, advi.Elbo(), optax.sgd(0.1),
        stream.batching, (True,),
    )  # fmt: skip
    found = warm_start.find_start(settings, stream, None, 0, steps)
    epochs = max(1, steps // 20)
    assert 1 <= len(passes) <= epochs
    assert found.seen == min(60, max(10, 3 * steps))
    assert len(given) <= -(-found.seen // 3) * (1 + epochs) + 1
    assert found.start.control


def test_the_elbo_of_a_stream_has_the_error_of_its_rows():
    found = fit(cut(6), max_steps=2048, optimizer=optax.adam(0.02))
    assert abs(found.elbo.value - TARGET.log_evidence) < 4 * found.elbo.mcse
    # 32 batches of 6 rows scaled by ten: an sd of about 10 sqrt(6 / 2) nats each
    assert found.elbo.mcse == pytest.approx(10 * np.sqrt(3 / 32), rel=0.6)
    # all rows have the same curvature, so that a control variate of all takes the whole error
    assert abs(fit(cut(6), max_steps=2048).elbo.value - TARGET.log_evidence) < 0.01


def test_batch_size_cuts_a_stream_anew():
    a, b = fit(cut(20), batch_size=6), fit(cut(15), batch_size=6)
    assert a.posterior.params[0].loc.tobytes() == b.posterior.params[0].loc.tobytes()
    assert a.elbo_trace.shape == (512,)


def test_wide_rows_are_read_a_step_at_a_time(monkeypatch):
    few = {"optimizer": optax.adam(0.02), "max_steps": 160}
    whole = fit(cut(20), **few)
    monkeypatch.setattr(reader, "BLOCK_BYTES", 100)
    narrow = fit(cut(20), **few)
    np.testing.assert_array_equal(narrow.elbo_trace, whole.elbo_trace)


def test_lists_as_loaders_make_them_are_tuples_of_arrays():
    model = advi.Model(
        lambda z, d: advi.Terms(-(z["x"] ** 2), -((d[0] - z["x"]) ** 2) - d[1] ** 2),
        {"x": advi.real()},
    )
    lists, tuples = ([kind((y, 0 * y)) for y in np.split(Y, 4)] for kind in (list, tuple))
    steps = {"optimizer": optax.adam(0.02)}
    np.testing.assert_array_equal(
        fit(Loader(lists), model, **steps).elbo_trace, fit(tuples, model, **steps).elbo_trace
    )


def test_a_list_of_arrays_is_a_stream_if_their_rows_are_counted():
    model = advi.Model(
        lambda z, d: advi.Terms(-(z["x"] ** 2), -((d - z["x"]) ** 2)), {"x": advi.real()}
    )
    assert fit(np.split(Y, 4), model).verdict.level == "not checked"
    with pytest.raises(ValueError, match=r"shape \(4, 15\); expected one axis"):
        advi.fit(model, list(np.split(Y, 4)))


def test_nothing_that_needs_all_rows_is_claimed_of_a_stream():
    found = fit(cut(20), diagnose=True)
    for verdict in (found.verdict, found.check().verdict):
        assert verdict.level == "not checked"
        assert "holds only some of them" in verdict.reasons[0]
    assert "nan" not in repr(found)
    for ask in (
        found.corrected, found.linear_response, found.loo, found.log_likelihood,
        lambda: found.refine("full_rank"), lambda: found.predict(lambda z, d: z, 3),
        lambda: advi.compare({"a": found}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="holds only some of them"):
            ask()
    assert found.log_likelihood({"y": Y}, n=3).shape == (3, 60)
    assert found.loo({"y": Y}).elpd < 0


# Mistakes, and what goes wrong on the way.


@pytest.mark.parametrize(
    ("data", "arguments", "error", "words"),
    [
        (iter(cut(20)), {}, TypeError, "can be read only once"),
        ((b for b in cut(20)), {}, TypeError, "without calling it"),
        (cut(20), {"num_rows": None}, ValueError, "num_rows: got None"),
        (Loader(cut(20)), {"num_rows": None}, ValueError, "rows in one epoch"),
        (Loader(cut(20)), {"num_rows": 2.5}, ValueError, "num_rows: got 2.5"),
        (Loader(cut(20)), {"num_rows": 10}, ValueError, "a first batch of 20 rows"),
        (Loader(cut(20)), {"batch_size": 61}, ValueError, "expected 1 to 60"),
        (Loader([]), {}, ValueError, "the stream is empty"),
        (lambda: 3, {}, TypeError, "expected an iterator of batches"),
        ({"y": Y}, {}, ValueError, "num_rows: got 60 .* for data in memory"),
        (Loader(cut(20)), {"num_rows": 90}, ValueError, r"had 60 rows; expected num_rows=90"),
        (OnceOnly(cut(20)), {}, ValueError, r"epoch 2 .* had 0 rows.*new iterator"),
        (Loader([{"y": FEW}, {"x": FEW}]), {}, ValueError, "batch 2 of epoch 1: got the tree"),
        (Loader([{"y": FEW}, {"y": FEW[:, None]}]), {}, ValueError, "like those of the first"),
        (Loader([{"y": FEW.astype(int)}, {"y": FEW}]), {}, ValueError, "y: .* float32; expected"),
        (Loader([{"y": FEW[:0]}]), {}, ValueError, "a first batch of 0 rows"),
    ],
)  # fmt: skip
def test_a_mistaken_stream_is_refused(data, arguments, error, words):
    with pytest.raises(error, match=words):
        fit(data, **arguments)


def test_a_scalar_log_joint_takes_no_stream():
    model = advi.Model(lambda z, d: -jnp.sum((d["y"] - z["x"]) ** 2), {"x": advi.real()})
    with pytest.raises(ValueError, match="a stream gives some rows at a time"):
        fit(cut(20), model)


def test_a_stream_that_fails_later_loses_nothing():
    calls = itertools.count()

    def shrinking():
        return iter(cut(20)[: 3 if next(calls) < 300 else 1])

    found = fit(shrinking, max_steps=5000, optimizer=optax.adam(0.02))
    assert found.status == "interrupted"
    assert "epoch 301 of the stream had 20 rows; expected num_rows=60" in found.status.message
    assert len(found.elbo_trace) == 896  # the whole blocks of 300 epochs
    assert abs(found.mean()["x"][0] - TARGET.mean[0]) < 3 * SD


def test_errors_of_the_stream_are_its_own():
    error = OSError("disk")

    def failing():
        yield from cut(20)
        raise error

    with pytest.raises(OSError, match="disk") as caught:
        fit(failing)
    assert caught.value is error


def test_an_interrupted_stream_leaves_a_fit_and_no_thread():
    def interrupt(progress):
        if progress.step >= 256:
            raise KeyboardInterrupt

    found = fit(Loader(cut(20)), max_steps=5000, callback=interrupt)
    assert found.status == "interrupted"
    assert np.isfinite(found.elbo.value)


def test_prefetching_raises_in_order_and_ends_with_its_block():
    def items():
        yield from range(3)
        raise ValueError("fourth")

    with Prefetch(items(), lambda i: 10 * i) as ready:
        assert [next(ready) for _ in range(3)] == [0, 10, 20]
        with pytest.raises(ValueError, match="fourth"):
            next(ready)
    closed = []

    def endless():
        try:
            yield from itertools.count()
        finally:
            closed.append(threading.current_thread().name)

    with Prefetch(endless(), str) as ready:
        assert next(ready) == "0"
        assert len(threads()) == 1
    assert closed == ["advi-prefetch"]


# Memory-mapped arrays.


@pytest.fixture
def mapped(tmp_path):
    """A function that puts an array on disk and maps it."""

    def put(array, name="y"):
        np.save(tmp_path / f"{name}.npy", array)
        return np.load(tmp_path / f"{name}.npy", mmap_mode="r")

    return put


def test_mapped_rows_give_the_bits_of_rows_in_memory(mapped):
    """Of several types, beside rows that are in memory and data that are no rows."""
    x, counts = np.linspace(-1, 1, 60), np.arange(60)
    model = advi.Model(
        lambda z, d: advi.Terms(
            -(z["x"] ** 2), -((d["y"] - z["x"] * d["x"]) ** 2) * d["weight"][1] - d["n"]
        ),
        {"x": advi.real()},
    )
    data = {"x": x, "y": 2 * x, "weight": np.array([0.0, 1.0]), "n": counts}
    on_disk = data | {"y": mapped(2 * x, "y"), "n": mapped(counts, "n")}
    # so few that the last ones are clearly the best, by all rows as well as by those that were kept
    arguments = {"num_rows": None, "batch_size": 7, "max_steps": 200, "optimizer": optax.adam(0.02)}
    a, b = fit(data, model, **arguments), fit(on_disk, model, **arguments)
    np.testing.assert_array_equal(a.elbo_trace, b.elbo_trace)
    assert a.posterior.params[0].loc.tobytes() == b.posterior.params[0].loc.tobytes()
    assert b.check().verdict.level == a.check().verdict.level == "poor"  # so few steps


def test_mapped_rows_are_not_read_as_a_whole(mapped, monkeypatch):
    """No call may convert more rows than one block has, or a start is looked for on."""
    monkeypatch.setattr(reader, "BLOCK_STEPS", 2)
    monkeypatch.setattr(warm_start, "NUM_ROWS", 10)
    monkeypatch.setattr(warm_start, "ROWS_PER_DIM", 10)
    lengths = []
    convert = memmap.converted

    def spy(data, float_dtype):
        lengths.append(max(len(leaf) for leaf in jax.tree.leaves(data)))
        return convert(data, float_dtype)

    monkeypatch.setattr(memmap, "converted", spy)
    fit({"y": mapped(Y)}, num_rows=None, batch_size=7, max_steps=64)
    assert max(lengths) == 14


def test_mapped_rows_need_a_batch_size_from_one_to_all(mapped):
    with pytest.raises(ValueError, match="expected 1 to 60"):
        fit({"y": mapped(Y)}, num_rows=None, batch_size=61)


# Held-out rows.


def test_the_held_out_elbo_of_the_rows_themselves_is_the_elbo():
    found = fit({"y": Y}, num_rows=None, batch_size=6, eval_data={"y": Y}, max_steps=2000)
    steps, values = found.eval_trace
    assert len(steps) == len(values) > 3
    assert steps[-1] == 2000
    assert values[-1] == pytest.approx(TARGET.log_evidence, abs=0.1)
    assert found._record.outcome.trace[steps[0] - 1].eval_elbo == values[0]


def test_held_out_rows_are_scaled_to_the_data():
    """Of the first six rows: shared + 60/6 times theirs, less log q; in closed form."""
    few = Y[:6]
    found = fit(
        {"y": Y}, num_rows=None, optimizer=optax.adam(0.02), eval_data={"y": few}, max_steps=1024
    )
    loc, scale = (
        np.float64(leaf[0]) for leaf in (found.posterior.gaussian.loc, found.posterior.gaussian.sds)
    )
    rows = -0.5 * np.log(2 * np.pi) - 0.5 * ((few - loc) ** 2 + scale**2)
    prior = -0.5 * (loc**2 + scale**2) / 100 - np.log(10) - 0.5 * np.log(2 * np.pi)
    entropy = 0.5 * np.log(2 * np.pi * np.e) + np.log(scale)
    # the last step is off the average, by which the fit is, in its mean by some percent of an sd
    assert found.eval_trace.values[-1] == pytest.approx(prior + 10 * rows.sum() + entropy, abs=1)


def test_held_out_rows_reach_the_callback_and_go_with_streams():
    seen = []
    found = fit(cut(20), eval_data={"y": Y[:11]}, callback=lambda p: seen.append(p.eval_elbo))
    np.testing.assert_array_equal(np.array(seen)[np.isfinite(seen)], found.eval_trace.values)
    assert len(fit(cut(20)).eval_trace.steps) == 0


def test_many_held_out_rows_are_looked_at_seldom(monkeypatch):
    from advi.inference.stochastic import validation

    monkeypatch.setattr(validation, "EVAL_ROWS", 40)
    found = fit({"y": Y}, num_rows=None, batch_size=6, eval_data={"y": Y}, max_steps=1000)
    steps, values = found.eval_trace
    assert np.all(np.diff(steps)[:-1] > 128)
    assert steps[-1] == 1000
    assert np.all(np.isfinite(values))


@pytest.mark.parametrize(
    ("eval_data", "arguments", "words"),
    [
        ({"y": Y}, {}, "automatic plan"),
        ({"x": Y}, {"batch_size": 6}, "leaves y"),
        ({"y": Y[:0]}, {"batch_size": 6}, "got no row"),
    ],
)
def test_mistaken_held_out_rows_are_refused(eval_data, arguments, words):
    with pytest.raises(ValueError, match=words):
        advi.fit(TARGET.model, {"y": Y}, eval_data=eval_data, **arguments)


def test_held_out_rows_need_a_log_joint_with_rows():
    model = advi.Model(lambda z, d: -jnp.sum((d["y"] - z["x"]) ** 2), {"x": advi.real()})
    with pytest.raises(ValueError, match="eval_data: the held-out ELBO scales rows"):
        advi.fit(model, {"y": Y}, eval_data={"y": Y}, optimizer=optax.adam(0.1))
