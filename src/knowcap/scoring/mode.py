"""The modes in which a model can be scored on a data set, where each writes its files, and the errors of scoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from knowcap.recipe import START_TOKENS


SCORINGS = ("token", "closed_set")
CONTEXTS = ("isolated", "packed")


class ScoringError(ValueError):
    """A model cannot be scored; the message says what was found, what was expected and what to do."""


class TextError(ScoringError):
    """A text that the tokenizer or the model cannot process; the message names the entity."""


@dataclass(frozen=True)
class ScoringMode:
    """How facts are scored.

    Attributes:
        scoring: `token`, among all texts, as in the paper; `closed_set`, among a value's candidates only.
        context: `isolated`, each text alone; `packed`, in windows of whole texts as in training.
        neutral: score the configs neutral and neutral_control of a data set: the same entities rendered with sentence
            templates, so that the bits are a bound where those of the biographies are not.
        start_token: what stands before each text: `auto` (what the tokenizer itself puts first, else BOS, else EOS; of
            a model that knowcap trained EOS, after which it was trained), `bos`, `eos` or `none`.

    Raises:
        ScoringError: an unknown scoring, context or start token.
    """

    scoring: str = "token"
    context: str = "isolated"
    neutral: bool = False
    start_token: str = "auto"

    def __post_init__(self) -> None:
        for key, choices in (("scoring", SCORINGS), ("context", CONTEXTS), ("start_token", START_TOKENS)):
            if getattr(self, key) not in choices:
                raise ScoringError(f"{key}={getattr(self, key)!r}, expected {' or '.join(choices)}")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ScoringMode:
        """The mode of options that may include scoring, context and start_token."""
        return cls(**{key: options[key] for key in ("scoring", "context", "start_token") if options.get(key)})

    @property
    def folder(self) -> str:
        """The subfolder of the model folder that the results are written to; empty for the default mode."""
        parts = ["neutral"] * self.neutral + [self.scoring] * (self.scoring != "token")
        return "-".join(parts + [self.context] * (self.context != "isolated"))

    @property
    def configs(self) -> tuple[str, str]:
        """The data set's configs of the texts and of their null control."""
        return ("neutral", "neutral_control") if self.neutral else ("biographies", "control")

    def options(self) -> list[str]:
        """The command-line options of `python -m knowcap.scoring` for this mode."""
        options = ["--scoring", self.scoring, "--context", self.context, "--start_token", self.start_token]
        return options + ["--neutral"] * self.neutral


DEFAULT_MODE, NEUTRAL_MODE = ScoringMode(), ScoringMode(neutral=True)
OTHER_MODES = tuple(
    mode for values in product(SCORINGS, CONTEXTS, (False, True)) if (mode := ScoringMode(*values)) != DEFAULT_MODE
)
