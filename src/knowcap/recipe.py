"""One recipe is one setting: flat keys from YAML and the command line; what is wrong with them is told all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any


EXTRACT_METHODS = ("lora", "full", "as_trained")


class RecipeError(ValueError):
    """Everything that is wrong with a recipe or its run folder, told at once; `problems` holds one message each."""

    def __init__(self, problems: Sequence[str], source: object = "recipe") -> None:
        self.problems = list(problems)
        numbered = [f"  {n}. {problem}" for n, problem in enumerate(self.problems, start=1)]
        several = "\n".join([f"{len(numbered)} problems", *numbered])
        super().__init__(f"{source}: {self.problems[0] if len(numbered) == 1 else several}")


def _key(default: Any, text: str, **metadata: Any) -> Any:
    """A recipe key. `required`: has no default, `except_for` one corpus; `free`: may change between two calls on one
    run folder; `choices`.
    """
    return field(default=default, metadata={"help": text} | metadata)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All keys of a recipe, with the paper's defaults where the paper has one (Part 3.3, App. A)."""

    # run
    run_name: str = _key("", "folder under output_dir; the recipe file's name by default")
    output_dir: str = _key("runs", "where run folders are made", free=True)
    seed: int = _key(0, "seed of people, texts, weights and data order")
    # knowledge
    dataset_name: str | None = _key(None, "a published data set, Hub id or folder, in place of people made here")
    dataset_revision: str | None = _key(None, "dataset_name's branch, tag or commit on the Hub; main by default")
    dataset_texts: str = _key("online", "told afresh, or its texts as they are", choices=("online", "published"))
    corpus: str = _key("bioS", "which corpus", choices=("bioS", "bioD", "morris", "table"))
    num_people: int = _key(0, "N, people or strings; tables, data sets: theirs", required=True, except_for="table")
    pools_dir: str | None = _key(None, "a folder of your own value lists")
    pools_fraction: float = _key(1.0, "keep the first part of every list, in (0, 1]")
    num_attributes: int = _key(1, "bioD's K, values a person")
    chunks_per_value: int = _key(1, "bioD's C, chunks a value")
    diversity: int = _key(1000, "bioD's D, distinct chunks an attribute")
    chunk_length: int = _key(5, "bioD's L, symbols a chunk")
    alphabet_size: int = _key(32, "bioD's T, symbols there are; morris: V")
    string_length: int = _key(64, "morris: S, symbols a string")
    facts_file: str | None = _key(None, "table: a CSV or Parquet of entity, attribute, value")
    facts_templates: str | None = _key(None, "table: a YAML with sentences and candidates")
    # corpus
    num_templates: int | None = _key(None, "sentence templates per attribute; all by default")
    fixed_renderings: int | None = _key(None, "bioS: told in so many fixed ways; by default afresh at every exposure")
    permute: bool = _key(True, "bioS: sentences in random order")
    full_name: bool = _key(False, "bioS: the full name in place of every pronoun")
    compact: bool = _key(False, "bioD: name, attribute and value alone, without an English sentence around them")
    junk_people: int = _key(0, "bioS: so many other people are mixed into training and never scored")
    useful_share: float = _key(0.125, "with junk: share of the training tokens that are not junk")
    junk_tokens: int = _key(0, "with junk: so many tokens of their own, one in front of every junk text")
    domain_token: str | None = _key(None, "bioS: a token of its own in front of every useful text, e.g. wikipedia.org")
    questions: bool = _key(
        False, "bioS: made to be asked about: the tokenizer has words of questions, reads names alike"
    )
    qa_share: float = _key(0.0, "with questions: share of the training tokens that ask about half of the people")
    exposures: int = _key(1000, "how often each person is seen in training")
    renderings: int = _key(4, "biographies a person that are published and scored")
    control_people: int = _key(1000, "people outside the sample, for the null control")
    # tokens
    tokenizer_name: str | None = _key(None, "a Hub id or folder, reduced to its tokens in use; default: a compact BPE")
    vocab_size: int = _key(1024, "tokens of the compact BPE")
    # packing
    block_size: int = _key(512, "tokens a window")
    windows: str = _key("cut", "cut (the paper's) or aligned to biographies", choices=("cut", "aligned"))
    shard_size: int = _key(65536, "people a shard")
    # model
    model_name: str = _key("", "such as gpt2-rotary-L-H (L layers, H heads); see `knowcap ls models`", required=True)
    head_dim: int = _key(64, "width of a head; hidden size = heads x head_dim")
    rotary_fraction: float = _key(0.25, "gpt2-rotary: share of each head that rotates")
    activation: str | None = _key(None, "the MLP's activation; by default the family's, gelu_new or silu")
    initializer_range: float = _key(0.02, "standard deviation of the initial weights")
    num_experts_per_tok: int = _key(2, "mixtures: experts that a token goes to (top-k)")
    router_aux_loss_coef: float = _key(0.01, "mixtures: weight of the loss that balances their experts")
    # training
    train_batch_size: int = _key(96, "windows a step, over all processes")
    gradient_accumulation_steps: int = _key(1, "micro-batches a step", free=True)
    learning_rate: float = _key(1e-3, "peak learning rate")
    min_learning_rate_ratio: float = _key(0.1, "the cosine ends at this share of the peak")
    warmup_steps: int = _key(1000, "steps of linear warm-up")
    weight_decay: float = _key(0.02, "AdamW's weight decay")
    adam_beta1: float = _key(0.9, "AdamW's beta 1")
    adam_beta2: float = _key(0.999, "AdamW's beta 2")
    adam_epsilon: float = _key(1e-8, "AdamW's epsilon")
    max_grad_norm: float = _key(1.0, "gradient clipping; 0 is off")
    precision: str = _key("fp32", "of training", choices=("fp32", "bf16", "fp16"))
    torch_compile: bool = _key(False, "compile the model", free=True)
    dataloader_num_workers: int = _key(0, "processes that assemble windows", free=True)
    logging_steps: int = _key(50, "steps between log lines", free=True)
    save_steps: int = _key(1000, "steps between checkpoints", free=True)
    save_total_limit: int = _key(2, "checkpoints kept", free=True)
    report_to: str = _key("none", "a tracker", free=True, choices=("none", "tensorboard", "trackio", "wandb"))
    measure_every: int = _key(0, "steps between measurements of bits per parameter while training; 0 never", free=True)
    measure_limit: int = _key(1000, "people that such a measurement scores, one text each", free=True)
    # measuring
    eval_batch_size: int = _key(64, "texts a forward pass when scoring", free=True)
    confidence_level: float = _key(0.95, "of the interval over people")
    # quantizing
    quantize_bits: tuple[int, ...] = _key((8, 4), "weight bits to quantize to; [] for none", free=True)
    quantization_method: str = _key("quanto", "rounding, or calibrated", free=True, choices=("quanto", "gptq"))
    quantization_group_size: int = _key(32, "weights of a row that share a scale; 0: all. quanto: int4's", free=True)
    quantization_symmetric: bool | None = _key(
        None, "steps even around zero; by default all but quanto's int4", free=True
    )
    quantization_exclude: tuple[str, ...] = _key((), "block layers left as they are, as patterns: *.mlp.*", free=True)
    quantize_embeddings: bool = _key(False, "embeddings and output head too (quanto)", free=True)
    # extracting
    extract: str = _key(
        "none", "answer questions after tuning on half the people", free=True, choices=("none", *EXTRACT_METHODS)
    )
    extract_rank: int = _key(8, "rank of LoRA on query and value", free=True)
    extract_embedding_rank: int = _key(128, "rank of LoRA on the embedding", free=True)
    extract_steps: int = _key(75_000, "steps of tuning on questions", free=True)
    extract_batch_size: int = _key(96, "questions a step", free=True)
    extract_learning_rate: float = _key(1e-3, "peak learning rate of tuning; linear to 0", free=True)
    extract_weight_decay: float = _key(0.1, "AdamW's weight decay in tuning", free=True)

    @property
    def run_dir(self) -> Path:
        """The run folder, output_dir/run_name."""
        return Path(self.output_dir) / self.run_name


KEYS: dict[str, Field[Any]] = {key.name: key for key in fields(Recipe)}

QA_KEYS = ("questions", "qa_share", "extract")

BIOD_KEYS = ("num_attributes", "chunks_per_value", "diversity", "chunk_length", "alphabet_size")


JUNK_KEYS = ("junk_people", "useful_share", "junk_tokens", "domain_token")


NOT_BIOD_KEYS = ("fixed_renderings", "permute", "full_name", "num_templates", *JUNK_KEYS, *QA_KEYS)


NOT_TABLE_KEYS = ("fixed_renderings", "permute", "full_name", "pools_dir", "pools_fraction", *JUNK_KEYS, *QA_KEYS)


NOT_MORRIS_KEYS = (*NOT_TABLE_KEYS, "num_templates", "renderings")


# What a data set folder has settled.
SETTLED_KEYS = (
    "num_people", "pools_dir", "pools_fraction", *BIOD_KEYS, "facts_file", "facts_templates", "compact",
    "string_length", "renderings", "control_people", *JUNK_KEYS, *QA_KEYS,
)  # fmt: skip


Rule = tuple[Callable[[Any], bool], str]
_AT_LEAST_ONE: Rule = (lambda v: v >= 1, "1 or more")
_NOT_NEGATIVE: Rule = (lambda v: v >= 0, "0 or more")
_POSITIVE: Rule = (lambda v: v > 0, "more than 0")
_SHARE: Rule = (lambda v: 0 < v <= 1, "more than 0 and at most 1")
_BETA: Rule = (lambda v: 0 <= v < 1, "at least 0 and less than 1")
RULES: dict[str, Rule] = {
    "run_name": (lambda v: not v.startswith(".") and not set(v) & set("/\\:"), "a plain folder name, without / \\ :"),
    "seed": (lambda v: 0 <= v < 2**32, "0 to 4,294,967,295"),
    "num_people": _AT_LEAST_ONE,
    "pools_fraction": _SHARE,
    "num_attributes": _AT_LEAST_ONE,
    "chunks_per_value": _AT_LEAST_ONE,
    "diversity": _AT_LEAST_ONE,
    "chunk_length": _AT_LEAST_ONE,
    "alphabet_size": _AT_LEAST_ONE,
    "string_length": _AT_LEAST_ONE,
    "num_templates": (lambda v: v is None or v >= 1, "1 or more, or null for all"),
    "fixed_renderings": (lambda v: v is None or v >= 1, "1 or more, or null for fresh ones"),
    "junk_people": _NOT_NEGATIVE,
    "useful_share": (lambda v: 0 < v < 1, "more than 0 and less than 1"),
    "junk_tokens": _NOT_NEGATIVE,
    "qa_share": (lambda v: 0 <= v < 1, "0 (none) or more, and less than 1"),
    "exposures": _AT_LEAST_ONE,
    "renderings": _AT_LEAST_ONE,
    "control_people": _NOT_NEGATIVE,
    "vocab_size": (lambda v: v >= 2, "2 or more"),
    "block_size": (lambda v: v >= 2, "2 or more"),
    "shard_size": _AT_LEAST_ONE,
    "head_dim": _AT_LEAST_ONE,
    "rotary_fraction": _SHARE,
    "initializer_range": _POSITIVE,
    "num_experts_per_tok": _AT_LEAST_ONE,
    "router_aux_loss_coef": _NOT_NEGATIVE,
    "train_batch_size": _AT_LEAST_ONE,
    "gradient_accumulation_steps": _AT_LEAST_ONE,
    "learning_rate": _POSITIVE,
    "min_learning_rate_ratio": (lambda v: 0 <= v <= 1, "0 to 1"),
    "warmup_steps": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "adam_beta1": _BETA,
    "adam_beta2": _BETA,
    "adam_epsilon": _POSITIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "dataloader_num_workers": _NOT_NEGATIVE,
    "logging_steps": _AT_LEAST_ONE,
    "save_steps": _AT_LEAST_ONE,
    "save_total_limit": _AT_LEAST_ONE,
    "measure_every": _NOT_NEGATIVE,
    "measure_limit": _AT_LEAST_ONE,
    "eval_batch_size": _AT_LEAST_ONE,
    "confidence_level": (lambda v: 0 < v < 1, "more than 0 and less than 1"),
    "quantize_bits": (lambda v: set(v) <= {8, 4} and len(set(v)) == len(v), "8, 4, both or none"),
    "quantization_group_size": (lambda v: v >= 0, "so many weights, or 0 for a whole row"),
    "extract_rank": _AT_LEAST_ONE,
    "extract_embedding_rank": _AT_LEAST_ONE,
    "extract_steps": _AT_LEAST_ONE,
    "extract_batch_size": _AT_LEAST_ONE,
    "extract_learning_rate": _POSITIVE,
    "extract_weight_decay": _NOT_NEGATIVE,
}
