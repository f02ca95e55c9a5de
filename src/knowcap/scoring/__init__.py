"""Model and facts to negative log likelihoods: one number of nats per scored fact, kept in nll.parquet.

Every text is scored alone, after one end-of-text token (context "isolated"). The nll of a fact is the sum over the
tokens of its spans of -ln P(token | everything before it); other tokens are read, never scored (Part 3.3, Rem. 3.1).
"""

from knowcap.scoring.batches import score_rows
from knowcap.scoring.errors import ScoringError, TextError
from knowcap.scoring.measurement import MEASUREMENT_KEY, read_measurement
from knowcap.scoring.spans import EncodedRows, encode_rows
from knowcap.scoring.stage import NEUTRAL_DIR, score


__all__ = [
    "MEASUREMENT_KEY",
    "NEUTRAL_DIR",
    "EncodedRows",
    "ScoringError",
    "TextError",
    "encode_rows",
    "read_measurement",
    "score",
    "score_rows",
]
