"""What goes wrong in extraction."""


class ExtractError(ValueError):
    """Extraction that cannot start or go on; the message says what was got, what was expected and how to mend it."""
