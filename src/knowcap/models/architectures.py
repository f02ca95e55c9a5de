"""Configurations of any causal language model of transformers, as the recipe names and changes them.

The corpus sets the vocabulary's rows, positions and special tokens; everything else stays as the configuration has it:
tied weights, sliding windows, scaled rotary positions. Of a composite model (of images or audio too) the part that
reads and writes text is taken. Weights are never loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property, lru_cache
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcap.files import CONFIG_FILE, FileError, read_json
from knowcap.models.names import ModelError
from knowcap.models.quiet import quiet_transformers
from knowcap.models.registration import packages, register_models
from knowcap.recipe import KEYS, nearest


if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Of files that transformers saved, not of the architecture.
_NOT_ARCHITECTURE = {
    "architectures", "auto_map", "dtype", "torch_dtype", "quantization_config", "transformers_version",
    "_name_or_path", "_attn_implementation", "_attn_implementation_autoset", "_commit_hash",
}  # fmt: skip
_POSITIONS = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length",
    "context_length",
)  # fmt: skip
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_SET_HERE = {"vocab_size", *_POSITIONS, *_TOKENS, "use_cache", "output_router_logits", "model_type"}
_DROPOUT = re.compile(r"dropout|pdrop|layerdrop|jitter_noise")
_OF_FAMILIES = (
    "head_dim",
    "rotary_fraction",
    "activation",
    "initializer_range",
    "num_experts_per_tok",
    "router_aux_loss_coef",
)


def is_config(model_name: str) -> bool:
    """Whether a model_name is a configuration (a path, a folder, a Hub id) rather than family-L-H."""
    return "/" in model_name or model_name.endswith(".json")


def is_hub_id(model_name: str) -> bool:
    """Whether a configuration is one of the Hub: there is no such file or folder, and it has the form owner/name."""
    local = model_name.startswith((".", "/", "~")) or model_name.endswith(".json") or Path(model_name).exists()
    return not local and model_name.count("/") == 1


def text_type(model_name: str) -> str:
    """The model_type of a configuration, of a composite one that of its part for text."""
    return _Source.of(model_name, None).kind.model_type


def read_config(model_name: str) -> dict[str, Any]:
    """The content of a configuration: of a file, of a folder's config.json, or of a Hub id's.

    Raises:
        ModelError: it does not exist, or is none of a model.
        HubError: the Hub has no such model, access is denied, or it does not answer.
    """
    path = Path(model_name).expanduser()
    if path.exists():
        file = path / CONFIG_FILE if path.is_dir() else path
        return _content(file, file.stat().st_mtime_ns if file.is_file() else 0)
    if not is_hub_id(model_name):
        raise ModelError(
            f"model_name={model_name!r}: no such file or folder; expected family-L-H (`knowcap ls models`), a "
            f"{CONFIG_FILE} or its folder, or a Hub id"
        )
    return _content(_from_hub(model_name), 0)


@lru_cache
def _from_hub(repo_id: str) -> Path:
    from huggingface_hub import hf_hub_download

    from knowcap.hub import fetch

    return Path(fetch(f"model {repo_id!r}", "model", lambda: hf_hub_download(repo_id, CONFIG_FILE)))


@lru_cache
def _content(file: Path, _: int) -> dict[str, Any]:
    try:
        found = read_json(file)
    except (FileError, OSError) as error:
        raise ModelError(f"model_name={str(file)!r} cannot be read: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise ModelError(f"model_name={str(file)!r} has no model_type; expected a {CONFIG_FILE} of transformers")
    return found


def snapshot_name(model_name: str) -> str:
    """The name of the copy that a run folder keeps of a configuration: its model_type and a digest of its content."""
    content = read_config(model_name)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{content['model_type']}-{digest[:8]}.json"


def config_problems(values: Mapping[str, Any]) -> list[str]:
    """The problems of a configuration and its overrides, and of recipe keys that have no effect on one.

    Args:
        values: of the recipe's keys of ModelSection.
    """
    problems = [
        KEYS[key].no_effect(
            values[key],
            "with the config.json that model_name names: it has its own (model_config_overrides changes it)",
        )
        for key in _OF_FAMILIES
        if values[key] != KEYS[key].default
    ]
    try:
        _Source.of(values["model_name"], values["model_config_overrides"])
    except ValueError as error:  # HubError is one
        problems.append(str(error))
    return problems


def architecture(
    model_name: str,
    overrides: Mapping[str, Any] | None,
    vocab_size: int,
    block_size: int,
    widths: Mapping[str, Any] | None = None,
) -> PreTrainedConfig:
    """The configuration with changes, for a corpus of that vocabulary and windows of that length.

    Args:
        model_name: a path or a Hub id.
        overrides: changes to the content.
        vocab_size: rows of the vocabulary; token 0 begins and ends texts.
        block_size: tokens of the longest window: positions are as many, or as they are where their scaling needs it.
        widths: further changes, of sizes.

    Raises:
        ModelError: the configuration cannot be read, or these changes do not fit it.
    """
    source = _Source.of(model_name, overrides)
    return source.built({**source.for_corpus(vocab_size, block_size), **(widths or {})})


def fields_of(model_name: str, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a configuration after its overrides, without what its class computes from them."""
    source = _Source.of(model_name, overrides)
    return {key: value for key, value in source.values().items() if key in source.own_fields}


class _Source:
    """The content of a configuration for text, and the class that it is of."""

    def __init__(self, kind: type[PreTrainedConfig], content: dict[str, Any], name: str) -> None:
        self.kind, self.name = kind, name
        names = {f.name for f in fields(kind)} if is_dataclass(kind) else {*signature(kind.__init__).parameters}
        self.own_fields = names | {self._own(name) for name in names}
        self.content = self._without_derived(content)

    @classmethod
    def of(cls, model_name: str, overrides: Mapping[str, Any] | None) -> _Source:
        """Reads it; see `architecture` for the errors."""
        whole = read_config(model_name)
        key = (model_name, json.dumps(whole), repr(overrides or {}), packages())
        if key not in _SOURCES:
            content = {key: value for key, value in whole.items() if key not in _NOT_ARCHITECTURE}
            kind = _class_of(content.pop("model_type"), model_name, "auto_map" in whole)
            kind, content = _text_part(kind, content, model_name)
            _SOURCES[key] = cls(kind, content, model_name).changed(overrides or {})
        return _SOURCES[key]

    def changed(self, overrides: Mapping[str, Any]) -> _Source:
        """With overrides in their fields' types; lists of one entry per layer follow the number of layers."""
        values = self.values()
        known = {key for key in values if not key.startswith("_")} | set(self.kind.attribute_map)
        problems = []
        for key in overrides:
            if key in _SET_HERE:
                problems.append(f"{key} is set by the corpus and knowcap; leave it out")
            elif key not in known:
                problems.append(f"{self.kind.model_type} has no {key!r}{nearest(key, known)}")
        if problems:
            raise ModelError(f"model_config_overrides: {'; '.join(problems)}")
        layers = values.get(self._own("num_hidden_layers"))
        content = dict(self.content)
        for key, value in overrides.items():
            key = self._own(key)
            content[key] = _as(value, values.get(key))
        new = content.get(self._own("num_hidden_layers"), layers)
        if isinstance(layers, int) and isinstance(new, int) and new != layers:
            for key, value in self.content.items():
                if (
                    isinstance(value, list)
                    and len(value) == layers
                    and self._own(key) not in map(self._own, overrides)
                ):
                    content[key] = (value * -(-new // layers))[:new] if new else []
        changed = type(self)(self.kind, content, self.name)
        changed.built({})
        return changed

    def for_corpus(self, vocab_size: int, block_size: int) -> dict[str, Any]:
        """What the corpus sets, under the class's own names, with dropout 0 and a mixture's auxiliary loss on."""
        values = self.values()
        found: dict[str, Any] = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 0}
        # Many classes never train the embedding of a padding token: untied models would never learn token 0.
        found |= {"pad_token_id": None, "use_cache": False}
        rope = values.get("rope_parameters")
        scaled = isinstance(rope, dict) and rope.get("rope_type", "default") != "default"
        for key in _POSITIONS:
            if isinstance(size := values.get(key), int) and (not scaled or size < block_size):
                found[key] = block_size
        found |= {k: 0.0 for k, v in values.items() if _DROPOUT.search(k) and isinstance(v, (int, float)) and v}
        for key, value in values.items():  # MPT and DBRX have a part for attention
            if isinstance(value, dict) and any(_DROPOUT.search(str(k)) for k in value):
                found[key] = value | {
                    k: 0.0 for k, v in value.items() if _DROPOUT.search(str(k)) and isinstance(v, float)
                }
        if "output_router_logits" in values and values.get("router_aux_loss_coef"):
            found["output_router_logits"] = True
        return found

    def built(self, changes: Mapping[str, Any]) -> PreTrainedConfig:
        """The configuration with changes."""
        content = {key: value for key, value in self.content.items() if self._own(key) not in changes} | dict(changes)
        with quiet_transformers():
            try:
                return self.kind.from_dict(_copied(content))
            except Exception as error:  # the class's own checks raise errors of many classes
                first = " ".join(str(error).split())
                raise ModelError(
                    f"model_name={self.name!r} with these changes is no valid {self.kind.__name__}: {first}"
                ) from error

    def values(self) -> Mapping[str, Any]:
        """All values, of the class where the content has none."""
        return self._values

    @cached_property
    def _values(self) -> dict[str, Any]:
        return {key: value for key, value in self.built({}).to_dict().items() if key not in _NOT_ARCHITECTURE}

    def _own(self, key: str) -> str:
        """The class's own name of a key: n_layer of GPT2 for num_hidden_layers."""
        return self.kind.attribute_map.get(key, key)

    def _without_derived(self, content: dict[str, Any]) -> dict[str, Any]:
        """The content without what the class computes from the rest, so that it follows changes of the rest."""
        others = {key for key in content if self._own(key) not in self.own_fields}
        if not others:
            return content
        self.content = {key: value for key, value in content.items() if key not in others}
        without = self.built({}).to_dict()
        derived = {key for key in others if key in without and without[key] == content[key]}
        return {key: value for key, value in content.items() if key not in derived}


_SOURCES: dict[tuple[object, ...], _Source] = {}  # by all that they depend on: each takes a tenth of a second


def _class_of(model_type: str, model_name: str, has_code: bool) -> type[PreTrainedConfig]:
    """The configuration class of a model_type, transformers' own or registered."""
    register_models()
    from transformers import CONFIG_MAPPING

    if model_type in CONFIG_MAPPING:
        return CONFIG_MAPPING[model_type]
    code = "its auto_map names code of its own, which is not run" if has_code else "transformers has no such class"
    raise ModelError(
        f"model_name={model_name!r}: model_type={model_type!r}: {code}; give --import my_package, a package that "
        f"registers the class with AutoConfig and AutoModelForCausalLM{nearest(model_type, list(CONFIG_MAPPING))}"
    )


def _text_part(
    kind: type[PreTrainedConfig], content: dict[str, Any], model_name: str
) -> tuple[type[PreTrainedConfig], dict[str, Any]]:
    """Class and content of the part of a composite configuration that is a causal language model; else the same."""
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        try:
            whole = kind.from_dict(_copied(content))
            text = whole.get_text_config()
        except Exception as error:
            raise ModelError(
                f"model_name={model_name!r} is no valid {kind.__name__}: {' '.join(str(error).split())}"
            ) from error
    if text is not whole:
        part = next(
            (key for key, value in vars(whole).items() if value is text and isinstance(content.get(key), dict)), None
        )
        tied = {key: content[key] for key in ("tie_word_embeddings",) if key in content}
        kind, content = type(text), (tied | content[part] if part else text.to_dict())
        content = {key: value for key, value in content.items() if key not in {*_NOT_ARCHITECTURE, "model_type"}}
    if kind not in AutoModelForCausalLM._model_mapping:
        raise ModelError(
            f"model_name={model_name!r}: model_type={kind.model_type!r} is no causal language model of transformers; "
            "expected one such as gpt2, llama or qwen3"
        )
    if text.is_encoder_decoder:
        raise ModelError(
            f"model_name={model_name!r}: {kind.model_type} has an encoder; expected a decoder such as gpt2 or qwen3"
        )
    return kind, content


def _copied(content: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy, with infinity as transformers 5 writes it, {"__float__": "Infinity"}, read."""
    return json.loads(json.dumps(content), object_hook=lambda d: float(d["__float__"]) if [*d] == ["__float__"] else d)


def _as(value: Any, old: Any) -> Any:
    """An override as the type of the value that it replaces: 10000 for a float is 10000.0."""
    if isinstance(value, int) and not isinstance(value, bool) and isinstance(old, float):
        return float(value)
    whole = isinstance(value, float) and value.is_integer() and isinstance(old, int) and not isinstance(old, bool)
    return int(value) if whole else value
