"""Cards: README.md of a model folder and of an extraction's folder, rendered from the JSON files beside them.

The text of the cards is in the templates (*.md.jinja); Python prepares the numbers.
"""

from knowcap.report.card.extraction import write_extraction_card
from knowcap.report.card.model import write_card
from knowcap.report.card.results import ReportError


__all__ = ["ReportError", "write_card", "write_extraction_card"]
