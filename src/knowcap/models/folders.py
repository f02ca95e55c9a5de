"""Model folders: what must be in them, the base of an adapter, and snapshots of the Hub."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from knowcap.files import ADAPTER_FILE, QUANTIZATION_FILE, TRAINING_FILE, TUNING_FILE, read_json
from knowcap.models.names import ModelError
from knowcap.sealed import check_files, read_result, repair


MAKERS = "expected a folder made by `knowcap train` or save_pretrained"
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def check_model_folder(folder: str | Path, needs: tuple[str, ...] = ("config.json", "*.safetensors")) -> Path:
    """Checks that a folder has the files that loading needs, by pattern; by default a model's. Returns it as a Path.

    Raises:
        ModelError: files are missing; the message lists those that exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder; {MAKERS}")
    missing = [name for name in needs if not any(folder.glob(name))]
    if missing:
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "no files"
        raise ModelError(f"{folder} has no {' and no '.join(missing)}; it has {found}; {MAKERS}")
    return folder


def check_undamaged(folder: Path) -> None:
    """Checks that weights, configuration and tokenizer are those that the folder's own result records: training.json,
    of a quantized copy quantization.json, of a tuned model tuning.json. Folders of others record nothing.

    Raises:
        FileError: a file is missing or differs.
    """
    for name in (QUANTIZATION_FILE, TUNING_FILE, TRAINING_FILE):  # a copy has its original's training.json too
        if (folder / name).is_file():
            return check_files(folder, read_result(folder / name).get("files"), name)


def find_model(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: itself, or a snapshot of a repo on the Hub.

    Raises:
        ModelError: the folder does not exist.
        HubError: the repo does not exist, access is denied, or the Hub does not answer.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(f"revision={revision!r} is for Hub ids, but {name} is a folder; remove revision")
        return folder
    if str(name).startswith(("/", ".", "~")) or str(name).count("/") > 1 or folder.exists():
        raise ModelError(f"{name}: no such folder; expected a model folder, a run folder or a Hub id")
    from huggingface_hub import snapshot_download

    from knowcap.hub import fetch

    def download() -> str:
        return snapshot_download(str(name), revision=revision, allow_patterns=[*_FILES])

    return Path(fetch(f"model {str(name)!r}", "model", download))


def base_of(folder: Path) -> Path:
    """The folder of the model that an adapter was trained on."""
    name = read_json(folder / ADAPTER_FILE).get("base_model_name_or_path")
    if not name:
        raise ModelError(f"{folder / ADAPTER_FILE} has no base_model_name_or_path; add it")
    within = folder / name  # knowcap writes a path relative to the adapter, within the run folder
    return check_model_folder(within if name.startswith("..") and within.is_dir() else find_model(name))


def training_of(folder: Path) -> dict[str, Any] | None:
    """The training.json of a model that knowcap trained, or of its adapter's base; None for other models."""
    if (folder / TRAINING_FILE).is_file():
        return read_result(folder / TRAINING_FILE)
    return training_of(base_of(folder)) if (folder / ADAPTER_FILE).is_file() else None


def weight_files(folder: Path) -> list[Path]:
    """All safetensors files of a model, an adapter's base included."""
    files = sorted(folder.glob("*.safetensors"))
    return files + weight_files(base_of(folder)) if (folder / ADAPTER_FILE).is_file() else files


def is_old_buffer(name: str, dtype: str, shape: Sequence[int]) -> bool:
    """Whether a tensor of a file is a buffer that earlier versions of transformers saved, and no parameter.

    Causal masks (attn.bias, of 1 x 1 x positions x positions, in any type), what they are filled with (masked_bias,
    one number), rotary frequencies (inv_freq) and position ids.

    Args:
        name: of the tensor.
        dtype: safetensors' name of its type, such as F16.
        shape: its sizes.
    """
    last = name.rpartition(".")[2]
    is_mask = len(shape) == 4 and shape[0] == shape[1] == 1 and shape[2] == shape[3]
    return (
        (is_mask and (dtype in ("BOOL", "U8") or last in ("bias", "causal_mask", "mask")))
        or (last == "masked_bias" and math.prod(shape) == 1)
        or (last == "inv_freq" and len(shape) == 1)
        or (last == "position_ids" and dtype in ("I64", "I32"))
    )


def tensors_of(files: Iterable[Path]) -> Iterator[tuple[str, str, list[int]]]:
    """Name, type and shape of every tensor of safetensors files; no weights are read."""
    from safetensors import SafetensorError, safe_open

    for path in files:
        try:
            with safe_open(path, framework="np") as file:
                found = [(name, file.get_slice(name)) for name in file.keys()]  # noqa: SIM118 (not a mapping)
                tensors = [(name, tensor.get_dtype(), tensor.get_shape()) for name, tensor in found]
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read as safetensors ({error}); {repair(path)}") from error
        yield from tensors


def old_buffers(folder: Path, names: Collection[str]) -> set[str]:
    """Those of the named tensors of a folder's files that are old buffers (see `is_old_buffer`)."""
    found = tensors_of(sorted(folder.glob("*.safetensors")) if names else ())
    return {name for name, dtype, shape in found if name in names and is_old_buffer(name, dtype, shape)}
