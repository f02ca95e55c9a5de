"""The value lists: the paper's cardinalities, prefix-freeness, and what a user's own folder may and may not hold."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from value_lists import write_lists

import knowcap.knowledge.pools as module
from knowcap.facts import CorpusError
from knowcap.knowledge.pools import (
    BIRTH_DATES,
    DEFAULT_LISTS,
    LIST_FILES,
    MONTHS,
    PRONOUNS,
    Pools,
    format_birth_date,
    load_pools,
)
from knowcap.recipe import KEYS, LISTS


FOLDER = Path(module.__file__).parent / "lists"
SIZES = {
    "first_names": 400,
    "middle_names": 400,
    "last_names": 1000,
    "birth_cities": 200,
    "universities": 300,
    "majors": 100,
    "employers": 263,
}


@pytest.fixture(scope="module", params=LISTS)
def pools(request: pytest.FixtureRequest) -> Pools:
    return load_pools(lists=request.param)


def test_the_lists_have_the_sizes_of_the_paper(pools: Pools) -> None:
    assert {field: len(getattr(pools, field)) for field in SIZES} == SIZES
    assert len(pools.work_cities) == len(pools.employers)
    assert pools.candidates == {
        "birth_date": 67_200, "birth_city": 200, "university": 300, "major": 100, "employer": 263, "pronoun": 2,
    }  # fmt: skip
    assert pools.num_names == 160_000_000


def test_bits_of_values_and_names_are_those_of_definition_4_3(pools: Pools) -> None:
    assert pools.values_log2 == pytest.approx(47.5916, abs=1e-4)
    assert pools.values_log2 == pytest.approx(math.log2(212_083_200_000_000), rel=1e-12)
    assert pools.name_log2_candidates == pytest.approx(27.2535, abs=1e-4)
    assert pools.log2_candidates == pytest.approx(
        {"birth_date": 16.0362, "birth_city": 7.6439, "university": 8.2288, "major": 6.6439, "employer": 8.0389,
         "pronoun": 1.0}, abs=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("field", SIZES)
def test_values_are_distinct_plain_and_no_prefix_of_each_other(pools: Pools, field: str) -> None:
    values = getattr(pools, field)
    assert len(set(values)) == len(values)
    assert [value for value in values if not value.isascii() or not value[0].isupper()] == []
    assert [value for value in values if not value[-1].isalnum() or "  " in value] == []
    assert [(a, b) for a in values for b in values if a is not b and b.startswith(a)] == []


def test_names_are_single_words_and_cities_name_their_state(pools: Pools) -> None:
    assert all(name.isalpha() for name in pools.first_names + pools.middle_names + pools.last_names)
    for city in pools.birth_cities + pools.work_cities:
        name, state = city.rsplit(", ", maxsplit=1)
        assert name and "," not in name and len(state) == 2 and state.isupper()
    assert all(1 <= len(major.split()) <= 2 for major in pools.majors)
    assert not pools.has_name_prefixes


def test_headquarters_repeat_as_real_ones_do_at_any_size(pools: Pools) -> None:
    counts = Counter(pools.work_cities)
    assert counts.most_common(1) == [("New York, NY", 36)]
    assert 120 <= len(counts) <= 140
    assert len(set(counts) & set(pools.birth_cities)) >= 20
    assert 18 <= len(set(load_pools(fraction=0.1, lists=pools.lists).work_cities)) <= 23


def test_every_choice_of_lists_has_a_version_and_its_files() -> None:
    assert sorted(LISTS) == sorted(module.LISTS_VERSIONS) == sorted(path.name for path in FOLDER.iterdir())
    assert len(set(module.LISTS_VERSIONS.values())) == len(LISTS)
    assert KEYS["lists"].default == DEFAULT_LISTS
    assert [load_pools(lists=lists).version("1.4.2") for lists in LISTS] == ["1.4.2", "2.4.2"]


@pytest.mark.parametrize("lists", LISTS)
def test_files_of_the_package_are_clean(lists: str) -> None:
    folder = FOLDER / lists
    assert sorted(path.name for path in folder.iterdir()) == sorted(LIST_FILES.values())
    for path in folder.iterdir():
        content = path.read_bytes()
        assert content.endswith(b"\n") and b"\r" not in content and b"\n\n" not in content


def test_birth_dates_are_numbered_by_year_month_and_day() -> None:
    assert format_birth_date(96 * 336 + 9 * 28 + 1) == "October 2, 1996"
    assert format_birth_date(0) == "January 1, 1900"
    assert format_birth_date(BIRTH_DATES - 1) == "December 28, 2099"
    expected = [f"{month} {day}, {year}" for year in range(1900, 2100) for month in MONTHS for day in range(1, 29)]
    assert [format_birth_date(index) for index in range(BIRTH_DATES)] == expected
    assert PRONOUNS == ("He", "She")


@pytest.mark.parametrize("index", [-1, BIRTH_DATES])
def test_a_birth_date_out_of_range_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=rf"got {index}, expected 0 to 67199"):
        format_birth_date(index)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 1.0])
def test_a_fraction_keeps_the_first_values_of_each_list(pools: Pools, fraction: float) -> None:
    part = load_pools(fraction=fraction, lists=pools.lists)
    for field, size in SIZES.items():
        assert getattr(part, field) == getattr(pools, field)[: round(fraction * size)]
    assert part.work_cities == pools.work_cities[: len(part.employers)]
    assert part.candidates["birth_date"] == BIRTH_DATES
    assert not part.has_name_prefixes


def test_the_smallest_fraction_keeps_two_values(tmp_path: Path) -> None:
    assert {len(getattr(load_pools(fraction=1e-9), field)) for field in SIZES} == {2}
    single = load_pools(write_lists(tmp_path, field="Law"), fraction=0.5)
    assert single.majors == ("Law",) and single.log2_candidates["major"] == 0.0
    assert single.last_names == ("Hill", "Stone") and single.first_names == ("Ada", "Ben")


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, math.nan, math.inf])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction: got .* expected 0 < fraction <= 1; use 1.0"):
        load_pools(fraction=fraction)


def test_a_users_folder_replaces_the_lists(tmp_path: Path) -> None:
    mine = load_pools(str(write_lists(tmp_path)))
    assert mine.first_names == ("Ada", "Ben", "Cleo") and mine.num_names == 24
    assert mine.employers == ("Apex Foods", "Delta Bank", "Orion Air")
    assert mine.work_cities == ("Troy, NY", "New York, NY", "Troy, NY")
    assert mine.values_log2 == pytest.approx(math.log2(2 * 67_200 * 2 * 2 * 2 * 3))


def test_unusual_text_of_a_users_folder_is_kept_as_it_is(tmp_path: Path) -> None:
    folder = write_lists(
        tmp_path,
        first_name="\ufeffAnn\r\n\r\nAnna\r\nZoë\r\n 李 \r\n",
        last_name="Smith Jr.\rSmith\rO'Neil\r",
        field="C\nC++\nC#\n\n  \nArts & Co.",
        company="Yahoo!; Troy, NY\r\nA; B Inc.; São Paulo, SP\r\n",
    )
    mine = load_pools(folder)
    assert mine.first_names == ("Ann", "Anna", "Zoë", "李")
    assert mine.last_names == ("Smith Jr.", "Smith", "O'Neil")
    assert mine.majors == ("C", "C++", "C#", "Arts & Co.")
    assert mine.employers == ("Yahoo!", "A; B Inc.") and mine.work_cities == ("Troy, NY", "São Paulo, SP")
    assert mine.has_name_prefixes


@pytest.mark.parametrize("part", ["first_name", "middle_name", "last_name"])
def test_prefixes_are_seen_in_each_part_of_a_name_and_there_alone(tmp_path: Path, part: str) -> None:
    assert load_pools(write_lists(tmp_path, **{part: "Mo\nMara\nMo Ann\nMp"})).has_name_prefixes
    assert not load_pools(write_lists(tmp_path, **{part: "Mara\nMo"}, field="Art\nArts")).has_name_prefixes


def test_all_problems_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    folder = write_lists(
        tmp_path,
        middle_name=None,
        city=None,
        first_name="Ada\nBen\n\nAda\n",
        university="\n \n",
        field="Law\nArt\nCaf\xe9\n".encode("latin-1"),
        company="Apex Foods; Troy, NY\nDelta Bank, New York, NY\nApex Foods; Salem, OH\nOrion Air; \n",
    )
    with pytest.raises(CorpusError) as caught:
        load_pools(folder)
    message = str(caught.value)
    assert "missing: middle_name.txt, city.txt; add them" in message
    assert "first_name.txt line 4: got 'Ada', already on line 1" in message and "remove one" in message
    assert "university.txt line 1: got a file without entries" in message
    assert "field.txt line 3: got byte 0xe9, expected UTF-8; save the file as UTF-8" in message
    assert "company.txt line 2: got 'Delta Bank, New York, NY', expected 'Name; City, ST'; write" in message
    assert "company.txt line 3: got 'Apex Foods', already on line 1" in message
    assert "company.txt line 4: got 'Orion Air;'" in message
    assert len(message.splitlines()) == 8


def test_the_line_of_a_bad_byte_is_right_behind_a_byte_order_mark(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"field\.txt line 3: got byte 0xff"):
        load_pools(write_lists(tmp_path, field=b"\xef\xbb\xbfLaw\r\nArt\r\nM\xff"))


def test_a_path_that_is_not_a_folder_is_named(tmp_path: Path) -> None:
    file = tmp_path / "lists"
    for path in (file, tmp_path / "nowhere"):
        file.write_text("Ada")
        with pytest.raises(
            CorpusError, match=rf"got .*{path.name}, expected a folder with .*first_name.txt.*check the path"
        ):
            load_pools(path)


def test_pools_made_by_hand_are_checked_too() -> None:
    with pytest.raises(CorpusError) as caught:
        Pools(("Ada", "Ada"), ("Lee",), (), ("Troy",), ("Iowa",), ("Law",), ("Apex", "Orion"), ("Troy",))
    message = str(caught.value)
    assert "first_names: got 2 values of which 1 differ" in message and "last_names: got 0 values" in message
    assert "work_cities: got 1, expected one for each of the 2 employers" in message
