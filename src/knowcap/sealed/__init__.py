"""Files that carry a digest of themselves: a changed bit or an edited number is found when the file is read.

`knowcap.sealed.parquet` reads and writes Parquet files; it is not imported here, since pyarrow takes time.
"""

from __future__ import annotations

from knowcap.sealed.digests import check_files, digest_of, files_of
from knowcap.sealed.kinds import CAPACITY_NEEDS, EXTRACTION_NEEDS, QUANTIZATION_NEEDS, TRAINING_NEEDS
from knowcap.sealed.repair import repair
from knowcap.sealed.results import CONTENT_DIGEST, check_content, check_keys, read_result, with_digest, write_result
from knowcap.sealed.text import check_text, sealed_text


__all__ = [
    "CAPACITY_NEEDS", "CONTENT_DIGEST", "EXTRACTION_NEEDS", "QUANTIZATION_NEEDS", "TRAINING_NEEDS", "check_content",
    "check_files", "check_keys", "check_text", "digest_of", "files_of", "read_result", "repair", "sealed_text",
    "with_digest", "write_result",
]  # fmt: skip
