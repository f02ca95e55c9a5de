"""Files of others, made at random: each is read, and means what it says, or is refused with our own error."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzzing import check, examples, slower, texts, values
from hypothesis import strategies as st

from knowcap.corpus.sentences import ENTITY, VALUE, read_sentences
from knowcap.dataset.folder import DatasetError
from knowcap.dataset.prompts.facts import Problems, prompts_of
from knowcap.dataset.prompts.reading import PromptOptions, read_prompts
from knowcap.facts import (
    UNSPACED,
    Attribute,
    FactError,
    Knowledge,
    Row,
    Span,
    check_row,
    check_values,
    contains_words,
    scored_facts,
)
from knowcap.recipe import KEYS, RecipeError
from knowcap.recipe.yaml_reader import YamlError, load
from knowcap.recipe_file import read_recipe
from knowcap.run.folder import recipe_yaml
from knowcap.run.preflight import check_settings
from knowcap.sweep.file import read_sweep


def as_yaml(value: Any) -> str:
    """JSON, which YAML reads; halves of characters and numbers that JSON has not are written in other ways."""
    return json.dumps(value, ensure_ascii=False, default=str)


keys = st.one_of(st.sampled_from(sorted(KEYS)), texts)
mappings = st.dictionaries(keys, values, max_size=5)
damage = st.tuples(
    st.integers(0, 200),
    st.sampled_from(["", "*a", "&a ", "[", "{", ": ", "- ", "\n", "\t", "'", "!!int ", "? ", "\x00"]),
)


def damaged(text: str, where: tuple[int, str] | None) -> str:
    return text if where is None else text[: where[0]] + where[1] + text[where[0] :]


def write(file: Path, text: str) -> Path:
    file.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    return file


@examples
def test_recipes(examples, tmp_path):
    def holds(content, where):
        file = write(tmp_path / "a.yaml", damaged(as_yaml(content), where))
        recipe, problems, unusable = read_recipe(file, {"model_name": "gpt2-2-2"})
        problems += check_settings(recipe, set(unusable))
        assert all(isinstance(problem, str) and problem for problem in problems)
        if not problems:  # what it says is what is read, and read again from a run's folder
            again, wrong, _ = read_recipe(write(tmp_path / "b.yaml", recipe_yaml(recipe, {}, None)))
            assert again == recipe and wrong == []

    check(examples, holds, content=mappings, where=st.none() | damage)


@examples
def test_overrides(examples):
    def holds(words):
        try:
            recipe, problems, unusable = read_recipe("quickstart", words)
        except RecipeError:
            return
        problems += check_settings(recipe, set(unusable))
        assert all(isinstance(problem, str) for problem in problems)
        for name, text in itertools.pairwise(words):  # a number that is taken is the number that was given
            key = KEYS.get(name.removeprefix("--").replace("-", "_"))
            if (
                key is not None
                and key.type is int
                and words.count(name) == 1
                and not problems
                and text.isascii()
                and text.isdigit()
            ):
                assert getattr(recipe, key.name) == int(text)

    names = st.builds("--{}".format, keys)
    check(
        examples,
        holds,
        words=st.lists(
            names | texts | st.builds("{}={}".format, names, texts) | st.integers(0, 99).map(str), max_size=6
        ),
    )


@examples
def test_sweeps(examples, tmp_path):
    def holds(content, where):
        sweep, problems = read_sweep(write(tmp_path / "a.yaml", damaged(as_yaml(content), where)))
        if not problems and content.get("finding") is None:
            lists = [len(content["grid"][name]) for name in content.get("grid") or {}]
            assert len(sweep.cells) == math.prod(lists) * len(content.get("list") or [{}])

    lists = st.dictionaries(keys, st.lists(values, max_size=4) | values, max_size=4)
    content = st.fixed_dictionaries(
        {"base": st.sampled_from(["quickstart", "nothing"]) | values},
        optional={
            "grid": lists | values,
            "list": st.lists(mappings | values, max_size=3) | values,
            "best_of": values,
            "compare": values,
            "tolerance": values,
            "finding": values,
        },
    )
    check(examples, holds, content=content, where=st.none() | damage)


def test_a_grid_of_more_cells_than_anybody_runs_is_refused(tmp_path):
    grid = {"seed": list(range(300)), "num_people": list(range(1, 301)), "exposures": list(range(1, 301))}
    problems = read_sweep(write(tmp_path / "a.yaml", as_yaml({"base": "quickstart", "grid": grid})))[1]
    assert any("27,000,000 cells" in problem for problem in problems)


@examples
def test_yaml_is_what_pyyaml_reads(examples):
    def holds(value, where):
        text = damaged(as_yaml(value), where)
        try:
            found = load(text)
        except YamlError:
            return
        assert repr(found) == repr(yaml.load(text, Loader=yaml.CSafeLoader))

    check(examples, holds, value=values, where=st.none() | damage)


attribute = st.fixed_dictionaries(
    {
        "name": texts,
        "candidates": st.sampled_from([1, 2, 1024]) | values,
        "log2_candidates": st.sampled_from([0, 1, 10]) | values,
    },
    optional={"determined_by": texts | values, "stated": values, "x": values},
)
good = {"name": "x", "version": "1", "num_people": 4, "seed": 0, "entity_column": "id", "name_log2_candidates": 5.0}
good |= {"attributes": [{"name": "a", "candidates": 2, "log2_candidates": 1.0, "determined_by": None}]}


@examples
def test_knowledge(examples, tmp_path):
    def holds(changes, where):
        file = write(tmp_path / "knowledge.json", damaged(json.dumps({**good, **changes}), where))
        try:
            knowledge = Knowledge.load(file)
        except FactError as error:
            assert len(str(error)) < 5000
            return
        name = (
            0
            if knowledge.name_log2_candidates is None
            else knowledge.name_log2_candidates - math.log2(knowledge.num_people)
        )
        shares = [
            a.log2_candidates * (1 if a.stated is None else a.stated / knowledge.num_people)
            for a in knowledge.attributes
        ]
        assert knowledge.bits_per_person == pytest.approx(name + math.fsum(shares))
        assert math.isfinite(knowledge.total_bits)
        knowledge.save(file)
        assert Knowledge.load(file) == knowledge

    parts = st.dictionaries(
        st.sampled_from([*good, "diversity_terms", "text_prefix", "bound", "missing_texts"]) | texts,
        values,
        max_size=3,
    )
    lists = st.builds(
        lambda changes, listed: changes | {"attributes": listed}, parts, st.lists(attribute | values, max_size=3)
    )
    check(examples, holds, changes=parts | lists, where=st.none() | damage)


words = st.sampled_from(["Ada", "Bo", "art", "Arthur", "in", "Rome", " ", ".", "é", "日本", "-", "W", "What"])
sentences = st.lists(words, max_size=8).map("".join)
KNOWN = Knowledge("x", "1", 2, 0, "id", 5.0, (Attribute("a", 2, 1.0), Attribute("b", 1, 0.0, "a")))
spans = st.lists(
    st.builds(Span, st.sampled_from(["name", "a", "b", "c"]), st.integers(-2, 20), st.integers(-2, 20)), max_size=4
)

# In order, each beginning where the one before ends.
whole_spans = st.lists(st.integers(1, 20), min_size=1, max_size=4, unique=True).map(
    lambda ends: [
        Span(name, start, end)
        for name, (start, end) in zip(("name", "b", "a", "a"), itertools.pairwise([0, *sorted(ends)]), strict=False)
    ]
)


def joined(first: str, second: str) -> bool:
    """Whether two neighbors are of one word, from the definition."""
    of_words = all(c.isalnum() or c == "_" or (c and unicodedata.category(c).startswith("M")) for c in (first, second))
    return bool(first and second) and of_words and not any(UNSPACED.match(c) for c in (first, second))


def stands_in(text: str, value: str) -> bool:
    """Whether a value is in a text as whole words, by looking at every place."""
    for at in range(len(text) - len(value) + 1):
        end = at + len(value)
        if value and text[at:end] == value:
            before, after = text[at - 1 : at] if at else "", text[end : end + 1]
            if not (joined(before, value[0]) or joined(value[-1], after)):
                return True
    return False


@examples
def test_spans(examples):
    def holds(text, found, given):
        row = Row(text, tuple(found), 1)
        ends = [0, *(span.end for span in found)]
        right = bool(found) and found[0].attribute == "name" and found[0].start == 0
        right = right and all(s.attribute in ("name", "a", "b") for s in found)
        right = right and all(end <= s.start < s.end <= len(text) for s, end in zip(found, ends, strict=False))
        try:
            check_row(row, KNOWN)
        except FactError:
            assert not right
            return
        assert right
        first = {span.attribute: span for span in reversed(found)}
        told = {"a": given}
        expected = all(text[s.start : s.end] == given for s in found if s.attribute == "a")
        if "a" in first:
            gaps = [text[end : s.start] for s, end in zip(found, ends, strict=False) if s.start <= first["a"].start]
            expected = expected and not any(stands_in(gap, given) for gap in gaps)
        try:
            check_values(row, told, KNOWN)
        except FactError:
            assert not expected
        else:
            assert expected
        facts = scored_facts(found, KNOWN)
        assert {fact.attribute for fact in facts} == {name for name in first if name != "b"}
        early = "b" in first and "a" in first and first["b"].start < first["a"].start
        assert all(
            fact.spans == ((first["b"], first["a"]) if fact.attribute == "a" and early else (first[fact.attribute],))
            for fact in facts
        )

    check(examples, holds, text=sentences, found=spans | whole_spans, given=words)


@examples
def test_whole_words(examples):
    def holds(text, value):
        assert contains_words(text, value) == stands_in(text, value)

    check(examples, holds, text=sentences | st.text("aé日_ ", max_size=8), value=words | st.text("aé日_ ", max_size=3))


template = st.builds(
    "{}{}{}{}".format,
    st.sampled_from([ENTITY, f"{ENTITY} ", ""]),
    st.sampled_from(["is in ", "is a ", "has ", " "]),
    st.sampled_from([VALUE, "", "{x}"]),
    st.sampled_from([".", ", too.", "", "!"]),
)


@examples
def test_templates(examples, tmp_path):
    def holds(content, where):
        text = damaged(as_yaml(content), where)
        read, problems = read_sentences(write(tmp_path / "a.yaml", text))
        if problems:
            assert all(isinstance(problem, str) for problem in problems)
            return
        for name, found in read.attributes.items():
            lines = load(text)["attributes"][name]["templates"]
            assert [f"{ENTITY}{t.prefix}{VALUE}{t.suffix}" for t in found.templates] == lines
            said = [line.replace(ENTITY, "Ada Lo").replace(VALUE, "Xyz") for line in lines]
            places = [len("Ada Lo") + len(t.prefix) for t in found.templates]
            assert [line.find("Xyz") for line in said] == places

    entry = st.fixed_dictionaries(
        {"templates": st.lists(template | values, max_size=3) | values},
        optional={"candidates": values, "determined_by": texts | values},
    )
    content = st.fixed_dictionaries(
        {"attributes": st.dictionaries(st.sampled_from("abc") | texts, entry | values, max_size=3) | values},
        optional={
            "subject": values,
            "entity_column": values,
            "entity_space": values,
            "license": values,
            "language": values,
            "x": values,
        },
    )
    check(examples, holds, content=content | values, where=st.none() | damage)


cells = st.one_of(texts, st.sampled_from(["2", "frequency", "a|b", '["a", "b"]', "Rome", "1e3", "[" * 1000])).filter(
    lambda cell: "\x00" not in cell and "\ud800" not in cell
)


@slower
def test_prompt_tables(examples, tmp_path):
    def holds(rows, raw):
        made = io.StringIO(newline="")
        csv.writer(made).writerows([("prompt", "answer", "candidates"), *rows])
        file = write(tmp_path / "a.csv", made.getvalue() if raw is None else damaged(made.getvalue(), raw))
        try:
            found = read_prompts(file)
        except DatasetError:
            return
        if raw is None:
            wanted = [tuple(row) for row in rows]
            assert [tuple(row.values()) for row in found if row.problem is None] == wanted
        use(found)

    def use(found):
        problems = Problems()
        try:
            prompts, _ = prompts_of(found, PromptOptions(), problems)
        except DatasetError:
            return
        for prompt in prompts:
            row = prompt.text()
            span = row.spans[1]
            assert row.text[span.start : span.end] == prompt.answer and row.text.startswith(prompt.prompt)
            assert not stands_in(prompt.prompt, prompt.answer)

    def lines(content):
        text = "\n".join(json.dumps(value) for value in content)
        try:
            use(read_prompts(write(tmp_path / "a.jsonl", text)))
        except DatasetError:
            return

    check(examples, holds, rows=st.lists(st.tuples(cells, cells, cells), max_size=4), raw=st.none() | damage)
    columns = st.fixed_dictionaries(
        {"prompt": values, "answer": values, "candidates": values}, optional={"entity": values}
    )
    check(examples, lines, content=st.lists(columns | values, max_size=4))
