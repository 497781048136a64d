"""Columns of categories are codes, and further data are coded by the names of a fit."""

import itertools

import numpy as np
import pytest

from advi.data.open_source import open_source
from advi.data.tables import tables_and_names, without_tables

pd = pytest.importorskip("pandas")
NAMES = ("Anoka", "Aitkin", "Becker")  # in no alphabetical order
TEXT = ["Becker", "Anoka", "Becker", "Aitkin"]
CODES = [2, 0, 2, 1]
KNOWN = {"county": NAMES}


def in_pandas(text, names):
    return pd.DataFrame({"county": pd.Categorical(text, names)})


def in_a_dict(text, names):
    return {"county": in_pandas(text, names)["county"]}


def bare(text, names):
    return {"county": pd.Categorical(text, names)}


def in_polars(text, names):
    polars = pytest.importorskip("polars")
    return polars.DataFrame({"county": polars.Series(text, dtype=polars.Enum(names))})


def in_arrow(text, names):
    return pytest.importorskip("pyarrow").Table.from_pandas(in_pandas(text, names))


KINDS = [in_pandas, in_a_dict, bare, in_polars, in_arrow]


def codes(data, *known):
    column = without_tables(data, *known)["county"]
    assert column.dtype == np.int32
    return column.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_categories_are_the_reference_and_others_are_coded_by_name(kind):
    data, names = tables_and_names(kind(TEXT, list(NAMES)))
    assert data["county"].tolist() == CODES
    assert names.categories == KNOWN
    for order in itertools.permutations(NAMES):
        assert codes(kind(TEXT, list(order)), KNOWN) == CODES
    assert codes(kind(["Aitkin", "Becker"], ["Becker", "Aitkin"]), KNOWN) == [1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_the_reference_lacks_is_listed_if_a_row_has_it(kind):
    assert codes(kind(TEXT, ["Zz", *NAMES]), KNOWN) == CODES
    wrong = kind(["Zz", "Anoka", "Yy"], ["Yy", "Zz", *NAMES])
    with pytest.raises(ValueError, match=r"got 'Yy', 'Zz' in the column 'county'; .*'Anoka', 'Ai"):
        without_tables(wrong, KNOWN)


@pytest.mark.parametrize("kind", KINDS)
def test_categories_that_a_fit_does_not_know_are_no_numbers_to_it(kind):
    with pytest.raises(TypeError, match="categories in the column 'county', which the fit does"):
        without_tables(kind(TEXT, list(NAMES)))


def test_coords_of_the_user_are_the_reference():
    data, names = tables_and_names(in_pandas(TEXT, ["Becker", "Anoka", "Aitkin"]), KNOWN)
    assert data["county"].tolist() == CODES
    assert names.categories == KNOWN


def test_categorical_columns_of_polars_do_not_depend_on_what_was_read_before():
    polars = pytest.importorskip("polars")
    column = polars.Series("county", TEXT, dtype=polars.Categorical)
    _, names = tables_and_names(polars.DataFrame({"county": column}))
    assert names.categories["county"] == ("Aitkin", "Anoka", "Becker")
    assert codes({"county": column[:1]}, names.categories) == [2]


def test_chunks_of_arrow_have_dictionaries_of_their_own():
    arrow = pytest.importorskip("pyarrow")
    parts = [arrow.array(part).dictionary_encode() for part in (TEXT[:2], TEXT[2:])]
    table = arrow.table({"county": arrow.chunked_array(parts)})
    data, names = tables_and_names(table)
    assert [names.categories["county"][code] for code in data["county"]] == TEXT
    assert codes(table, KNOWN) == CODES


def test_numbers_and_flags_may_be_categories_and_flags_are_numbers():
    frame = pd.DataFrame({"year": pd.Categorical([2021, 2020]), "floor": [True, False]})
    data, names = tables_and_names(frame)
    assert names.categories == {"year": (2020, 2021)}
    assert data["year"].tolist() == [1, 0]
    assert np.asarray(data["floor"]).dtype == bool
    assert without_tables({"year": frame["year"]}, {"year": ("2021", "2020")})["year"].tolist() == [
        0,
        1,
    ]


def test_a_dataset_comes_in_the_order_of_the_known_coords():
    xarray = pytest.importorskip("xarray")
    y = xarray.Dataset(
        {"y": ("county", [1.0, 2.0, 3.0])}, {"county": ["Aitkin", "Becker", "Anoka"]}
    )
    data, names = tables_and_names(y)
    assert data["y"].tolist() == [1, 2, 3]
    assert names.coords["county"].tolist() == ["Aitkin", "Becker", "Anoka"]
    assert without_tables(y, KNOWN)["y"].tolist() == [3, 1, 2]
    assert without_tables(y.isel(county=[0, 1]), KNOWN)["y"].tolist() == [1, 2]


def test_every_batch_of_a_stream_is_coded_by_the_first_one():
    first, second = (
        in_pandas(TEXT, list(NAMES)),
        in_pandas(["Aitkin", "Anoka"], ["Aitkin", "Anoka"]),
    )
    source = open_source([first, second], 6, None, "float32").batched(4, 2)
    with source.epoch(6, 0) as blocks:
        found = [np.asarray(rows["county"]) for rows, _ in blocks]
    assert np.concatenate(found).tolist() == [*CODES, 1, 0]


def test_whole_numbers_are_not_taken_for_codes_of_categories_that_are_whole_numbers():
    first = pd.DataFrame({"year": pd.Categorical([2020, 2022])})
    known = tables_and_names(first)[1].categories
    assert without_tables(pd.DataFrame({"year": pd.Categorical([2022])}), known)["year"] == [1]
    for other in (pd.DataFrame({"year": [2022, 2020]}), {"year": np.array([0, 1])}):
        with pytest.raises(ValueError, match=r"'year'.*whole numbers, 2020, 2022.*astype"):
            without_tables(other, known)
    # of names there is no doubt
    assert without_tables({"county": np.array([0, 1])}, KNOWN)["county"].tolist() == [0, 1]
