"""Adapters of peft: on their base, with the vocabulary rows that they were trained with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from knowcap.files import ADAPTER_FILE, read_json
from knowcap.models.folders import tensors_of
from knowcap.models.names import ModelError
from knowcap.models.quiet import quiet_peft, quiet_transformers


if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of every name in an adapter's file
_WEIGHTS = (".weight", ".base_layer.weight")  # of a layer that was saved whole, alone or beneath its LoRA
_SOME_ROWS = ".token_adapter.trainable_tokens_delta"


def load_adapter(folder: Path, base: PreTrainedModel) -> PreTrainedModel:
    """An adapter on its base, in eval mode and in the base's dtype.

    An adapter that was trained with added tokens holds the rows of all tokens; the base is resized to them first.

    Raises:
        ModelError: rows that neither the adapter nor the base has, which would be random.
    """
    from peft import PeftModel

    if not (folder / _WEIGHTS_FILE).is_file():  # else peft would unpickle adapter_model.bin, or ask the Hub
        raise ModelError(f"{folder} has no {_WEIGHTS_FILE}; save the adapter with save_pretrained, which writes it")
    rows, missing = _vocabulary(folder, base)
    old = _rows(base)
    if rows > old and missing:
        raise ModelError(
            f"{folder}: the adapter was trained with {rows} tokens, its base has {old}; neither has the added rows of "
            f"{', '.join(missing)}: save the adapter with save_pretrained(…, save_embedding_layers=True)"
        )
    with quiet_peft(), quiet_transformers():
        if rows != old:
            base.resize_token_embeddings(rows, mean_resizing=False)
        adapted = PeftModel.from_pretrained(base, str(folder), autocast_adapter_dtype=False)
        return cast(Any, adapted.eval())  # forwards what it lacks to its base


def _rows(model: PreTrainedModel) -> int:
    return cast(Any, model.get_input_embeddings()).weight.shape[0]


def _vocabulary(folder: Path, base: PreTrainedModel) -> tuple[int, list[str]]:
    """The vocabulary rows that an adapter was trained with, and the layers of the base, by name, whose added rows are
    not in its file.
    """
    layers = [layer for layer in (base.get_input_embeddings(), base.get_output_embeddings()) if layer is not None]
    names = {name: cast(Any, m).weight for name, m in base.named_modules() if any(m is layer for layer in layers)}
    shapes = {name.removeprefix(_PREFIX): shape for name, _, shape in tensors_of(sorted(folder.glob("*.safetensors")))}
    rows, saved = _rows(base), set()
    for name, weight in names.items():
        if whole := [shapes[name + kind] for kind in _WEIGHTS if name + kind in shapes]:
            rows = whole[0][0]
            saved.add(id(weight))
        elif name + _SOME_ROWS in shapes:
            rows = max(rows, *(index + 1 for index in _trained_tokens(folder, name)))
            saved.add(id(weight))
    return rows, [name for name, weight in names.items() if id(weight) not in saved]


def _trained_tokens(folder: Path, layer: str) -> list[int]:
    """The tokens of a layer that an adapter trains, from its trainable_token_indices: a list, or lists by layer."""
    indices = read_json(folder / ADAPTER_FILE).get("trainable_token_indices") or []
    if not isinstance(indices, dict):
        return indices
    return [index for name, some in indices.items() if layer.endswith(name) for index in some]
