"""Who writes: what is asked and answered, by whichever model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol


CUT_OFF = "cut_off"  # ended by the limit of tokens
RUBBISH = "rubbish"  # no answer in the protocol's form


class WriterError(ValueError):
    """A writer that cannot go on; the message says what it met and how to mend it, and shows no token."""


class Request(NamedTuple):
    """One text to write.

    `key` is the asker's own (person, rendering, attempt); `seed` is for the model's draws.
    """

    key: tuple[int, int, int]
    prompt: str
    seed: int


class Reply(NamedTuple):
    """What came: a text; or why there is none to look at, `cut_off` or `rubbish`."""

    text: str
    failed: str | None = None


class Writer(Protocol):
    """Writes texts.

    Attributes:
        model_name: of the language model, for the card; no path.
        temperature: 0 for the likeliest tokens, else the temperature of sampling.
        max_new_tokens: the most tokens of a text.
    """

    model_name: str
    temperature: float
    max_new_tokens: int

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Reply]]:
        """Each request with its reply, as they come, in any order.

        Raises:
            WriterError: it cannot go on; what came before has been given out.
        """
