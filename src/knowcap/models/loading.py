"""Any causal language model, for scoring: from a folder or the Hub, whole, quantized by knowcap, or an adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from knowcap.files import ADAPTER_FILE, QUANTIZATION_FILE
from knowcap.models.folders import MAKERS, base_of, check_model_folder
from knowcap.models.names import ModelError
from knowcap.models.quiet import quiet_empty_weights, quiet_peft, quiet_transformers


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def load_model(folder: str | Path) -> PreTrainedModel:
    """The model of a folder in eval mode, in float32, without cache: whole, quantized, or an adapter on its base.

    Run a quantized one under torch.no_grad(): quanto's int4 weights raise in torch.inference_mode().

    Raises:
        ModelError: the folder has no model, the weights do not match config.json exactly (none is initialized at
            random), or an adapter's base is not available.
    """
    folder = Path(folder)
    if not (folder / ADAPTER_FILE).is_file():
        return _load_whole(folder)
    from peft import PeftModel

    base = _load_whole(base_of(folder))
    with quiet_peft():
        return cast(Any, PeftModel.from_pretrained(base, str(folder)).eval())  # forwards what it lacks to its base


def _load_whole(folder: Path) -> PreTrainedModel:
    """A model that is not an adapter."""
    import torch
    from transformers import AutoModelForCausalLM

    check_model_folder(folder)
    if (folder / QUANTIZATION_FILE).is_file():
        from knowcap.models.quantized.format import load_quantized

        return load_quantized(folder)
    with quiet_transformers(), quiet_empty_weights():
        model, found = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in found.items() if keys}
    if wrong:
        raise ModelError(f"{folder}: the weights do not match config.json: {json.dumps(wrong)}; {MAKERS}")
    model.config.use_cache = False
    return model.eval()


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
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder} has no tokenizer that can be loaded: {error}; save the model's tokenizer there"
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"{folder}: its tokenizer is a {type(tokenizer).__name__}, which gives no offsets; save a fast one "
            "(tokenizer.json)"
        )
    return tokenizer


def start_token_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that every text follows: the end of the text before it, or the begin token if there is no end token.

    Raises:
        ModelError: the tokenizer is no fast one, or has neither token.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer is a {type(tokenizer).__name__}, which yields no offsets; expected a fast one "
            "(tokenizer.json)"
        )
    start = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    if start is None:
        raise ModelError("the tokenizer has neither eos_token nor bos_token; set the one that separates texts")
    return cast(int, start)
