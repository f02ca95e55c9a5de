"""The front matter of a data set card: what `load_dataset` finds the files by, and the Hub the data set."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from knowcap.corpus.base import Corpus
from knowcap.corpus.morris import Morris
from knowcap.corpus.table import Table
from knowcap.facts import Knowledge


CONFIGS = {
    "people": "who they are, one row each",
    "biographies": "texts with spans, one row an entity and exposure",
    "qa": "questions with answers; half of the people in train, the others in test",
    "candidates": "the lists that values are drawn from, part by part (`work_city` with its employers)",
    "control": "texts about entities outside the sample, for the null control; never train on these",
    "neutral": "the same entities told by sentence templates, to measure a model on; never train on these",
    "neutral_control": "the null control of `neutral`; never train on these",
}
_LICENSE, _LANGUAGES = "apache-2.0", ("en",)  # of knowcap's own lists and templates
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


def front_matter(folder: Path, corpus: Corpus, license_id: str | None) -> str:
    """The YAML between the card's dashes, of a folder that has its knowledge.json and Parquet files."""
    knowledge, ours = Knowledge.load(folder / "knowledge.json"), not isinstance(corpus, Table)
    languages = terms(corpus)[1]
    front: dict[str, Any] = {
        "pretty_name": f"{knowledge.name}({knowledge.num_people:,})",
        "task_categories": ["text-generation"],
        "task_ids": ["language-modeling"],
        "size_categories": [size_category(sum(splits(folder, "biographies").values()))],
        "annotations_creators": ["machine-generated"],  # spans are, and texts, also where the facts are somebody's
        "language_creators": ["machine-generated"],
        "tags": ["synthetic"] * ours + ["knowledge-capacity", "physics-of-language-models"],
    }
    front |= {"source_datasets": ["original"]} if ours else {}
    front |= {"license": license_id} if license_id else {}
    front |= {"language": list(languages)} if languages else {}
    there = [config for config in CONFIGS if splits(folder, config)]
    front["configs"] = [_config(folder, config) for config in there]
    front["dataset_info"] = [_info(folder, config) for config in there]
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)


def terms(corpus: Corpus) -> tuple[str | None, tuple[str, ...]]:
    """A corpus' licence and languages: a user's table has those that its YAML declares, if any."""
    if isinstance(corpus, Table):
        return corpus.sentences.license, corpus.sentences.languages
    return _LICENSE, () if isinstance(corpus, Morris) else _LANGUAGES


def size_category(rows: int) -> str:
    """The Hub's name for so many rows: n<1K, 1K<n<10K …"""
    digits = len(str(rows)) - 4  # 0 for thousands
    if digits < 0:
        return f"n<{_SIZES[0]}"
    if digits >= len(_SIZES) - 1:
        return f"n>{_SIZES[-1]}"
    return f"{_SIZES[digits]}<n<{_SIZES[digits + 1]}"


def splits(folder: Path, config: str) -> dict[str, int]:
    """The rows of each split of a config that has files, `train` first."""
    rows: dict[str, int] = {}
    for file in sorted((folder / config).glob("*.parquet"), key=lambda f: (not f.name.startswith("train-"), f.name)):
        split = file.name.split("-")[0]
        rows[split] = rows.get(split, 0) + pq.read_metadata(file).num_rows
    return rows


def _config(folder: Path, config: str) -> dict[str, Any]:
    """Where a config's files are. `datasets` finds its cache by the card alone: what differs must differ there."""
    found = {"config_name": config, "description": f"sha256 {_fingerprint(folder / config)}"}
    found |= {"default": True} if config == "biographies" else {}
    files = [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in splits(folder, config)]
    return found | {"data_files": files}


def _info(folder: Path, config: str) -> dict[str, Any]:
    """Rows and bytes of a config."""
    files, told = sorted((folder / config).glob("*.parquet")), []
    for split, rows in splits(folder, config).items():
        parts = [pq.read_metadata(file) for file in files if file.name.startswith(f"{split}-")]
        size = sum(part.row_group(n).total_byte_size for part in parts for n in range(part.num_row_groups))
        told.append({"name": split, "num_bytes": size, "num_examples": rows})
    return {
        "config_name": config,
        "splits": told,
        "download_size": sum(file.stat().st_size for file in files),
        "dataset_size": sum(split["num_bytes"] for split in told),
    }


def _fingerprint(folder: Path) -> str:
    """A digest of a config's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.parquet")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]
