"""Knowledge extraction: what a model can say of people whom it was never asked about (Part 3.3, A.2; Part 3.1).

A model that was trained on biographies alone is tuned on questions about half of the people (the split `train` of the
config `qa`), then asked about the other half. What it answers rightly was in its weights, in a form that can be drawn
out; memorizable accuracy, of the same people, says what it can continue in a text that it was trained on.
"""

from knowcap.extraction.errors import ExtractError
from knowcap.extraction.matcher import matches
from knowcap.extraction.stage import describe, extract, folder_of, is_finished
from knowcap.extraction.tuning import Tuning


__all__ = ["ExtractError", "Tuning", "describe", "extract", "folder_of", "is_finished", "matches"]
