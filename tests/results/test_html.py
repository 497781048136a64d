"""What notebooks show: well-formed, escaped, readable, and cut where it is long."""

import dataclasses
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest

import advi
from advi.core.table import MAX_PRINTED_ROWS
from advi.core.verdict import COLOURS
from advi.posterior.record import Examination

HOSTILE = "<script>alert('a & b')</script>"


class Page(HTMLParser):
    """The tags and the text of a page; every tag must be closed in its turn."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.styles = [], [], [], []
        self.feed(source)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.append(tag)
        self.styles += [value for name, value in attributes if name == "style"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def fit():
    model = advi.Model(
        lambda z, data: -0.5 * z[HOSTILE] ** 2 - 0.5 * jnp.sum(z["x"] ** 2),
        {HOSTILE: advi.real(), "x": advi.real(2)},
    )
    return advi.fit(model, diagnose=False)


def judged(fit, verdict):
    examination = Examination(verdict, 0.3, None)
    return advi.Fit(dataclasses.replace(fit._record, examination=examination))


def test_a_model_is_a_table_of_its_latents(fit):
    page = Page(fit.posterior.model._repr_html_())
    assert page.texts[0] == "Model with 2 latents, 3 real coordinates"
    assert set(page.tags) == {"div", "table", "tr", "th", "td"}
    assert page.tags.count("tr") == 3
    assert HOSTILE in page.texts
    assert page.texts[-4:] == ["x", "Real", "(2,)", "2"]


@pytest.mark.parametrize("level", COLOURS)
def test_a_fit_shows_status_elbo_verdict_and_summary(fit, level):
    verdict = advi.Verdict(level, (f"the mean of {HOSTILE} is off.",), "fit again & again.")
    page = Page(judged(fit, verdict)._repr_html_())
    assert "script" not in page.tags
    assert page.texts[0].startswith("Fit: full_rank")
    assert any(text.startswith("status: converged") for text in page.texts)
    assert any(text.startswith("ELBO: ") for text in page.texts)
    word = page.texts.index(level.replace("_", " "))
    assert page.texts[word + 1 : word + 3] == [verdict.reasons[0], "Next: fit again & again."]
    assert COLOURS[level] in page.styles[0]
    assert HOSTILE in page.texts
    assert page.tags.count("tr") == 4


def test_a_fit_that_was_not_checked_says_so(fit):
    page = Page(fit._repr_html_())
    assert "not checked" in page.texts
    assert "ul" not in page.tags


def luminance(colour):
    """Relative luminance as WCAG 2 defines it."""
    channels = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("colour", COLOURS.values())
def test_white_letters_stand_out_from_every_colour(colour):
    assert 1.05 / (luminance(colour) + 0.05) >= 4.5  # WCAG 2, level AA


def test_long_models_and_fits_are_cut_and_counted():
    latents = {f"b{i}": advi.real() for i in range(MAX_PRINTED_ROWS + 7)}
    model = advi.Model(lambda z, data: -0.5 * sum(v**2 for v in z.values()), latents)
    fit = advi.fit(model, family="mean_field", diagnose=False)
    for page in (Page(model._repr_html_()), Page(fit._repr_html_())):
        assert page.tags.count("tr") == MAX_PRINTED_ROWS + 2
        assert "... 7 more" in page.texts
        assert f"b{MAX_PRINTED_ROWS + 6}" in page.texts
    assert repr(model).count("\n") == MAX_PRINTED_ROWS + 2
    assert "... 7 more" in repr(model)
    assert len(fit.summary().rows) == MAX_PRINTED_ROWS + 7
