"""Tables: look-up by row or column, text, HTML."""

import numpy as np
import pytest

from advi.core.table import MAX_PRINTED_ROWS, Table

TABLE = Table(
    ("mu", "tau[0]", "a<b"),
    {"mean": np.array([1.5, -20.25, 3.0]), "sd": np.array([0.25, 12345.678, 1e-7])},
)


def numbered(n):
    return Table(tuple(f"x[{i}]" for i in range(n)), {"mean": np.arange(float(n))})


def test_columns_and_rows_by_name():
    np.testing.assert_array_equal(TABLE["sd"], [0.25, 12345.678, 1e-7])
    assert TABLE["tau[0]"] == {"mean": -20.25, "sd": 12345.678}
    assert all(type(value) is float for value in TABLE["mu"].values())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(KeyError, match=r"'nu'.*mean, sd"):
        TABLE["nu"]


def test_to_dict_has_every_row():
    assert TABLE.to_dict() == {name: TABLE[name] for name in TABLE.rows}


def test_text_is_aligned_and_has_three_digits():
    assert str(TABLE).split("\n") == [
        "         mean        sd",
        "mu        1.5      0.25",
        "tau[0]  -20.2  1.23e+04",
        "a<b         3     1e-07",
    ]


def test_not_a_number_and_infinity_are_shown():
    table = Table(("a", "b"), {"mean": np.array([np.nan, -np.inf])})
    assert [line.split() for line in str(table).split("\n")] == [
        ["mean"],
        ["a", "nan"],
        ["b", "-inf"],
    ]


def test_integers_and_flags_are_numbers():
    table = Table(("a",), {"n": np.array([12]), "used": np.array([True])})
    assert str(table).split("\n")[1].split() == ["a", "12", "1"]


def test_a_table_as_long_as_may_be_is_printed_whole():
    lines = str(numbered(MAX_PRINTED_ROWS)).split("\n")
    assert len(lines) == MAX_PRINTED_ROWS + 1
    assert "more" not in str(numbered(MAX_PRINTED_ROWS))


def test_a_long_table_is_cut_in_the_middle():
    n = MAX_PRINTED_ROWS + 60
    lines = str(numbered(n)).split("\n")
    half = MAX_PRINTED_ROWS // 2
    assert len(lines) == MAX_PRINTED_ROWS + 2
    names = [line.split()[0] for line in lines[1:]]
    assert names[:half] == [f"x[{i}]" for i in range(half)]
    assert lines[half + 1] == "... 60 more"
    assert names[half + 1 :] == [f"x[{i}]" for i in range(n - half, n)]
    assert len(numbered(n).to_dict()) == n


def test_html_escapes_names():
    page = TABLE._repr_html_()
    assert page.startswith("<table><tr><th></th><th>mean</th><th>sd</th></tr>")
    assert "<td>a&lt;b</td><td>3</td><td>1e-07</td>" in page
    assert page.count("<tr>") == 4
    assert page.endswith("</table>")
