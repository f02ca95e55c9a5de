"""The small files of a data set folder that describe it: knowledge.json, the recipe, the value lists, the templates.

From them its people can be rendered again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from knowcap.corpus.base import Corpus
from knowcap.corpus.bios import BioS
from knowcap.facts import Knowledge
from knowcap.files import KNOWLEDGE_FILE, RECIPE_FILE
from knowcap.knowledge.pools import DEFAULT_LISTS, Pools, load_pools, write_pools
from knowcap.recipe import KEYS, Recipe, RecipeError, shaping_keys
from knowcap.recipe_file import read_recipe


POOLS, TEMPLATES = "pools", "templates.yaml"
ANY_MODEL = "gpt2-2-2"  # a recipe needs a model, but a data set does not depend on it
SHAPING = shaping_keys("draws", "texts", "tokens")  # what the content depends on, with the figures of the card


def write_lists(folder: Path, recipe: Recipe, corpus: Corpus) -> None:
    """Writes into a data set folder what its texts are made from, except knowcap's own templates.

    pools/ has the value lists with `pools_fraction` applied; templates.yaml is a table's own file.
    """
    write_corpus_pools(folder, corpus)
    if recipe.corpus == "table":
        shutil.copyfile(Path(str(recipe.facts_templates)).expanduser(), folder / TEMPLATES)
    text = "\n".join(["# What this data set was made from; the model does not matter.", *recipe_lines(recipe), ""])
    (folder / RECIPE_FILE).write_text(text, encoding="utf-8")


def write_corpus_pools(folder: Path, corpus: Corpus) -> None:
    """Writes pools/ into a data set folder, if its corpus has value lists."""
    pools = pools_of(corpus)
    if pools is not None:
        write_pools(pools, folder / POOLS)


def pools_of(corpus: Corpus) -> Pools | None:
    """The value lists of a corpus, if it has any."""
    return corpus.people.pools if isinstance(corpus, BioS) else getattr(corpus, "pools", None)


def recipe_lines(recipe: Recipe) -> list[str]:
    """The keys that make the same data set again, as YAML; with only the last part of paths, which are private."""
    keys = {key: getattr(recipe, key) for key in SHAPING}
    shown = {key: v for key, v in keys.items() if v != KEYS[key].default or key in ("corpus", "num_people", "seed")}
    text = yaml.safe_dump(
        shown | local_files(recipe) | {"model_name": ANY_MODEL}, sort_keys=False, allow_unicode=True, width=10_000
    )
    return text.splitlines()


def local_files(recipe: Recipe) -> dict[str, str]:
    """The names, without paths, of the local files and folders that the recipe reads, by its key."""
    given = {key: getattr(recipe, key) for key in SHAPING if KEYS[key].path and getattr(recipe, key)}
    return {k: Path(v).resolve().name for k, v in given.items() if k != "tokenizer_name" or Path(v).exists()}


def read_folder_recipe(folder: Path) -> Recipe | None:
    """The recipe that a data set folder was made from; None if there is none, or none that knowcap can read."""
    file = folder / RECIPE_FILE
    if not file.is_file():
        return None
    try:
        recipe, problems, _ = read_recipe(file)
    except RecipeError:
        return None
    return None if problems else recipe


@dataclass(frozen=True)
class Head:
    """The description of a data set folder, from its small files.

    Attributes:
        folder: the folder with these files.
        knowledge: its knowledge.json.
        recipe: the recipe that it was made from; None if there is none, or none that knowcap can read.
    """

    folder: Path
    knowledge: Knowledge
    recipe: Recipe | None

    @classmethod
    def of(cls, folder: Path) -> Head:
        """Reads a folder's knowledge.json and recipe.yaml. Raises FactError if the first is missing or invalid."""
        return cls(folder, Knowledge.load(folder / KNOWLEDGE_FILE), read_folder_recipe(folder))

    @property
    def kind(self) -> str | None:
        """The corpus by which knowcap can render its people: bioS, bioD or table; None for any other."""
        made_as = None if self.recipe is None else self.recipe.corpus
        if made_as == "table":
            return made_as if (self.folder / TEMPLATES).is_file() else None
        return made_as if made_as in ("bioS", "bioD") and made_as == self.knowledge.name else None

    def pools(self) -> Pools | None:
        """The value lists, if there are any. Raises CorpusError if they cannot be used."""
        if not (self.folder / POOLS).is_dir():
            return None
        lists = DEFAULT_LISTS if self.recipe is None else self.recipe.lists
        return load_pools(self.folder / POOLS, lists=lists)
