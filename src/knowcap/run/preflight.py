"""The checks of a recipe before any work is done: ranges, choices, value lists, templates, vocabulary, model."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from knowcap.corpus.tokenizer import check_vocabulary
from knowcap.facts import MIN_CONTROL, CorpusError
from knowcap.recipe import (
    KEYS,
    BioDSection,
    JunkSection,
    ModelSection,
    QuantizationSection,
    QuestionSection,
    Recipe,
    RecipeError,
    TableSection,
    section_keys,
)
from knowcap.recipe.optimizer import optim_args_problems
from knowcap.recipe_file import Overrides, read_recipe


if TYPE_CHECKING:
    from knowcap.knowledge.pools import Pools

T = TypeVar("T")
_RANKS = ("extract_rank", "extract_embedding_rank")


def load_recipe(config: str | Path, overrides: Overrides = ()) -> Recipe:
    """Reads, converts and checks a recipe.

    Args:
        config: a YAML file (a run folder's recipe.yaml too), or the name of a packaged recipe such as `quickstart`.
        overrides: `["--key", "value", "--key=value", …]` or `{key: value}`; they win over the file.

    Raises:
        RecipeError: with every problem of file, overrides, value lists, templates, vocabulary and model together.
    """
    recipe, problems = checked_recipe(config, overrides)
    if problems:
        raise RecipeError(problems, config)
    return recipe


def checked_recipe(config: str | Path, overrides: Overrides = ()) -> tuple[Recipe, list[str]]:
    """Like `load_recipe`, but returns the problems.

    Raises:
        RecipeError: there is no such recipe.
    """
    recipe, problems, unusable = read_recipe(config, overrides)
    return recipe, problems + check_recipe(recipe, unusable)


def check_recipe(recipe: Recipe, unusable: Collection[str] = ()) -> list[str]:
    """All problems of a recipe, one message each; reads value lists and templates, imports no torch.

    Args:
        recipe: with its run_name.
        unusable: keys that had a problem already; they are not checked again.
    """
    bad = set(unusable)
    return check_settings(recipe, bad) + check_corpus(recipe, bad)


def check_settings(recipe: Recipe, bad: set[str]) -> list[str]:
    """The problems of the keys themselves and of the model that they name; no file is read.

    Args:
        recipe: with its run_name.
        bad: keys that had a problem already; those with a problem here are added.
    """
    problems = _check_values(recipe, bad)
    problems += _check_together(recipe, bad)
    problems += _check_unused(recipe, bad)
    problems += _check_quantizing(recipe, bad)
    return problems + _check_model(recipe, bad)


def _check_model(recipe: Recipe, bad: set[str]) -> list[str]:
    """The model's name and settings; settings of mixtures of experts for a model that is none."""
    from knowcap.models import architecture_problems, is_config, parse_model_name

    if bad.intersection(section_keys(ModelSection)):
        return []
    problems = architecture_problems(recipe)
    if problems or is_config(recipe.model_name) or parse_model_name(recipe.model_name).num_experts:
        return problems
    why = f"on {recipe.model_name}, which is no mixture of experts"
    return [
        key.no_effect(value, why)
        for name, key in KEYS.items()
        if key.mixtures and (value := getattr(recipe, name)) != key.default
    ]


def _check_values(recipe: Recipe, bad: set[str]) -> list[str]:
    """Each key alone; keys with a problem are added to `bad`."""
    problems = []
    for name, key in KEYS.items():
        value = getattr(recipe, name)
        absent = key.required and not key.is_required(recipe.corpus, recipe.dataset_name) and value == key.default
        if name not in bad and not absent and (problem := key.wrong_value(value)):
            problems.append(problem)
            bad.add(name)
    return problems


def _check_together(recipe: Recipe, bad: set[str]) -> list[str]:
    """Keys that must agree with each other, or with what is installed."""
    problems = []
    batch, micro = recipe.train_batch_size, recipe.gradient_accumulation_steps
    if not bad & {"train_batch_size", "gradient_accumulation_steps"} and batch % micro:
        problems.append(
            f"train_batch_size={batch} is not divisible by gradient_accumulation_steps={micro}; "
            f"{batch // micro * micro or micro} is"
        )
    few = recipe.dataset_name is None and recipe.num_people < 2
    if not bad & {"num_people", "control_people"} and few and recipe.control_people < MIN_CONTROL:
        problems.append(
            f"num_people={recipe.num_people} with control_people={recipe.control_people} leaves too few people for a "
            f"null control; give num_people of 2 or more, or control_people of {MIN_CONTROL} or more"
        )
    if not bad & {"exposures", "warmup_exposures"} and recipe.warmup_exposures >= recipe.exposures:
        problems.append(
            f"warmup_exposures={recipe.warmup_exposures} of exposures={recipe.exposures}, but all people are shown "
            f"after the warm-up; expected at most {recipe.exposures - 1}"
        )
    if not bad & {"tokenizer_name"} and (name := recipe.tokenizer_name) is not None:
        if name.startswith(("/", ".", "~")) and not Path(name).expanduser().exists():
            problems.append(f"tokenizer_name={name!r}: no such folder; give a folder, a vocab.json or a Hub id")
    if not bad & {"optimizer", "optim_args"}:
        problems += optim_args_problems(recipe.optimizer, recipe.optim_args)
    bits = None if "fake_quantization_bits" in bad else recipe.fake_quantization_bits
    if bits is not None and recipe.torch_compile and "torch_compile" not in bad:
        problems.append(
            f"fake_quantization_bits={bits} replaces weights in each forward pass, which a compiled model would not "
            "see; leave out torch_compile"
        )
    problems += _check_questions(recipe, bad)
    tracker = recipe.report_to
    if "report_to" not in bad and tracker != "none" and find_spec(tracker) is None:
        problems.append(f"report_to={tracker!r}, which is not installed; `pip install {tracker}`, or report_to: none")
    return problems


def _check_questions(recipe: Recipe, bad: set[str]) -> list[str]:
    """The problems of questions without a tokenizer for them, of ranks that are too large, and of junk with questions.

    Args:
        recipe: of any corpus; only bioS has questions.
        bad: keys that have a problem of their own.
    """
    unclear = {*section_keys(QuestionSection), "extract", "junk_people", "corpus"}.intersection(bad)
    if unclear or recipe.corpus != "bioS" or recipe.dataset_name is not None:
        return []
    problems, asks = [], {"qa_share": recipe.qa_share > 0, "extract": recipe.extract != "none"}
    if not recipe.questions:
        problems += [
            f"{key}={getattr(recipe, key)!r} needs a tokenizer with the words of questions; add questions: true"
            for key, asked in asks.items()
            if asked
        ]
    if recipe.extract == "lora" and not {"model_name", "head_dim", *_RANKS}.intersection(bad):
        problems += _check_ranks(recipe)
    if recipe.qa_share and recipe.junk_people:
        problems.append(
            f"qa_share={recipe.qa_share} and junk_people={recipe.junk_people}: training can mix biographies with "
            "only one of them; leave one out"
        )
    return problems


def _check_ranks(recipe: Recipe) -> list[str]:
    """Ranks of LoRA that exceed the hidden size."""
    from knowcap.models import ModelError, hidden_size_of

    try:
        width = hidden_size_of(recipe)
    except ModelError:
        return []  # _check_model reports the name
    ranks = {} if width is None else {key: getattr(recipe, key) for key in _RANKS}
    return [
        f"{key}={rank} exceeds the hidden size {width} of {recipe.model_name}; give {width} or less"
        for key, rank in ranks.items()
        if rank > (width or rank)
    ]


def _check_unused(recipe: Recipe, bad: set[str]) -> list[str]:
    """Keys that are set but have no effect on this corpus or data set, or without another key."""
    problems = []
    for name, key in KEYS.items():
        if name in bad or (value := getattr(recipe, name)) == key.default:
            continue
        other_corpus = recipe.dataset_name is None and recipe.corpus not in key.corpora
        failing = [c for c in key.used_with if not bad.intersection(c.keys) and not c.holds(recipe)]
        if other_corpus and not bad & {"corpus", "dataset_name"}:
            problems.append(key.no_effect(value))
        elif failing:
            problems.append(key.no_effect(value, failing[0].otherwise.format(**vars(recipe))))
    return problems


def _check_quantizing(recipe: Recipe, bad: set[str]) -> list[str]:
    """Whether a model of that width can be quantized so, with the packages that are installed."""
    from knowcap.models import ModelError, hidden_size_of, parse_model_name
    from knowcap.models.names import inner_size
    from knowcap.models.quantized.settings import check_recipe

    if bad.intersection(section_keys(QuantizationSection)):
        return []
    try:
        width = hidden_size_of(recipe)
    except ModelError:
        width = None  # _check_model reports the name
    if width is None:
        return check_recipe(recipe, ())
    return check_recipe(recipe, (width, inner_size(parse_model_name(recipe.model_name).of, width)))


def check_corpus(recipe: Recipe, bad: set[str]) -> list[str]:
    """The problems of value lists, templates and the vocabulary that they need, except of keys that are `bad`."""
    if recipe.dataset_name is not None:
        from knowcap.dataset.checks import check_dataset

        return check_dataset(recipe, bad)
    if recipe.corpus == "table":
        return _check_table(recipe, bad)
    if recipe.corpus == "bioD":
        return _check_biod(recipe, bad)
    if recipe.corpus == "morris":
        return _check_morris(recipe, bad)
    from knowcap.corpus.templates import load_templates
    from knowcap.knowledge.pools import load_pools

    problems: list[str] = []
    pools = templates = None
    if not bad & {"lists", "pools_dir", "pools_fraction"}:
        pools = _try("pools_dir", lambda: load_pools(recipe.pools_dir, recipe.pools_fraction, recipe.lists), problems)
    if not bad & {"lists", "num_templates"}:
        templates = _try("num_templates", lambda: load_templates(recipe.num_templates, lists=recipe.lists), problems)
    if pools is not None and "num_people" not in bad and recipe.num_people > pools.num_names:
        problems.append(
            f"num_people={recipe.num_people:_} exceeds the {pools.num_names:,} unique names of the pools; "
            "lower num_people or pass larger pools"
        )
    if not bad & {"num_people", *section_keys(JunkSection)}:
        problems += _check_junk(recipe, pools)
    if pools and templates and recipe.tokenizer_name is None and "vocab_size" not in bad:
        from knowcap.corpus.bios import BioS
        from knowcap.knowledge.people import People

        problems += check_vocabulary(
            recipe.vocab_size,
            BioS(People(pools, 1, recipe.seed), templates, with_questions=recipe.questions).vocabulary_texts(),
        )
    return problems


def _check_junk(recipe: Recipe, pools: Pools | None) -> list[str]:
    """Special tokens of junk and useful texts, and names for all people."""
    from knowcap.corpus.junk import Junk

    problems: list[str] = []
    if recipe.junk_people or not recipe.junk_tokens:  # else _check_unused reports junk_tokens
        _try("domain_token", lambda: Junk(recipe.junk_people, recipe.domain_token, recipe.junk_tokens), problems)
    if pools is not None and recipe.num_people <= pools.num_names < recipe.num_people + recipe.junk_people:
        problems.append(
            f"num_people={recipe.num_people:_} and junk_people={recipe.junk_people:_}, but the value "
            f"lists have only {pools.num_names:,} unique names; lower one, or pass larger lists"
        )
    return problems


def _check_biod(recipe: Recipe, bad: set[str]) -> list[str]:
    """The sizes of bioD, the lists of its names, and the vocabulary that they need."""
    from knowcap.corpus.biod import biod_of

    keys = {*section_keys(BioDSection), *section_keys(JunkSection)}
    if bad & {*keys, "num_people", "seed", "lists", "pools_dir", "pools_fraction", "compact"}:
        return []
    problems = _check_junk(recipe, None)
    if problems:
        return problems
    if not recipe.junk_people:
        recipe = replace(recipe, junk_tokens=0)  # which _check_unused reports
    corpus = _try("corpus", lambda: biod_of(recipe), problems)
    if corpus and recipe.compact and recipe.domain_token:
        _try("domain_token", lambda: corpus.own_tokenizer(recipe.vocab_size), problems)
    if corpus and not recipe.compact and recipe.tokenizer_name is None and "vocab_size" not in bad:
        problems += check_vocabulary(recipe.vocab_size, corpus.vocabulary_texts())
    return problems


def _check_morris(recipe: Recipe, bad: set[str]) -> list[str]:
    """The sizes of random strings."""
    from knowcap.corpus.morris import morris_of

    problems: list[str] = []
    if not bad & {"num_people", "string_length", "alphabet_size", "seed", "control_people", "tokenizer_name"}:
        _try("corpus", lambda: morris_of(recipe), problems)
    return problems


def _check_table(recipe: Recipe, bad: set[str]) -> list[str]:
    """The facts of a table and their templates, and the vocabulary that they need."""
    from knowcap.corpus.table import table_of

    if bad & {*section_keys(TableSection), "num_templates", "holdout_entities"}:
        return []
    try:
        table = table_of(recipe)
    except CorpusError as error:
        return error.problems
    problems = []
    entities = table.num_people + table.num_outsiders
    if "num_people" not in bad and recipe.num_people not in (0, entities):
        problems.append(
            f"num_people={recipe.num_people}, but {recipe.facts_file} has {entities} entities, which are all used, or "
            "held out by holdout_entities; leave num_people out"
        )
    if recipe.tokenizer_name is None and "vocab_size" not in bad:
        problems += check_vocabulary(recipe.vocab_size, table.vocabulary_texts())
    return problems


def _try(key: str, load: Callable[[], T], problems: list[str]) -> T | None:
    """What `load` returns; None where it raises, and its message is added to the problems."""
    try:
        return load()
    except (ValueError, OSError) as error:
        problems.append(f"{key}: {error}" if not str(error).startswith(key) else str(error))
        return None
