"""The sentence templates: nothing of a value or a person stands outside the value, and bad templates are refused."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest

import knowcap.corpus.templates as module
from knowcap.corpus.templates import SENTENCES, Template, check_template, load_templates
from knowcap.facts import CorpusError
from knowcap.knowledge.pools import load_pools
from knowcap.recipe import LISTS


FOLDER = Path(module.__file__).parent / "templates"
# Written for this test, not taken from the source: the form of a line, and words that show a person's gender.
FORM = re.compile(r"\{subject\}( [A-Za-z]+)+ \{value\}( [a-z]+)*\.")
GENDER = (
    "he she him her his hers himself herself they them their theirs themselves man woman boy girl son daughter "
    "husband wife father mother brother sister mr mrs ms sir madam male female alumnus alumna chairman actor actress"
).split()
# The words that may stand right before a value of these sentences.
BEFORE_VALUE = {
    "birth_date": ("on", "of", "from", "dated", "as", "to", "given", "wrote", "celebrated"),
    "birth_city": ("in", "from", "of", "to", "called", "named", "described"),
    "work_city": ("in", "to", "used"),
}


def lines_of(sentence: str, lists: str) -> list[str]:
    content = (FOLDER / lists / f"{sentence}.txt").read_bytes().decode("ascii")
    assert content.endswith("\n") and "\r" not in content
    return content.removesuffix("\n").split("\n")


each_list = pytest.mark.parametrize("lists", LISTS)


@each_list
@pytest.mark.parametrize("sentence", SENTENCES)
def test_every_template_has_the_form_and_tells_nothing_before_the_value(sentence: str, lists: str) -> None:
    lines = lines_of(sentence, lists)
    assert len(lines) >= 46 and len(set(lines)) == len(lines)
    assert [line for line in lines if not FORM.fullmatch(line)] == []
    for line in lines:
        words = re.findall(r"[a-z]+", line.replace("{subject}", "").replace("{value}", "").lower())
        assert not set(words) & set(GENDER), line
        assert words[0] == "was" or not words[0].endswith("s"), f"{line} is not in the past tense"
        last = line.partition(" {value}")[0].split()[-1]
        assert last not in ("a", "an", "the"), line
        assert last in BEFORE_VALUE.get(sentence, (last,)), line


@each_list
@pytest.mark.parametrize("sentence", SENTENCES)
def test_most_templates_end_with_the_value_and_the_plainest_come_first(sentence: str, lists: str) -> None:
    lines = lines_of(sentence, lists)
    suffixes = [line.partition("{value}")[2] for line in lines]
    assert len(set(suffixes)) <= 6 and suffixes.count(".") >= 0.9 * len(lines)
    assert set(suffixes[:40]) == {"."}
    assert max(len(line.split()) for line in lines[:5]) <= 6
    mean = [sum(len(line) for line in half) / len(half) for half in (lines[:25], lines[25:])]
    assert mean[0] < mean[1]


@each_list
def test_no_text_before_a_value_belongs_to_two_sentences(lists: str) -> None:
    templates = load_templates(lists=lists)
    prefixes = {sentence: {template.prefix for template in found} for sentence, found in templates.items()}
    assert [(a, b) for a, b in combinations(SENTENCES, 2) if prefixes[a] & prefixes[b]] == []


@each_list
def test_the_loader_agrees_with_the_files_line_by_line(lists: str) -> None:
    templates = load_templates(lists=lists)
    assert tuple(templates) == SENTENCES
    for sentence, found in templates.items():
        rendered = ["{subject}" + template.prefix + "{value}" + template.suffix for template in found]
        assert rendered == lines_of(sentence, lists)
        assert all(template.prefix[0] == template.prefix[-1] == " " for template in found)


@each_list
def test_no_template_holds_a_value_of_the_lists(lists: str) -> None:
    pools = load_pools(lists=lists)
    values = {"birth_city": pools.birth_cities, "work_city": pools.work_cities, "university": pools.universities,
              "major": pools.majors, "employer": pools.employers}  # fmt: skip
    for sentence in values:
        assert [
            (line, value) for line in lines_of(sentence, lists) for value in values[sentence] if value in line
        ] == []


@pytest.mark.parametrize("count", [1, 12, 46])
def test_the_first_templates_are_kept(count: int) -> None:
    whole, part = load_templates(), load_templates(count)
    assert part == {sentence: found[:count] for sentence, found in whole.items()}
    assert {len(found) for found in part.values()} == {count}


@pytest.mark.parametrize("count", [0, -1, 1000])
def test_a_number_of_templates_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"num_templates: got {count}, expected 1 to \d+, .*birth_date \d+.*choose"):
        load_templates(count)


@pytest.mark.parametrize(
    ("line", "reported"),
    [
        ("{subject} was born on.", "got 0 {value}, expected exactly one"),
        ("{subject} liked {value} and {value}.", "got 2 {value}"),
        ("Someone worked at {value}.", "got 0 {subject}"),
        ("In town, {subject} worked at {value}.", "begin with '{subject} '"),
        ("{subject}'s birthday was {value}.", "begin with '{subject} '"),
        ("{subject} {value}.", "expected words"),
        ("{subject} worked at{value}.", "one space before {value}"),
        ("{subject} worked at  {value}.", "two spaces"),
        ("{subject} worked  at {value}.", "two spaces"),
        ("{subject} worked at {value} {place}.", "other braces"),
        ("{subject} worked at {value}", "'.' at the end"),
        ("{subject} worked at {value}!", "'.' at the end"),
        ("{subject} worked at {value}s.", "a space after {value}"),
        ("{subject} worked as a {value}.", "got 'a' before {value}"),
        ("{subject} worked at An {value}.", "got 'An' before {value}"),
        ("{subject} spent his days at {value}.", "got 'his'"),
        ("{subject} worked at {value} with Her team.", "got 'Her'"),
        ("{subject} built a house (theirs) in {value}.", "got 'theirs'"),
        ("{subject} gave himself to {value}.", "got 'himself'"),
    ],
)
def test_a_template_that_breaks_a_rule_is_refused_with_file_and_line(line: str, reported: str) -> None:
    with pytest.raises(CorpusError) as caught:
        check_template(line, "employer.txt line 7")
    assert str(caught.value).startswith(f"employer.txt line 7: got {line!r}: ") and reported in str(caught.value)


@pytest.mark.parametrize(
    ("line", "template"),
    [
        ("{subject} was born on {value}.", Template(" was born on ", ".")),
        ("{subject} called {value} home, then and there.", Template(" called ", " home, then and there.")),
        ("{subject} held a master's degree in {value}, too.", Template(" held a master's degree in ", ", too.")),
        ("{subject} loved the theme of {value}.", Template(" loved the theme of ", ".")),
        ("{subject} travaillait à {value}.", Template(" travaillait à ", ".")),
    ],
)
def test_a_template_within_the_rules_is_split_at_its_value(line: str, template: Template) -> None:
    assert check_template(line, "here") == template


def write_templates(folder: Path, **changes: bytes | None) -> Path:
    for sentence, content in (dict.fromkeys(SENTENCES, b"{subject} knew {value}.\n") | changes).items():
        if content is not None:
            (folder / f"{sentence}.txt").write_bytes(content)
    return folder


def test_a_users_folder_replaces_the_templates(tmp_path: Path) -> None:
    windows = b"\xef\xbb\xbf{subject} read {value}.\r\n\r\n{subject} did {value} well.\r\n"
    folder = write_templates(tmp_path, major=windows)
    templates = load_templates(templates_dir=str(folder))
    assert templates["major"] == (Template(" read ", "."), Template(" did ", " well."))
    assert templates["employer"] == (Template(" knew ", "."),)
    with pytest.raises(ValueError, match=r"num_templates: got 2, expected 1 to 1, .*major 2"):
        load_templates(2, folder)


def test_all_problems_of_all_templates_are_reported_at_once(tmp_path: Path) -> None:
    folder = write_templates(
        tmp_path,
        birth_city=None,
        university=b"\n",
        major=b"{subject} read {value}.\n\n{subject} read {value}.\n{subject} was a {value}.\n",
        employer=b"{subject} knew {value}.\n{subject} left his {value}\n",
    )
    with pytest.raises(CorpusError) as caught:
        load_templates(templates_dir=folder)
    message = str(caught.value)
    assert "missing: birth_city.txt; add them" in message and "university.txt line 1" in message
    assert "major.txt line 3: got '{subject} read {value}.', already on line 1" in message
    assert "major.txt line 4: " in message and "got 'a' before {value}" in message
    assert "employer.txt line 2: " in message and "got 'his'" in message and "'.' at the end" in message


def test_a_templates_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"got .*nowhere, expected a folder with .*birth_date.txt.*check the path"):
        load_templates(templates_dir=tmp_path / "nowhere")
