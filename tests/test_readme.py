"""The pages of the documentation: commands parse, snippets run, links lead to files, figures agree with the cards."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from statistics import fmean

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from readme_commands import CHAPTERS, PAGES, README, ROOT, blocks, commands

from knowcap.capacity.summary import MEMORIZABLE_ATTRIBUTES
from knowcap.cli import make_parser
from knowcap.cli.dataset_builder import CorpusBuilder, arguments
from knowcap.recipe import Recipe
from knowcap.recipe_file import packaged_recipes
from knowcap.run import pipeline as stages
from knowcap.run.folder import claim_run_dir
from knowcap.run.launch import Launcher
from knowcap.run.preflight import load_recipe
from knowcap.sweep import packaged_sweeps
from knowcap.sweep.file import read_sweep


RECIPES = sorted(packaged_recipes().items())
YAML = sorted((ROOT / "recipes").rglob("*.yaml"))
TINY = {
    "num_people": 120, "pools_fraction": 0.05, "num_templates": 1, "exposures": 2, "renderings": 1, "head_dim": 8,
    "control_people": 100, "vocab_size": 200, "block_size": 100, "model_name": "gpt2-rotary-1-1", "windows": "aligned",
    "quantization_group_size": 8,
}  # fmt: skip
# What a reader fills in.
PLACEHOLDERS = {
    "RECIPE": "quickstart", "RUN": "runs/quickstart", "DIR": "runs", "NAME": "quickstart", "R": "0",
    "A": "runs/a", "B": "runs/b", "LAW": "capacity", "QUESTION": "holds --num_parameters 1",
    "FIRST_MACHINE": "10.0.0.1", "[--key value …]": "--seed 1", "--key value": "--seed 1",
    "recipes | models | sweeps": "recipes", "cpu | cpu_2 | multi_gpu | multi_node | fsdp2": "cpu_2",
}  # fmt: skip


def filled_in(command: str) -> list[str]:
    """The words of a command, its placeholders replaced."""
    for placeholder, value in PLACEHOLDERS.items():
        pattern = re.escape(placeholder)
        command = re.sub(rf"(?<!\S){pattern}(?!\S)" if placeholder.isupper() else pattern, value, command)
    return shlex.split(command)


# Commands on a published data set are run where there is one, in test_dataset_name.py.
COMMANDS = [(f, command) for f in (*PAGES, *YAML) for command in commands(f) if "--dataset_name" not in command]


def is_shown_in(file: Path, command: str) -> bool:
    """Whether a command of that beginning is among those that were found."""
    return any(there == file and found.startswith(command) for there, found in COMMANDS)


@pytest.fixture(autouse=True)
def in_a_checkout(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands and snippets are meant for the repository's top; here beside the files that a reader writes."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("recipes", "src", "model_cards", "dataset_scripts", "README.md"):
        (folder / name).symlink_to(ROOT / name)
    page = (ROOT / "src" / "knowcap" / "corpus" / "README.md").read_text(encoding="utf-8")
    facts = page.split("## Your own facts")[1]
    (folder / "countries.csv").write_text(blocks(facts, "csv")[0])
    (folder / "countries.yaml").write_text(blocks(facts, "yaml")[0])
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of seconds, in place of runs/quickstart."""
    words = {"output_dir": str(tmp_path_factory.mktemp("runs"))} | TINY
    recipe: Recipe = load_recipe("quickstart", words)
    run_dir = claim_run_dir(recipe)
    stages.run(recipe, run_dir)
    return run_dir


def test_the_commands_of_the_pages_are_found():
    source = ROOT / "src" / "knowcap"
    assert is_shown_in(README, "knowcap run --config recipes/quickstart.yaml")
    training = source / "training" / "README.md"
    assert is_shown_in(training, "accelerate launch --config_file recipes/accelerate/cpu.yaml -m knowcap.train")
    assert is_shown_in(ROOT / "recipes" / "quickstart.yaml", "knowcap run --config quickstart")
    assert is_shown_in(ROOT / "recipes" / "accelerate" / "multi_node.yaml", "accelerate launch --config_file")
    names = ("run", "data", "train", "measure", "quantize", "extract", "sweep", "report", "push", "fit", "plan", "ls")
    assert all(is_shown_in(source / "run" / "README.md", f"knowcap {name} ") for name in names)
    assert is_shown_in(source / "dataset" / "README.md", "python dataset_scripts/bior.py")
    assert is_shown_in(source / "corpus" / "README.md", "knowcap run --config quickstart --run_name countries")


def test_every_shell_block_has_a_command_that_is_tested():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        tested = [command for file, command in COMMANDS if file == page] + commands(page)
        for block in blocks(text, "bash|sh"):
            if ".venv/bin/pytest" in block:  # .ci/run runs it
                continue
            words = " ".join(re.sub(r"\\\n\s*", "", block).split())
            assert any(" ".join(command.split()[:3]) in words for command in tested), (page, block)
    # A fence of another name for the shell would hide its commands.
    known = {"", "bash", "sh", "python", "yaml", "csv"}
    assert {f for p in PAGES for f in re.findall(r"^```(\w*)$", p.read_text(encoding="utf-8"), re.M)} <= known


def parses_as_a_script(words: list[str]) -> None:
    """Holds a builder's command to the script's own parser."""
    spec = importlib.util.spec_from_file_location("builder_script", ROOT / words[1])
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script  # dataclasses look it up
    spec.loader.exec_module(script)
    ours = [v for v in vars(script).values() if isinstance(v, type) and issubclass(v, CorpusBuilder)]
    parser = arguments(ours[-1]) if len(ours) > 1 else script.arguments()
    parser.parse_args(words[2:])


@pytest.mark.parametrize(("file", "command"), COMMANDS, ids=[f"{f.relative_to(ROOT)}: {c}" for f, c in COMMANDS])
def test_a_command_line_parses_and_its_recipe_has_no_problems(file: Path, command: str, request):
    words = filled_in(command)
    if any("bior-" in word for word in words):
        request.getfixturevalue("bior_made")
    if words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None
        return
    if words[0] == "python":
        parses_as_a_script(words)
        return
    if words[0] == "accelerate":
        launched = launch_command_parser().parse_args(words[2:])
        assert _validate_launch_command(launched)[0].module
        assert launched.training_script == "knowcap.train"
        words = ["knowcap", "train", *launched.training_script_args]
    args, rest = make_parser().parse_known_args(words[1:])
    assert args.takes_recipe or not rest
    if args.takes_recipe:
        load_recipe(args.config, rest)
    if words[1] == "sweep" and (Path(args.file).is_file() or args.file in packaged_sweeps()):
        assert read_sweep(args.file)[1] == []
    if getattr(args, "accelerate_config", None):
        assert Launcher.named(args.accelerate_config, args.num_processes).config_file.is_file()


@pytest.mark.parametrize("name", [name for name, _ in RECIPES])
def test_a_packaged_recipe_has_no_problems_by_name_and_by_path(name: str, request):
    if "bior-" in name:
        request.getfixturevalue("bior_made")
    assert load_recipe(name) == load_recipe(dict(RECIPES)[name])


def test_every_recipe_stands_in_the_table_of_recipes():
    table = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    assert all(f"[{name}]({name}.yaml)" in table for name, _ in RECIPES)


# What names a repo of the reader's ("you/…") is run against the stand-in of the Hub, in test_hub.py.
SNIPPETS = [
    (page, code) for page in PAGES for code in blocks(page.read_text(encoding="utf-8"), "python") if "you/" not in code
]


@pytest.mark.parametrize(("page", "code"), SNIPPETS, ids=[f"{p.relative_to(ROOT)}: {c[:40]!r}" for p, c in SNIPPETS])
def test_a_python_snippet_runs(page: Path, code: str, tiny_run: Path):
    made: dict[str, object] = {}
    exec(compile(code.replace("runs/quickstart", str(tiny_run)), str(page), "exec"), made)
    assert len(made) > 1


def test_the_readme_is_short_and_links_every_page():
    text = README.read_text(encoding="utf-8")
    assert text.count("\n") <= 200
    assert all(f"({page.relative_to(ROOT).as_posix()}" in text for page in CHAPTERS)


def test_the_tiny_run_has_every_file_that_the_readme_names(tiny_run: Path):
    files = ("recipe.yaml", "knowledge/knowledge.json", "model/training.json", "model/nll.parquet", "capacity.json")
    assert all((tiny_run / name).is_file() for name in files)
    assert all((tiny_run / "quantized" / name / "capacity.json").is_file() for name in ("int8", "int4"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page: Path):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    relative = [link for link in links if "://" not in link]
    assert relative or page in CHAPTERS
    assert [link for link in relative if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("card", ["", "int8", "int4"])
def test_the_table_of_the_readme_has_the_figures_of_the_card(card: str):
    capacity = json.loads((ROOT / "model_cards" / "quickstart" / card / "capacity.json").read_text(encoding="utf-8"))
    lines = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| quickstart ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    (low, high), (control, error) = capacity["confidence_interval"], capacity["control_bits_per_entity"]
    assert [row for row in rows if row[5] == capacity["precision"]] == [
        [
            "quickstart",
            capacity["model_name"],
            f"{capacity['num_parameters']:,}",
            f"{capacity['num_entities']:,}",
            f"{capacity['exposures']:,}",
            card or "fp32",
            f"{capacity['bits_per_parameter']:.3f} ± {(high - low) / 2:.3f}, one seed",
            f"{capacity['max_bits_per_parameter']:.3f}",
            f"{capacity['bits_per_parameter'] / capacity['stored_bits_per_parameter']:.3f}",
            f"{control:.3f} ± {error:.3f}",
            f"{100 * fmean(capacity['attributes'][a]['accuracy'] for a in MEMORIZABLE_ATTRIBUTES):.1f} %",
        ]
    ]


def test_the_bits_of_the_readme_are_those_of_the_card():
    capacity = json.loads((ROOT / "model_cards" / "quickstart" / "capacity.json").read_text(encoding="utf-8"))
    text = " ".join(README.read_text(encoding="utf-8").split())
    found = re.search(r"hold ([\d,]+) bits about ([\d,]+) people, of the ([\d,]+) that there are: ([\d.]+) bits", text)
    assert found is not None
    assert found.groups() == (
        f"{capacity['knowledge_bits']:,.0f}",
        f"{capacity['num_entities']:,}",
        f"{capacity['max_knowledge_bits']:,.0f}",
        f"{capacity['bits_per_parameter']:.3f}",
    )
