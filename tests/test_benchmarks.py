"""The benchmarks run and write what they print; how fast they are is never asserted here."""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    accuracy,
    cold_start,
    common,
    flows,
    growth,
    iwae,
    large_models,
    many,
    nuts,
    overhead,
    peers,
    posteriordb,
    refit,
    rows,
    same_fits,
    scaling,
    scaling_rows,
    streams,
    vae,
    verdict,
)
from benchmarks.real_models import __main__ as real_models_main


def test_take_turns_reverses_every_other_round():
    called = []
    tasks = {name: lambda name=name: called.append(name) for name in "ab"}
    seconds = common.take_turns(tasks, 3)
    assert "".join(called) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


@pytest.mark.slow  # short: test_overhead_candidates_compute_the_same_gradient
def test_overhead_smoke(tmp_path, capsys):
    size = ["--rows", "50", "--dim", "3", "--draws", "2", "--repeats", "2", "--seeds", "1"]
    overhead.main([*size, "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert "ratio to loop" in text
    assert "the bar of 1.10 is" in text
    result = json.loads((tmp_path / "overhead.json").read_text())
    assert result["settings"]["rows"] == 50
    assert {name: len(of) for name, of in result["ms_per_step"].items()} == {"large": 1, "small": 1}
    assert result["machine"]["device"]


def test_newton_and_a_fit_agree_on_simulated_rows():
    data = scaling_rows.simulated(3000)
    (mean, sd), passes = scaling_rows.by_newton(data)
    (ours, our_sd), _ = scaling_rows.by_fit(data, diagnose=False)
    assert passes < 8
    np.testing.assert_allclose(ours, mean, atol=0.1 * sd.max())
    np.testing.assert_allclose(our_sd, sd, rtol=0.03)


@pytest.mark.slow
def test_fits_of_more_and_more_rows_are_measured(capsys):
    ways = ["advi.fit", "advi.fit, batch_size=256", "Newton and Laplace"]
    args = argparse.Namespace(rows=[2000, 4000], row_ways=ways)
    found = scaling_rows.measure(args)
    assert "4,000 rows of 10 predictors" in capsys.readouterr().out
    assert set(found["slopes"]) == set(ways)
    assert all(c["mean_off"] < 0.1 for c in found["cells"])


@pytest.mark.slow
def test_many_fits_are_measured_three_ways(tmp_path, capsys):
    many.main(["--sets", "3", "--repeats", "1", "--steps", "50", "--out", str(tmp_path)])
    assert "advi.fit_many" in capsys.readouterr().out
    found = json.loads((tmp_path / "many.json").read_text())["found"]["logistic 200 x 5"]
    assert found["advi.fit_many"]["mean"][1] < 0.05
    assert found["advi.fit in a loop"]["mean"] == [0, 0]


@pytest.mark.slow
def test_scaling_with_latents_is_measured_beside_svi(tmp_path, capsys):
    sizes = ["--groups", "20", "40", "--steps", "30", "--draws", "16", "64", "--draws-groups", "30"]
    scaling.main(["--what", "latents", *sizes, "--repeats", "1", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert "slope of log CPU seconds on log groups, advi" in text
    assert "slope of log CPU seconds on log draws" in text
    found = json.loads((tmp_path / "scaling_latents.json").read_text())
    assert (
        found["sizes"]["20"]["advi"]["elbo"][0]
        > found["sizes"]["20"]["NumPyro, 30 steps"]["elbo"][0]
    )


@pytest.mark.slow
def test_the_three_ways_to_train_an_autoencoder_are_timed():
    seconds = vae.speed(np.random.default_rng(0).random((384, 16), np.float32), rounds=1)
    assert list(seconds) == ["advi", "hand-written loop", "NumPyro SVI"]
    assert all(0 < s < np.inf for [s] in seconds.values())


@pytest.mark.slow
def test_refit_smoke(capsys):
    root = str(Path(refit.__file__).parents[1])
    refit.main([root, root, "--rounds", "1", "--repeats", "1", "--only", "eight schools"])
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split(" ")[:2] for row in rows] == [["eight", "schools,"], ["eight", "schools"]]
    assert all(float(row.split()[-1]) > 0 for row in rows)


def test_same_fits_smoke(tmp_path, capsys):
    for way in ("--write", "--against"):
        same_fits.main(["--only", "mean field", way, str(tmp_path / "fits.json")])
    out = capsys.readouterr().out
    assert "of 1 fits are the same" in out
    # the second fit of one process compiles less, if it is not the same
    assert set(re.findall(r"^    (\w+):", out, flags=re.MULTILINE)) <= {"programs"}


@pytest.mark.slow
def test_peers_smoke(tmp_path, capsys, checkout):
    settings = ["--repeats", "1", "--only", "logistic", "--posteriordb", str(checkout)]
    peers.main([*settings, "--out", str(tmp_path)])
    assert "logistic" in capsys.readouterr().out
    [found] = json.loads((tmp_path / "peers.json").read_text())["found"].values()
    assert all(found[method]["cold"][0] > 0 for method in peers.METHODS)


@pytest.mark.slow
def test_nuts_smoke(tmp_path, capsys):
    nuts.main(["--repeats", "1", "--names", "orings_process", "--out", str(tmp_path)])
    assert "orings_process" in capsys.readouterr().out
    [found] = json.loads((tmp_path / "nuts.json").read_text())["found"].values()
    assert found["NUTS"][0]["errors"]["shift"] < 1


@pytest.mark.slow  # most of it is the training before the held-out ELBO
def test_vae_smoke(tmp_path, capsys):
    vae.main(["--rounds", "1", "--epochs", "1", "--out", str(tmp_path)])
    assert "held-out ELBO after 1 epochs" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "vae.json").read_text())) >= {"seconds", "held_out"}


@pytest.mark.slow
def test_iwae_smoke(tmp_path, capsys):
    iwae.main(["--train", "1", "2", "--epochs", "1", "--test", "10", "--out", str(tmp_path)])
    assert "log p(x) by 5,000 draws" in capsys.readouterr().out
    found = json.loads((tmp_path / "iwae.json").read_text())["found"]
    assert all(np.isfinite(list(bounds.values())).all() for bounds in found.values())


@pytest.mark.slow  # its parts run in test_local_posterior and test_row_models
def test_rows_smoke(tmp_path, capsys):
    size = ["--rows", "300", "600", "--agree", "300", "--predictors", "2", "--repeats", "2"]
    rows.main([*size, "--batch-size", "100", "--refits", "1", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert "the bar of 1.25 is" in text
    assert "last evaluation" in text
    assert "sd for means" in text
    result = json.loads((tmp_path / "rows.json").read_text())
    assert {"300", "600", "300, reading"} < set(result["us_per_step"])


@pytest.mark.slow  # its parts run in test_streams and test_warm_start
def test_streams_smoke(tmp_path, capsys):
    # as many rows in the large file as beside it and in the small fit: three programs, not five
    gib = 64 * (3 + 1) * 4 / 2**30
    size = ["--gib", str(gib), "--rows", "64", "--dim", "3", "--batch-size", "8"]
    streams.main([*size, "--steps", "300", "--repeats", "1", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert "GiB more; the bar of 1.00 is met" in text
    result = json.loads((tmp_path / "streams.json").read_text())
    assert result["anonymous_gib"]["rows"] == 64
    assert all(rate > 0 for [rate] in result["steps_per_second"].values())


def test_overhead_candidates_compute_the_same_gradient():
    """The engine's ELBO and the bare gradient are of one and the same log density."""
    data = overhead.simulate(50, 3, seed=0)
    tasks = overhead.bare(data, dim=3, draws=2, seed=0)
    value, gradient = tasks[overhead.LOOP]()
    parts = tasks[overhead.CALLS]()
    # float32 sums of 100 terms near -100, in another order
    assert float(value) == pytest.approx(float(sum(v.sum() for v, _ in parts)), rel=1e-5)
    np.testing.assert_allclose(gradient, sum(g.sum(0) for _, g in parts), rtol=1e-3, atol=1e-2)
    state, elbos = overhead.engine(data, dim=3, draws=2, seed=0)()
    assert int(state.step) == len(elbos) == overhead.CHUNK
    assert elbos.mean() < 0


def test_cold_start_smoke(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cold_start, "PROGRAMS", {"nothing": "pass", "regression": "import json"})
    cold_start.main(["--repeats", "1", "--out", str(tmp_path)])
    assert "median" in capsys.readouterr().out
    result = json.loads((tmp_path / "cold_start.json").read_text())
    assert set(result["median"]) == {"nothing", "regression"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "regression: fit"))
        for name in cold_start.COMPARED
        if "cache" not in name
    ],
)
def test_cold_start_programs_print_a_verdict(name, capsys):
    exec(cold_start.PROGRAMS[name], {})
    assert "verdict" in capsys.readouterr().out


def test_cold_start_shows_why_a_program_failed():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        cold_start.run_fresh("1 / 0")


def normal(mean, sd):
    """Draws with exactly these moments."""
    x = np.random.default_rng(0).standard_normal(1000)
    return mean + sd * (x - x.mean()) / x.std()


@pytest.mark.parametrize(
    ("shift", "ratio", "level", "tight"),
    [
        (0.05, 1.05, "good", True),
        (0.2, 1.0, "good", False),
        (0.05, 0.85, "good", False),
        (0.2, 0.7, "means_only", False),
        (0.2, 1.3, "means_only", False),
        (0.3, 1.0, "poor", False),
    ],
)
def test_errors_are_the_worst_of_all_scalars(shift, ratio, level, tight):
    reference = {"a": (1.0, 2.0), "b": (0.0, 1.0)}
    columns = {"a": normal(1.0 - 2 * shift, 2.0), "b": normal(0.0, ratio)}
    found = accuracy.errors(columns, reference)
    assert found.shift == pytest.approx(shift)
    assert found.shift_column == "a"
    assert (found.greatest if ratio > 1 else found.least) == pytest.approx(ratio)
    assert (found.level, found.tight) == (level, tight)


def test_errors_of_draws_that_overflow_are_infinite():
    found = accuracy.errors({"a": np.array([1e300, 1e308, np.inf])}, {"a": (0.0, 1.0)})
    assert found.shift == found.greatest == np.inf
    assert found.level == "poor"


def test_an_overrated_verdict_is_a_violation():
    assert verdict.overrated("good", "means_only")
    assert verdict.overrated("means_only", "poor")
    assert not verdict.overrated("poor", "good")
    records = [{"truth": "poor", "verdict": "good"}, {"truth": "good", "verdict": "good"}]
    assert verdict.confusion(records, "verdict", "truth") == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_posteriordb_smoke(tmp_path, capsys, checkout):
    names = ["--names", "kilpisjarvi", "--families", "auto"]
    size = ["--keys", "1", "--posteriordb", str(checkout)]
    posteriordb.main([*names, *size, "--out", str(tmp_path)])
    assert "auto: 1 of 1 fits converge" in capsys.readouterr().out
    result = json.loads((tmp_path / "posteriordb.json").read_text())
    assert result["summary"]["auto"]["tight_corrected"] == 1
    assert {r["posterior"] for r in result["fits"]} == {"kilpisjarvi"}


def test_posteriordb_shows_why_a_cold_fit_failed(checkout):
    with pytest.raises(RuntimeError, match="nothing"):
        posteriordb.cold_seconds("nothing", checkout, "auto")


def test_verdict_smoke(tmp_path, capsys):
    names = ["--names", "banana(1)", "mixture(2, from 0)"]
    arguments = [*names, "--keys", "1", "--families", "full_rank", "--out", str(tmp_path)]
    arguments += ["--resume", str(tmp_path / "fits.jsonl")]
    verdict.main(arguments)
    text = capsys.readouterr().out
    assert "all: rows truth, columns verdict" in text
    assert "cost of a verdict" in text
    result = json.loads((tmp_path / "verdict.json").read_text())
    assert sum(map(sum, result["summary"]["confusion"]["all"])) == 2
    assert all(r["check_values"] >= 5000 for r in result["fits"])
    verdict.main(arguments)  # of the fits of the file
    again = json.loads((tmp_path / "verdict.json").read_text())
    assert again["fits"] == result["fits"]


def test_verdict_knows_its_targets(capsys):
    with pytest.raises(SystemExit):
        verdict.main(["--names", "nothing"])
    assert "unknown target 'nothing'" in capsys.readouterr().err


def test_flows_smoke(tmp_path, capsys):
    settings = ["--names", "banana", "--families", "full_rank", "--keys", "2"]
    flows.main([*settings, "--out", str(tmp_path)])
    assert "-0.3" in capsys.readouterr().out
    found = json.loads((tmp_path / "flows.json").read_text())["found"]["banana"]["full_rank"]
    assert [f["verdict"] for f in found] == ["poor", "poor"]


@pytest.mark.slow  # short: test_posteriordb_smoke, and the test below of what it counts
def test_growth_smoke(tmp_path, capsys):
    names = ["--names", "boys", "--families", "mean_field", "--keys", "1"]
    growth.main([*names, "--out", str(tmp_path)])
    assert "1/1" in capsys.readouterr().out
    [record] = json.loads((tmp_path / "growth.json").read_text())["fits"]
    assert record["status"] == "converged"


def test_a_fit_that_is_nan_has_not_arrived():
    record = growth.Record("p", "f", 0, "converged", "", -1.0, 0.0, 1, 1.0)
    lost, short = record._replace(elbo=float("nan")), record._replace(elbo=-1.2)
    assert growth.arrived([lost, record, short]) == [False, True, False]
    assert growth.arrived([lost]) == [False]


def test_real_models_smoke(tmp_path, capsys):
    settings = ["--names", "orings", "--keys", "1", "--corrected"]
    real_models_main.main([*settings, "--out", str(tmp_path)])
    assert "fit: 1 of 1 called good (100%), 0 falsely" in capsys.readouterr().out
    result = json.loads((tmp_path / "real_models.json").read_text())
    assert result["summary"]["corrected"]["fits"] == 1
    assert [r["truth"] for r in result["fits"]] == ["good", "good"]


@pytest.mark.slow  # short: the slope of seconds below, and tests of sparse fits
def test_large_models_smoke(tmp_path, capsys):
    large_models.main(["grid", "--keys", "1", "--out", str(tmp_path)])
    assert "of 1, of these truly: " in capsys.readouterr().out
    result = json.loads((tmp_path / "large_models.json").read_text())
    [record] = result["fits"]
    assert record["made"].startswith("sparse")
    assert record["errors"]["shift"] < 1


def test_the_slope_of_seconds_is_that_of_their_logs():
    sizes = [{"size": n, "seconds": 1e-3 * n**1.5} for n in (10, 100, 1000)]
    assert large_models.slope(sizes) == pytest.approx(1.5)
