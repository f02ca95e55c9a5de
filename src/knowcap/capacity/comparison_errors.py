"""What can go wrong in comparing."""


class CompareError(ValueError):
    """Models cannot be compared; the message says what was got, what was expected and how to mend it."""
