"""A run's adapters and tuned models as what the Hub is to hold of them, each beside the model that was tuned."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from knowcap.hub import Artefact
from knowcap.models.loading import ADAPTER_FILE
from knowcap.report.card.extraction import extractions, write_extraction_card


# Anything else in the folder of an extraction is not published.
_FILES = (
    ADAPTER_FILE, "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*",
    "special_tokens_map.json", "tuning.json", "extraction.json", "answers.parquet",
)  # fmt: skip


def published_extractions(run_dir: Path) -> list[Path]:
    """The folders of a run's extractions that have a model of their own: adapters, and tuned models."""
    return [folder for folder in extractions(run_dir) if any(folder.glob("*.safetensors"))]


def extraction_artefacts(run_dir: Path, hub_model_id: str) -> list[Artefact]:
    """What is published of a run's extractions: `hub_model_id` with their names added, and that as their base."""
    return [
        _artefact(folder, f"{hub_model_id}-{folder.name}", hub_model_id) for folder in published_extractions(run_dir)
    ]


def _artefact(folder: Path, repo_id: str, base_model: str) -> Artefact:
    files: dict[str, Path | bytes] = {p.name: p for pattern in _FILES for p in sorted(folder.glob(pattern))}
    if ADAPTER_FILE in files:  # here it names the model folder beside it
        config = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = base_model
        files[ADAPTER_FILE] = (json.dumps(config, indent=2) + "\n").encode()
    with tempfile.TemporaryDirectory(prefix="knowcap-card-") as place:
        (Path(place) / "extraction.json").symlink_to((folder / "extraction.json").absolute())
        files["README.md"] = write_extraction_card(Path(place), repo_id, base_model).read_bytes()
    return Artefact(repo_id, "model", files, ours=("*.safetensors", "*.parquet"))
