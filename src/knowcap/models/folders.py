"""Model folders: what has to be in them, loading models and tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from knowcap.models.empty import empty_weights_are_meant
from knowcap.models.families import ModelError


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


QUANTIZATION_FILE = "quantization.json"
_MAKERS = "expected a folder made by `knowcap train` or save_pretrained"


def check_model_folder(folder: str | Path, needs: tuple[str, ...] = ("config.json", "*.safetensors")) -> Path:
    """Holds a folder to what loading needs, as file patterns; by default a model's. Returns it as a Path.

    Raises:
        ModelError: says what is missing and lists what is there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder; {_MAKERS}")
    missing = [name for name in needs if not any(folder.glob(name))]
    if missing:
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
        raise ModelError(f"{folder} has no {' and no '.join(missing)}; there is {there}; {_MAKERS}")
    return folder


def load_model(folder: str | Path) -> PreTrainedModel:
    """The model of a folder, in float32 and eval mode, cache off; one with quantization.json is loaded as quantized.

    Raises:
        ModelError: no model there, or weights that are not exactly what config.json asks for (no random fill-ins).
    """
    import torch
    from transformers import AutoModelForCausalLM

    from knowcap.training.progress import quiet_transformers

    folder = check_model_folder(folder)
    if (folder / QUANTIZATION_FILE).is_file():
        from knowcap.models.quantized.folder import load_quantized

        return load_quantized(folder)
    with quiet_transformers(), empty_weights_are_meant():
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in found.items() if keys}
    if wrong:
        raise ModelError(f"{folder}: the weights do not fit config.json: {json.dumps(wrong)}; {_MAKERS}")
    model.config.use_cache = False
    return model.eval()


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model folder: a fast one, since scoring needs its exact offsets.

    Raises:
        ModelError: the folder has no tokenizer.json.
    """
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(check_model_folder(folder, ("tokenizer.json",)), local_files_only=True)
