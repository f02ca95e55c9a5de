"""Which texts there are to write, and the settings that a folder of texts under way belongs to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from knowcap.dataset.rewrite.prompts import PROMPT_VERSION
from knowcap.dataset.rewrite.writers import Writer
from knowcap.files import whole_file
from knowcap.knowledge.people import VERSION
from knowcap.knowledge.pools import Pools
from knowcap.recipe import RULES, Recipe


NEUTRAL_RENDERINGS = 4
TEXTS_A_SHARD = 4000
_SETTINGS_FILE = "settings.json"


class RewriteError(ValueError):
    """Texts that cannot be asked for; the message says what was got, what was expected and how to mend it."""


class MissingTexts(RewriteError):
    """Texts that could not be had; the message counts them by reason. What was written is kept."""


@dataclass(frozen=True)
class Task:
    """Which texts there are to write.

    Attributes:
        num_people: N.
        texts_per_person: biographies of each.
        control_people: people outside the sample, with one text each, for the null control.
        seed: of people and prompts.
        pools_dir: a folder of value lists; the package's own by default.
    """

    num_people: int
    texts_per_person: int = 40
    control_people: int = 1000
    seed: int = 0
    pools_dir: str | None = None

    def recipe(self) -> Recipe:
        """The recipe of the same people told by templates.

        Raises:
            RewriteError: numbers out of their range.
        """
        numbers = {key: getattr(self, key) for key in ("num_people", "control_people", "seed")}
        wrong = [f"{k}={v!r}: expected {RULES[k][1]}" for k, v in numbers.items() if not RULES[k][0](v)]
        if self.texts_per_person < 1:
            wrong.append(f"texts_per_person={self.texts_per_person}: expected 1 or more")
        if wrong:
            raise RewriteError("; ".join(wrong))
        return Recipe(**numbers, pools_dir=self.pools_dir, renderings=NEUTRAL_RENDERINGS)


def settings_of(task: Task, writer: Writer, pools: Pools) -> dict[str, Any]:
    """What the texts and their files depend on."""
    lists = hashlib.sha256(repr(asdict(pools)).encode()).hexdigest()[:16]
    settings = {key: value for key, value in asdict(task).items() if key != "pools_dir"}
    settings |= {"model_name": writer.model_name, "temperature": writer.temperature}
    settings |= {"max_new_tokens": writer.max_new_tokens, "prompt_version": PROMPT_VERSION}
    return settings | {"version": VERSION, "lists": lists, "texts_a_shard": TEXTS_A_SHARD}


def begin(parts: Path, settings: dict[str, Any]) -> int:
    """Notes the settings, or holds them to those of what is there; returns how many passes are done.

    Raises:
        RewriteError: the folder is of other settings.
    """
    path = parts / _SETTINGS_FILE
    if not path.is_file():
        _write(path, {"settings": settings, "passes": 0})
        return 0
    there = json.loads(path.read_text(encoding="utf-8"))
    values = [(key, there["settings"].get(key), value) for key, value in settings.items()]
    differing = [f"{key} is {old!r} there and {new!r} here" for key, old, new in values if old != new]
    if differing:
        raise RewriteError(
            f"{parts} holds texts of another setting: {', '.join(differing)}; choose another output_dir, or remove "
            "that folder"
        )
    return there["passes"]


def note_passes(parts: Path, passes: int) -> None:
    """Notes that all shards were gone through so many times."""
    path = parts / _SETTINGS_FILE
    _write(path, json.loads(path.read_text(encoding="utf-8")) | {"passes": passes})


def _write(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as made:
        made.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
