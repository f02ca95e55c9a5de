"""README.md of a data set folder: the front matter for `load_dataset` and the Hub, and what was counted in the folder.

The text of the card is in dataset_card.md.jinja.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData
from tokenizers import Tokenizer

from knowcap.corpus.base import Corpus
from knowcap.corpus.morris import Morris
from knowcap.corpus.table import Table
from knowcap.dataset.head import POOLS, TEMPLATES, local_files, recipe_lines
from knowcap.dataset.markdown import in_markdown
from knowcap.facts import Attribute, Knowledge
from knowcap.files import KNOWLEDGE_FILE, RECIPE_FILE
from knowcap.provenance import __version__
from knowcap.recipe import Recipe
from knowcap.sealed.parquet import batches, rows_in


pc: Any = pyarrow.compute  # its functions are made at import, which its stubs do not show

CONFIGS = {
    "people": "the people and their values, one row each",
    "biographies": "texts with spans, one row for each entity and exposure",
    "qa": "questions with answers; half of the people in train, the others in test",
    "candidates": "the lists that values are drawn from, part by part (`work_city` with its employers)",
    "control": "texts about entities outside the sample, for the null control; never train on these",
    "neutral": "texts about the same entities from sentence templates, to measure a model; never train on these",
    "neutral_control": "the null control of `neutral`; never train on these",
}
_OTHER_FILES = {
    f"{POOLS}/": "the lists that values are drawn from, one value a line; companies with their headquarters",
    TEMPLATES: "the sentences, and the number of candidates of each attribute",
    RECIPE_FILE: "the keys above",
}
_TEMPLATE = Path(__file__).with_name("dataset_card.md.jinja")
_PEOPLE_COUNTED = 100_000
_TEXTS_COUNTED = 10_000
_LICENSE, _LANGUAGES = "apache-2.0", ("en",)  # of knowcap's own lists and templates
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


@dataclass(frozen=True)
class RewriteSummary:
    """How a language model wrote the texts of a data set.

    Attributes:
        model_name, temperature, max_new_tokens: of the writer.
        texts_per_person: how many texts were requested.
        prompt_version: of the prompts.
        counts: rows of config, texts kept, replies, replies rejected, texts missing.
        license: of the texts, for the front matter.
    """

    model_name: str
    temperature: str
    max_new_tokens: int
    texts_per_person: int
    prompt_version: str
    counts: list[list[str]]
    license: str = "other"


def dataset_card(
    folder: Path,
    recipe: Recipe,
    corpus: Corpus,
    tokenizer: tuple[Tokenizer, int] | None,
    rewrite: RewriteSummary | None = None,
) -> str:
    """The card of a folder that has its knowledge.json and Parquet files; the figures are counted in these.

    Args:
        folder: the data set folder.
        recipe: the recipe that it was made from.
        corpus: the recipe's corpus.
        tokenizer: from `tokenizer_of`, to count tokens with; None where it cannot spell the texts.
        rewrite: how the texts were written, if a language model wrote them.
    """
    knowledge = Knowledge.load(folder / KNOWLEDGE_FILE)
    license_id = rewrite.license if rewrite else license_and_languages(corpus)[0]
    people = _first_rows(folder / "people", _PEOPLE_COUNTED)
    context = {
        "title": f"{in_markdown(knowledge.name)}({knowledge.num_people:,})",
        "corpus": recipe.corpus,
        "compact": recipe.compact,
        "rewrite": rewrite,
        "bits_per_person": f"{knowledge.bits_per_person:.4f}",
        "total_bits": f"{knowledge.total_bits:,.0f}",
        "version": knowledge.version,
        "license": license_id,
        "templates_file": local_files(recipe).get("facts_templates"),
        "configs": [
            [config, split, f"{rows:,}", content]
            for config, content in CONFIGS.items()
            for split, rows in splits(folder, config).items()
        ],
        "people_counted": f"{people.num_rows:,}",
        "attributes": _attribute_rows(people, knowledge),
        "knowcap_version": __version__,
        "input_files": " and ".join(f"`{name}`" for name in local_files(recipe).values()),
        "recipe": "\n".join(recipe_lines(recipe)),
        "other_files": ", ".join(
            f"`{name}` ({content})" for name, content in _OTHER_FILES.items() if (folder / name).exists()
        ),
    }
    context |= _text_lengths(folder, recipe, tokenizer)
    card = DatasetCard.from_template(card_data(folder, corpus, license_id), template_path=str(_TEMPLATE), **context)
    return f"{card.content.rstrip()}\n"


def card_data(folder: Path, corpus: Corpus, license_id: str | None) -> DatasetCardData:
    """The card's front matter, of a folder that has its knowledge.json and Parquet files."""
    knowledge, synthetic = Knowledge.load(folder / KNOWLEDGE_FILE), not isinstance(corpus, Table)
    languages = license_and_languages(corpus)[1]
    configs = [config for config in CONFIGS if splits(folder, config)]
    return DatasetCardData(
        pretty_name=f"{knowledge.name}({knowledge.num_people:,})",
        language=list(languages) or None,
        license=license_id,
        task_categories=["text-generation"],
        task_ids=["language-modeling"],
        size_categories=[size_category(sum(splits(folder, "biographies").values()))],
        annotations_creators=["machine-generated"],  # the spans
        language_creators=["machine-generated"],  # the texts, also where the facts are a user's
        source_datasets=["original"] if synthetic else None,
        tags=["synthetic"] * synthetic + ["knowledge-capacity", "physics-of-language-models"],
        configs=[config_files(folder, config) for config in configs],
        dataset_info=[_info(folder, config) for config in configs],
    )


def license_and_languages(corpus: Corpus) -> tuple[str | None, tuple[str, ...]]:
    """A corpus' licence and languages: for a user's table those that its YAML declares, if any."""
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
        rows[split] = rows.get(split, 0) + rows_in(file)
    return rows


def _attribute_rows(people: pa.Table, knowledge: Knowledge) -> list[list[str]]:
    """Candidates and bits as knowledge.json has them, beside the values counted in the first rows of `people`."""
    if knowledge.name_log2_candidates is None:
        rows = [["name", "not declared: has no bits", "", "", ""]]
    else:
        bits = knowledge.name_log2_candidates
        rows = [["name", f"{2**bits:,.0f}" if bits < 63 else "", f"{bits:.4f}, less log2 N", "", ""]]
    rows += [
        [in_markdown(a.name), *_candidates(a), *_distinct_values(_values(people, a.name, number))]
        for number, a in enumerate(knowledge.attributes)
    ]
    return rows + [
        [f"diversity{_term_name(term)}", "", f"{float(term['log2_candidates']):,.4f} for all people together", "", ""]
        for term in knowledge.diversity_terms
    ]


def _term_name(term: dict[str, Any]) -> str:
    """The attribute of a diversity term of knowledge.json, where it has one."""
    name = term.get("attribute", term.get("name"))
    return "" if name is None else f" of {in_markdown(name)}"


def _candidates(attribute: Attribute) -> tuple[str, str]:
    if attribute.determined_by is not None:
        return f"determined by {in_markdown(attribute.determined_by)}", "0"
    return "" if attribute.candidates is None else f"{attribute.candidates:,}", f"{attribute.log2_candidates:.4f}"


def _values(people: pa.Table, attribute: str, number: int) -> pa.ChunkedArray:
    """The people's values of an attribute, from its own column or, in bioD, from the list of all values."""
    if attribute in people.column_names:
        return people.column(attribute).drop_null()
    return pc.list_element(people.column("values"), number)


def _distinct_values(values: pa.ChunkedArray) -> tuple[str, str]:
    """The number of distinct values, and their entropy in bits."""
    counts = values.value_counts().field("counts").to_numpy()
    shares = counts / counts.sum()
    return f"{len(counts):,}", f"{abs(float((shares * np.log2(shares)).sum())):.4f}"


def _text_lengths(folder: Path, recipe: Recipe, tokenizer: tuple[Tokenizer, int] | None) -> dict[str, Any]:
    """The lengths of the first texts, and an example."""
    texts = _first_rows(folder / "biographies", _TEXTS_COUNTED, ["text"]).column("text").to_pylist()
    found: dict[str, Any] = {"texts_counted": f"{len(texts):,}", "example": in_markdown(texts[0]), "lengths": []}
    if tokenizer is not None:
        backend, rows = tokenizer
        tokens = [len(e.ids) for e in backend.encode_batch_fast(texts, add_special_tokens=False)]
        found["lengths"].append(["tokens", *_mean_and_range(tokens)])
        name = local_files(recipe).get("tokenizer_name", recipe.tokenizer_name)
        found["tokenizer"] = "the compact tokenizer" if name is None else f"{name}, cut to the tokens in use"
        found["vocabulary_size"] = f"{rows:,}"
    found["lengths"].append(["code points", *_mean_and_range([len(text) for text in texts])])
    return found


def _mean_and_range(counts: Sequence[int]) -> tuple[str, str, str]:
    return f"{np.mean(counts):.1f}", f"{min(counts):,}", f"{max(counts):,}"


def config_files(folder: Path, config: str) -> dict[str, Any]:
    """Where a config's files are. `datasets` finds its cache by the card alone: what differs must differ there."""
    found = {"config_name": config, "description": f"sha256 {_fingerprint(folder / config)}"}
    found |= {"default": True} if config == "biographies" else {}
    files = [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in splits(folder, config)]
    return found | {"data_files": files}


def _info(folder: Path, config: str) -> dict[str, Any]:
    """Rows and bytes of a config."""
    files, split_infos = sorted((folder / config).glob("*.parquet")), []
    for split, rows in splits(folder, config).items():
        parts = [pq.read_metadata(file) for file in files if file.name.startswith(f"{split}-")]
        size = sum(part.row_group(n).total_byte_size for part in parts for n in range(part.num_row_groups))
        split_infos.append({"name": split, "num_bytes": size, "num_examples": rows})
    return {
        "config_name": config,
        "splits": split_infos,
        "download_size": sum(file.stat().st_size for file in files),
        "dataset_size": sum(split["num_bytes"] for split in split_infos),
    }


def _fingerprint(folder: Path) -> str:
    """A digest of a config's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.parquet")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _first_rows(folder: Path, count: int, columns: list[str] | None = None) -> pa.Table:
    """The first rows of a config, at most `count`."""
    found: list[pa.RecordBatch] = []
    for file in sorted(folder.glob("train-*.parquet")):
        for batch in batches(file, columns):
            if count <= 0:
                break
            found.append(batch.slice(0, count))
            count -= len(found[-1])
    return pa.Table.from_batches(found)
