"""Whether an answer is the right one: exact match of the whole answer, as Part 3.1 has it."""

from __future__ import annotations


def matches(said: str, answer: str) -> bool:
    """Whether what a model said is the answer: the same characters, white space and the last period aside.

    The period that ends the sentence is not told from that of an abbreviation ("Acme Inc."), so periods at the end of
    either are left out. Anything else counts: upper and lower case, commas, a word too many.

    Args:
        said: all that the model generated after the prompt, up to the end of text.
        answer: the true value, as it stands in the data set.
    """
    return normal(said) == normal(answer)


def normal(text: str) -> str:
    """A text without white space and periods at its end, single blanks inside."""
    return " ".join(text.split()).rstrip(". ")
