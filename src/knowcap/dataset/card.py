"""README.md of a data set folder: front matter, what the folder holds as counted, and how to make it again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from tokenizers import Tokenizer

from knowcap.corpus.base import Corpus
from knowcap.corpus.morris import Morris
from knowcap.corpus.table import Table
from knowcap.dataset.head import POOLS, TEMPLATES, local_files, recipe_lines
from knowcap.facts import Attribute, Knowledge
from knowcap.files import RECIPE_FILE
from knowcap.provenance import __version__
from knowcap.recipe import Recipe


_MEASURED = 100_000  # rows that the values of an attribute are counted in
_TEXTS = 10_000  # texts that are measured
_ABOUT = {
    "bioS": "Synthetic biographies of people who don't exist, after Part 3.3 of *Physics of Language Models* "
    "(arXiv:2404.05405).",
    "bioD": "Synthetic people with random values, bioD of Part 3.3 of *Physics of Language Models* (arXiv:2404.05405, "
    "Definition 2.2).",
    "morris": "Uniform random strings, each its own name, after Morris et al. 2025, *How much do language models "
    "memorize?*: there is nothing in them but what is memorized.",
}


@dataclass(frozen=True)
class CardText:
    """What the card of a data set says whose texts don't follow from a recipe.

    Attributes:
        about: what it is, in a sentence or two.
        license: for the front matter.
        lines: how the texts were made.
    """

    about: str
    license: str
    lines: list[str]


def dataset_card(
    folder: Path,
    recipe: Recipe,
    corpus: Corpus,
    tokenizer: tuple[Tokenizer, int] | None,
    making: CardText | None = None,
) -> str:
    """The card of a folder that has its knowledge.json and Parquet files; figures are counted in these.

    Args:
        folder: the data set folder.
        recipe: what it was made from.
        corpus: the recipe's corpus.
        tokenizer: from `tokenizer_of`, to count tokens with; None where it can't spell the texts.
        making: how the texts were made, where they don't follow from the recipe.
    """
    knowledge = Knowledge.load(folder / "knowledge.json")
    license_id = making.license if making else terms(corpus)[0]
    lines = ["---", front_matter(folder, corpus, license_id) + "---", ""]
    lines += [f"# {knowledge.name}({knowledge.num_people:,})", ""]
    lines += [
        f"{making.about if making else _about(recipe)} "
        f"{knowledge.bits_per_person:.4f} bits each, {knowledge.total_bits:,.0f} bits in all. Lists and templates "
        f"version {knowledge.version}. {_licence(recipe, license_id)}",
        "",
    ]
    lines += [*_config_table(folder), "", *_entropy_table(folder, knowledge), ""]
    lines += [*_text_statistics(folder, recipe, tokenizer), "", *(making.lines if making else _making(recipe)), ""]
    lines += [*_brought_along(folder, afresh=making is None), ""]
    lines += ["Spans are offsets in code points, end exclusive, of each fact's first mention."]
    return "\n".join([*lines, ""])


def _about(recipe: Recipe) -> str:
    """What corpus it is, and what is special about its form."""
    about = _ABOUT.get(recipe.corpus, "Texts about entities, with the exact spans of their facts.")
    if recipe.corpus == "bioD" and recipe.compact:
        about += (
            " Compact form, for tiny models: names (4 symbols of 64, not the paper's lists), attributes and values "
        )
        about += "alone, without an English sentence around them."
    return about


def _licence(recipe: Recipe, license_id: str | None) -> str:
    if license_id is not None:
        return f"Licence: {license_id}."
    templates = local_files(recipe)["facts_templates"]
    return f"No licence was declared, by a `license:` in `{templates}`: nothing says what these facts may be used for."


def _config_table(folder: Path) -> list[str]:
    table = ["| config | split | rows | what |", "|---|---|---|---|"]
    for config, what in CONFIGS.items():
        table += [f"| {config} | {split} | {rows:,} | {what} |" for split, rows in splits(folder, config).items()]
    return table


def _entropy_table(folder: Path, knowledge: Knowledge) -> list[str]:
    """Candidates and bits as knowledge.json has them, beside what the first rows of `people` show."""
    people = _first_rows(folder / "people", _MEASURED)
    table = [
        f"Distinct values and entropy as counted in {people.num_rows:,} rows of `people`; few rows show less than "
        "there is.",
        "",
        "| attribute | candidates | bits | distinct values | entropy (bits) |",
        "|---|---|---|---|---|",
    ]
    if knowledge.name_log2_candidates is None:
        table.append("| name | not declared: counts nothing | | | |")
    else:
        bits = knowledge.name_log2_candidates
        count = f"{2**bits:,.0f}" if bits < 63 else ""
        table.append(f"| name | {count} | {bits:.4f}, less log2 N | | |")
    for number, a in enumerate(knowledge.attributes):
        table.append(f"| {a.name} | {_candidates(a)} | {_counted(_values(people, a.name, number))} |")
    table += [
        f"| diversity{_term_name(term)} | | {float(term['log2_candidates']):,.4f}, once for all | | |"
        for term in knowledge.diversity_terms
    ]
    return table


def _term_name(term: dict[str, object]) -> str:
    """Whose diversity a term of knowledge.json is, where it says so."""
    name = term.get("attribute", term.get("name"))
    return "" if name is None else f" of {name}"


def _candidates(attribute: Attribute) -> str:
    if attribute.determined_by is not None:
        return f"determined by {attribute.determined_by} | 0"
    count = "" if attribute.candidates is None else f"{attribute.candidates:,}"
    return f"{count} | {attribute.log2_candidates:.4f}"


def _values(people: pa.Table, attribute: str, number: int) -> pa.ChunkedArray:
    """What people have of an attribute, from its own column or, in bioD, from the list of all of them."""
    if attribute in people.column_names:
        return people.column(attribute).drop_null()
    return pc.list_element(people.column("values"), number)


def _counted(values: pa.ChunkedArray) -> str:
    counts = values.value_counts().field("counts").to_numpy()
    shares = counts / counts.sum()
    return f"{len(counts):,} | {abs(float((shares * np.log2(shares)).sum())):.4f}"


def _text_statistics(folder: Path, recipe: Recipe, tokenizer: tuple[Tokenizer, int] | None) -> list[str]:
    """How long texts are, and an example."""
    texts = _first_rows(folder / "biographies", _TEXTS, ["text"]).column("text").to_pylist()
    table = ["| a text has | mean | least | most |", "|---|---|---|---|"]
    counted = f"Counted in {len(texts):,} texts"
    if tokenizer is not None:
        backend, rows = tokenizer
        tokens = [len(e.ids) for e in backend.encode_batch_fast(texts, add_special_tokens=False)]
        kind = "the compact tokenizer"
        if recipe.tokenizer_name is not None:
            kind = f"{local_files(recipe).get('tokenizer_name', recipe.tokenizer_name)}, cut to what is in use"
        table.append(f"| tokens | {_mean_and_range(tokens)} |")
        counted += f", ends of text left out, with {kind}, a vocabulary of {rows:,}"
    table.append(f"| code points | {_mean_and_range([len(text) for text in texts])} |")
    return [*table, "", f"{counted}. An example:", "", f"> {texts[0]}"]


def _mean_and_range(counts: list[int]) -> str:
    return f"{np.mean(counts):.1f} | {min(counts):,} | {max(counts):,}"


def _making(recipe: Recipe) -> list[str]:
    """How to make the same folder again."""
    needed = " and ".join(f"`{name}`" for name in local_files(recipe).values())
    beside = f", given beside {needed} as they were," if needed else ""
    return [
        f"Made by knowcap {__version__}. These lines{beside} make the same files in `runs/again/knowledge`, whatever "
        "the model:",
        "",
        "```sh",
        "cat > again.yaml <<'END'",
        *recipe_lines(recipe),
        "END",
        "knowcap data --config again.yaml",
        "```",
    ]


def _brought_along(folder: Path, afresh: bool) -> list[str]:
    """What else the folder holds, and what it is good for."""
    files = {
        f"{POOLS}/": "the lists that values are drawn from, one a line (companies with their headquarters)",
        TEMPLATES: "the sentences, and out of how many candidates each value was drawn",
        RECIPE_FILE: "the keys above",
    }
    there = [f"`{name}` ({what})" for name, what in files.items() if (folder / name).exists()]
    told = "on the same people, told afresh at every exposure; " if afresh else ""
    return [
        f"Besides: {', '.join(there)}. With these, `knowcap run --dataset_name` of this folder or its Hub id trains "
        f"{told}with `--dataset_texts published`, on these texts."
    ]


def _first_rows(folder: Path, count: int, columns: list[str] | None = None) -> pa.Table:
    """The first rows of a config, at most `count`."""
    batches: list[pa.RecordBatch] = []
    for file in sorted(folder.glob("train-*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(columns=columns):
            if count <= 0:
                break
            batches.append(batch.slice(0, count))
            count -= len(batches[-1])
    return pa.Table.from_batches(batches)


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
