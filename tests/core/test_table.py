"""Tables: look-up by row or column, text, HTML."""

import numpy as np
import pytest

from advi.core.table import ENDS, MAX_PRINTED_ROWS, SHORT, Table, largest

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
        "         mean     sd",
        "mu        1.5   0.25",
        "tau[0]  -20.2  12346",
        "a<b         3  1e-07",
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


def arrays(**lengths):
    """A table of arrays, and of scalars for zero."""
    rows = [f"{k}[{i}]" for k, n in lengths.items() for i in range(n)]
    rows += [k for k, n in lengths.items() if not n]
    return Table(tuple(rows), {"mean": np.arange(float(len(rows)))})


def printed(table):
    return [line.split("  ")[0] for line in str(table).split("\n")[1:]]


def test_scalars_and_short_arrays_come_before_the_ends_of_long_ones():
    table = arrays(long=3000, short=SHORT, limit=SHORT + 1, tau=0)
    assert printed(table) == [
        *(f"short[{i}]" for i in range(SHORT)),
        "tau",
        *("long[0]", "long[1]", "long[2]", "... 2994 more", "long[2997]", "long[2998]"),
        *("long[2999]", "limit[0]", "limit[1]", "limit[2]", "... 3 more", "limit[6]"),
        *("limit[7]", "limit[8]"),
    ]
    assert table.rows[0] == "long[0]"
    assert table._repr_html_().count("<tr>") == 1 + len(printed(table))
    assert "<td>... 2994 more</td><td></td></tr>" in table._repr_html_()


def test_many_long_arrays_show_one_entry_at_either_end():
    most = MAX_PRINTED_ROWS // (2 * ENDS[0] + 1)
    few, many = (arrays(**{f"a{k}": 100 for k in range(n)}) for n in (most, most + 1))
    assert len(printed(few)) == 7 * most
    assert printed(many) == [
        line for k in range(most + 1) for line in (f"a{k}[0]", "... 98 more", f"a{k}[99]")
    ]


def test_hundreds_of_long_arrays_are_cut_and_all_rows_counted():
    lines = printed(arrays(**{f"a{k}": 10 for k in range(300)}))
    assert len(lines) == MAX_PRINTED_ROWS + 1
    counts = [int(line.split()[1]) if line.startswith("...") else 1 for line in lines]
    assert sum(counts) == 3000


def test_the_largest_rows_are_found_by_a_column():
    table = Table(("a", "b", "c", "d"), {"mean": np.array([1.0, np.nan, 3.0, 1.0])})
    by_mean = largest(table, "mean", None)
    assert by_mean.rows == ("c", "a", "d", "b")
    np.testing.assert_array_equal(by_mean["mean"], [3, 1, 1, np.nan])
    assert largest(table, "mean", 1).rows == ("c",)
    assert largest(table, None, 2).rows == ("a", "b")
    assert largest(table, None, 9).rows == table.rows


@pytest.mark.parametrize("sort", ["sd", True, ["mean"]])
def test_an_unknown_column_lists_the_known(sort):
    with pytest.raises(ValueError, match=r"sort: unknown column .* Known: mean\."):
        largest(numbered(3), sort, None)


@pytest.mark.parametrize("top", [0, -1, 2.0, True])
def test_the_number_of_rows_is_a_positive_integer(top):
    with pytest.raises(ValueError, match=r"top: got .* expected an integer >= 1"):
        largest(numbered(3), None, top)


def test_a_sorted_table_is_cut_in_the_middle():
    n = MAX_PRINTED_ROWS + 60
    table = largest(numbered(n), "mean", None)
    lines = str(table).split("\n")
    half = MAX_PRINTED_ROWS // 2
    assert len(lines) == MAX_PRINTED_ROWS + 2
    names = [line.split()[0] for line in lines[1:]]
    assert names[:half] == [f"x[{n - 1 - i}]" for i in range(half)]
    assert lines[half + 1] == "... 60 more"
    assert names[half + 1 :] == [f"x[{half - 1 - i}]" for i in range(half)]
    assert len(table.to_dict()) == n


def test_html_escapes_names():
    page = TABLE._repr_html_()
    assert page.startswith("<table><tr><th></th><th>mean</th><th>sd</th></tr>")
    assert "<td>a&lt;b</td><td>3</td><td>1e-07</td>" in page
    assert page.count("<tr>") == 4
    assert page.endswith("</table>")
