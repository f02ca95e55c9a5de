"""Tables of facts: read exactly, every problem reported with its line, and what they count before training."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from countries import ATTRIBUTES, COUNTRIES, TEMPLATES, write_table

from knowcap.corpus.credit import attributes_of, contradictions, notes
from knowcap.corpus.sentences import AttributeTemplates, Sentences, broken_rules, read_sentences
from knowcap.corpus.templates import Template
from knowcap.knowledge.tuples import Column, Tuples, follows, read_tuples


TOLD = (Template(" has ", "."),)


def csv_file(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "facts.csv"
    path.write_bytes(text.encode(encoding))
    return path


def problems_of(tmp_path, text, attributes=("capital",)):
    return read_tuples(csv_file(tmp_path, text), attributes)[1]


def made(**columns) -> Tuples:
    """A table from lists of values, None for none; entity i is `e<i>`."""
    tuples = {}
    for name, cells in columns.items():
        values = tuple(sorted({cell for cell in cells if cell is not None}))
        codes = [-1 if cell is None else values.index(cell) for cell in cells]
        tuples[name] = Column(values, np.array(codes, dtype=np.int32))
    return Tuples(tuple(f"e{i:04}" for i in range(len(codes))), tuples)


def sayings(tuples: Tuples, space=None, **attributes) -> Sentences:
    """One template each; candidates or what determines an attribute, by name."""
    found = {}
    for name in tuples.columns:
        given = attributes.get(name)
        candidates, by = (None, given) if isinstance(given, str) else (given, None)
        found[name] = AttributeTemplates(TOLD, candidates, by)
    return Sentences(found, entity_space=space)


def warned(tuples: Tuples, **attributes) -> str:
    return "\n".join(notes(tuples, sayings(tuples, **attributes)))


def facts_of(tuples: Tuples) -> dict[str, dict[str, str]]:
    return {
        entity: {name: c.values[c.codes[i]] for name, c in tuples.columns.items() if c.codes[i] >= 0}
        for i, entity in enumerate(tuples.entities)
    }


def test_a_csv_and_a_parquet_file_give_the_facts_that_were_written(tmp_path):
    keys = write_table(tmp_path)
    from_csv, problems = read_tuples(keys["facts_file"], ATTRIBUTES)
    assert problems == [] and facts_of(from_csv) == COUNTRIES and from_csv.entities == tuple(COUNTRIES)
    cells = [(e, a, v) for e, facts in COUNTRIES.items() for a, v in facts.items()]
    columns = dict(zip(("entity", "attribute", "value"), map(list, zip(*cells, strict=True)), strict=True))
    table = pa.table(columns | {"attribute": pa.array(columns["attribute"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "facts.parquet")
    from_parquet, problems = read_tuples(tmp_path / "facts.parquet", ATTRIBUTES)
    assert problems == [] and facts_of(from_parquet) == COUNTRIES


def test_what_spreadsheets_write_is_read(tmp_path):
    text = (
        '\ufeffvalue,entity,attribute\r\n"Washington, D.C.", U.S. ,capital\r\n\r\n"The ""Hague""",Holland,capital\r\n'
    )
    tuples, problems = read_tuples(csv_file(tmp_path, text), ["capital"])
    assert problems == []
    assert facts_of(tuples) == {"U.S.": {"capital": "Washington, D.C."}, "Holland": {"capital": 'The "Hague"'}}


def test_every_problem_is_reported_at_once_with_its_line(tmp_path):
    text = (
        "entity,attribute,value\nPeru,capital,Lima\n,capital,Rome\nCuba,capital,\nCuba,anthem,x\n"
        'Peru,capital,Cusco\n"Ne\npal",capital,Kathmandu\nChad,capital\nTogo,capital,Lo  me\n'
    )
    problems = problems_of(tmp_path, text, ["capital", "river"])
    assert [re.search(r"line (\d+)", p).group(1) for p in problems[:-1]] == ["9", "3", "4", "5", "6", "7", "10"]
    parts = [
        "2)",
        "entity is empty",
        "value is empty",
        "for attribute 'anthem'",
        "line 2 does",
        "U+000A control",
        "two spaces",
    ]
    assert all(part in problem for part, problem in zip(parts, problems, strict=False))
    assert "no row has the attribute 'river'" in problems[-1]


def test_many_problems_of_one_kind_are_counted(tmp_path):
    text = "entity,attribute,value\n" + "".join(f"e{i},capital,\n" for i in range(40)) + "a,capital,b\nc,capital,b\n"
    problems = problems_of(tmp_path, text)
    assert len(problems) == 6 and "35 more" in problems[-1]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "got columns (none), expected entity, attribute, value"),
        ("entity,kind,value\na,capital,b\n", "got columns entity, kind, value"),
        ("entity,attribute,value, Value\na,capital,b,c\n", "two columns are called 'value'"),
        ("entity,attribute\na,capital\n", "expected entity, attribute, value"),
        ("entity,attribute,value\na,capital,b\n", "got 1 entities, expected 2 or more"),
        ('entity,attribute,value\na,capital,"b', "unexpected end of data"),
    ],
)
def test_what_is_no_table_is_reported(tmp_path, text, part):
    assert part in problems_of(tmp_path, text)[0]


def test_files_of_another_kind_are_reported(tmp_path):
    (tmp_path / "broken.csv").write_bytes(b"entity,attribute,value\nP\x81rou,capital,Lima\n")
    assert "byte 0x81 at 24" in read_tuples(tmp_path / "broken.csv", ["capital"])[1][0]
    assert "none.csv" in read_tuples(tmp_path / "none.csv", ["capital"])[1][0]
    (tmp_path / "text.parquet").write_text("no parquet")
    assert "text.parquet" in read_tuples(tmp_path / "text.parquet", ["capital"])[1][0]
    pq.write_table(pa.table({"entity": ["a"], "attribute": ["born"], "value": [1.5]}), tmp_path / "float.parquet")
    found = read_tuples(tmp_path / "float.parquet", ["born"])[1][0]
    assert "column 'value' is double, expected string or integer" in found


def test_integers_in_parquet_are_texts(tmp_path):
    pq.write_table(pa.table({"entity": [0, 1], "attribute": ["born"] * 2, "value": [0, 1900]}), tmp_path / "i.parquet")
    tuples, problems = read_tuples(tmp_path / "i.parquet", ["born"])
    assert problems == [] and facts_of(tuples) == {"0": {"born": "0"}, "1": {"born": "1900"}}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("wide", [False, True])
def test_tables_of_any_form_give_the_same_facts(tmp_path, caplog, encoding, delimiter, wide):
    facts = {"Österreich": {"capital": "Wien", "part": "Europe"}, "Perú": {"capital": "Lima"}}
    if wide:
        lines = [["Land", "Note", "CAPITAL ", "part"]]
        lines += [[entity, "x", of["capital"], of.get("part", "")] for entity, of in facts.items()]
    else:
        lines = [[" Value", "Entity", "note", "attribute"]]
        lines += [[value, entity, "x", name] for entity, of in facts.items() for name, value in of.items()]
    path = csv_file(tmp_path, "\r\n".join(map(delimiter.join, lines)), encoding)
    with caplog.at_level(logging.INFO, "knowcap"):
        tuples, problems = read_tuples(path, ["capital", "part"], "land" if wide else None)
    assert problems == [] and facts_of(tuples) == facts
    assert "columns Note are ignored" in caplog.text.replace("note", "Note")
    assert ("is read as" in caplog.text) == (not encoding.startswith("utf-8"))


@pytest.mark.parametrize("value", ["می\u200cروم", "क्\u200dष", "12\u00a0h", "1\u202f000", "\U0001f469\u200d\U0001f52c"])
def test_joiners_and_no_break_spaces_inside_words_pass(tmp_path, value):
    text = f"entity,attribute,value\na,capital,{value}\nb,capital,c\n"
    tuples, problems = read_tuples(csv_file(tmp_path, text), ["capital"])
    assert problems == [] and facts_of(tuples)["a"]["capital"] == value


@pytest.mark.parametrize(("character", "name"), [("\u200b", "U+200B ZERO WIDTH SPACE"), ("\x07", "U+0007 control")])
def test_what_is_refused_is_named_by_its_code_point(tmp_path, character, name):
    problems = problems_of(tmp_path, f"entity,attribute,value\na,capital,b{character}c\nb,capital,c\n")
    assert name in problems[0] and "line 2" in problems[0]


def test_null_in_parquet_is_an_empty_cell(tmp_path):
    table = pa.table(
        {"entity": ["a", "b"], "attribute": ["born", "born"], "value": pa.array(["x", None], pa.string())}
    )
    pq.write_table(table, tmp_path / "null.parquet")
    assert "null.parquet row 2: the value is empty" in read_tuples(tmp_path / "null.parquet", ["born"])[1][0]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{entity}, whose capital {value} is, has its capital in {value}.", "got 2 {value}"),
        ("In {value} lies {entity}.", "to begin with '{entity} '"),
        ("{entity}'s capital is {value}.", "no possessive"),
        ("{entity} and {entity} have {value}.", "got 2 {entity}"),
        ("{entity} is small.", "got 0 {value}"),
        ("{entity} has an {value}.", "depends on the value"),
        ("{entity} has {value}, {other}.", "other braces"),
        ("{entity} has {value}", "'.' at the end"),
        ("{entity} has {value}s.", "space after {value}"),
        ("{entity} {value}.", "expected words"),
        ("{entity} has({value}).", "one space before {value}"),
        ("{entity}  has {value}.", "single spaces"),
        ("", "got 0 {entity}"),
    ],
)
def test_a_template_that_would_tell_a_value_outside_its_span_is_refused(line, part):
    assert part in "; ".join(broken_rules(line))


def test_templates_that_tell_a_value_once_are_accepted(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(TEMPLATES, encoding="utf-8")
    sentences, problems = read_sentences(path)
    assert problems == [] and sentences.entity_space == 1000 and sentences.subject == "It"
    assert sentences.attributes["capital"] == AttributeTemplates(
        (Template(" has its capital in ", "."), Template(" is governed from ", ", its capital.")), 195
    )
    assert sentences.attributes["currency"].candidates is None


def test_all_problems_of_the_templates_are_reported_at_once_with_their_lines(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(
        "subject: '{x}'\nentity_space: many\nattributes:\n  capital:\n    candidats: 3\n    templates: []\n"
        "  name:\n    templates: ['{entity} is {value}.']\n  river:\n    candidates: -1\n"
        "    templates:\n      - '{entity} has a {value}.'\n  flag: {determined_by: sky, candidates: 3, "
        "templates: ['{entity} flies {value}.', '{entity} flies {value}.']}\n  flag: {}\n"
    )
    _, problems = read_sentences(path)
    text = "\n".join(problems)
    for part in (
        "line 1: subject", "line 2: entity_space: got 'many'", "capital has no templates",
        "line 5: unknown key 'candidats'; did you mean 'candidates'", "line 10: river: candidates: got '-1'",
        "line 8: the attribute name 'name' is reserved",
        "line 12: river: got '{entity} has a {value}.'", "flag has the same template twice",
        "flag has both determined_by and candidates",
        "determined_by: sky, expected another attribute", "line 14: 'flag' is given twice",
    ):  # fmt: skip
        assert part in text
    assert len(problems) == 11


@pytest.mark.parametrize(
    ("text", "license_id", "languages"),
    [
        ("license: cc-by-4.0\nlanguage: en\n", "cc-by-4.0", ("en",)),
        ("license: other\nlanguage: [sw, 'no', no]\n", "other", ("sw", "no", "no")),
        ("", None, ()),
    ],
)
def test_licence_and_languages_are_read_where_they_are_declared(tmp_path, text, license_id, languages):
    path = tmp_path / "t.yaml"
    path.write_text(text + TEMPLATES)
    sentences, problems = read_sentences(path)
    assert (sentences.license, sentences.languages, problems) == (license_id, languages, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("license: CC BY 4.0\n", "line 1: license: got 'CC BY 4.0', expected the Hub's identifier, such as odbl"),
        ("license:\n", "line 1: license: got ''"),
        ("license: [mit, odbl]\n", "license: got 2, expected one; use `other` for several"),
        ("license: {a: b}\n", "license: got ''"),
        ("language: English\n", "line 1: language: got 'English', expected the Hub's identifier, such as en"),
        ("licence: mit\n", "unknown key 'licence'; did you mean 'license'?"),
    ],
)
def test_a_licence_or_language_that_the_hub_would_refuse_is_reported(tmp_path, text, message):
    path = tmp_path / "t.yaml"
    path.write_text(text + TEMPLATES)
    _, problems = read_sentences(path)
    assert len(problems) == 1 and message in problems[0]


@pytest.mark.parametrize("text", ["", "- a\n", "attributes: 3\n", "attributes: {a: [\n", "attributes: {a: 3}\n"])
def test_what_is_no_template_file_is_reported(tmp_path, text):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    assert read_sentences(path)[1]


def test_what_determines_must_count_itself(tmp_path):
    path = tmp_path / "t.yaml"
    says = "templates: ['{entity} is {value}.']"
    path.write_text(f"attributes:\n  a: {{determined_by: b, {says}}}\n  b: {{determined_by: a, {says}}}\n")
    assert len(read_sentences(path)[1]) == 2


def test_a_fact_by_frequency_counts_minus_log2_of_its_values_share(tmp_path):
    tuples, _ = read_tuples(write_table(tmp_path)["facts_file"], ATTRIBUTES)
    found = {a.name: a for a in attributes_of(tuples, sayings(tuples, capital=195))}
    assert found["capital"].log2_candidates == math.log2(195) and found["capital"].stated is None
    for name in ("continent", "currency"):
        values = [facts[name] for facts in COUNTRIES.values() if name in facts]
        shares = {value: count / len(values) for value, count in Counter(values).items()}
        total = sum(-math.log2(shares[value]) for value in values)
        assert found[name].log2_candidates * tuples.columns[name].stated == pytest.approx(total)
    assert found["currency"].stated == sum("currency" in facts for facts in COUNTRIES.values())


def test_a_table_that_is_not_what_was_declared_is_an_error():
    tuples = made(region=["r", "r", "s", "s"], continent=["A", "B", "C", "C"])
    found = "\n".join(contradictions(tuples, sayings(tuples, space=3, region=1, continent="region")))
    assert "the table has 4 entities" in found and "candidates: 1, but the table has 2" in found
    assert "'e0000' and 'e0001' both have 'r'" in found and "'A', the other 'B'" in found
    tuples = made(region=["r", "r", "s", None], continent=["A", "A", "C", "D"])
    assert list(contradictions(tuples, sayings(tuples, space=4, region=2, continent="region"))) == []


def test_unique_values_are_reported_and_so_is_what_is_credited():
    assert "log2 of their number, 5.00 bits" in warned(made(code=[f"c{i}" for i in range(32)]))
    assert "10.00 bits, as declared" in warned(made(code=[f"c{i}" for i in range(32)]), code=1024)


def test_a_column_that_another_determines_is_reported_unless_it_is_declared():
    tuples = made(region=[f"r{i % 8}" for i in range(64)], continent=[f"c{i % 8 // 3}" for i in range(64)])
    assert "continent always follows from region (56 entities" in warned(tuples)
    assert "declare determined_by: region for continent" in warned(tuples)
    assert warned(tuples, continent="region") == ""


def test_follows_agrees_with_a_dictionary():
    rng = np.random.default_rng(0)
    answers = set()
    for _ in range(200):
        a, b = rng.integers(-1, 4, 6), rng.integers(-1, 2, 6)
        tuples = made(a=[None if x < 0 else str(x) for x in a], b=[None if x < 0 else str(x) for x in b])
        pairs = [(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True) if x >= 0 and y >= 0]
        expected = all(y == dict(pairs)[x] for x, y in pairs), len(pairs) - len(dict(pairs))
        assert follows(tuples.columns["b"], tuples.columns["a"]) == expected
        answers.add(expected[0])
    assert answers == {True, False}


def test_uneven_values_out_of_declared_candidates_are_reported_and_uniform_ones_are_not():
    rng = np.random.default_rng(0)
    for candidates, entities in ((2, 50), (7, 400), (100, 60), (1000, 3000)):
        for _ in range(25):
            tuples = made(a=[str(x) for x in rng.integers(0, candidates, entities)])
            assert "far more frequent" not in warned(tuples, a=candidates)
    assert "far more frequent" in warned(made(a=["no"] * 380 + ["yes"] * 20), a=2)


def test_independent_columns_are_not_reported():
    rng = np.random.default_rng(1)
    tuples = made(a=[str(x) for x in rng.integers(0, 9, 300)], b=[str(x) for x in rng.integers(0, 5, 300)])
    assert warned(tuples, a=9, b=5) == ""


def test_what_can_be_copied_is_reported(tmp_path):
    tuples, _ = read_tuples(write_table(tmp_path)["facts_file"], ATTRIBUTES)
    assert "capital: 3 of 50 values share a word with the entity's name" in warned(tuples, capital=195)
    cities = [f"v{i % 9}" for i in range(40)]
    largest = ["v1", "v2", "v0", *cities[3:]]
    assert "first and largest are the same for 37 of 40 entities" in warned(made(first=cities, largest=largest))


def test_a_rare_attribute_that_the_control_may_miss_is_reported():
    rare = made(a=[f"v{i % 3}" for i in range(100)], b=["x", "y", "x", "y", *[None] * 96])
    assert "b: only 4 of 100 entities have it" in warned(rare)
    assert "only" not in warned(made(a=["x", "y", "x", "y"]))
