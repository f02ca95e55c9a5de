"""bioS(N) as a builder of `datasets`, and as a folder for `load_dataset`:

    python dataset_scripts/bios.py --num_people 100000 --output_dir bioS-100k --num_proc 2

The Hub no longer runs loading scripts, so the folder is published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import datasets

from knowcap.cli.dataset_builder import CorpusBuilder, CorpusConfig, main
from knowcap.knowledge.people import VERSION
from knowcap.knowledge.pools import lists_version


SIZES = {
    "bioS-10k": 10_000, "bioS-20k": 20_000, "bioS-50k": 50_000, "bioS-100k": 100_000, "bioS-200k": 200_000,
    "bioS-500k": 500_000, "bioS-1m": 1_000_000,
}  # fmt: skip


@dataclass
class BioSConfig(CorpusConfig):
    """A bioS setting by the keys of a recipe, and one of its tables: people, biographies, qa or control."""

    corpus: ClassVar[str] = "bioS"

    fixed_renderings: int | None = None
    permute: bool = True
    full_name: bool = False
    num_templates: int | None = None


class BioS(CorpusBuilder):
    """The rows of one table of bioS(N)."""

    VERSION = datasets.Version(lists_version(VERSION, "paper"))
    BUILDER_CONFIG_CLASS = BioSConfig
    BUILDER_CONFIGS = [
        BioSConfig(name=name, version=datasets.Version(lists_version(VERSION, "paper")), num_people=size)
        for name, size in SIZES.items()
    ]
    DEFAULT_CONFIG_NAME = "bioS-10k"


if __name__ == "__main__":
    main(BioS)
