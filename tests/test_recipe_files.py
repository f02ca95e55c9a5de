"""The recipes and grids that come with knowcap: each can be used as it stands, and states its purpose."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from knowcap.cli import main
from knowcap.corpus.base import tokenizer_of
from knowcap.dataset.corpora import corpus_of
from knowcap.models import closed_form_active_parameters, count_parameters, parameters_of, recipe_config
from knowcap.models.quiet import quiet_empty_weights
from knowcap.recipe import Recipe
from knowcap.recipe_file import RECIPES_DIR, find_recipe, packaged_recipes, read_recipe
from knowcap.run.preflight import checked_recipe, load_recipe
from knowcap.training.stage import training_arguments_of


SWEEPS = {path.stem: path for path in sorted((RECIPES_DIR / "sweeps").glob("*.yaml"))}
OWN = ("quickstart", "architectures", "development")  # no settings of the paper
GRIDS = {name: path for name, path in SWEEPS.items() if not name.startswith(OWN)}
PAPERS = [name for name in packaged_recipes() if "Part 3.3, Parameter" in find_recipe(name).read_text()]
SIZES = {"vocab_size": 3275, "block_size": 512}
TOKENS = 73.93  # of a bioS text and its end, in GPT2's tokens (measured on texts of the released generator)
RATE, STEP = 1e14, 0.01  # what recipes/README.md says that the times are estimated from: FLOP a second, seconds a step


def load(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """A recipe without problems, but that its data set is yet to be made."""
    recipe, problems = checked_recipe(name, overrides or {})
    if recipe.dataset_name is not None:
        problems = [problem for problem in problems if recipe.dataset_name not in problem]
    assert problems == []
    return recipe


def cells(grid: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The product of a grid file's lists and its list of overrides."""
    lists = grid.get("grid", {})
    for values in itertools.product(*lists.values()):
        for item in grid.get("list", [{}]):
            yield dict(zip(lists, values, strict=True)) | item


@cache
def grid_of(name: str) -> tuple[dict[str, Any], list[tuple[Recipe, list[str]]]]:
    """A grid file's content, and every cell's recipe with what is wrong with its keys."""
    content = yaml.safe_load(GRIDS[name].read_text(encoding="utf-8"))
    return content, [read_recipe(content["base"], cell)[:2] for cell in cells(content)]


def hours(recipe: Recipe, num_people: int) -> float:
    """What a recipe's header estimates."""
    tokens = num_people * recipe.exposures * TOKENS / (recipe.useful_share if recipe.junk_people else 1)
    active = closed_form_active_parameters(recipe.model_name, **SIZES, num_experts_per_tok=recipe.num_experts_per_tok)
    return max(6 * active * tokens / RATE, tokens / recipe.block_size / recipe.train_batch_size * STEP) / 3600


def header(path: Path) -> str:
    """The comment that a file opens with."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return "\n".join(line[1:].strip() for line in lines)


def stated_hours(text: str) -> float:
    """The GPU-hours that a header states."""
    return float(re.search(r"about ([\d.,]+) GPU-hours, an estimate", text)[1].replace(",", ""))


def people(recipe: Recipe) -> int:
    """N, of a data set that is yet to be made by its name: bioR-10k."""
    sizes = {"bioR-10k": 10_000, "bioR-100k": 100_000, "bioR-1m": 1_000_000}
    return sizes[recipe.dataset_name] if recipe.dataset_name else recipe.num_people


@pytest.mark.parametrize("name", packaged_recipes())
def test_every_recipe_builds_its_training_arguments_and_its_model(name, tmp_path):
    recipe = load(name)
    arguments = training_arguments_of(recipe, tmp_path)
    assert arguments.learning_rate == recipe.learning_rate and arguments.max_grad_norm == recipe.max_grad_norm
    rows = tokenizer_of(recipe, corpus_of(recipe))[1] if recipe.compact else recipe.vocab_size
    with torch.device("meta"), quiet_empty_weights():
        model = AutoModelForCausalLM.from_config(recipe_config(recipe, rows))
    assert count_parameters(model).num_parameters == parameters_of(recipe, rows).num_parameters


def test_the_recipe_of_a_data_set_has_no_problem_once_that_is_made(bior_made):
    assert load_recipe("gpt2/bior-1000-exposures").dataset_texts == "published"


@pytest.mark.parametrize("name", packaged_recipes())
def test_every_recipe_opens_with_its_purpose_and_its_command(name):
    first, *rest = header(find_recipe(name)).splitlines()
    assert len(first) > 30 and f"knowcap run --config {name}" in rest


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_settings_say_hardware_time_and_result_and_follow_its_common_ones(name):
    recipe, text = load(name), header(find_recipe(name))
    assert "\nHardware and time: one GPU, " in text and re.search(r"\nPaper: .*Result \d", text)
    common = (recipe.block_size, recipe.windows, recipe.warmup_steps, recipe.min_learning_rate_ratio, recipe.seed)
    assert common == (512, "cut", 1000, 0.1, 0)
    if recipe.corpus == "bioS":
        assert stated_hours(text) == pytest.approx(hours(recipe, people(recipe)), rel=0.06)


def test_every_setting_of_the_paper_has_a_recipe_and_a_grid():
    for files in (map(find_recipe, PAPERS), GRIDS.values()):
        text = "\n".join(header(path).splitlines()[0] for path in files)
        for number in (1, 2, 4, 5, 6, 7, 9, 10):
            assert re.search(rf"Parameters? {number}\b", text), number
        assert re.search(r"(Parameter|and) 8\b", text)
    tuned = load("gpt2/bios-extract")  # Parameter 3 tunes what Parameter 1 has trained: its grid is one run's ranks
    assert (tuned.extract_steps, tuned.extract_batch_size, tuned.extract_learning_rate) == (75_000, 96, 1e-3)
    assert (tuned.extract_weight_decay, tuned.extract_embedding_rank, tuned.extract_rank) == (0.1, 8, 2)


@pytest.mark.parametrize("name", GRIDS)
def test_every_cell_of_a_grid_is_a_recipe_and_no_two_are_the_same(name):
    content, recipes = grid_of(name)
    assert set(content) <= {"base", "grid", "list"} and content["base"] in packaged_recipes()
    every = list(cells(content))
    assert len({tuple(sorted(cell.items())) for cell in every}) == len(every) > 1
    assert not any(problems for _, problems in recipes)
    names = {recipe.model_name for recipe, _ in recipes}
    for model_name in names:  # settings are checked once a size, lists and vocabulary once a grid
        recipe_config(next(recipe for recipe, _ in recipes if recipe.model_name == model_name), 3275)
    load(content["base"], every[0])
    load(content["base"], every[-1])
    assert all(recipe.train_batch_size % 8 == 0 or recipe.train_batch_size == 12 for recipe, _ in recipes)


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_opens_with_purpose_command_hardware_time_and_result(name):
    text = header(GRIDS[name])
    assert f"\nknowcap sweep recipes/sweeps/{name}.yaml\n" in text and re.search(r"\nPaper: .*Result \d", text)
    recipes = [recipe for recipe, _ in grid_of(name)[1]]
    assert f"Hardware and time: {len(recipes)} cells" in text
    if name != "biod-1000-exposures":  # whose texts have other lengths
        total = sum(hours(recipe, people(recipe)) for recipe in recipes)
        assert stated_hours(text) == pytest.approx(total, rel=0.06)


# PAPER: Part 3.3, appendices A to E, Parameters 1, 2, 6, 7, 9 and 10: N → weight decay, learning rates, batch.
SETTINGS = {
    "gpt2-1000-exposures": {
        10_000: (0.02, {1e-3}, 24),
        200_000: (0.02, {1e-3}, 192),
        10_000_000: (0.001, {3e-4}, 1536),
    },
    "gpt2-100-exposures": {50_000: (0.01, {1e-3}, 12), 5_000_000: (0.01, {3e-4, 5e-4}, 768)},
    "llama-1000-exposures": {1_000_000: (0.01, {2e-4, 3e-4, 5e-4}, 192), 2_000_000: (0.005, {3e-4, 5e-4, 1e-3}, 1536)},
    "mistral-100-exposures": {500_000: (0.01, {2e-4, 3e-4, 5e-4}, 96), 20_000_000: (0.002, {3e-4, 5e-4, 1e-3}, 1536)},
    "gpt2-quarter-mlp-100-exposures": {200_000: (0.01, {5e-4, 1e-3}, 48)},
    "gpt2-no-mlp-100-exposures": {100_000: (0.01, {3e-4, 5e-4, 1e-3}, 24)},
    "gpt2-moe-1000-exposures": {50_000: (0.02, {1e-3, 2e-3}, 96), 5_000_000: (0.002, {5e-4}, 1536)},
    "gpt2-moe-100-exposures": {200_000: (0.01, {1e-3, 2e-3, 5e-3}, 48), 2_000_000: (0.005, {5e-4, 1e-3}, 192)},
    "gpt2-junk-b": {1_000_000: (0.005, {5e-5, 1e-4, 2e-4, 3e-4, 5e-4}, 192)},
    "gpt2-junk-d": {500_000: (0.002, {3e-4, 5e-4, 1e-3}, 768)},
    "gpt2-junk-g": {200_000: (0.01, {2e-4, 3e-4, 5e-4, 1e-3}, 96)},
}


@pytest.mark.parametrize(("name", "rows"), SETTINGS.items())
def test_grids_have_the_papers_settings(name, rows):
    recipes = [recipe for recipe, _ in grid_of(name)[1]]
    for num_people, expected in rows.items():
        mine = [recipe for recipe in recipes if recipe.num_people == num_people]
        (weight_decay,), (batch,) = ({getattr(r, key) for r in mine} for key in ("weight_decay", "train_batch_size"))
        assert (weight_decay, {recipe.learning_rate for recipe in mine}, batch) == expected


def test_the_command_lists_every_recipe_with_its_purpose(capsys):
    assert main(["ls", "recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(packaged_recipes())
    for name, path in packaged_recipes().items():
        assert f"{name}  " in "\n".join(lines) and header(path).splitlines()[0] in "\n".join(lines)


def test_the_table_of_recipes_names_every_recipe_and_grid():
    table = (RECIPES_DIR / "README.md").read_text(encoding="utf-8")
    assert [name for name in packaged_recipes() if f"]({name}.yaml)" not in table] == []
    assert [name for name in SWEEPS if f"](sweeps/{name}.yaml)" not in table] == []
