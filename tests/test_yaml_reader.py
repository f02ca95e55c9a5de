"""YAML of strangers: whatever a file contains, it is read or refused with a message, not expanded for minutes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from knowcap.cli import main
from knowcap.corpus.sentences import read_sentences
from knowcap.recipe.yaml_reader import MAX_BYTES, MAX_DEPTH, YamlError, compose, load, load_file, plain
from knowcap.recipe_file import read_recipe
from knowcap.sweep.file import read_sweep


LAUGHS = "a: &a0 [x, x]\n" + "".join(
    f"b{n}: &a{n} [{', '.join(f'*a{n - 1}' for _ in range(9))}]\n" for n in range(1, 40)
)
CHAIN = "a: &a0 [x]\n" + "".join(f"b{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000))
HOSTILE = {
    "contains itself": "num_people: &a [1, *a]\n",
    "a mapping that contains itself": "model_config_overrides: &a {x: *a}\n",
    "billion laughs": LAUGHS,
    "a long chain of aliases": CHAIN,
    "deep lists": "num_people: " + "[" * 100_000,
    "deep lists that end": "num_people: " + "[" * 500 + "]" * 500,
    "deep mappings": "a: " + "{b: " * 5000,
    "deep block lists": "- " * 100_000,
    "keys that are lists": "? [a, b]\n: 1\n",
    "keys that are mappings": "model_config_overrides: {{a: 1}: 2}\n",
    "many values": "num_people: [" + "? a," * 300_000 + "]",
    "too large": "# " + "x" * MAX_BYTES,
    "several documents": "num_people: 1\n---\nnum_people: 2\n",
    "an unknown anchor": "num_people: *nothing\n",
    "control characters": "num_people: \x00\x07\n",
    "a tab": "num_people:\n\t- 1\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("kind", ["recipe", "sweep", "templates"])
def test_hostile_yaml_is_a_problem(kind: str, text: str, tmp_path: Path):
    file = tmp_path / "file.yaml"
    file.write_text(text, encoding="utf-8")
    read = {"recipe": read_recipe, "sweep": read_sweep, "templates": read_sentences}[kind]
    problems = read(file)[1]
    assert problems and all(isinstance(problem, str) and len(problem) < 500 for problem in problems), problems
    assert "object at 0x" not in " ".join(problems) and "Node(" not in " ".join(problems)


def test_files_that_are_not_utf8_are_a_problem(tmp_path: Path):
    (tmp_path / "file.yaml").write_bytes(b"num_people: \xff\xfe\n")
    assert "is not UTF-8" in read_recipe(tmp_path / "file.yaml")[1][0]
    assert "is not UTF-8" in read_sweep(tmp_path / "file.yaml")[1][0]
    with pytest.raises(YamlError, match="cannot be read as YAML"):
        load_file(tmp_path / "file.yaml")


@pytest.mark.parametrize(
    "attributes",
    [
        "{a: {templates: {'{entity} is {value}.': 1}}}",
        "{a: {templates: [{x: y}, [z]]}}",
        "{a: {templates: text}}",
        "{a: {templates: ['{entity} is {value}.'], candidates: [1]}}",
        "{a: {templates: ['{entity} is {value}.'], candidates: {x: 1}}}",
        "{a: {templates: ['{entity} is {value}.'], determined_by: [b]}}",
        "{a: {templates: ['{entity} is {value}.'], determined_by: {b: c}}}",
        "{a: [templates]}",
        "[a]",
        "a",
        "",
    ],
)
def test_other_kinds_of_values_in_templates_are_problems_with_their_line(attributes: str, tmp_path: Path):
    (tmp_path / "file.yaml").write_text(f"# templates\nattributes: {attributes}\n", encoding="utf-8")
    problems = read_sentences(tmp_path / "file.yaml")[1]
    assert problems and all("file.yaml line 2: " in problem for problem in problems), problems


@pytest.mark.parametrize("key", ["subject", "entity_column", "entity_space", "license", "language"])
@pytest.mark.parametrize("value", ["{x: y}", "[[x]]", "[]", "''"])
def test_other_kinds_of_values_of_every_key_are_problems(key: str, value: str, tmp_path: Path):
    text = "attributes: {a: {templates: ['{entity} is at {value}.']}}\n"
    (tmp_path / "file.yaml").write_text(text, encoding="utf-8")
    assert read_sentences(tmp_path / "file.yaml")[1] == []
    (tmp_path / "file.yaml").write_text(f"{text}{key}: {value}\n", encoding="utf-8")
    (problem,) = read_sentences(tmp_path / "file.yaml")[1]
    assert f"line 2: {key}" in problem and "got" in problem


def test_aliases_within_the_limits_are_what_they_stand_for():
    text = "a: &x [1, {b: two}]\nc: [*x, *x]\nd: ~\n"
    nodes = compose(text)
    assert nodes is not None
    problems: list[str] = []
    as_text = plain(nodes, problems)
    assert as_text == {"a": ["1", {"b": "two"}], "c": [["1", {"b": "two"}]] * 2, "d": None} and problems == []
    assert load(text) == yaml.safe_load(text)
    assert load("[" * MAX_DEPTH + "]" * MAX_DEPTH) == yaml.safe_load("[" * MAX_DEPTH + "]" * MAX_DEPTH)


@pytest.mark.parametrize(
    "text", ["!!int x", "!!bool x", "!!float x", "!!timestamp x", "2001-99-99", "!!int ''", "a: 1\na: 2"]
)
def test_values_that_their_tag_does_not_allow_are_refused(text: str):
    with pytest.raises(YamlError):
        load(text)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system [true]", "!!python/name:os.system ''", "!x {a: 1}"])
def test_no_tag_makes_an_object(text: str):
    with pytest.raises(YamlError):
        load(text)


def test_keys_that_are_given_twice_are_problems_at_every_depth(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("model_config_overrides: {a: {b: 1, b: 2}}\nseed: 1\nseed: 2\n", encoding="utf-8")
    problems = " ".join(read_recipe(tmp_path / "a.yaml")[1])
    assert "model_config_overrides: a: b: given twice (line 1)" in problems and "seed: given twice" in problems


@pytest.mark.parametrize("command", [["run", "--config"], ["sweep"], ["findings"], ["data", "--config"]])
def test_commands_print_one_message(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.yaml").write_text(LAUGHS, encoding="utf-8")
    assert main([*command, str(tmp_path / "a.yaml")]) == 2
    assert "knowcap: " in (printed := capsys.readouterr().err) and "aliases stand for more than" in printed
