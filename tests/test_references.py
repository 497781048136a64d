"""What benchmarks compare fits with: closed forms, and moments from long runs of NUTS."""

import json

import jax
import numpy as np
import pytest

from benchmarks import accuracy, make_references, real_models, targets
from models import shared_data


def exact_draws(target, rng, n=200_000):
    """Draws of the closed-form targets, written from their definitions."""
    if target.name.startswith("funnel"):
        v = 3 * rng.standard_normal(n)
        return {"v": v, "x": np.exp(v / 2)[:, None] * rng.standard_normal((n, 9))}
    if target.name.startswith("banana"):
        x1 = rng.standard_normal(n)
        return {"x": np.stack([x1, x1**2 - 1 + rng.standard_normal(n)], axis=1)}
    second = rng.random(n) < target.data["share"][1]
    return {"x": target.data["loc"][second.astype(int)] + rng.standard_normal((n, 4))}


def test_closed_forms_agree_with_draws():
    rng = np.random.default_rng(0)
    for target in targets.known():
        if "schools" in target.name or "hierarchy" in target.name:
            continue  # by quadrature, tested with the model and below
        reference = dict(target.reference)
        if target.name.startswith("funnel"):
            reference = {"v": reference["v"]}  # the tails of x are too heavy for draws to tell
        found = accuracy.errors(target.columns(exact_draws(target, rng)), reference)
        assert found.shift < 0.01, target.name
        assert found.least == pytest.approx(1, abs=0.01), target.name
        assert found.greatest == pytest.approx(1, abs=0.01), target.name


@pytest.mark.parametrize(("groups", "noise"), targets.HIERARCHIES)
def test_moments_of_a_hierarchy_agree_with_weighted_draws_of_its_prior(groups, noise):
    target = targets.hierarchy(groups, noise, 3, centred=True)
    rng, n = np.random.default_rng(0), 1_000_000
    y, error = target.data["y"], target.data["error"]
    mu, tau = 5 * rng.standard_normal(n), 3 * np.abs(rng.standard_normal(n))
    log_w = sum(
        -0.5 * (v - mu) ** 2 / (tau**2 + e**2) - 0.5 * np.log(tau**2 + e**2)
        for v, e in zip(y, error, strict=True)
    )
    w = np.exp(log_w - log_w.max())
    kept = rng.choice(n, 100_000, p=w / w.sum())
    mu, tau = mu[kept, None], tau[kept, None]
    precision = 1 / tau**2 + 1 / error**2
    effect = (mu / tau**2 + y / error**2) / precision
    effect += rng.standard_normal(effect.shape) / np.sqrt(precision)
    columns = target.columns({"mu": mu[:, 0], "tau": tau[:, 0], "effect": effect})
    found = accuracy.errors(columns, target.reference)
    tolerance = 5 / np.sqrt(min(w.sum() ** 2 / (w**2).sum(), len(kept)))
    assert tolerance < 0.2
    assert found.shift < tolerance
    assert 1 - tolerance < found.least < found.greatest < 1 + tolerance
    scores = targets.hierarchy(groups, noise, 3, centred=False)
    z = {"mu": mu[:, 0], "tau": tau[:, 0], "effect": (effect - mu) / tau}
    for name, column in scores.columns(z).items():
        np.testing.assert_allclose(column, columns[name], atol=1e-6)
    assert scores.reference == target.reference


def test_every_sampled_target_has_a_trustworthy_reference(checkout):
    kept = json.loads(targets.FILE.read_text())
    problems = targets.sampled(checkout)
    assert set(kept) == {p.name for p in problems}
    for problem in problems:
        made = kept[problem.name]
        # a horseshoe has divergences at any step size
        assert make_references.faults(made, divergences=0.004) == []
        assert len(made["of"]) == problem.model.size


def test_targets_that_lack_data_are_left_out(capsys):
    assert [p.name for p in targets.sampled(None)] == ["horseshoe"]
    assert "skipped: radon, no checkout" in capsys.readouterr().out


@pytest.mark.slow  # most of it compiles a sampler; what it made before is looked at above
@pytest.mark.parametrize("name", ["horseshoe", "orings"])
def test_a_short_run_has_the_form_of_the_references_kept(name):
    [problem] = targets.sampled(None, [name]) or real_models.load(names=[name])
    file = targets.FILE if name in targets.SAMPLED else real_models.FILE
    kept = json.loads(file.read_text())[name]
    with jax.enable_x64(True):
        made = make_references.make(problem, chains=2, warmup=30, draws=20, accept=0.8)
    assert made["draws_per_chain"] == 20
    assert list(made["of"]) == list(kept["of"])
    assert set(kept) <= set(made)
    assert make_references.faults(made)


def test_make_references_smoke(tmp_path, capsys, monkeypatch):
    """It keeps runs that pass their checks, each file's own, beside those of other problems."""
    kept = {"data": "", "sampler": "", "chains": 4, "draws_per_chain": 1000, "divergences": 4}
    kept |= {"largest_rhat": 1.0, "least_ess": 2000, "of": {"b": [0.0, 1.0]}}
    made = {"horseshoe": kept, "orings": kept, "nile": kept | {"least_ess": 500}}
    monkeypatch.setattr(make_references, "make", lambda problem, *_: made[problem.name])
    (tmp_path / real_models.FILE.name).write_text(json.dumps({"lynx": kept}))
    make_references.main([*made, "--out", str(tmp_path)])
    assert "not kept: effective sample size 500" in capsys.readouterr().out
    files = [tmp_path / targets.FILE.name, tmp_path / real_models.FILE.name]
    assert [list(json.loads(f.read_text())) for f in files] == [["horseshoe"], ["lynx", "orings"]]
    assert accuracy.read_references(files[0]) == {"horseshoe": {"b": (0.0, 1.0)}}


def test_make_references_knows_its_problems(capsys):
    with pytest.raises(SystemExit):
        make_references.main(["nothing"])
    assert "unknown problem 'nothing'" in capsys.readouterr().err


def test_every_real_model_has_a_trustworthy_reference():
    kept = json.loads(real_models.FILE.read_text())
    assert set(kept) == set(real_models.NAMES)
    assert [name for name, made in kept.items() if make_references.faults(made)] == []


def test_real_models_that_lack_data_are_left_out(capsys, monkeypatch):
    monkeypatch.delenv(shared_data.VARIABLE, raising=False)
    assert [m.name for m in real_models.load(names=["pastes", "orings"])] == ["orings"]
    assert "skipped: pastes, shared data: got no folder" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "scaled"), [("bcg_centred", 13), ("nile", 99)])
def test_sampled_coordinates_of_a_real_model_have_the_same_posterior(name, scaled):
    """Densities differ by the effects' scales alone, and by a constant."""
    model = real_models.OWN[name]()
    rng, latents = np.random.default_rng(0), model.sampled.latents
    z = {k: 0.3 * rng.standard_normal((2, *v.shape)) for k, v in latents.items()}
    z |= {k: np.exp(z[k]) for k in ("sd", "sigma") if k in z}

    @jax.jit
    def differences(z, data):
        turned = model.latents(z)
        return [
            model.sampled.log_joint({k: x[i] for k, x in z.items()}, data)
            - model.model.log_joint({k: x[i] for k, x in turned.items()}, data)
            for i in range(2)
        ]

    with jax.enable_x64(True):
        difference = np.array(differences(z, model.data)) - scaled * np.log(z["sd"])
    assert float(difference[0]) == pytest.approx(float(difference[1]), abs=1e-9)
