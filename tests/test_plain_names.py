"""Names: refused before any work, or shown as they are; every folder made here can be loaded."""

from __future__ import annotations

import datasets
import pytest
import tiny

from knowcap.dataset.folder import DatasetError, write_folder
from knowcap.dataset.markdown import in_markdown
from knowcap.dataset.prompts.reading import PromptOptions, read_prompts
from knowcap.facts import FactError
from knowcap.files import (
    CARD_FILE,
    FRONTIER_FILE,
    PAGE_FILE,
    RECIPE_FILE,
    REPORT_FILE,
    REPORT_JSON_FILE,
    RESULTS_FILE,
    SWEEP_FILE,
)
from knowcap.hub import check_repo_id
from knowcap.recipe.plain_names import is_folder_name, pattern_in
from knowcap.run.folder import folder_problems
from knowcap.run.preflight import checked_recipe
from knowcap.sweep.file import SWEEPS


BAD = [
    "a\nb", "a\x00b", "a\x1b[31mb", "a\u2028b", "a\u202eb", "a\ud800b", "x" * 201, "é" * 101, "a[b]", "a*b", "a?b",
    "..", ".", ".hidden", "a/b", "../a", "a\\b", "C:a", "a|b", "a<b", 'a"b', "con", "NUL.txt", "Com1", "aux .x", "a.",
    "a ", " a",
]  # fmt: skip
OURS = [
    SWEEPS,
    SWEEP_FILE,
    RESULTS_FILE,
    PAGE_FILE,
    REPORT_FILE,
    REPORT_JSON_FILE,
    CARD_FILE,
    RECIPE_FILE,
    FRONTIER_FILE,
]


@pytest.mark.parametrize("name", [*BAD, *OURS])
def test_a_run_name_that_is_no_folder_name_is_a_problem_of_the_recipe(name):
    assert not is_folder_name(name)
    problems = [p for p in checked_recipe("quickstart", {"run_name": name})[1] if p.startswith("run_name")]
    if name.strip() == name:  # spaces around a value are none of it
        assert len(problems) == 1 and len(problems[0]) < 700 and "\n" not in problems[0] and "\x1b" not in problems[0]


@pytest.mark.parametrize(
    "name", ["", "quickstart", "gpt2-rotary-2-2_lr0.001", "v1.0", "ä", "日本語", "a b", "console", "x" * 200]
)
def test_ordinary_names_are_allowed(name):
    assert is_folder_name(name)
    if name:  # no value is none of the command line
        assert not [p for p in checked_recipe("quickstart", {"run_name": name})[1] if p.startswith("run_name")]


@pytest.mark.parametrize("key", ["dataset_name", "tokenizer_name", "facts_file", "output_dir"])
def test_texts_of_several_lines_are_problems_of_every_key(key):
    assert any(p.startswith(f"{key}: got") for p in checked_recipe("quickstart", {key: "a\n```\nEND\nrm"})[1])


@pytest.mark.parametrize(
    "repo_id", ["a", "a/b/c", "me/../x", "me/a\nb", "me/a[b", "me/" + "x" * 300, "me/.x", "", "me/a b"]
)
def test_ids_that_the_hub_does_not_have_are_problems(repo_id):
    assert len(check_repo_id(repo_id, "--hub_model_id")) == 1


@pytest.mark.parametrize("text", ["a\nb", "a\u202eb", "x" * 1001, ""])
@pytest.mark.parametrize("where", ["name", "entity_column", "attribute"])
def test_names_of_several_lines_in_knowledge_json_are_refused(text, where):
    with pytest.raises(FactError, match=rf"{where} is .* expected a name of one line") as error:
        if where == "attribute":
            tiny.knowledge({text: 2}, num_people=2)
        else:
            made = tiny.knowledge({"city": 2}, num_people=2)
            type(made)(**{**vars(made), where: text})
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["a[b]c", "a*b", "a?b", "a::b", "a[b"])
def test_no_folder_is_made_or_read_where_a_path_is_a_pattern(name, tmp_path):
    """`datasets` 5.2 reads the files of folder axb for a folder a*b or a?b, and none of a[b]."""
    assert pattern_in(name)
    recipe, _ = checked_recipe("quickstart", {"output_dir": str(tmp_path / name)})
    assert any(problem.startswith("output_dir: ") and "as a pattern" in problem for problem in folder_problems(recipe))
    with pytest.raises(DatasetError, match="as a pattern"):
        write_folder(tmp_path / name, [], None, None, None)  # pyright: ignore[reportArgumentType]
    (tmp_path / name).mkdir()
    with pytest.raises(DatasetError, match="as a pattern"):
        read_prompts(tmp_path / name, PromptOptions())


@pytest.mark.parametrize(
    "name", ["plain", "a{b}c", "a b", "a#b", "a%20b", "ä", "a'b", "a!b", "a=b;c", "a@b", "a&b", "a(b)"]
)
def test_load_dataset_finds_a_folder_of_any_other_name(name, tmp_path):
    assert pattern_in(name) is None
    knowledge = tiny.knowledge({"city": 2}, num_people=1, names=None)
    folder = tiny.write_dataset(
        tmp_path / name, knowledge, [(tiny.say(0, ("name", "A"), " in ", ("city", "B"), "."), 0)]
    )
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: biographies\n  data_files:\n  - split: train\n"
        "    path: biographies/train-*.parquet\n---\n",
        encoding="utf-8",
    )
    assert datasets.load_dataset(str(folder), "biographies", split="train", cache_dir=str(tmp_path / "cache"))["text"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("birth_city", "birth_city"),
        ("GDP | US$", "GDP \\| US$"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("[a](javascript:b)", "\\[a\\](javascript:b)"),
        ("a\n\n# b\n```", "a # b \\`\\`\\`"),
    ],
)
def test_names_in_cards_are_shown_as_they_are(text, shown):
    assert in_markdown(text) == shown
