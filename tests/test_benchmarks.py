"""The benchmarks run and write what they print; how fast they are is never asserted here."""

import json

import numpy as np
import pytest

from benchmarks import cold_start, common, overhead


def test_take_turns_reverses_every_other_round():
    called = []
    tasks = {name: lambda name=name: called.append(name) for name in "ab"}
    seconds = common.take_turns(tasks, 3)
    assert "".join(called) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_overhead_smoke(tmp_path, capsys):
    size = ["--rows", "50", "--dim", "3", "--draws", "2", "--repeats", "2", "--seeds", "2"]
    overhead.main([*size, "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert "ratio to loop" in text
    assert "the bar of 1.10 is" in text
    result = json.loads((tmp_path / "overhead.json").read_text())
    assert result["settings"]["rows"] == 50
    assert len(result["ms_per_step"]) == 2
    assert result["machine"]["device"]


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
    monkeypatch.setattr(cold_start, "PROGRAMS", {"nothing": "pass", "regression": "import advi"})
    cold_start.main(["--repeats", "1", "--out", str(tmp_path)])
    assert "median" in capsys.readouterr().out
    result = json.loads((tmp_path / "cold_start.json").read_text())
    assert set(result["median"]) == {"nothing", "regression"}


@pytest.mark.parametrize("name", ["EIGHT_SCHOOLS", "REGRESSION"])
def test_cold_start_programs_print_a_summary(name, capsys):
    exec(getattr(cold_start, name), {})
    assert "mean" in capsys.readouterr().out


def test_cold_start_shows_why_a_program_failed():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        cold_start.run_fresh("1 / 0")
