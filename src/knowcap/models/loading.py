"""Any causal language model, for scoring: from a folder or the Hub, whole, quantized by knowcap, or an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from knowcap.models.empty import empty_weights_are_meant
from knowcap.models.families import ModelError
from knowcap.models.folders import MAKERS, QUANTIZATION_FILE, check_model_folder


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

T = TypeVar("T")
ADAPTER_FILE = "adapter_config.json"
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def find_model(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: itself, or a snapshot of a repo on the Hub.

    Raises:
        ModelError: no such folder or repo, no access, or no answer.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(f"revision={revision!r}, but {name} is a folder; leave it out, it is for Hub ids")
        return folder
    if str(name).startswith(("/", ".", "~")) or str(name).count("/") > 1 or folder.exists():
        raise ModelError(f"{name}: no such folder; give a model folder, a run folder or a Hub id")
    from huggingface_hub import snapshot_download

    return Path(_asked(str(name), lambda: snapshot_download(str(name), revision=revision, allow_patterns=[*_FILES])))


def load_model(folder: str | Path) -> PreTrainedModel:
    """The model of a folder in eval mode, in float32, cache off: whole, quantized, or an adapter on its base.

    Run a quantized one under torch.no_grad(): quanto's int4 weights raise in torch.inference_mode().

    Raises:
        ModelError: no model there, weights that are not exactly what config.json asks for (no random fill-ins), or an
            adapter's base that can't be had.
        QuantizationError: quantized weights that are not exactly the model's.
    """
    folder = Path(folder)
    if not (folder / ADAPTER_FILE).is_file():
        return _load_whole(folder)
    from peft import PeftModel

    from knowcap.models.quiet import quiet_peft

    base = _load_whole(base_of(folder))
    with quiet_peft():
        return PeftModel.from_pretrained(base, str(folder)).eval()


def _load_whole(folder: Path) -> PreTrainedModel:
    """A model that is no adapter."""
    import torch
    from transformers import AutoModelForCausalLM

    from knowcap.models.quiet import quiet_transformers

    check_model_folder(folder)
    if (folder / QUANTIZATION_FILE).is_file():
        from knowcap.models.quantized.folder import load_quantized

        return load_quantized(folder)
    with quiet_transformers(), empty_weights_are_meant():
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in found.items() if keys}
    if wrong:
        raise ModelError(f"{folder}: the weights do not fit config.json: {json.dumps(wrong)}; {MAKERS}")
    model.config.use_cache = False
    return model.eval()


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, or of its adapter's base: a fast one, whatever files it comes in.

    Raises:
        ModelError: none there, or no fast one.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    has = any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json"))
    if not has and (folder / ADAPTER_FILE).is_file():
        folder = base_of(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder} has no tokenizer that can be loaded: {error}; save the model's own there"
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"{folder}: its tokenizer is a {type(tokenizer).__name__}, which knows no offsets; save it as a fast one "
            "(tokenizer.json)"
        )
    return tokenizer


def base_of(folder: Path) -> Path:
    """The folder of the model that an adapter was made for."""
    name = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not name:
        raise ModelError(f"{folder / ADAPTER_FILE} names no base_model_name_or_path; add it")
    within = folder / name  # as knowcap names the model beside it in a run folder
    return check_model_folder(within if name.startswith("..") and within.is_dir() else find_model(name))


def weight_files(folder: Path) -> list[Path]:
    """All safetensors files that a model is made of, an adapter's base included."""
    files = sorted(folder.glob("*.safetensors"))
    return files + weight_files(base_of(folder)) if (folder / ADAPTER_FILE).is_file() else files


def _asked(name: str, call: Callable[[], T]) -> T:
    """`call()`, with what the Hub refuses or lacks as one message."""
    import httpx2
    from huggingface_hub import errors

    try:
        return call()
    except errors.GatedRepoError:
        why = "is gated; ask for access on its page, then `hf auth login` with a token that may read it"
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        why = "is no folder here and no model on the Hub, or a private one; check the name, or `hf auth login`"
    except errors.RevisionNotFoundError:
        why = "has no such branch, tag or commit"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        why = "is no folder here, not in the cache, and the Hub is not asked or silent; go online once"
    except (errors.HfHubHTTPError, httpx2.HTTPError) as error:
        why = f"can't be fetched: {str(error).strip().splitlines()[0] or type(error).__name__}; try again later"
    raise ModelError(f"model {name!r} {why}") from None
