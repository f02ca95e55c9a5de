"""The ways in which a model can be scored on a data set, and where each leaves its files."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product


class WayError(ValueError):
    """No such way; the message says what there is."""


SCORINGS = ("token", "closed_set")
CONTEXTS = ("isolated", "packed")


@dataclass(frozen=True)
class Way:
    """How facts are scored.

    Attributes:
        scoring: `token`, among all texts, as in the paper; `closed_set`, among a value's candidates alone.
        context: `isolated`, each text alone; `packed`, in windows of whole texts as in training.
        neutral: on the configs neutral and neutral_control of a data set: the same entities told by sentence
            templates, so that the bits are a bound where those on the biographies are not.
    """

    scoring: str = "token"
    context: str = "isolated"
    neutral: bool = False

    def __post_init__(self) -> None:
        for key, choices in (("scoring", SCORINGS), ("context", CONTEXTS)):
            if getattr(self, key) not in choices:
                raise WayError(f"{key}={getattr(self, key)!r}, expected {' or '.join(choices)}")

    @property
    def folder(self) -> str:
        """The folder within the model's where the results go; empty for the first way of all, the model's own."""
        parts = ["neutral"] * self.neutral + [self.scoring] * (self.scoring != "token")
        return "-".join(parts + [self.context] * (self.context != "isolated"))

    @property
    def configs(self) -> tuple[str, str]:
        """Of the data set: the texts, and their null control."""
        return ("neutral", "neutral_control") if self.neutral else ("biographies", "control")

    def words(self) -> list[str]:
        """The options of `python -m knowcap.scoring` that ask for it."""
        return ["--scoring", self.scoring, "--context", self.context] + ["--neutral"] * self.neutral


PLAIN, NEUTRAL = Way(), Way(neutral=True)
OTHERS = tuple(way for s, c, n in product(SCORINGS, CONTEXTS, (False, True)) if (way := Way(s, c, n)) != PLAIN)
