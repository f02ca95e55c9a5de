"""Settings of tuning, and the folders of its results: whether one is finished, with these settings. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from knowcap.dataset.folder import has_config
from knowcap.extraction.questions import ExtractionError
from knowcap.files import EXTRACTION_FILE, NLL_FILE, TRAINING_FILE, TUNING_FILE
from knowcap.recipe import EXTRACT_METHODS, Recipe
from knowcap.sealed import EXTRACTION_NEEDS, read_result


FOLDER = "extraction"


@dataclass(frozen=True)
class Tuning:
    """How a model is tuned on questions. The paper's: AdamW, no warm-up, linear to 0 (Part 3.3, Parameter 3).

    Attributes:
        method: lora; full, all weights; or as_trained, no tuning (for a model that was trained on questions).
        rank, embedding_rank: of LoRA on query and value, and on the embedding.
        steps, batch_size, learning_rate, weight_decay: of AdamW; its other settings are the recipe's.
    """

    method: str
    rank: int
    embedding_rank: int
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        if self.method not in EXTRACT_METHODS:
            raise ExtractionError(f"method={self.method!r}, expected {', '.join(EXTRACT_METHODS)}")
        numbers = {key: getattr(self, key) for key in ("rank", "embedding_rank", "steps", "batch_size")}
        problems = [f"{key}={value}, expected 1 or more" for key, value in numbers.items() if value < 1]
        if not self.learning_rate > 0 or not self.weight_decay >= 0:
            problems.append(
                f"learning_rate={self.learning_rate} and weight_decay={self.weight_decay}, expected more than 0, and "
                "0 or more"
            )
        if problems:
            raise ExtractionError("; ".join(problems))

    @classmethod
    def of(cls, recipe: Recipe, **changes: Any) -> Tuning:
        """A recipe's settings (LoRA if its `extract` is none), with `changes` that are not None applied."""
        settings = {
            "method": "lora" if recipe.extract == "none" else recipe.extract,
            "rank": recipe.extract_rank,
            "embedding_rank": recipe.extract_embedding_rank,
            "steps": recipe.extract_steps,
            "batch_size": recipe.extract_batch_size,
            "learning_rate": recipe.extract_learning_rate,
            "weight_decay": recipe.extract_weight_decay,
        }
        return cls(**settings | {key: value for key, value in changes.items() if value is not None})

    @property
    def name(self) -> str:
        """The folder's name: lora-8-128 (rank, embedding rank), full or as_trained."""
        return f"lora-{self.rank}-{self.embedding_rank}" if self.method == "lora" else self.method

    def settings(self) -> dict[str, Any]:
        """The settings that affect the result: ranks only for lora, the method alone for as_trained."""
        settings = asdict(self)
        if self.method == "as_trained":
            return {"method": self.method}
        return settings if self.method == "lora" else {k: v for k, v in settings.items() if not k.endswith("rank")}


def folder_of(run_dir: Path, tuning: Tuning) -> Path:
    """The folder of a tuning's results in a run folder."""
    return run_dir / FOLDER / tuning.name


def checkpoints_of(run_dir: Path, tuning: Tuning) -> Path:
    """The folder of a tuning's checkpoints in a run folder."""
    return run_dir / "checkpoints" / f"extract-{tuning.name}"


def is_kept(run_dir: Path, tuning: Tuning, limit: int | None) -> bool:
    """Whether a run has the results of a tuning, about as many people.

    Raises:
        ExtractionError: the run is incomplete, or its folder has results of other settings or about other people.
    """
    check_run(run_dir)
    folder = folder_of(run_dir, tuning)
    _check_same(folder / TUNING_FILE, tuning)
    _check_same(checkpoints_of(run_dir, tuning) / TUNING_FILE, tuning)
    if not is_finished(folder):
        return False
    asked = read_result(folder / EXTRACTION_FILE, EXTRACTION_NEEDS)["limit"]
    if asked != limit:
        raise ExtractionError(
            f"{folder} has answers about {'all' if asked is None else f'the first {asked}'} people; give the same "
            "--limit, or --overwrite"
        )
    return True


def is_finished(folder: Path) -> bool:
    """Whether the results are complete."""
    return (folder / EXTRACTION_FILE).is_file()


def describe(folder: Path) -> str:
    """One line with the results."""
    r = read_result(folder / EXTRACTION_FILE, EXTRACTION_NEEDS)
    return (
        f"{r['people_asked']:,} people asked: {r['extractable_accuracy']:.1%} extractable, "
        f"{r['memorizable_accuracy']:.1%} memorizable"
    )


def check_run(run_dir: Path) -> None:
    """Raises ExtractionError with everything that a run lacks for extraction."""
    problems = []
    if not (run_dir / "model" / TRAINING_FILE).is_file():
        problems.append(f"{run_dir} has no trained model; run `knowcap train`")
    elif not (run_dir / "model" / NLL_FILE).is_file():
        problems.append(f"{run_dir} is not measured; run `knowcap measure {run_dir}`")
    if not has_config(run_dir / "knowledge", "qa"):
        problems.append(f"{run_dir / 'knowledge'} has no questions (config qa); only bioS has them")
    if problems:
        raise ExtractionError("; ".join(problems))


def _check_same(file: Path, tuning: Tuning) -> None:
    """Raises ExtractionError if the file has other settings than `tuning`."""
    if not file.is_file():
        return
    found = read_result(file)["settings"]
    values = [(key, found.get(key), value) for key, value in tuning.settings().items()]
    differing = [f"{key}={old}, expected {new}" for key, old, new in values if old != new]
    if differing:
        raise ExtractionError(f"{file.parent} has {'; '.join(differing)}; give the same settings, or --overwrite")
