"""What is wrong with a recipe before any work is done: ranges, choices, value lists, templates, vocabulary, model."""

from __future__ import annotations

from collections.abc import Callable, Collection
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from knowcap.corpus.tokenizer import check_vocabulary
from knowcap.extraction.checks import check_questions
from knowcap.facts import FEWEST_CONTROL, CorpusError
from knowcap.recipe import (
    BIOD_KEYS,
    JUNK_KEYS,
    KEYS,
    NOT_BIOD_KEYS,
    NOT_MORRIS_KEYS,
    NOT_TABLE_KEYS,
    RULES,
    SETTLED_KEYS,
    Recipe,
    RecipeError,
)
from knowcap.recipe_file import Overrides, read_recipe


if TYPE_CHECKING:
    from knowcap.knowledge.pools import Pools
    from knowcap.recipe import Recipe

T = TypeVar("T")


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
        unusable: keys that had a problem already: they are not looked at again.
    """
    bad = set(unusable)
    return check_settings(recipe, bad) + check_corpus(recipe, bad)


def check_settings(recipe: Recipe, bad: set[str]) -> list[str]:
    """What is wrong with the keys themselves and with the model that they name; no file is read.

    Args:
        recipe: with its run_name.
        bad: keys that had a problem already; those that have one here are added.
    """
    problems = _check_values(recipe, bad)
    problems += _check_together(recipe, bad)
    problems += _check_idle(recipe, bad)
    problems += _check_quantizing(recipe, bad)
    return problems + _check_model(recipe, bad)


def _check_model(recipe: Recipe, bad: set[str]) -> list[str]:
    """The model's name and settings, and those of mixtures where there is none."""
    from knowcap.models import MODEL_KEYS, model_problems, parse_model_name

    if bad & set(MODEL_KEYS):
        return []
    problems = model_problems(**{key: getattr(recipe, key) for key in MODEL_KEYS})
    if problems or parse_model_name(recipe.model_name).num_experts:
        return problems
    return [
        f"{key}={getattr(recipe, key)!r} is for mixtures, not {recipe.model_name}; leave it out"
        for key in ("num_experts_per_tok", "router_aux_loss_coef")
        if getattr(recipe, key) != KEYS[key].default
    ]


def _check_values(recipe: Recipe, bad: set[str]) -> list[str]:
    """Each key alone; keys with a problem are added to `bad`."""
    problems = []
    for name, key in KEYS.items():
        value = getattr(recipe, name)
        choices = key.metadata.get("choices")
        valid, expected = RULES.get(name, (lambda _: True, ""))
        has_people = recipe.corpus == "table" or recipe.dataset_name is not None
        if name in bad or (name == "num_people" and has_people and value == 0):
            continue
        if choices and value not in choices:
            close = get_close_matches(value, choices, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            problems.append(f"{name}={value!r}: expected {' or '.join(choices)}{hint}")
        elif not valid(value):
            problems.append(f"{name}={value!r}: expected {expected}")
        else:
            continue
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
    if not bad & {"num_people", "control_people"} and few and recipe.control_people < FEWEST_CONTROL:
        problems.append(
            f"num_people={recipe.num_people} with control_people={recipe.control_people}: nothing is left for a null "
            f"control; give 2 people or more, or a control of {FEWEST_CONTROL}"
        )
    if not bad & {"tokenizer_name"} and (name := recipe.tokenizer_name) is not None:
        if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
            problems.append(f"tokenizer_name={name!r}: no such folder; give a folder or a Hub id")
    problems += check_questions(recipe, bad)
    tracker = recipe.report_to
    if "report_to" not in bad and tracker != "none" and find_spec(tracker) is None:
        problems.append(f"report_to={tracker!r}, which is not installed; `pip install {tracker}`, or report_to: none")
    return problems


def _check_idle_beside(recipe: Recipe, bad: set[str]) -> list[str]:
    """Keys that say what a data set has settled already."""
    published = recipe.dataset_texts == "published" and "dataset_texts" not in bad
    told = (*NOT_BIOD_KEYS,) if published else ()
    idle = (*SETTLED_KEYS, *told)
    why = "tells its texts as they are" if published else "has its own people"
    return [
        f"{name}={getattr(recipe, name)!r} beside dataset_name={recipe.dataset_name!r}, which {why}; leave it out"
        for name in idle
        if name not in bad and getattr(recipe, name) != KEYS[name].default
    ]


def _check_idle(recipe: Recipe, bad: set[str]) -> list[str]:
    """Keys that the corpus does not look at: whoever sets one means something else."""
    if recipe.dataset_name is not None:
        return _check_idle_beside(recipe, bad)
    beside = [key for key in ("dataset_revision", "dataset_texts") if getattr(recipe, key) != KEYS[key].default]
    biod, table, morris = (*BIOD_KEYS, "compact"), ("facts_file", "facts_templates"), ("string_length",)
    idle = {
        "bioD": (*NOT_BIOD_KEYS, *table, *morris),
        "table": (*NOT_TABLE_KEYS, *biod, *morris),
        "morris": (*NOT_MORRIS_KEYS, *(key for key in biod if key != "alphabet_size"), *table),
    }.get(recipe.corpus, (*biod, *table, *morris))
    if recipe.corpus == "bioS" and not bad & {"junk_people"} and not recipe.junk_people:
        idle = (*idle, "useful_share", "junk_tokens")
    of = dict.fromkeys(biod, "is for corpus: bioD, not") | dict.fromkeys(table, "is for corpus: table, not")
    of |= {"string_length": "is for corpus: morris, not"}
    of |= dict.fromkeys(("useful_share", "junk_tokens"), "needs junk_people and says nothing without to")
    return [
        f"{name}={getattr(recipe, name)!r} says nothing without a dataset_name; give one, or leave it out"
        for name in beside
        if name not in bad
    ] + [
        f"{name}={getattr(recipe, name)!r} {of.get(name, 'says nothing to')} corpus: {recipe.corpus}; leave it out"
        for name in idle
        if not bad & {name, "corpus"} and getattr(recipe, name) != KEYS[name].default
    ]


def _check_quantizing(recipe: Recipe, bad: set[str]) -> list[str]:
    """Whether the copies can be made of a model of that width, with what is installed."""
    from knowcap.models import ModelError, parse_model_name
    from knowcap.models.families import inner_size
    from knowcap.models.quantized.settings import check_recipe

    if bad & {"quantize_bits", "quantization_method", "quantization_group_size", "quantization_symmetric"}:
        return []
    try:
        name = parse_model_name(recipe.model_name)
    except ModelError:
        return check_recipe(recipe, ())  # told by the model's own check
    width = name.num_heads * recipe.head_dim
    return check_recipe(recipe, (width, inner_size(name.of, width)))


def check_corpus(recipe: Recipe, bad: set[str]) -> list[str]:
    """What is wrong with value lists, templates, and the vocabulary that they need, but for keys that are `bad`."""
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
    if not bad & {"pools_dir", "pools_fraction"}:
        pools = _try("pools_dir", lambda: load_pools(recipe.pools_dir, recipe.pools_fraction), problems)
    if "num_templates" not in bad:
        templates = _try("num_templates", lambda: load_templates(recipe.num_templates), problems)
    if pools is not None and "num_people" not in bad and recipe.num_people > pools.num_names:
        problems.append(
            f"num_people={recipe.num_people:_} exceeds the {pools.num_names:,} unique names of the pools; "
            "lower num_people or pass larger pools"
        )
    if not bad & {"num_people", *JUNK_KEYS}:
        problems += _check_junk(recipe, pools)
    if pools and templates and recipe.tokenizer_name is None and "vocab_size" not in bad:
        from knowcap.corpus.bios import BioS
        from knowcap.knowledge.people import People

        problems += check_vocabulary(
            recipe.vocab_size,
            BioS(People(pools, 1, recipe.seed), templates, asked=recipe.questions).vocabulary_texts(),
        )
    return problems


def _check_junk(recipe: Recipe, pools: Pools | None) -> list[str]:
    """The tokens that tell junk from useful texts, and names for all people."""
    from knowcap.corpus.junk import Junk

    problems: list[str] = []
    if recipe.junk_people or not recipe.junk_tokens:  # the other case is told as an idle key
        _try("domain_token", lambda: Junk(recipe.junk_people, recipe.domain_token, recipe.junk_tokens), problems)
    if pools is not None and recipe.num_people <= pools.num_names < recipe.num_people + recipe.junk_people:
        problems.append(
            f"num_people={recipe.num_people:_} and junk_people={recipe.junk_people:_}, but the lists make "
            f"{pools.num_names:,} names and no two people share one; lower one, or pass larger lists"
        )
    return problems


def _check_biod(recipe: Recipe, bad: set[str]) -> list[str]:
    """bioD's numbers, the lists that its names are from, and the vocabulary that they need."""
    from knowcap.corpus.biod import biod_of

    if bad & {*BIOD_KEYS, "num_people", "seed", "pools_dir", "pools_fraction", "compact"}:
        return []
    problems: list[str] = []
    corpus = _try("corpus", lambda: biod_of(recipe), problems)
    if corpus and not recipe.compact and recipe.tokenizer_name is None and "vocab_size" not in bad:
        problems += check_vocabulary(recipe.vocab_size, corpus.vocabulary_texts())
    return problems


def _check_morris(recipe: Recipe, bad: set[str]) -> list[str]:
    """The numbers of random strings."""
    from knowcap.corpus.morris import morris_of

    problems: list[str] = []
    if not bad & {"num_people", "string_length", "alphabet_size", "seed", "control_people", "tokenizer_name"}:
        _try("corpus", lambda: morris_of(recipe), problems)
    return problems


def _check_table(recipe: Recipe, bad: set[str]) -> list[str]:
    """A user's facts and their templates, and the vocabulary that they need."""
    from knowcap.corpus.table import table_of

    if bad & {"facts_file", "facts_templates", "num_templates"}:
        return []
    try:
        table = table_of(recipe)
    except CorpusError as error:
        return error.problems
    problems = []
    if "num_people" not in bad and recipe.num_people not in (0, table.num_people):
        problems.append(
            f"num_people={recipe.num_people}, but {recipe.facts_file} has {table.num_people} entities and all are "
            "used; leave num_people out"
        )
    if recipe.tokenizer_name is None and "vocab_size" not in bad:
        problems += check_vocabulary(recipe.vocab_size, table.vocabulary_texts())
    return problems


def _try(key: str, load: Callable[[], T], problems: list[str]) -> T | None:
    """What `load` returns; or None and its complaint among the problems."""
    try:
        return load()
    except (ValueError, OSError) as error:
        problems.append(f"{key}: {error}" if not str(error).startswith(key) else str(error))
        return None
