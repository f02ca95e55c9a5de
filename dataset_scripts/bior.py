"""bioR(N), biographies written by a language model: a folder for `load_dataset`, and a builder of `datasets`.

Written by a model on this machine, by an OpenAI-compatible server (vLLM, TGI, `transformers serve`), or by an
inference provider:

    python dataset_scripts/bior.py --num_people 1000 --output_dir bioR-1k --model_name Qwen/Qwen3-4B-Instruct-2507
    python dataset_scripts/bior.py --num_people 1000 --output_dir bioR-1k --model_name Qwen/Qwen3-4B-Instruct-2507 \\
        --base_url http://localhost:8000/v1 --concurrency 64
    python dataset_scripts/bior.py --num_people 1000 --output_dir bioR-1k --model_name Qwen/Qwen3-4B-Instruct-2507 \\
        --provider auto

To resume after an interruption, run the same command again.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq

from knowcap.dataset.folder import DatasetError
from knowcap.dataset.rewrite import Task, Writer, rewrite
from knowcap.knowledge.people import VERSION
from knowcap.knowledge.pools import lists_version
from knowcap.recipe import LISTS


logger = logging.getLogger("bior")

SIZES = {"bioR-1k": 1000, "bioR-10k": 10_000, "bioR-100k": 100_000, "bioR-1m": 1_000_000}
TABLES = ("people", "biographies", "qa", "control", "neutral", "neutral_control")


@dataclass
class BioRConfig(datasets.BuilderConfig):
    """A bioR setting, its writer, and one of its tables."""

    num_people: int = 1000
    model_name: str = ""
    base_url: str | None = None
    provider: str | None = None
    api_key_env: str | None = None
    texts_per_person: int = 40
    control_people: int = 1000
    concurrency: int = 16
    max_attempts: int = 5
    temperature: float = 0.9
    max_new_tokens: int = 256
    timeout: float = 120.0
    seed: int = 0
    lists: str = "paper"
    pools_dir: str | None = None
    allow_missing: bool = False
    table: str = "biographies"

    def task(self) -> Task:
        """The texts to write."""
        return Task(self.num_people, self.texts_per_person, self.control_people, self.seed, self.pools_dir, self.lists)

    def writer(self) -> Writer:
        """The writer: a server or a provider if one is given, otherwise a model on this machine.

        Raises:
            DatasetError: a number is out of range, or the writer cannot be used.
        """
        wrong = [f"{k}={getattr(self, k)}: expected 1 or more" for k in _COUNTS if getattr(self, k) < 1]
        wrong += [] if self.temperature >= 0 else [f"temperature={self.temperature}: expected 0 or more"]
        wrong += [] if self.timeout > 0 else [f"timeout={self.timeout}: expected more than 0 seconds"]
        wrong += [] if self.model_name else ["model_name is missing: give the language model that writes the texts"]
        if wrong:
            raise DatasetError("; ".join(wrong))
        settings = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
        if self.base_url is None and self.provider is None and self.api_key_env is None:
            from knowcap.dataset.rewrite.writers import LocalWriter

            return LocalWriter(self.model_name, batch_size=self.concurrency, **settings)
        from knowcap.dataset.rewrite.server import ServerWriter

        server = {"base_url": self.base_url, "provider": self.provider, "api_key_env": self.api_key_env}
        server["timeout"] = self.timeout
        return ServerWriter(self.model_name, concurrency=self.concurrency, **server, **settings)

    def write(self, folder: Path) -> Path:
        """Makes the data set folder."""
        self.task().recipe()  # problems are reported before a model is loaded
        options = {"max_attempts": self.max_attempts, "allow_missing": self.allow_missing}
        return rewrite(self.task(), self.writer(), folder, **options)


_COUNTS = ("concurrency", "max_attempts", "max_new_tokens")


class BioR(datasets.GeneratorBasedBuilder):
    """The rows of one table of bioR(N); all tables of a setting are written together, once, into the cache."""

    VERSION = datasets.Version(lists_version(VERSION, "paper"))
    BUILDER_CONFIG_CLASS = BioRConfig
    BUILDER_CONFIGS = [
        BioRConfig(name=name, version=datasets.Version(lists_version(VERSION, "paper")), num_people=size)
        for name, size in SIZES.items()
    ]
    DEFAULT_CONFIG_NAME = "bioR-1k"

    def _info(self) -> datasets.DatasetInfo:
        if self.config.table not in TABLES:
            raise ValueError(f"table={self.config.table!r}, expected one of {list(TABLES)}")
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        task, config = self.config.task(), self.config
        key = repr(
            (
                task,
                config.model_name,
                config.temperature,
                config.max_new_tokens,
                lists_version(VERSION, self.config.lists),
            )
        )
        folder = Path(self._cache_dir_root) / "bioR" / hashlib.sha256(key.encode()).hexdigest()[:16]
        if not folder.is_dir():
            config.write(folder)
        files = sorted((folder / config.table).glob("*.parquet"))
        if not files:
            raise ValueError(f"table={config.table!r} does not exist in this data set: control_people is too small")
        self.info.features = datasets.Features.from_arrow_schema(pq.read_schema(files[0]))
        by_split: dict[str, list[str]] = {}
        for file in sorted(files, key=lambda f: (not f.name.startswith("train-"), f.name)):
            by_split.setdefault(file.name.split("-")[0], []).append(str(file))
        return [datasets.SplitGenerator(name=s, gen_kwargs={"files": paths}) for s, paths in by_split.items()]

    def _generate_examples(self, files: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for file in files:
            for number, batch in enumerate(pq.ParquetFile(file).iter_batches()):
                for place, row in enumerate(batch.to_pylist()):
                    yield f"{Path(file).name}-{number}-{place}", row


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--num_people", type=int, required=True, help="N, the number of people")
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder to make, which must not exist")
    parser.add_argument(
        "--model_name", required=True, help="the language model: a Hub id, a folder, or a server's name of it"
    )
    parser.add_argument("--base_url", help="an OpenAI-compatible server")
    parser.add_argument(
        "--api_key_env", metavar="NAME", help="the environment variable with the key of --base_url; none by default"
    )
    parser.add_argument("--provider", help="an inference provider on Hugging Face, or auto")
    parser.add_argument("--texts_per_person", type=int, default=40, help="biographies of each person [40]")
    parser.add_argument(
        "--control_people", type=int, default=1000, help="people outside the sample, one text each [1000]"
    )
    parser.add_argument(
        "--concurrency", type=int, default=16, help="simultaneous requests; locally, texts per batch [16]"
    )
    parser.add_argument("--max_attempts", type=int, default=5, help="maximum number of requests for one text [5]")
    parser.add_argument("--temperature", type=float, default=0.9, help="of sampling [0.9]")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="maximum number of tokens of a text [256]")
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="seconds to wait for an answer of the server [120]"
    )
    parser.add_argument("--seed", type=int, default=0, help="of people and prompts [0]")
    parser.add_argument("--lists", choices=LISTS, default="paper", help="knowcap's value lists [paper]")
    parser.add_argument("--pools_dir", help="a folder of your own value lists")
    parser.add_argument("--allow_missing", action="store_true", help="finish without the missing texts")
    parser.add_argument("--push_to_hub", metavar="ID", help="publish the folder as this data set on the Hub")
    return parser


def main(argv: Sequence[str] | None = None) -> Path:
    """Makes the folder and returns it. An error ends the program with a message."""
    parser = arguments()
    given = vars(parser.parse_args(argv))
    output_dir, hub_id = given.pop("output_dir"), given.pop("push_to_hub")
    if output_dir.exists():
        parser.error(f"{output_dir} already exists; choose another --output_dir, or remove it")
    try:
        folder = BioRConfig(name=f"bioR-{given['num_people']}", **given).write(output_dir)
        logger.info("wrote %s", folder)
        if hub_id:
            from knowcap.run.push import push_dataset

            logger.info("%s", push_dataset(folder, hub_id))
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\ninterrupted; run the same command again to resume\n")
    return folder


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line a request
    main()
