"""What a data set folder brings along, so that its people can be told again: value lists, templates, the recipe."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from knowcap.corpus.base import Corpus
from knowcap.corpus.bios import BioS
from knowcap.facts import Knowledge
from knowcap.files import RECIPE_FILE
from knowcap.knowledge.pools import Pools, load_pools, write_pools
from knowcap.recipe import KEYS, Recipe, RecipeError
from knowcap.recipe_file import read_recipe


POOLS, TEMPLATES = "pools", "templates.yaml"
ANY_MODEL = "gpt2-2-2"  # a recipe names a model; to a data set it does not matter
_ORDER = list(KEYS)
# What the content depends on, the card's own figures included.
SHAPING = (
    "seed", *_ORDER[_ORDER.index("corpus") : _ORDER.index("control_people") + 1], "tokenizer_name", "vocab_size",
)  # fmt: skip
_PATHS = ("pools_dir", "facts_file", "facts_templates", "tokenizer_name")


def write_lists(folder: Path, recipe: Recipe, corpus: Corpus) -> None:
    """Puts into a data set folder what its texts are made from, besides knowcap's own templates.

    pools/ has the value lists as they were used, `pools_fraction` applied; templates.yaml is a table's own file.
    """
    write_corpus_pools(folder, corpus)
    if recipe.corpus == "table":
        shutil.copyfile(Path(str(recipe.facts_templates)).expanduser(), folder / TEMPLATES)
    text = "\n".join(["# What this data set was made from; the model does not matter.", *recipe_lines(recipe), ""])
    (folder / RECIPE_FILE).write_text(text, encoding="utf-8")


def write_corpus_pools(folder: Path, corpus: Corpus) -> None:
    """Puts pools/ into a data set folder, where its corpus has value lists."""
    pools = pools_of(corpus)
    if pools is not None:
        write_pools(pools, folder / POOLS)


def pools_of(corpus: Corpus) -> Pools | None:
    """The value lists of a corpus, if it has any."""
    return corpus.people.pools if isinstance(corpus, BioS) else getattr(corpus, "pools", None)


def recipe_lines(recipe: Recipe) -> list[str]:
    """The keys that make the same data set again, as YAML; of paths the last part, as the rest is the maker's own."""
    keys = {key: getattr(recipe, key) for key in SHAPING}
    shown = {key: v for key, v in keys.items() if v != KEYS[key].default or key in ("corpus", "num_people", "seed")}
    text = yaml.safe_dump(
        shown | local_files(recipe) | {"model_name": ANY_MODEL}, sort_keys=False, allow_unicode=True, width=10_000
    )
    return text.splitlines()


def local_files(recipe: Recipe) -> dict[str, str]:
    """The files and folders of this machine that the recipe reads, by its key: their names alone."""
    given = {key: getattr(recipe, key) for key in _PATHS if getattr(recipe, key)}
    return {k: Path(v).resolve().name for k, v in given.items() if k != "tokenizer_name" or Path(v).is_dir()}


def read_folder_recipe(folder: Path) -> Recipe | None:
    """The recipe that a data set folder was made from; None where it has none, or one that knowcap can't read."""
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
    """What a data set folder says of itself, in small files.

    Attributes:
        folder: where these are.
        knowledge: its knowledge.json.
        shape: the recipe that it was made from; None where it has none, or one that knowcap can't read.
    """

    folder: Path
    knowledge: Knowledge
    shape: Recipe | None

    @classmethod
    def of(cls, folder: Path) -> Head:
        """Reads a folder's knowledge.json and recipe.yaml. Raises FactError where the first is missing or broken."""
        return cls(folder, Knowledge.load(folder / "knowledge.json"), read_folder_recipe(folder))

    @property
    def kind(self) -> str | None:
        """Which corpus knowcap can tell its people as: bioS, bioD or table; None: none that it knows."""
        made_as = None if self.shape is None else self.shape.corpus
        if made_as == "table":
            return made_as if (self.folder / TEMPLATES).is_file() else None
        return made_as if made_as in ("bioS", "bioD") and made_as == self.knowledge.name else None

    def pools(self) -> Pools | None:
        """The value lists, where there are any. Raises CorpusError where they can't be used."""
        return load_pools(self.folder / POOLS) if (self.folder / POOLS).is_dir() else None
