"""One recipe is one setting: flat keys from YAML and the command line; what is wrong with them is told all at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from knowcap.convert import convert


Overrides = Sequence[str] | Mapping[str, Any]
METADATA_KEYS = ("git_revision", "versions")  # what a run folder's recipe.yaml holds besides the recipe
EXTRACT_METHODS = ("lora", "full", "as_trained")
_PACKAGE = Path(__file__).resolve().parent
# The wheel holds the recipes inside the package; in a checkout they lie at its top.
RECIPES_DIR = _PACKAGE / "recipes" if (_PACKAGE / "recipes").is_dir() else _PACKAGE.parents[1] / "recipes"
_NOT_RECIPES = {"accelerate", "slurm", "sweeps"}


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


KEYS: dict[str, Field[Any]] = {key.name: key for key in fields(Recipe)}
_HINTS = get_type_hints(Recipe)


def load_recipe(config: str | Path, overrides: Overrides = ()) -> Recipe:
    """Reads, converts and checks a recipe.

    Args:
        config: a YAML file (a run folder's recipe.yaml too), or the name of a packaged recipe such as `quickstart`.
        overrides: `["--key", "value", "--key=value", …]` or `{key: value}`; they win over the file.

    Raises:
        RecipeError: with every problem of file, overrides, value lists, templates, vocabulary and model together.
    """
    recipe, problems = read_recipe(config, overrides)
    if problems:
        raise RecipeError(problems, config)
    return recipe


def read_recipe(config: str | Path, overrides: Overrides = (), check: bool = True) -> tuple[Recipe, list[str]]:
    """Like `load_recipe`, but returns the problems; keys that have one keep their defaults.

    Args:
        config, overrides: as for `load_recipe`.
        check: look past keys and types, at whether the values can work.

    Raises:
        RecipeError: there is no such recipe.
    """
    path = find_recipe(config)
    problems: list[str] = []
    found = _from_yaml(path, problems) | _from_overrides(overrides, problems)
    values: dict[str, Any] = {}
    for name, (value, where) in found.items():
        try:
            values[name] = convert(value, _HINTS[name])
        except ValueError as error:
            problems.append(f"{name}: got {'null' if value is None else repr(value)}, {error} ({where})")
    needed = {name: key.metadata for name, key in KEYS.items() if key.metadata.get("required") and name not in found}
    made = "table" if values.get("dataset_name") is not None else values.get("corpus")  # has its people already
    missing = [name for name, key in needed.items() if key.get("except_for", "") != made]
    problems += [f"{name} is missing ({KEYS[name].metadata['help']}); add `{name}: …`" for name in missing]
    recipe = resolve(Recipe(**values), path)
    if check:
        from knowcap.run.preflight import check_recipe

        problems += check_recipe(recipe, unusable={*missing, *(found.keys() - values.keys())})
    return recipe, problems


def resolve(recipe: Recipe, config: str | Path) -> Recipe:
    """The recipe with its run_name, the recipe file's stem where none is given."""
    return recipe if recipe.run_name else replace(recipe, run_name=Path(config).stem)


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with knowcap, by the name that `--config` takes."""
    paths = {path.relative_to(RECIPES_DIR).with_suffix(""): path for path in sorted(RECIPES_DIR.rglob("*.yaml"))}
    return {name.as_posix(): path for name, path in paths.items() if name.parts[0] not in _NOT_RECIPES}


def find_recipe(config: str | Path) -> Path:
    """The file of a recipe: a path, or else a packaged name. Raises RecipeError with the names that exist."""
    if Path(config).is_file():
        return Path(config)
    packaged = packaged_recipes()
    name = str(config).removesuffix(".yaml")
    if name in packaged:
        return packaged[name]
    close = difflib.get_close_matches(name, packaged, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    names = ", ".join(packaged) or "none"
    raise RecipeError([f"no such file, nor one of the packaged recipes ({names}){hint}"], f"recipe {str(config)!r}")


def _from_yaml(path: Path, problems: list[str]) -> dict[str, tuple[Any, str]]:
    """Key → (value, where it stands). Scalars stay text, as written: `convert` alone decides on types."""
    import yaml

    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML has it
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.append(f"cannot be read as YAML in UTF-8: {' '.join(str(error).split())}")
        return {}
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        problems.append("expected one `key: value` a line, such as `num_people: 1000`")
        return {}
    found: dict[str, tuple[Any, str]] = {}
    for key, node in root.value:
        name, where = str(key.value), f"line {key.start_mark.line + 1}"
        if name in METADATA_KEYS:
            continue
        if name in found:
            problems.append(f"{name}: given twice ({found[name][1]}, {where}); remove one")
        elif name not in KEYS:
            problems.append(f"{_unknown(name)} ({where})")
        else:
            found[name] = (_plain(node), where)
    return found


def _plain(node: Any) -> Any:
    if isinstance(node.value, str):
        return None if node.tag.endswith(":null") else node.value
    if all(hasattr(item, "value") for item in node.value):
        return [_plain(item) for item in node.value]
    return {key.value: _plain(item) for key, item in node.value}


def _from_overrides(overrides: Overrides, problems: list[str]) -> dict[str, tuple[Any, str]]:
    """Key → (value, how it was given), from a mapping or from command-line words; the last one of a key wins."""
    found: dict[str, tuple[Any, str]] = {}
    given = overrides.items() if isinstance(overrides, Mapping) else _pairs(overrides, problems)
    for name, value in given:
        if name not in KEYS:
            problems.append(f"{_unknown(name)} (--{name})")
        else:
            found[name] = (value, f"--{name}")
    return found


def _pairs(words: Sequence[str], problems: list[str]) -> Iterator[tuple[str, Any]]:
    """(key, value) of `--key value` and `--key=value`; a list may be several words, a true flag may have none."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--"):
            name, *rest = word[2:].split("=", 1)
            groups.append([name.replace("-", "_"), *rest])
        elif groups:
            groups[-1].append(word)
        else:
            problems.append(f"{word!r}: expected --key value")
    for name, *values in groups:
        hint = _HINTS.get(name)
        if hint is None or len(values) == 1:
            yield name, "".join(values)
        elif hint is bool and not values:
            yield name, "true"
        elif hint in (tuple[int, ...], tuple[str, ...]):
            yield name, ",".join(values)
        else:
            problems.append(f"{name}: got {' '.join(values) or 'no value'}, expected one value (--{name})")


def _unknown(name: object) -> str:
    close = difflib.get_close_matches(str(name), KEYS, n=1)
    return f"unknown key {name!r}; " + (f"did you mean {close[0]!r}?" if close else "`knowcap run --help` lists them")
