"""Recipes: how values are read, and that all problems are reported at once."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from knowcap.cli import main
from knowcap.recipe import KEYS, SECTIONS, Recipe, RecipeError, shaping_keys
from knowcap.recipe_file import convert, find_recipe, packaged_recipes, read_recipe
from knowcap.run.preflight import check_settings, load_recipe


GOOD = "num_people: 1000\nmodel_name: gpt2-2-2\n"


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems_of(path: Path, overrides=()) -> list[str]:
    with pytest.raises(RecipeError) as error:
        load_recipe(path, overrides)
    return error.value.problems


def test_keys_that_are_not_given_keep_their_defaults_and_the_name_is_the_files(write):
    assert load_recipe(write(GOOD)) == Recipe(run_name="mine", num_people=1000, model_name="gpt2-2-2")


def test_a_given_run_name_stays(write):
    assert load_recipe(write(GOOD + "run_name: other\n")).run_name == "other"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("learning_rate", "1e-3", 0.001),  # text in YAML 1.1
        ("learning_rate", "1", 1.0),
        ("num_people", "1e3", 1000),
        ("num_people", "'1000'", 1000),
        ("num_people", "1_000", 1000),
        ("seed", "010", 10),  # octal in YAML 1.1
        ("torch_compile", "true", True),
        ("torch_compile", "False", False),
        ("num_templates", "null", None),
        ("num_templates", "none", None),
        ("num_templates", "7", 7),
        ("quantize_bits", "[8, 4]", (8, 4)),
        ("quantize_bits", "8,4", (8, 4)),
        ("quantize_bits", "4", (4,)),
        ("quantize_bits", "[]", ()),
        ("quantize_bits", "null", ()),
        ("report_to", "none", "none"),
        ("run_name", "2024", "2024"),
        ("run_name", "yes", "yes"),
    ],
)
def test_text_is_read_as_its_keys_type_in_yaml_and_on_the_command_line(write, key, text, value):
    in_yaml = write("\n".join(f"{k}: {v}" for k, v in (yaml.safe_load(GOOD) | {key: text}).items()), "yaml.yaml")
    for recipe in (load_recipe(in_yaml), load_recipe(write(GOOD), [f"--{key}", text.strip("'")])):
        found = getattr(recipe, key)
        assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("value", [1000, 1e3, "1000", "1e3"])
def test_overrides_may_be_a_mapping_of_any_types(write, value):
    recipe = load_recipe(write(GOOD), {"num_people": value, "pools_dir": None, "quantize_bits": (8,), "seed": 1})
    assert (recipe.num_people, recipe.pools_dir, recipe.quantize_bits, recipe.seed) == (1000, None, (8,), 1)


def test_overrides_win_and_take_every_form(write):
    words = ["--seed", "3", "--learning-rate=2e-3", "--torch_compile", "--quantize_bits", "8", "4", "--seed", "4"]
    recipe = load_recipe(write(GOOD + "seed: 1\n"), words)
    assert (recipe.seed, recipe.learning_rate, recipe.torch_compile, recipe.quantize_bits) == (4, 0.002, True, (8, 4))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("num_people", "many", "a whole number"),
        ("num_people", "1.5", "a whole number"),
        ("num_people", "null", "a whole number"),
        ("num_people", "true", "a whole number"),
        ("seed", "inf", "a whole number"),
        ("learning_rate", "fast", "a number"),
        ("learning_rate", "nan", "a number"),
        ("torch_compile", "2", "true or false"),
        ("num_templates", "some", "a whole number such as 1000 or null"),
        ("model_name", "null", "text"),
        ("model_name", "[gpt2]", "text"),
        ("quantize_bits", "[8, four]", "a whole number"),
    ],
)
def test_a_wrong_type_names_key_value_expectation_and_line(write, key, value, expected):
    lines = [line for line in GOOD.splitlines() if not line.startswith(key)] + [f"{key}: {value}"]
    (problem,) = problems_of(write("\n".join(lines)))
    assert problem.startswith(f"{key}: got ")
    assert expected in problem
    assert f"(line {len(lines)})" in problem


BAD_VALUES = {
    "run_name": "a/b",
    "seed": "-1",
    "dataset_texts": "publishd",
    "corpus": "bios",
    "num_people": "0",
    "lists": "long",
    "pools_fraction": "1.5",
    "num_attributes": "0",
    "chunks_per_value": "0",
    "diversity": "0",
    "chunk_length": "0",
    "alphabet_size": "0",
    "string_length": "0",
    "measure_every": "-1",
    "measure_limit": "0",
    "fixed_renderings": "0",
    "num_templates": "0",
    "exposures": "0",
    "exposures_exponent": "4.5",
    "warmup_exposures": "-1",
    "warmup_people_share": "1",
    "renderings": "0",
    "control_people": "-1",
    "holdout_entities": "0.6",
    "junk_people": "-1",
    "useful_share": "1",
    "junk_tokens": "-1",
    "vocab_size": "1",
    "block_size": "1",
    "windows": "alined",
    "shard_size": "0",
    "num_parameters": "0",
    "num_active_parameters": "0",
    "head_dim": "0",
    "rotary_fraction": "0",
    "initializer_range": "0",
    "num_experts_per_tok": "0",
    "router_aux_loss_coef": "-1",
    "optimizer": "adam",
    "lr_scheduler_type": "cosin",
    "learning_rate_decay_share": "0",
    "learning_rate_decay_type": "exponential",
    "muon_learning_rate": "0",
    "muon_momentum": "1",
    "train_batch_size": "0",
    "train_sampling_strategy": "random",
    "gradient_accumulation_steps": "0",
    "learning_rate": "0",
    "min_learning_rate_ratio": "2",
    "warmup_steps": "-1",
    "weight_decay": "-1",
    "adam_beta1": "1",
    "adam_beta2": "-0.1",
    "adam_epsilon": "0",
    "max_grad_norm": "-1",
    "precision": "fp8",
    "dataloader_num_workers": "-1",
    "logging_steps": "0",
    "save_steps": "0",
    "save_total_limit": "0",
    "report_to": "mlflow",
    "eval_batch_size": "0",
    "start_token": "boss",
    "confidence_level": "95",
    "quantize_bits": "[8, 2]",
    "quantization_group_size": "-1",
    "quantization_method": "gtpq",
    "fake_quantization_bits": "2",
    "fake_quantization_start": "1",
    "qa_share": "1",
    "extract": "lore",
    "extract_rank": "0",
    "extract_embedding_rank": "0",
    "extract_steps": "0",
    "extract_batch_size": "0",
    "extract_learning_rate": "0",
    "extract_weight_decay": "-1",
}


@pytest.mark.parametrize(("key", "value"), BAD_VALUES.items())
def test_a_value_out_of_range_is_reported_alone_with_what_was_expected(write, key, value):
    (problem,) = problems_of(write(GOOD), [f"--{key}={value}"])
    assert problem.startswith(f"{key}=")
    assert "expected" in problem


def test_every_rule_and_choice_is_broken_on_purpose():
    limited = {name for name, key in KEYS.items() if key.choices or key.range is not None}
    assert limited == BAD_VALUES.keys()


def test_a_choice_that_is_nearly_right_is_suggested(write):
    (problem,) = problems_of(write(GOOD), ["--windows", "alined"])
    assert "did you mean 'aligned'?" in problem


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("num_peopel", "num_people"), ("learning_rat", "learning_rate"), ("training_batch_size", "train_batch_size")],
)
def test_an_unknown_key_is_reported_with_the_nearest_right_one(write, wrong, right):
    for problem in (*problems_of(write(GOOD + f"{wrong}: 1\n")), *problems_of(write(GOOD), [f"--{wrong}=1"])):
        assert f"unknown key {wrong!r}; did you mean {right!r}?" in problem


def test_a_key_given_twice_is_reported_with_both_lines(write):
    assert problems_of(write(GOOD + "seed: 1\nseed: 2\n")) == ["seed: given twice (line 3, line 4); remove one"]


def test_missing_required_keys_are_reported_together(write):
    problems = problems_of(write("# nothing yet\n"))
    assert [problem.split()[0] for problem in problems] == ["num_people", "model_name"]


def test_all_problems_are_reported_at_once_and_numbered(write):
    path = write("num_peopel: 5\nlearning_rate: fast\nmodel_name: gpt3-2-2\nvocab_size: 10\nseed: 1\nseed: 2\n")
    with pytest.raises(RecipeError) as error:
        load_recipe(path, ["--windows=sliding", "--pools_dir=/nowhere", "--train_batch_size=7", "--nonsense"])
    message = str(error.value)
    for number, part in enumerate(
        ["num_peopel", "seed: given twice", "nonsense", "learning_rate", "num_people is missing", "windows", "nowhere",
         "gpt3-2-2"], start=1,
    ):  # fmt: skip
        assert part in message
        assert f"  {number}. " in message
    assert message.startswith(f"{path}: {len(error.value.problems)} problems")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- 1\n- 2\n", "expected one `key: value` a line"),
        ("just words\n", "expected one `key: value` a line"),
        ("num_people: [1\n", "cannot be read as YAML"),
        ("model_name: !!python/name:os.system x\nnum_people: 5", "model_name"),
    ],
)
def test_what_is_no_recipe_is_reported(write, text, part):
    assert any(part in problem for problem in problems_of(write(text)))


def test_a_file_that_is_not_utf8_is_reported(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("run_name: Zürich\n".encode("latin-1"))
    assert "cannot be read as YAML in UTF-8" in problems_of(path)[0]


def test_what_a_run_folder_adds_to_its_recipe_is_ignored(write):
    path = write(GOOD + "git_revision: abc\nversions:\n  torch: '2.13'\n")
    assert load_recipe(path).num_people == 1000


def test_more_people_than_names_are_reported_with_both_numbers(write):
    (problem,) = problems_of(write(GOOD), ["--num_people=200_000_000"])
    assert problem == (
        "num_people=200_000_000 exceeds the 160,000,000 unique names of the pools; "
        "lower num_people or pass larger pools"
    )


def test_all_names_may_be_used(write):
    assert load_recipe(write(GOOD), ["--num_people=160_000_000"]).num_people == 160_000_000


def test_more_templates_than_there_are_are_reported(write):
    (problem,) = problems_of(write(GOOD), ["--num_templates=1000"])
    assert "num_templates: got 1000" in problem


def test_a_vocabulary_that_cannot_spell_the_lists_is_reported_with_the_smallest_that_can(write):
    (problem,) = problems_of(write(GOOD), ["--vocab_size=10"])
    least = int(problem.rsplit("expected ", 1)[1].split()[0])
    assert load_recipe(write(GOOD), [f"--vocab_size={least}"]).vocab_size == least
    assert problems_of(write(GOOD), [f"--vocab_size={least - 1}"])


def test_a_tokenizer_from_elsewhere_needs_no_vocab_size(write):
    assert load_recipe(write(GOOD), ["--tokenizer_name=gpt2", "--vocab_size=10"]).tokenizer_name == "gpt2"


def test_a_batch_that_accumulation_cannot_split_is_reported_with_one_that_it_can(write):
    (problem,) = problems_of(write(GOOD), ["--train_batch_size=10", "--gradient_accumulation_steps=3"])
    assert problem == "train_batch_size=10 is not divisible by gradient_accumulation_steps=3; 9 is"


def test_a_rotary_part_that_is_no_even_number_is_reported(write):
    words = ["--model_name=gpt2-rotary-2-2", "--head_dim=6", "--quantization_group_size=12"]
    (problem,) = problems_of(write(GOOD), [*words, "--rotary_fraction=0.5"])
    assert "rotary" in problem


def test_keys_of_mixtures_beside_a_model_without_experts_are_reported(write):
    (problem,) = problems_of(write(GOOD), ["--num_experts_per_tok=1"])
    assert problem == "num_experts_per_tok=1 has no effect on gpt2-2-2, which is no mixture of experts; leave it out"
    mixture = ["--model_name=mixtral-2-2-4", "--num_experts_per_tok=1", "--router_aux_loss_coef=0.1"]
    assert load_recipe(write(GOOD), mixture).num_experts_per_tok == 1
    (problem,) = problems_of(write(GOOD), ["--model_name=mixtral-2-2-4", "--num_experts_per_tok=5"])
    assert "expected 1 to 4" in problem


def test_a_tracker_that_is_not_installed_is_reported(write, monkeypatch):
    monkeypatch.setattr("knowcap.run.preflight.find_spec", lambda name: None)
    (problem,) = problems_of(write(GOOD), ["--report_to=trackio"])
    assert "pip install trackio" in problem


def test_a_missing_recipe_is_reported_with_those_that_exist(monkeypatch, tmp_path):
    for name in ("quickstart", "gpt2/bioS-100k", "accelerate/cpu", "sweeps/sizes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(GOOD)
    monkeypatch.setattr("knowcap.recipe_file.RECIPES_DIR", tmp_path)
    with pytest.raises(RecipeError, match=r"\(gpt2/bioS-100k, quickstart\); did you mean 'quickstart'"):
        load_recipe("quikstart")
    assert find_recipe("gpt2/bioS-100k") == tmp_path / "gpt2" / "bioS-100k.yaml"
    assert load_recipe("quickstart").run_name == "quickstart"


@pytest.mark.parametrize("name", packaged_recipes())
def test_every_packaged_recipe_is_named_after_its_file(name):
    recipe, *_ = read_recipe(name)  # test_recipe_files.py looks at all of it
    assert recipe.run_name in (Path(name).name, name.replace("/", "-"))


def test_reading_without_checks_returns_what_is_there(write):
    recipe, problems, _ = read_recipe(write(GOOD + "pools_fraction: 7\n"))
    assert (recipe.pools_fraction, problems) == (7.0, [])


def test_every_key_has_help_and_its_written_default_reads_as_itself():
    assert list(KEYS) == [key.name for key in fields(Recipe)]
    for key in KEYS.values():
        assert key.help
        if key.default != "":
            assert convert(str(key.default).strip("()"), key.type) == key.default


def test_every_key_has_one_section_and_states_what_it_shapes():
    assert sum(len(fields(section)) for section in SECTIONS) == len(KEYS)
    assert all(section.__doc__ for section in SECTIONS)
    assert set(shaping_keys("run", "draws")) == {"run_name", "output_dir", "seed"}
    model = {"model_name", "head_dim", "learning_rate", "train_batch_size", "precision", "measure_every"}
    assert model < set(shaping_keys("training"))
    frequencies = {"exposures_exponent", "warmup_exposures", "warmup_people_share"}
    assert set(shaping_keys("windows")) == {"block_size", "windows", "shard_size"} | frequencies


# What the recipe.yaml of a data set folder has.
DATASET_KEYS = (
    "seed corpus num_people lists pools_dir pools_fraction num_attributes chunks_per_value diversity chunk_length "
    "alphabet_size string_length facts_file facts_templates num_templates fixed_renderings permute full_name compact "
    "junk_people useful_share junk_tokens domain_token questions qa_share exposures renderings control_people "
    "holdout_entities tokenizer_name vocab_size"
).split()


def test_a_data_set_records_what_its_content_depends_on():
    from knowcap.dataset.head import SHAPING

    where = ["dataset_name", "dataset_revision", "dataset_texts"]  # have no value where a data set is made
    assert [name for name in SHAPING if name not in where] == DATASET_KEYS
    assert {name for name in KEYS if KEYS[name].path} == {
        "pools_dir", "facts_file", "facts_templates", "tokenizer_name",
    }  # fmt: skip


# Values of each corpus that have no effect on the others.
UNUSED = {
    "bioS": {"diversity": 10, "compact": True, "string_length": 6, "facts_file": "x.csv", "useful_share": 0.25},
    "bioD": {"permute": False, "full_name": True, "num_templates": 1, "questions": True, "facts_file": "x.csv"},
    "morris": {
        "renderings": 2,
        "lists": "paper",
        "pools_fraction": 0.5,
        "num_templates": 1,
        "diversity": 10,
        "extract": "lora",
    },
    "table": {"permute": False, "pools_dir": "x", "alphabet_size": 9, "string_length": 6, "domain_token": "x"},
}


@pytest.mark.parametrize(("corpus", "values"), UNUSED.items())
def test_keys_without_effect_on_the_corpus_are_reported_in_sentences(corpus, values):
    problems = check_settings(Recipe(corpus=corpus, num_people=1000, model_name="gpt2-2-2", **values), set())
    assert [problem.split("=")[0] for problem in problems] == sorted(values, key=list(KEYS).index)
    assert all(" has no effect without " in problem and problem.endswith("; leave it out") for problem in problems)


def test_junk_keys_without_junk_are_reported_in_one_sentence(write):
    (problem,) = problems_of(write(GOOD), ["--useful_share=0.25"])
    assert problem == "useful_share=0.25 has no effect without junk_people; leave it out"
    (problem,) = problems_of(write(GOOD), ["--diversity=10"])
    assert problem == "diversity=10 has no effect without corpus: bioD; leave it out"
    for key, corpora in (("num_templates", "bioS or table"), ("renderings", "bioS, bioD or table")):
        assert f"without corpus: {corpora}; leave" in KEYS[key].no_effect(1)


def test_a_recipe_without_lists_has_the_short_ones_and_the_papers_recipes_say_paper(write):
    assert load_recipe(write(GOOD)).lists == load_recipe("quickstart").lists == "short"
    papers = [name for name in packaged_recipes() if "Part 3.3, Parameter" in find_recipe(name).read_text()]
    made = [recipe for recipe in (read_recipe(find_recipe(name))[0] for name in papers) if not recipe.dataset_name]
    assert len(made) > 5 and {recipe.lists for recipe in made} == {"paper"}


def test_an_error_of_recipes_survives_pickling():
    error = RecipeError(["one", "two"], Path("mine.yaml"))
    again = pickle.loads(pickle.dumps(error))
    assert (again.problems, again.source, str(again)) == (["one", "two"], Path("mine.yaml"), str(error))


def test_the_help_lists_keys_choices_and_the_values_of_the_recipe_given(write, capsys):
    for words in (["--help", "--config", "quickstart"], ["--config=quickstart", "-h"]):
        with pytest.raises(SystemExit) as end:
            main(["run", *words])
        text = capsys.readouterr().out
        recipe = load_recipe("quickstart")
        assert end.value.code == 0
        assert all(f"--{name} " in text for name in KEYS) and all(f"\n  {s.__doc__}\n" in text for s in SECTIONS)
        assert re.search(rf"--num_people .* \[{recipe.num_people}\]\n", text)
        assert re.search(rf"--windows .* \(cut, aligned\) \[{recipe.windows}\]\n", text)
        assert re.search(rf"--model_name .* \[{recipe.model_name}\]\n", text)
    with pytest.raises(SystemExit):
        main(["data", "--help"])
    text = capsys.readouterr().out
    assert re.search(r"--num_people .* \[required\]\n", text) and re.search(r"--seed .* \[0\]\n", text)
    assert "corpus: bioD" in text
    with pytest.raises(SystemExit) as end:
        main(["train", "--help", "--config", "quikstart"])
    assert end.value.code == 2 and "did you mean 'quickstart'?" in capsys.readouterr().err


FACE = """
import sys, knowcap
assert callable(knowcap.load_recipe), knowcap.load_recipe
assert callable(knowcap.train), knowcap.train
import knowcap.train
from knowcap import train
assert train is knowcap.train and callable(train)
assert knowcap.load_recipe("quickstart").run_name == "quickstart"
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""


def test_the_package_offers_load_recipe_and_train_without_importing_torch():
    ended = subprocess.run([sys.executable, "-c", FACE], stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 0, ended.stderr


def test_knowcap_train_trains_a_recipe(monkeypatch):
    import knowcap

    called = []
    monkeypatch.setattr("knowcap.training.stage.train", lambda *args: called.append(args) or Path("runs/a/model"))
    assert knowcap.train(Recipe(), "runs/a") == Path("runs/a/model")
    assert called == [(Recipe(), Path("runs/a"))]
