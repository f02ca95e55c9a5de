"""The code shared by dataset_scripts/: a builder of `datasets` over the tables of a recipe, and a command line.

A script has its corpus, the recipe keys that it takes and a few named settings; knowcap's writer makes the rows.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import datasets

from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.folder import Table
from knowcap.dataset.stage import tables, write
from knowcap.recipe import KEYS, Recipe, RecipeError
from knowcap.recipe_file import convert
from knowcap.run.preflight import check_recipe


logger = logging.getLogger(__name__)


@dataclass
class CorpusConfig(datasets.BuilderConfig):
    """A data set by the keys of a recipe, and one of its tables: people, biographies, qa or control."""

    corpus: ClassVar[str]  # set by each script

    num_people: int = 10_000
    seed: int = 0
    renderings: int = 1
    control_people: int = 1000
    lists: str = "paper"
    pools_dir: str | None = None
    pools_fraction: float = 1.0
    table: str = "biographies"

    @classmethod
    def recipe_keys(cls) -> tuple[str, ...]:
        """The recipe keys among the fields."""
        return tuple(f.name for f in fields(cls) if f.name in KEYS)

    def recipe(self) -> Recipe:
        """The recipe of this data set.

        Raises:
            RecipeError: with all problems of its keys.
        """
        recipe = Recipe(corpus=self.corpus, **{key: getattr(self, key) for key in self.recipe_keys()})
        problems = check_recipe(recipe, unusable={"model_name"})  # there is no model here
        if problems:
            raise RecipeError(problems, self.name)
        return recipe


class CorpusBuilder(datasets.GeneratorBasedBuilder):
    """The rows of one table of a corpus; `num_proc` processes make its files.

    A subclass has VERSION (of lists, texts and draws, part of the cache's path), BUILDER_CONFIG_CLASS,
    BUILDER_CONFIGS and DEFAULT_CONFIG_NAME.
    """

    LICENSE = "apache-2.0"
    BUILDER_CONFIG_CLASS: ClassVar[type[CorpusConfig]] = CorpusConfig
    config: CorpusConfig

    def _info(self) -> datasets.DatasetInfo:
        table = self._tables()[0]
        schema = table.batch(table.first, table.first + 1).schema
        return datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(schema), license=self.LICENSE)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(
                name=table.split,
                gen_kwargs={"table": table, "ranges": [(first, end) for _, first, end in table.files()]},
            )
            for table in self._tables()
        ]

    def _generate_examples(self, table: Table, ranges: list[tuple[int, int]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for first, end in ranges:
            rows = (row for batch, _ in table.batches(first, end) for row in batch.to_pylist())
            for number, row in enumerate(rows):
                yield f"{first}-{number}", row

    def _tables(self) -> list[Table]:
        """The splits of the config's table."""
        recipe = self.config.recipe()
        made = tables(recipe, corpus_of(recipe))
        found = [table for table in made if table.config == self.config.table]
        if not found:
            raise ValueError(f"table={self.config.table!r}, expected one of {sorted({t.config for t in made})}")
        return found


def main(builder: type[CorpusBuilder], argv: Sequence[str] | None = None) -> Path:
    """A script's command line: makes the folder, publishes it with --push_to_hub, and returns it.

    Wrong arguments end the program with one message before any work.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = arguments(builder)
    given = parser.parse_args(argv)
    config, problems = _config(builder, given)
    if given.output_dir.exists():
        problems.append(f"{given.output_dir} already exists; choose another --output_dir, or remove it")
    if given.num_proc < 1:
        problems.append(f"--num_proc {given.num_proc}, expected 1 or more")
    if given.push_to_hub is not None:
        from knowcap.hub import check_repo_id

        problems += check_repo_id(given.push_to_hub, "--push_to_hub")
    if problems:
        parser.error("; ".join(problems))
    try:
        folder = write(config.recipe(), given.output_dir, given.num_proc)
        logger.info("wrote %s", folder)
        if given.push_to_hub is not None:
            from knowcap.run.push import push_dataset

            logger.info("%s", push_dataset(folder, given.push_to_hub))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return folder


def arguments(builder: type[CorpusBuilder]) -> argparse.ArgumentParser:
    """The command line: a named setting, a recipe's keys, and the output folder."""
    names = [config.name for config in builder.BUILDER_CONFIGS]
    parser = argparse.ArgumentParser(
        description="Makes a data set folder for `load_dataset`, and publishes it with --push_to_hub.",
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder to make, which must not exist")
    parser.add_argument(
        "--config_name", choices=names, default=builder.DEFAULT_CONFIG_NAME, help="a named setting; keys override it"
    )
    parser.add_argument("--num_proc", type=int, default=1, help="number of processes; the files do not depend on it")
    parser.add_argument("--push_to_hub", metavar="ID", help="publish the folder as this data set on the Hub")
    for key in builder.BUILDER_CONFIG_CLASS.recipe_keys():
        parser.add_argument(f"--{key}", metavar="VALUE", help=KEYS[key].help)
    return parser


def _config(builder: type[CorpusBuilder], given: argparse.Namespace) -> tuple[CorpusConfig, list[str]]:
    """The named config with the given keys, and the problems of these."""
    (named,) = (config for config in builder.BUILDER_CONFIGS if config.name == given.config_name)
    problems = []
    values = {key: getattr(named, key) for key in named.recipe_keys()}
    for key in values:
        text = getattr(given, key)
        try:
            values[key] = values[key] if text is None else convert(text, KEYS[key].type)
        except ValueError as error:
            problems.append(f"--{key} {text}: {error}")
    config = type(named)(name=named.name, version=named.version, **values)
    if not problems:
        try:
            config.recipe()
        except RecipeError as error:
            problems += error.problems
    return config, problems
