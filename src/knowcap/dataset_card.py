"""README.md of a data set folder: front matter that `load_dataset` reads, and what the folder holds, as counted."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from knowcap.corpora import Corpus, tokenizer_of
from knowcap.facts import Attribute, Knowledge
from knowcap.recipe import KEYS, Recipe


CONFIGS = {
    "people": "who they are, one row each",
    "biographies": "texts with spans, one row an entity and exposure",
    "qa": "questions with answers; half of the people in train, the others in test",
    "control": "texts about entities outside the sample, for the null control; never train on these",
}
_MEASURED = 100_000  # rows that the values of an attribute are counted in
_TEXTS = 1000  # texts that are measured
_ORDER = list(KEYS)
_SHAPING = (
    "seed",
    *_ORDER[_ORDER.index("corpus") : _ORDER.index("control_people") + 1],
)  # what the content depends on
_PATHS = ("pools_dir", "facts_file", "facts_templates")
_ABOUT = {
    "bioS": "Synthetic biographies of people who don't exist, after Part 3.3 of *Physics of Language Models* "
    "(arXiv:2404.05405).",
    "bioD": "Synthetic people with random values, bioD of Part 3.3 of *Physics of Language Models* (arXiv:2404.05405, "
    "Definition 2.2).",
    "morris": "Uniform random strings, each its own name, after Morris et al. 2025, *How much do language models "
    "memorize?*: there is nothing in them but what is memorized.",
}


def dataset_card(folder: Path, recipe: Recipe, corpus: Corpus) -> str:
    """The card of a folder that has its knowledge.json and Parquet files; figures are counted in these.

    Args:
        folder: the data set folder.
        recipe: what it was made from.
        corpus: the recipe's corpus; tokens are those of its compact BPE of `vocab_size`.
    """
    knowledge = Knowledge.load(folder / "knowledge.json")
    lines = ["---", *_front_matter(folder, knowledge, recipe), "---", ""]
    lines += [f"# {knowledge.name}({knowledge.num_people:,})", ""]
    lines += [
        f"{_about(recipe)} "
        f"{knowledge.bits_per_person:.4f} bits each, {knowledge.total_bits:,.0f} bits in all. Made by knowcap; lists "
        f"and templates version {knowledge.version}.",
        "",
    ]
    lines += [*_config_table(folder), "", *_entropy_table(folder, knowledge), ""]
    lines += [*_text_statistics(folder, recipe, corpus), "", *_recipe_block(recipe), ""]
    lines += ["Spans are offsets in code points, end exclusive, of each fact's first mention."]
    return "\n".join([*lines, ""])


def _splits(folder: Path, config: str) -> dict[str, int]:
    """The rows of each split of a config that has files, `train` first."""
    rows: dict[str, int] = {}
    for file in sorted((folder / config).glob("*.parquet"), key=lambda f: (not f.name.startswith("train-"), f.name)):
        split = file.name.split("-")[0]
        rows[split] = rows.get(split, 0) + pq.read_metadata(file).num_rows
    return rows


def _about(recipe: Recipe) -> str:
    """What corpus it is, and what is special about its form."""
    about = _ABOUT.get(recipe.corpus, "Texts about entities, with the exact spans of their facts.")
    if recipe.corpus == "bioD" and recipe.compact:
        about += (
            " Compact form, for tiny models: names (4 symbols of 64, not the paper's lists), attributes and values "
        )
        about += "alone, without an English sentence around them."
    return about


def _front_matter(folder: Path, knowledge: Knowledge, recipe: Recipe) -> list[str]:
    front = [f"pretty_name: {knowledge.name}", "task_categories: [text-generation]"]
    tags = ["knowledge-capacity", "physics-of-language-models"]
    if recipe.corpus in _ABOUT:  # a user's own facts have a licence and a language of their own
        front += [] if recipe.corpus == "morris" else ["language: en"]
        front += ["license: apache-2.0", "source_datasets: [original]"]
        front += ["annotations_creators: [machine-generated]", "language_creators: [machine-generated]"]
        tags = ["synthetic", *tags]
    front += [f"tags: [{', '.join(tags)}]", "configs:"]
    for config in CONFIGS:
        splits = _splits(folder, config)
        if splits:
            # `datasets` finds its cache by the card's metadata alone: what differs must differ there.
            front += [f"- config_name: {config}", f"  description: sha256 {_fingerprint(folder / config)}"]
            front += ["  default: true"] if config == "biographies" else []
            front += ["  data_files:"]
        for split in splits:
            front += [f"  - split: {split}", f"    path: {config}/{split}-*.parquet"]
    return [*front, *_sizes(folder)]


def _fingerprint(folder: Path) -> str:
    """A digest of a config's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.parquet")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _sizes(folder: Path) -> list[str]:
    """`dataset_info` of the front matter: rows and bytes.

    Besides what it says, it tells the cache of `datasets` one content of a folder from the next.
    """
    lines = ["dataset_info:"]
    for config in CONFIGS:
        files = sorted((folder / config).glob("*.parquet"))
        if not files:
            continue
        lines += [f"- config_name: {config}", "  splits:"]
        total = 0
        for split, rows in _splits(folder, config).items():
            parts = [pq.read_metadata(file) for file in files if file.name.startswith(f"{split}-")]
            size = sum(part.row_group(n).total_byte_size for part in parts for n in range(part.num_row_groups))
            lines += [f"  - name: {split}", f"    num_bytes: {size}", f"    num_examples: {rows}"]
            total += size
        lines += [f"  download_size: {sum(file.stat().st_size for file in files)}", f"  dataset_size: {total}"]
    return lines


def _config_table(folder: Path) -> list[str]:
    table = ["| config | split | rows | what |", "|---|---|---|---|"]
    for config, what in CONFIGS.items():
        table += [f"| {config} | {split} | {rows:,} | {what} |" for split, rows in _splits(folder, config).items()]
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
    table += [f"| {a.name} | {_candidates(a)} | {_counted(people, a.name)} |" for a in knowledge.attributes]
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


def _counted(people: pa.Table, column: str) -> str:
    if column not in people.column_names or pa.types.is_nested(people.schema.field(column).type):
        return " | "
    counts = pc.value_counts(people.column(column)).field("counts").to_numpy()
    shares = counts / counts.sum()
    return f"{len(counts):,} | {abs(float((shares * np.log2(shares)).sum())):.4f}"


def _text_statistics(folder: Path, recipe: Recipe, corpus: Corpus) -> list[str]:
    texts = _first_rows(folder / "biographies", _TEXTS, ["text"]).column("text").to_pylist()
    figures = [f"{np.mean([len(text) for text in texts]):.1f} code points"]
    if recipe.tokenizer_name is None:
        tokenizer, rows = tokenizer_of(recipe, corpus)
        lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts)]
        figures.append(f"{np.mean(lengths):.1f} tokens of the compact tokenizer, which has {rows:,} in use")
    return [f"A text has {' and '.join(figures)} (mean of {len(texts):,}). An example:", "", f"> {texts[0]}"]


def _recipe_block(recipe: Recipe) -> list[str]:
    """How to make the same folder again."""
    keys = {key: getattr(recipe, key) for key in _SHAPING}
    shown = {key: v for key, v in keys.items() if v != KEYS[key].default or key in ("corpus", "num_people", "seed")}
    shown |= {path: Path(shown[path]).name for path in _PATHS if shown.get(path)}
    text = {True: "true", False: "false", None: "null"}
    lines = [f"{key}: {text[v] if v is None or isinstance(v, bool) else v}" for key, v in shown.items()]
    return [
        "`knowcap data --config RECIPE` makes it again from a recipe with these keys; the model does not matter:",
        "",
        *("```yaml", *lines, "model_name: gpt2-2-2", "```"),
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
