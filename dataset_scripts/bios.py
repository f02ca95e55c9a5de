"""bioS(N) as a builder of `datasets`, and as a folder that `load_dataset` reads:

    python dataset_scripts/bios.py --num_people 100000 --output_dir bioS-100k --num_proc 2

Loading scripts no longer exist on the Hub, so that the folder is what is published.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import datasets

from knowcap.corpora import corpus_of
from knowcap.dataset import tables, write
from knowcap.knowledge.people import VERSION
from knowcap.parquet import Table
from knowcap.preflight import RULES
from knowcap.recipe import KEYS, Recipe, convert


logger = logging.getLogger("bios")

SIZES = {
    "bioS-10k": 10_000, "bioS-20k": 20_000, "bioS-50k": 50_000, "bioS-100k": 100_000, "bioS-200k": 200_000,
    "bioS-500k": 500_000, "bioS-1m": 1_000_000,
}  # fmt: skip


@dataclass
class BioSConfig(datasets.BuilderConfig):
    """Which bioS, in the keys of a recipe, and which of its tables: people, biographies, qa or control."""

    num_people: int = 10_000
    seed: int = 0
    renderings: int = 1
    fixed_renderings: int | None = None
    permute: bool = True
    full_name: bool = False
    num_templates: int | None = None
    pools_dir: str | None = None
    pools_fraction: float = 1.0
    control_people: int = 1000
    table: str = "biographies"

    def recipe(self) -> Recipe:
        """The recipe of this data set.

        Raises:
            ValueError: every number that is out of its range.
        """
        keys = {name: getattr(self, name) for name in RECIPE_KEYS}
        wrong = [f"{k}={v!r}: expected {RULES[k][1]}" for k, v in keys.items() if k in RULES and not RULES[k][0](v)]
        if wrong:
            raise ValueError("; ".join(wrong))
        return Recipe(**keys)


RECIPE_KEYS = tuple(f.name for f in fields(BioSConfig) if f.name in KEYS)


class BioS(datasets.GeneratorBasedBuilder):
    """The rows of one table of bioS(N), made by knowcap's writer; `num_proc` shares out its files."""

    VERSION = datasets.Version(VERSION)  # of lists, templates and draws: the cache is told apart by it
    BUILDER_CONFIG_CLASS = BioSConfig
    BUILDER_CONFIGS = [
        BioSConfig(name=name, version=datasets.Version(VERSION), num_people=size) for name, size in SIZES.items()
    ]
    DEFAULT_CONFIG_NAME = "bioS-10k"

    def _info(self) -> datasets.DatasetInfo:
        table = self._tables()[0]
        schema = table.batch(table.first, table.first + 1).schema
        return datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(schema), license="apache-2.0")

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


def arguments() -> argparse.ArgumentParser:
    """The command line: a recipe's keys, and where the folder goes."""
    parser = argparse.ArgumentParser(description="Makes a bioS data set folder, and publishes it if asked.")
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder to make; it must not exist yet")
    parser.add_argument("--config_name", choices=SIZES, default=BioS.DEFAULT_CONFIG_NAME, help="a size by name")
    parser.add_argument("--num_proc", type=int, default=1, help="processes; the files are the same")
    parser.add_argument("--push_to_hub", metavar="ID", help="a data set's Hub id, to publish the folder as")
    for key in RECIPE_KEYS:
        parser.add_argument(f"--{key}", help=KEYS[key].metadata["help"])
    return parser


def main(argv: Sequence[str] | None = None) -> Path:
    """Makes the folder and returns it. What is wrong with the arguments ends the program with a message."""
    parser = arguments()
    given = parser.parse_args(argv)
    if given.output_dir.exists():
        parser.error(f"{given.output_dir} is there already; choose another --output_dir, or remove it")
    if given.num_proc < 1:
        parser.error(f"--num_proc {given.num_proc}, expected 1 or more")
    (config,) = (c for c in BioS.BUILDER_CONFIGS if c.name == given.config_name)
    keys = {name: getattr(config, name) for name in RECIPE_KEYS}
    try:
        for name in RECIPE_KEYS:
            if getattr(given, name) is not None:
                keys[name] = _converted(name, getattr(given, name))
        folder = write(BioSConfig(name=given.config_name, **keys).recipe(), given.output_dir, given.num_proc)
        logger.info("%s is made", folder)
        if given.push_to_hub:
            from knowcap.hub import push_dataset

            logger.info("%s", push_dataset(folder, given.push_to_hub))
    except ValueError as error:
        parser.error(str(error))
    return folder


def _converted(name: str, text: str) -> Any:
    try:
        return convert(text, get_type_hints(Recipe)[name])
    except ValueError as error:
        raise ValueError(f"--{name} {text}: {error}") from error


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
