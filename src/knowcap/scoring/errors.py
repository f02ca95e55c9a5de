"""What scoring raises."""


class ScoringError(ValueError):
    """A measurement that cannot be made; the message says what was got, what was expected and how to mend it."""


class TextError(ScoringError):
    """A text that the tokenizer or the model cannot take; the message names the entity and says how to mend it."""
