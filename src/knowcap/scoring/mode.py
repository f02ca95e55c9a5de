"""The modes in which a model can be scored on a data set, where each writes its files, and the errors of scoring."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product


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

    Raises:
        ScoringError: an unknown scoring or context.
    """

    scoring: str = "token"
    context: str = "isolated"
    neutral: bool = False

    def __post_init__(self) -> None:
        for key, choices in (("scoring", SCORINGS), ("context", CONTEXTS)):
            if getattr(self, key) not in choices:
                raise ScoringError(f"{key}={getattr(self, key)!r}, expected {' or '.join(choices)}")

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
        return ["--scoring", self.scoring, "--context", self.context] + ["--neutral"] * self.neutral


DEFAULT_MODE, NEUTRAL_MODE = ScoringMode(), ScoringMode(neutral=True)
OTHER_MODES = tuple(
    mode for s, c, n in product(SCORINGS, CONTEXTS, (False, True)) if (mode := ScoringMode(s, c, n)) != DEFAULT_MODE
)
