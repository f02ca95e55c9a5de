"""Any causal language model, for scoring: from a folder or the Hub, whole, quantized by knowcap, or an adapter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcap.files import ADAPTER_FILE, QUANTIZATION_FILE
from knowcap.models.configs import text_config
from knowcap.models.folders import MAKERS, base_of, check_model_folder, check_undamaged, old_buffers
from knowcap.models.names import ModelError
from knowcap.models.quiet import quiet_empty_weights, quiet_transformers
from knowcap.models.registration import check_auto_map, read_model_config


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded.

    Attributes:
        dtype: of weights and computation: float32, bfloat16 or float16, or auto, that of the files.
        device_map: `auto` divides a model among all devices, as in transformers; or a device, such as `cuda:1`.
        attn_implementation: transformers' name, such as sdpa, eager or flash_attention_2.

    Raises:
        ModelError: an unknown dtype.
    """

    dtype: str = "float32"
    device_map: str | None = None
    attn_implementation: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ModelError(f"dtype={self.dtype!r}; expected {', '.join(DTYPES)}")

    def options(self) -> list[str]:
        """The command-line options of `python -m knowcap.scoring`; none for the defaults."""
        given = {name: value for name, value in vars(self).items() if value != getattr(LoadOptions(), name)}
        return [word for name, value in given.items() for word in (f"--{name}", value)]


def load_model(folder: str | Path, options: LoadOptions | None = None) -> PreTrainedModel:
    """The model of a folder in eval mode, in float32 by default, without cache: whole, quantized, or an adapter on
    its base.

    Run a quantized one under torch.no_grad(): quanto's int4 weights raise in torch.inference_mode().

    Raises:
        ModelError: the folder has no model, the weights do not match config.json exactly (none is initialized at
            random), an adapter's base is not available, or the options do not fit.
    """
    folder, options = Path(folder), options or LoadOptions()
    if not (folder / ADAPTER_FILE).is_file():
        return _load_whole(folder, options)
    from knowcap.models.adapters import load_adapter

    check_undamaged(folder)
    return load_adapter(folder, _load_whole(base_of(folder), options))


def _load_whole(folder: Path, options: LoadOptions) -> PreTrainedModel:
    """A model that is not an adapter."""
    check_model_folder(folder)
    check_undamaged(folder)
    if (folder / QUANTIZATION_FILE).is_file():
        from knowcap.models.quantized.format import load_quantized

        if options != LoadOptions():
            raise ModelError(
                f"{folder} is a quantized copy, which is computed in float32 on one device; leave dtype, device_map "
                "and attn_implementation out"
            )
        return load_quantized(folder)
    from safetensors import SafetensorError

    config = read_model_config(folder)
    chosen = {"device_map": options.device_map, "attn_implementation": options.attn_implementation}
    with quiet_transformers(), quiet_empty_weights():
        try:
            model, found = _class_of(config, folder).from_pretrained(
                folder,
                dtype=options.dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **{name: value for name, value in chosen.items() if value is not None},
            )
        except (ValueError, ImportError, OSError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{folder} cannot be loaded with {options}: {error}") from error
    unexpected = {str(key) for key in found.get("unexpected_keys", ())}
    found["unexpected_keys"] = unexpected - old_buffers(folder, unexpected)
    wrong = {kind: sorted(map(str, keys)) for kind, keys in found.items() if keys}
    if wrong:
        raise ModelError(f"{folder}: the weights do not match config.json: {json.dumps(wrong)}; {MAKERS}")
    for part in (model.config, text_config(model)):
        part.use_cache = False
    return model.eval()


def _class_of(config: PreTrainedConfig, folder: Path) -> Any:
    """The auto class that has the architecture: of causal language models, or of models of images and text; the latter
    first for a composite configuration, whose files have weights of both.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    classes = (AutoModelForCausalLM, AutoModelForImageTextToText)
    for auto in classes if config.get_text_config() is config else classes[::-1]:
        if type(config) in auto._model_mapping:
            return auto
    raise ModelError(
        f"{folder}: model_type={config.model_type!r} is no causal language model of transformers; expected "
        "one such as gpt2, llama or gemma3"
    )


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a folder, or of its adapter's base.

    Raises:
        ModelError: the folder has no tokenizer, or a slow one.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    has = any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json"))
    if not has and (folder / ADAPTER_FILE).is_file():
        folder = base_of(folder)
    elif not has:
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) if folder.is_dir() else ""
        raise ModelError(
            f"{folder} has no tokenizer.json; it has {found or 'no files'}; save the model's tokenizer there"
        )
    check_undamaged(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library of tokenizers raises plain ones
        raise ModelError(
            f"{folder} has no tokenizer that can be loaded: {error}; save the model's tokenizer there"
        ) from error
    auto_map = tokenizer.init_kwargs.get("auto_map")
    check_auto_map(auto_map, {"AutoTokenizer": type(tokenizer).__name__}, folder)
    if not tokenizer.is_fast:
        raise ModelError(
            f"{folder}: its tokenizer is a {type(tokenizer).__name__}, which gives no offsets; save a fast one "
            "(tokenizer.json)"
        )
    return tokenizer
