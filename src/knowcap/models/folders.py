"""Model folders: what has to be in them."""

from __future__ import annotations

from pathlib import Path

from knowcap.models.families import ModelError


QUANTIZATION_FILE = "quantization.json"
MAKERS = "expected a folder made by `knowcap train` or save_pretrained"


def check_model_folder(folder: str | Path, needs: tuple[str, ...] = ("config.json", "*.safetensors")) -> Path:
    """Holds a folder to what loading needs, as file patterns; by default a model's. Returns it as a Path.

    Raises:
        ModelError: says what is missing and lists what is there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder; {MAKERS}")
    missing = [name for name in needs if not any(folder.glob(name))]
    if missing:
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
        raise ModelError(f"{folder} has no {' and no '.join(missing)}; there is {there}; {MAKERS}")
    return folder
