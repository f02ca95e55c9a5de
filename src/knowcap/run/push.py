"""Publishing: a run's model, its quantized copies and its data set, and the metric, each as one commit to the Hub.

Cards are rendered for the repo that they are published in; the run folder is not changed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from knowcap.dataset.folder import DatasetError
from knowcap.dataset.untrusted import files_within
from knowcap.facts import Knowledge
from knowcap.files import (
    ADAPTER_FILE,
    CARD_FILE,
    EXTRACTION_FILE,
    KNOWLEDGE_FILE,
    RECIPE_FILE,
    TUNING_FILE,
    locked,
    read_json,
)
from knowcap.hub import Artefact, HubError, Pushed, Uploader, check_repo_id
from knowcap.models.folders import check_undamaged
from knowcap.models.quantized.settings import Settings
from knowcap.recipe import RecipeError
from knowcap.recipe.quantization import BOTH, METHODS
from knowcap.recipe_file import read_recipe
from knowcap.report.card import write_card
from knowcap.report.card.extraction import extractions, write_extraction_card
from knowcap.report.card.results import run_dir_of
from knowcap.run.folder import is_run_dir
from knowcap.sealed import check_text, read_result, with_digest
from knowcap.sealed.parquet import check_seal


__all__ = ["Artefact", "HubError", "Push", "Pushed", "Uploader", "push", "push_dataset"]

METRIC_DIR = Path(__file__).parents[1] / "metrics" / "bits_per_parameter"
# The files of a model folder that are published.
_MODEL_FILES = (
    "config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json", "quantization.json",
    "tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja",
    "capacity.json", "training.json", "nll.parquet", "control.parquet",
    "control_swapped.parquet", "*/*.parquet", "*/capacity.json", "plots/*.png",
)  # fmt: skip
_MODEL_NEEDS = ("config.json", "*.safetensors", "tokenizer.json", "training.json", "capacity.json", "nll.parquet")
_DATASET_NEEDS = ("README.md", "knowledge.json", "*/*.parquet")
_METRIC_FILES = (
    "README.md",
    "app.py",
    "bits.py",
    "bits_per_parameter.py",
    "requirements.txt",
    "table_text.py",
    "tests.py",
)
# The files of an extraction's folder that are published.
_EXTRACTION_FILES = (
    ADAPTER_FILE, "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*",
    "special_tokens_map.json", "tuning.json", "extraction.json", "answers.parquet",
)  # fmt: skip


@dataclass(frozen=True)
class Push:
    """What was published, and a line for each part that was not."""

    pushed: tuple[Pushed, ...]
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        left = f"\nnot published: {'; '.join(self.left_out)}" if self.left_out else ""
        return "\n".join(map(str, self.pushed)) + left


def push(
    folder: Path | None,
    *,
    hub_model_id: str | None = None,
    hub_dataset_id: str | None = None,
    hub_space_id: str | None = None,
    **options: Any,
) -> Push:
    """Publishes a run folder's model and data set, and the metric; files that have not changed are not sent again.

    All arguments and the token are checked before anything is uploaded.

    Args:
        folder: the run folder; or a data set folder, if only `hub_dataset_id` is given.
        hub_model_id: the repo of the model; quantized copies get a suffix such as -int8 or -int4-gptq, adapters and
            models tuned on questions one such as -lora-8-128.
        hub_dataset_id: the repo of the data set.
        hub_space_id: the Space of the metric; its name must be bits_per_parameter.
        options: `private`, `revision`, `api` and `wait` of Uploader.

    Raises:
        HubError: nothing to publish, missing files, bad repo ids (all at once), or the Hub refuses.
    """
    problems = _problems(folder, hub_model_id, hub_dataset_id, hub_space_id)
    if problems:
        raise HubError("; ".join(problems))
    is_run = folder is not None and is_run_dir(folder)
    run_dir = cast(Path, folder)  # None only where the metric alone is published
    artefacts, left_out = [], []
    with locked(run_dir) if is_run else nullcontext():
        if is_run:
            check_text(run_dir / RECIPE_FILE)
        if hub_dataset_id is not None:  # first: the model's card names it
            artefacts.append(_dataset(_dataset_dir(run_dir), hub_dataset_id))
        if hub_model_id is not None:
            artefacts += _models(run_dir, hub_model_id, hub_dataset_id)
            artefacts += _extraction_artefacts(run_dir, hub_model_id)
            left_out += _files_left_out(run_dir)
        if hub_space_id is not None:
            artefacts.append(Artefact(hub_space_id, "space", _files(METRIC_DIR, _METRIC_FILES)))
        if is_run:
            left_out += _parts_left_out(run_dir, hub_model_id, hub_dataset_id)
        return Push(_publish(artefacts, **options), tuple(left_out))


def push_dataset(folder: Path, hub_dataset_id: str, **options: Any) -> Pushed:
    """Publishes a data set folder; `options` are those of Uploader.

    Raises:
        HubError: it is not a data set folder, the repo id is bad, or the Hub refuses.
    """
    return push(folder, hub_dataset_id=hub_dataset_id, **options).pushed[0]


def _publish(artefacts: list[Artefact], **options: Any) -> tuple[Pushed, ...]:
    uploader = Uploader(**options)
    uploader.prepare(artefacts)
    return tuple(uploader.publish(artefact) for artefact in artefacts)


def _problems(
    folder: Path | None, hub_model_id: str | None, hub_dataset_id: str | None, hub_space_id: str | None
) -> list[str]:
    """Everything that is wrong with a request, checked without the Hub."""
    ids = {"hub_model_id": hub_model_id, "hub_dataset_id": hub_dataset_id, "hub_space_id": hub_space_id}
    if not any(ids.values()):
        return ["nothing to publish: give --hub_model_id, --hub_dataset_id or --hub_space_id"]
    problems = [p for option, repo in ids.items() if repo is not None for p in check_repo_id(repo, f"--{option}")]
    if hub_space_id is not None and hub_space_id.split("/")[-1] != METRIC_DIR.name:
        problems.append(
            f"--hub_space_id: got {hub_space_id!r}, expected a name that ends in /{METRIC_DIR.name}: evaluate.load "
            "looks for a script of the Space's own name"
        )
    if folder is None:
        return problems + ([] if hub_model_id is None and hub_dataset_id is None else ["give the run folder too"])
    if not folder.is_dir():
        return [*problems, f"{folder} is not a folder; expected a run folder, made by `knowcap run`"]
    problems += _links_that_leave(folder, hub_model_id, hub_dataset_id)
    if hub_model_id is not None:
        if not is_run_dir(folder):
            problems.append(f"{folder} has no {RECIPE_FILE} of a run; give a run folder, made by `knowcap run`")
        problems += _missing(folder / "model", _MODEL_NEEDS, "train and measure it with `knowcap run`")
        for tuned in _tuned(folder):
            problems += check_repo_id(f"{hub_model_id}-{tuned.name}", "--hub_model_id")
        for copy in _quantized(folder):
            problems += check_repo_id(f"{hub_model_id}-{copy.name}", "--hub_model_id")
            problems += _missing(copy, _MODEL_NEEDS, f"`knowcap quantize {folder}`, then `knowcap measure {folder}`")
    if hub_dataset_id is not None:
        problems += _missing(_dataset_dir(folder), _DATASET_NEEDS, "make it with `knowcap data`")
    return list(dict.fromkeys(problems))


def _missing(folder: Path, needs: Iterable[str], fix: str) -> list[str]:
    lacking = [pattern for pattern in needs if not any(folder.glob(pattern))]
    return [f"{folder} has no {', '.join(lacking)}; {fix}"] if lacking else []


def _links_that_leave(folder: Path, hub_model_id: str | None, hub_dataset_id: str | None) -> list[str]:
    """The problems of links among the files to publish: what they lead to would be published."""
    folders = [] if hub_model_id is None else [folder / "model", *_quantized(folder), *_tuned(folder)]
    folders += [] if hub_dataset_id is None else [_dataset_dir(folder)]
    problems = []
    for place in (place for place in folders if place.is_dir()):
        try:
            files_within(place)
        except DatasetError as error:
            problems.append(str(error))
    return problems


def _dataset_dir(folder: Path) -> Path:
    """The data set folder of a run, or the folder itself where it is one."""
    return folder if (folder / KNOWLEDGE_FILE).is_file() else folder / "knowledge"


def _quantized(run_dir: Path) -> list[Path]:
    return sorted(path for path in (run_dir / "quantized").glob("int*") if path.is_dir())


def _files(folder: Path, patterns: Iterable[str]) -> dict[str, Path | bytes]:
    """The files of a folder that match, by path within it, without hidden ones."""
    found = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    inside = {path.relative_to(folder): path for path in found}
    return {p.as_posix(): path for p, path in inside.items() if not any(part.startswith(".") for part in p.parts)}


def _dataset(folder: Path, hub_dataset_id: str) -> Artefact:
    for path in (*folder.glob("*/*.parquet"),):
        check_seal(path)
    Knowledge.load(folder / KNOWLEDGE_FILE)
    ours = ("*/*.parquet", "pools/*.txt", "templates.yaml")
    return Artefact(hub_dataset_id, "dataset", _files(folder, ("**/*",)), ours)


def _models(run_dir: Path, hub_model_id: str, hub_dataset_id: str | None) -> list[Artefact]:
    """The model and its quantized copies, each with a card for its repo."""
    artefacts = []
    for folder in (run_dir / "model", *_quantized(run_dir)):
        check_undamaged(folder)
        base = None if folder.name == "model" else hub_model_id
        repo_id = hub_model_id if base is None else f"{hub_model_id}-{folder.name}"
        files = _files(folder, _MODEL_FILES) | {CARD_FILE: _card(folder, repo_id, base, hub_dataset_id)}
        artefacts.append(
            Artefact(repo_id, "model", files, ours=("*.safetensors", "*/*.parquet", "*/capacity.json", "plots/*.png"))
        )
    return artefacts


def _card(model_dir: Path, repo_id: str, base_model: str | None, hub_dataset_id: str | None) -> bytes:
    """The published card, rendered from links to the run's files, so that the run's own card is not changed."""
    from huggingface_hub import ModelCard, ModelCardData

    run_dir = run_dir_of(model_dir)
    with tempfile.TemporaryDirectory(prefix="knowcap-card-") as place:
        stage = Path(place) / run_dir.name
        for folder in (run_dir / "model", *_quantized(run_dir)):
            _link(folder, stage / folder.absolute().relative_to(run_dir))
        if (run_dir / "extraction").is_dir():
            (stage / "extraction").symlink_to((run_dir / "extraction").absolute())
        shutil.copy(run_dir / RECIPE_FILE, stage / RECIPE_FILE)
        made = write_card(
            stage / model_dir.absolute().relative_to(run_dir), hub_model_id=repo_id, base_model=base_model
        )
        text = made.read_text(encoding="utf-8")
    if hub_dataset_id is not None:
        card = ModelCard(text)
        data = cast(ModelCardData, card.data)
        data.datasets = [hub_dataset_id]
        for result in data.eval_results or []:
            result.dataset_type = hub_dataset_id
        text = str(card)
    return text.encode()


def _link(folder: Path, stage: Path) -> None:
    """Makes a folder of links to another folder's files and plots, without its card."""
    stage.mkdir(parents=True)
    for path in folder.iterdir():
        if path.name != CARD_FILE and not path.name.startswith("."):
            (stage / path.name).symlink_to(path.absolute())


def _files_left_out(run_dir: Path) -> list[str]:
    """Files in model folders that are not published."""
    lines = []
    for folder in (run_dir / "model", *_quantized(run_dir)):
        ours = {*_files(folder, _MODEL_FILES), CARD_FILE}
        others = sorted(set(_files(folder, ("**/*",))) - ours)
        lines += [f"{', '.join(others)} in {folder} (not part of a model)"] if others else []
    return lines


def _parts_left_out(run_dir: Path, hub_model_id: str | None, hub_dataset_id: str | None) -> list[str]:
    """Parts of a run that do not exist, or that no id was given for."""
    lines = []
    if hub_model_id is None:
        lines.append("the model (no --hub_model_id)")
    else:
        made, wanted = {copy.name for copy in _quantized(run_dir)}, _wanted_copies(run_dir)
        lines += [f"the {name} copy (the run has none)" for name in wanted if name not in made]
        lines += [] if made or wanted else ["quantized copies (the run has none)"]
    if hub_dataset_id is None:
        has = _dataset_dir(run_dir).is_dir()
        lines.append(f"the data set ({'no --hub_dataset_id' if has else 'the run has none'})")
    return lines


def _wanted_copies(run_dir: Path) -> list[str]:
    """The names of the quantized copies in the run's recipe. Raises RecipeError if it cannot be used."""
    recipe, problems, _ = read_recipe(run_dir / RECIPE_FILE)
    if problems:
        raise RecipeError(problems, run_dir / RECIPE_FILE)
    method = recipe.quantization_method
    methods = METHODS if method == BOTH else (method,)
    return [
        Settings(bits=bits, method=method, embeddings=recipe.quantize_embeddings).folder
        for bits in recipe.quantize_bits
        for method in methods
    ]


def _tuned(run_dir: Path) -> list[Path]:
    """The folders of a run's extractions that have a model of their own: adapters, and tuned models."""
    return [folder for folder in extractions(run_dir) if any(folder.glob("*.safetensors"))]


def _extraction_artefacts(run_dir: Path, hub_model_id: str) -> list[Artefact]:
    """The artefacts of a run's extractions: the base is `hub_model_id`, to which their names are added."""
    return [_extraction_artefact(folder, f"{hub_model_id}-{folder.name}", hub_model_id) for folder in _tuned(run_dir)]


def _extraction_artefact(folder: Path, repo_id: str, base_model: str) -> Artefact:
    check_undamaged(folder)
    files: dict[str, Path | bytes] = {p.name: p for pattern in _EXTRACTION_FILES for p in sorted(folder.glob(pattern))}
    if ADAPTER_FILE in files:  # in the run it names the model folder
        config = read_json(folder / ADAPTER_FILE)
        config["base_model_name_or_path"] = base_model
        files[ADAPTER_FILE] = adapter = (json.dumps(config, indent=2) + "\n").encode()
        tuning = read_result(folder / TUNING_FILE)
        if ADAPTER_FILE in tuning.get("files", {}):
            tuning["files"][ADAPTER_FILE] = hashlib.sha256(adapter).hexdigest()
            files[TUNING_FILE] = (json.dumps(with_digest(tuning), indent=2, ensure_ascii=False) + "\n").encode()
    with tempfile.TemporaryDirectory(prefix="knowcap-card-") as place:
        (Path(place) / EXTRACTION_FILE).symlink_to((folder / EXTRACTION_FILE).absolute())
        files[CARD_FILE] = write_extraction_card(Path(place), repo_id, base_model).read_bytes()
    return Artefact(repo_id, "model", files, ours=("*.safetensors", "*.parquet"))
