"""A finished measurement that is given again: kept if it is of the same model, texts and options. No torch."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from knowcap.dataset.folder import read_knowledge
from knowcap.facts import Knowledge
from knowcap.files import CONTROL_FILE, NLL_FILE, SWAPPED_FILE
from knowcap.models.loading import LoadOptions
from knowcap.scoring.measurement import SWAPPED, digest_of, knowledge_content, read_measurement
from knowcap.scoring.mode import ScoringError, ScoringMode


logger = logging.getLogger(__name__)

_PARTS = (".scoring.json", ".nll*", ".control*")  # the temporary files of `parts`

# The options of measurements by versions that did not record them.
_UNRECORDED = {"start_token": "auto", "dtype": "float32"}


@dataclass(frozen=True)
class Asked:
    """What is to be measured.

    Attributes:
        knowledge: of the data set; neutral texts always give a bound, and none of them is missing.
        entities: how many are scored.
        digest: of weights, tokenizer and texts.
        options: that change the numbers.
    """

    knowledge: Knowledge
    entities: int
    digest: str
    options: dict[str, Any]

    @classmethod
    def of(
        cls,
        model_dir: Path | None,
        dataset_dir: Path,
        mode: ScoringMode,
        limit: int | None = None,
        window: int | None = None,
        loading: LoadOptions | None = None,
    ) -> Asked:
        """The arguments are those of `knowcap.scoring.score`. Raises ScoringError for an impossible one."""
        knowledge = read_knowledge(dataset_dir)
        if mode.neutral:
            knowledge = replace(knowledge, bound=True, missing_texts=0)
        if limit is not None and limit < 1:
            raise ScoringError(f"limit={limit}, expected 1 or more entities, or no limit")
        if window is not None and mode.context != "packed":
            raise ScoringError(
                f"window={window} has an effect on packed texts only; use context packed, or leave it out"
            )
        if window is not None and window < 1:
            raise ScoringError(f"window={window}, expected the tokens of a window, 1 or more")
        entities = min(limit or knowledge.num_people, knowledge.num_people)
        options = {"start_token": mode.start_token, "window": window, "dtype": (loading or LoadOptions()).dtype}
        return cls(knowledge, entities, digest_of(model_dir, dataset_dir, mode.configs), options)

    def is_kept(self, folder: Path) -> bool:
        """Whether a folder has both tables; removes part files that an interruption left beside them.

        Raises:
            ScoringError: the tables are a measurement of something else.
        """
        path = folder / NLL_FILE
        if not (path.is_file() and (folder / CONTROL_FILE).is_file()):
            return False
        found, again = read_measurement(path), "score again: `knowcap measure … --overwrite`"
        if found.get("digest") != self.digest:
            raise ScoringError(f"{path} is a measurement of other weights, another tokenizer or other texts; {again}")
        if found["entities_scored"] != self.entities or found["knowledge"] != knowledge_content(self.knowledge):
            raise ScoringError(
                f"{path} is a measurement of {found['entities_scored']} entities of {found['knowledge']['name']!r}; "
                f"expected {self.entities} of {self.knowledge.name!r}, with the same knowledge.json; {again}"
            )
        used = found.get("options") or dict.fromkeys(self.options) | _UNRECORDED
        other = [f"{key}={used[key]}, expected {value}" for key, value in self.options.items() if used[key] != value]
        if other:
            raise ScoringError(f"{path} was measured with {'; '.join(other)}; {again}, or give another --output_dir")
        if found.get(SWAPPED) and not (folder / SWAPPED_FILE).is_file():
            raise ScoringError(f"{folder / SWAPPED_FILE} is missing; {again}")
        for file in (file for pattern in _PARTS for file in folder.glob(pattern)):
            file.unlink(missing_ok=True)
        logger.info("kept the finished measurement %s", path)
        return True
