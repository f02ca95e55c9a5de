"""Knowledge extraction: a model's accuracy on questions about people whose questions it was not trained on.

A model trained on biographies alone is tuned on questions about half of the people (the split `train` of the config
`qa`), then asked about the other half (Part 3.3, A.2; Part 3.1). Extractable accuracy is that of its answers;
memorizable accuracy, of the same people, is that of continuing a training text.
"""

from knowcap.extraction.answering import matches
from knowcap.extraction.questions import ExtractionError
from knowcap.extraction.stage import describe, extract, folder_of, is_finished
from knowcap.extraction.tuning import Tuning


__all__ = ["ExtractionError", "Tuning", "describe", "extract", "folder_of", "is_finished", "matches"]
