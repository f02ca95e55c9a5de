"""Model folders: what must be in them, the base of an adapter, and snapshots of the Hub."""

from __future__ import annotations

from pathlib import Path

from knowcap.files import ADAPTER_FILE, read_json
from knowcap.models.names import ModelError


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


def weight_files(folder: Path) -> list[Path]:
    """All safetensors files of a model, an adapter's base included."""
    files = sorted(folder.glob("*.safetensors"))
    return files + weight_files(base_of(folder)) if (folder / ADAPTER_FILE).is_file() else files
