"""The keys of a recipe: a dataclass for each section, and the recipe that has them all."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from knowcap.recipe.frequencies import FrequencySection
from knowcap.recipe.keys import (
    CORPORA,
    EXTRACT_METHODS,
    GENERATED_HERE,
    LISTS,
    START_TOKENS,
    TEXTS_GENERATED,
    WITH_DATASET,
    WITH_JUNK,
    Condition,
    Key,
    Range,
    Shapes,
    nearest,
)
from knowcap.recipe.keys import NOT_NEGATIVE as _NOT_NEGATIVE
from knowcap.recipe.keys import POSITIVE as _POSITIVE
from knowcap.recipe.keys import key_field as _key
from knowcap.recipe.optimizer import OptimizerSection
from knowcap.recipe.plain_names import FOLDER_NAME, is_folder_name
from knowcap.recipe.quantization import QuantizationSection


_run_key = partial(_key, shapes="run")
_text_key = partial(_key, shapes="texts")
_window_key = partial(_key, shapes="windows")
_training_key = partial(_key, shapes="training")
_scoring_key = partial(_key, shapes="scoring")
_extraction_key = partial(_key, shapes="extraction", free=True)
_dataset_key = partial(_text_key, used_with=(WITH_DATASET,))
_generated_key = partial(_text_key, used_with=(GENERATED_HERE,))
_biod_key = partial(_generated_key, corpora=("bioD",))
_table_key = partial(_generated_key, corpora=("table",), path=True)
_sentence_key = partial(_text_key, corpora=("bioS",), used_with=(TEXTS_GENERATED,))
_bios_key = partial(_generated_key, corpora=("bioS",))
_junk_key = partial(_generated_key, corpora=("bioS", "bioD"))

_AT_LEAST_ONE = Range(lambda v: v >= 1, "1 or more")
_AT_LEAST_ONE_OR_NULL = Range(lambda v: v is None or v >= 1, "1 or more, or null")
_AT_LEAST_TWO = Range(lambda v: v >= 2, "2 or more")
_SHARE = Range(lambda v: 0 < v <= 1, "more than 0 and at most 1")
_BETWEEN = Range(lambda v: 0 < v < 1, "more than 0 and less than 1")
_BETA = Range(lambda v: 0 <= v < 1, "at least 0 and less than 1")

GROUP_BY_LENGTH = "group_by_length"
_REFUSED_SAMPLING = {
    "random": "people stand in a new random order at each exposure, so sequential is random",
    "batch_rebalance": "it moves windows between processes, so that a recipe would mean something else on each number",
}
_ONE_KIND_OF_WINDOW = Condition(
    lambda recipe: not recipe.junk_people and not recipe.qa_share,
    "with junk_people or qa_share, whose windows are spread evenly over the batches",
    ("junk_people", "qa_share"),
)
_OF_SEVERAL_LENGTHS = Condition(
    lambda recipe: recipe.windows == "aligned" and not recipe.torch_compile,
    "without windows: aligned, or with torch_compile: windows have one length then",
    ("windows", "torch_compile"),
)


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """The run"""

    run_name: str = _run_key(
        "",
        "folder under output_dir; by default the name of the recipe file",
        range=Range(is_folder_name, FOLDER_NAME),
    )
    output_dir: str = _run_key("runs", "folder of the run folders", free=True)
    seed: int = _key(
        0,
        "seed of people, texts, weights and data order",
        shapes="draws",
        range=Range(lambda v: 0 <= v < 2**32, "0 to 4,294,967,295"),
    )


@dataclass(frozen=True, kw_only=True)
class DatasetSection:
    """A published data set, in place of a generated corpus"""

    dataset_name: str | None = _text_key(None, "Hub id or folder of a data set; by default one is generated")
    dataset_revision: str | None = _dataset_key(
        None, "branch, tag or commit of dataset_name on the Hub; default: main"
    )
    dataset_texts: str = _dataset_key(
        "online", "train on newly generated texts, or on those of the data set", choices=("online", "published")
    )


@dataclass(frozen=True, kw_only=True)
class CorpusSection:
    """The corpus"""

    corpus: str = _text_key("bioS", "which corpus", choices=CORPORA)
    num_people: int = _generated_key(
        0,
        "N, number of people or strings; tables have their own",
        amount=True,
        required=True,
        given_by=("table",),
        range=_AT_LEAST_ONE,
    )
    lists: str = _generated_key(
        "short",
        "knowcap's value lists and templates: short, for tiny models, or as many tokens of GPT-2 as the paper's",
        corpora=("bioS", "bioD"),
        choices=LISTS,
    )
    pools_dir: str | None = _generated_key(None, "folder of your own value lists", corpora=("bioS", "bioD"), path=True)
    pools_fraction: float = _generated_key(
        1.0, "use the first part of every value list", corpora=("bioS", "bioD"), range=_SHARE
    )


@dataclass(frozen=True, kw_only=True)
class BioDSection:
    """bioD: values of controlled diversity"""

    num_attributes: int = _biod_key(1, "K, values per person", range=_AT_LEAST_ONE)
    chunks_per_value: int = _biod_key(1, "C, chunks per value", range=_AT_LEAST_ONE)
    diversity: int = _biod_key(1000, "D, distinct chunks per attribute", range=_AT_LEAST_ONE)
    chunk_length: int = _biod_key(5, "L, symbols per chunk", range=_AT_LEAST_ONE)
    alphabet_size: int = _biod_key(
        32, "T, size of the alphabet; morris: V", corpora=("bioD", "morris"), range=_AT_LEAST_ONE
    )


@dataclass(frozen=True, kw_only=True)
class MorrisSection:
    """morris: random strings"""

    string_length: int = _generated_key(64, "S, symbols per string", corpora=("morris",), range=_AT_LEAST_ONE)


@dataclass(frozen=True, kw_only=True)
class TableSection:
    """table: your own facts"""

    facts_file: str | None = _table_key(None, "CSV or Parquet file with columns entity, attribute, value")
    facts_templates: str | None = _table_key(None, "YAML file with sentence templates and candidates")


@dataclass(frozen=True, kw_only=True)
class SentenceSection:
    """Sentences: how facts are written"""

    num_templates: int | None = _sentence_key(
        None,
        "sentence templates per attribute; all by default",
        corpora=("bioS", "table"),
        range=Range(lambda v: v is None or v >= 1, "1 or more, or null for all"),
    )
    fixed_renderings: int | None = _sentence_key(
        None,
        "number of fixed texts per person; by default a new text at every exposure",
        range=Range(lambda v: v is None or v >= 1, "1 or more, or null for new ones"),
    )
    permute: bool = _sentence_key(True, "sentences in random order")
    full_name: bool = _sentence_key(False, "the full name in place of every pronoun")
    compact: bool = _biod_key(False, "only name, attribute and value, without an English sentence")


@dataclass(frozen=True, kw_only=True)
class JunkSection:
    """Junk: texts that are trained on and never scored"""

    junk_people: int = _junk_key(0, "number of people in the junk texts", range=_NOT_NEGATIVE)
    useful_share: float = _junk_key(
        0.125, "share of the training tokens that are not junk", used_with=(GENERATED_HERE, WITH_JUNK), range=_BETWEEN
    )
    junk_tokens: int = _junk_key(
        0,
        "number of special tokens for junk; each junk text begins with one",
        used_with=(GENERATED_HERE, WITH_JUNK),
        range=_NOT_NEGATIVE,
    )
    domain_token: str | None = _junk_key(None, "special token that begins every useful text, e.g. wikipedia.org")


@dataclass(frozen=True, kw_only=True)
class QuestionSection:
    """Questions in training"""

    questions: bool = _bios_key(
        False, "a tokenizer with the words of questions, where names are always tokenized alike"
    )
    qa_share: float = _bios_key(
        0.0,
        "share of the training tokens that are questions about half of the people",
        range=Range(_BETA.holds, "0 (none) or more, and less than 1"),
    )


@dataclass(frozen=True, kw_only=True)
class TextSection:
    """Number of texts"""

    exposures: int = _text_key(1000, "how often each person is seen in training", amount=True, range=_AT_LEAST_ONE)
    renderings: int = _generated_key(
        4,
        "biographies per person that are published and scored",
        amount=True,
        corpora=("bioS", "bioD", "table"),
        range=_AT_LEAST_ONE,
    )
    control_people: int = _generated_key(
        1000, "people outside the sample, for the null control", amount=True, range=_NOT_NEGATIVE
    )
    holdout_entities: float | None = _text_key(
        None,
        "share of a table's or data set's entities that is kept out of training, for the null control; default: 5 %, "
        "or up to 10 % for 100 entities; none below 100",
        amount=True,
        corpora=("table",),
        range=Range(lambda v: v is None or 0 <= v <= 0.5, "0 (none) to 0.5, or null for the default"),
    )


@dataclass(frozen=True, kw_only=True)
class TokenizerSection:
    """Tokenizer"""

    tokenizer_name: str | None = _key(
        None,
        "Hub id, folder or vocab.json, reduced to the tokens in use; default: a compact BPE",
        shapes="tokens",
        path=True,
    )
    vocab_size: int = _key(1024, "tokens of the compact BPE", shapes="tokens", range=_AT_LEAST_TWO)


@dataclass(frozen=True, kw_only=True)
class PackingSection:
    """Packing"""

    block_size: int = _window_key(512, "tokens per window", range=_AT_LEAST_TWO)
    windows: str = _window_key("cut", "cut (the paper's) or aligned to biographies", choices=("cut", "aligned"))
    shard_size: int = _window_key(65536, "people per shard", amount=True, range=_AT_LEAST_ONE)


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """Model"""

    model_name: str = _training_key(
        "",
        "such as gpt2-rotary-L-H (L layers, H heads), see `knowcap ls models`; or a config.json of transformers: its "
        "path, its folder or a Hub id",
        required=True,
    )
    model_config_overrides: dict[str, Any] | None = _training_key(
        None, "changes to the config.json that model_name names, such as num_hidden_layers=2,hidden_act=silu"
    )
    num_parameters: int | None = _training_key(
        None, "sets the model's width, at its depth, by the number of all parameters", range=_AT_LEAST_ONE_OR_NULL
    )
    num_active_parameters: int | None = _training_key(
        None, "the same by the parameters that one token passes through (mixtures)", range=_AT_LEAST_ONE_OR_NULL
    )
    head_dim: int = _training_key(64, "width of a head; hidden size = heads x head_dim", range=_AT_LEAST_ONE)
    rotary_fraction: float = _training_key(0.25, "gpt2-rotary: share of each head that rotates", range=_SHARE)
    activation: str | None = _training_key(None, "activation of the MLP; default: the family's, gelu_new or silu")
    initializer_range: float = _training_key(0.02, "standard deviation of the initial weights", range=_POSITIVE)
    num_experts_per_tok: int = _training_key(
        2, "mixtures: experts per token (top-k)", mixtures=True, range=_AT_LEAST_ONE
    )
    router_aux_loss_coef: float = _training_key(
        0.01, "mixtures: weight of the loss that balances the experts", mixtures=True, range=_NOT_NEGATIVE
    )


@dataclass(frozen=True, kw_only=True)
class TrainingSection:
    """Training"""

    train_batch_size: int = _training_key(96, "windows per step, over all processes", range=_AT_LEAST_ONE)
    train_sampling_strategy: str = _training_key(
        "sequential",
        "order of windows, by the Trainer's name: that of the stream, or windows of about one length in a batch",
        choices=("sequential", GROUP_BY_LENGTH),
        refused=_REFUSED_SAMPLING,
        used_with=(_ONE_KIND_OF_WINDOW, _OF_SEVERAL_LENGTHS),
    )
    gradient_accumulation_steps: int = _training_key(1, "micro-batches per step", free=True, range=_AT_LEAST_ONE)
    precision: str = _training_key("fp32", "precision of training", choices=("fp32", "bf16", "fp16"))
    torch_compile: bool = _training_key(False, "compile the model", free=True)
    dataloader_num_workers: int = _training_key(0, "processes that assemble windows", free=True, range=_NOT_NEGATIVE)
    logging_steps: int = _training_key(50, "steps between log lines", free=True, range=_AT_LEAST_ONE)
    save_steps: int = _training_key(1000, "steps between checkpoints", free=True, range=_AT_LEAST_ONE)
    save_total_limit: int = _training_key(2, "checkpoints kept", free=True, range=_AT_LEAST_ONE)
    report_to: str = _training_key(
        "none", "experiment tracker", free=True, choices=("none", "tensorboard", "trackio", "wandb")
    )
    measure_every: int = _training_key(
        0, "steps between measurements of bits per parameter in training; 0: never", free=True, range=_NOT_NEGATIVE
    )
    measure_limit: int = _training_key(
        1000, "people that such a measurement scores, one text each", free=True, range=_AT_LEAST_ONE
    )


@dataclass(frozen=True, kw_only=True)
class ScoringSection:
    """Scoring"""

    eval_batch_size: int = _scoring_key(64, "texts per forward pass", free=True, range=_AT_LEAST_ONE)
    start_token: str = _scoring_key(
        "auto", "what stands before each text; auto: EOS, as in training", free=True, choices=START_TOKENS
    )
    confidence_level: float = _scoring_key(0.95, "of the interval over people", range=_BETWEEN)


@dataclass(frozen=True, kw_only=True)
class ExtractionSection:
    """Knowledge extraction: answers to questions after tuning on half of the people"""

    extract: str = _extraction_key(
        "none",
        "how to tune the model on questions",
        choices=("none", *EXTRACT_METHODS),
        corpora=("bioS",),
        used_with=(GENERATED_HERE,),
    )
    extract_rank: int = _extraction_key(8, "rank of LoRA on query and value", range=_AT_LEAST_ONE)
    extract_embedding_rank: int = _extraction_key(128, "rank of LoRA on the embedding", range=_AT_LEAST_ONE)
    extract_steps: int = _extraction_key(75_000, "steps of tuning", range=_AT_LEAST_ONE)
    extract_batch_size: int = _extraction_key(96, "questions per step", range=_AT_LEAST_ONE)
    extract_learning_rate: float = _extraction_key(
        1e-3, "peak learning rate of tuning, with linear decay to 0", range=_POSITIVE
    )
    extract_weight_decay: float = _extraction_key(0.1, "weight decay of AdamW in tuning", range=_NOT_NEGATIVE)


# Dataclasses take their fields from the last base first.
@dataclass(frozen=True, kw_only=True)
class Recipe(
    ExtractionSection, QuantizationSection, ScoringSection, TrainingSection, OptimizerSection, ModelSection,
    PackingSection, TokenizerSection, FrequencySection, TextSection, QuestionSection, JunkSection, SentenceSection,
    TableSection, MorrisSection, BioDSection, CorpusSection, DatasetSection, RunSection,
):  # fmt: skip
    """All keys of a recipe, with the paper's defaults where the paper has one (Part 3.3, App. A)."""

    @property
    def run_dir(self) -> Path:
        """The run folder, output_dir/run_name."""
        return Path(self.output_dir) / self.run_name


SECTIONS = tuple(reversed(Recipe.__bases__))
_TYPES = get_type_hints(Recipe)
KEYS: dict[str, Key] = {
    key.name: Key(name=key.name, section=section, type=_TYPES[key.name], default=key.default, **key.metadata)
    for section in SECTIONS
    for key in fields(section)
}


def section_keys(*sections: type) -> tuple[str, ...]:
    """The names of the keys of sections."""
    return tuple(name for name, key in KEYS.items() if key.section in sections)


def shaping_keys(*shapes: Shapes) -> tuple[str, ...]:
    """The names of the keys that shape one of these."""
    return tuple(name for name, key in KEYS.items() if key.shapes in shapes)


# Keys that may differ from those of a data set whose people new texts are generated of.
RENDERING_KEYS = tuple(name for name, key in KEYS.items() if TEXTS_GENERATED in key.used_with)


def unknown_key(name: object) -> str:
    """The problem of a key that no recipe has."""
    return f"unknown key {name!r}{nearest(name, KEYS) or '; `knowcap run --help` lists all keys'}"
