"""bioD(N, K, C, D, L, T) as a builder of `datasets`, and as a folder for `load_dataset`:

    python dataset_scripts/biod.py --config_name bioD-20k --output_dir bioD-20k --num_proc 2

The paper's ranges are K, C, L up to 50, D from 10 to 10,000, T from 20 to 40,000 (Part 3.3, Result 3). It does not
list its settings, so these are our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import datasets

from knowcap.cli.dataset_builder import CorpusBuilder, CorpusConfig, main
from knowcap.corpus.biod import VERSION
from knowcap.knowledge.pools import lists_version


# Name → N, K, C, D, L, T, and whether in the compact form.
SETTINGS = {
    "bioD-10k": (10_000, 5, 2, 100, 5, 100, False),
    "bioD-20k": (20_000, 2, 1, 10_000, 5, 1000, False),
    "bioD-100k": (100_000, 1, 1, 1000, 5, 32, False),
    "bioD-10k-many-attributes": (10_000, 50, 1, 20, 2, 100, False),
    "bioD-10k-many-chunks": (10_000, 1, 50, 10, 2, 20, False),
    "bioD-10k-long-chunks": (10_000, 1, 1, 1000, 50, 40_000, False),
    "bioD-10k-compact": (10_000, 6, 1, 256, 2, 64, True),
}


@dataclass
class BioDConfig(CorpusConfig):
    """A bioD setting by the keys of a recipe, and one of its tables: people, biographies or control."""

    corpus: ClassVar[str] = "bioD"

    num_attributes: int = 1
    chunks_per_value: int = 1
    diversity: int = 1000
    chunk_length: int = 5
    alphabet_size: int = 32
    compact: bool = False


class BioD(CorpusBuilder):
    """The rows of one table of bioD(N, K, C, D, L, T)."""

    VERSION = datasets.Version(lists_version(VERSION, "paper"))
    BUILDER_CONFIG_CLASS = BioDConfig
    BUILDER_CONFIGS = [
        BioDConfig(
            name=name,
            version=datasets.Version(lists_version(VERSION, "paper")),
            num_people=n,
            num_attributes=k,
            chunks_per_value=c,
            diversity=d,
            chunk_length=length,
            alphabet_size=t,
            compact=compact,
        )
        for name, (n, k, c, d, length, t, compact) in SETTINGS.items()
    ]
    DEFAULT_CONFIG_NAME = "bioD-10k"


if __name__ == "__main__":
    main(BioD)
