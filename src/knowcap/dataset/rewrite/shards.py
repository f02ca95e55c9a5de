"""The texts on disk while they are written: a journal of all replies of an unfinished shard, a Parquet file of each
finished shard. So a process may be killed at any moment, and no reply is requested twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from knowcap.dataset.folder import text_batch
from knowcap.dataset.rewrite.writers import Reply
from knowcap.facts import NAME, Row, Span
from knowcap.files import whole_file
from knowcap.knowledge.people import ENTITY_COLUMN
from knowcap.sealed.parquet import read_schema, read_table, rows_in, write_table


METADATA_KEY = b"knowcap"
Text = tuple[int, int]  # person, rendering


class Shard(NamedTuple):
    """The texts about people first … end - 1: `texts_per_person` each, for one config."""

    config: str
    number: int
    first: int
    end: int
    texts_per_person: int

    def texts(self) -> Iterator[Text]:
        """All texts of the shard, in their order."""
        return ((person, r) for person in range(self.first, self.end) for r in range(self.texts_per_person))


def shards_of(config: str, first: int, end: int, texts_per_person: int, people: int) -> list[Shard]:
    """Shards of `people` people each; the last may have fewer."""
    starts = range(first, end, people)
    return [Shard(config, n, start, min(end, start + people), texts_per_person) for n, start in enumerate(starts)]


@dataclass
class Tally:
    """The number of texts kept and of replies, and the reasons of rejected replies and of missing texts."""

    kept: int = 0
    replies: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.kept + other.kept,
            self.replies + other.replies,
            self.rejected + other.rejected,
            self.missing + other.missing,
        )


@dataclass
class Progress:
    """The state of a shard.

    Attributes:
        rows: the kept texts.
        attempts: the number of requests for each text that is not kept; texts without a request have no entry.
        reasons: the reason for which the last reply of each of these was rejected.
        replies, rejected: of all texts.
        before: the attempts when the shard was last finished.
    """

    rows: dict[Text, Row] = field(default_factory=dict)
    attempts: Counter[Text] = field(default_factory=Counter)
    reasons: dict[Text, str] = field(default_factory=dict)
    replies: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    before: Counter[Text] = field(default_factory=Counter)

    def take(self, text: Text, judged: Row | str) -> None:
        """Adds a reply, kept or rejected for a reason."""
        self.replies += 1
        self.attempts[text] += 1
        if isinstance(judged, Row):
            self.rows[text] = judged
            self.attempts.pop(text)
            self.reasons.pop(text, None)
        else:
            self.rejected[judged] += 1
            self.reasons[text] = judged

    def tally(self) -> Tally:
        """The counts."""
        return Tally(len(self.rows), self.replies, Counter(self.rejected), Counter(self.reasons.values()))


class ShardFiles:
    """The files of shards in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def part(self, shard: Shard) -> Path:
        """The Parquet file of a finished shard."""
        return self.folder / f"{shard.config}-{shard.number:05d}.parquet"

    def journal(self, shard: Shard) -> Path:
        """The replies of an unfinished shard: one JSON list per line."""
        return self.folder / f"{shard.config}-{shard.number:05d}.jsonl"

    def tally(self, shard: Shard) -> tuple[Tally, int] | None:
        """The counts of a finished shard and the pass in which it was finished; None if it is not finished."""
        path = self.part(shard)
        if not path.is_file():
            return None
        saved = _metadata(path)
        missing = Counter(reason for *_, reason in saved["missing"])
        kept = rows_in(path)
        return Tally(kept, saved["replies"], Counter(saved["rejected"]), missing), saved["passes"]

    def load(self, shard: Shard, judge: Callable[[Text, Reply], Row | str]) -> Progress:
        """The state of a shard, from its Parquet file and its journal.

        Args:
            shard: the shard.
            judge: the row of a reply to a text, or the reason for its rejection.
        """
        progress = Progress()
        if (path := self.part(shard)).is_file():
            saved = _metadata(path)
            progress.rows = {(int(row.entity), rendering): row for row, rendering in _rows(path)}
            progress.attempts = Counter({(p, r): count for p, r, count, _ in saved["missing"]})
            progress.reasons = {(p, r): reason for p, r, _, reason in saved["missing"]}
            progress.replies, progress.rejected = saved["replies"], Counter(saved["rejected"])
            progress.before = Counter(progress.attempts)
        for text, attempt, reply in _entries(self.journal(shard)):
            # A process may be killed after writing the Parquet file and before removing the journal.
            if text not in progress.rows and attempt == progress.attempts[text]:
                progress.take(text, judge(text, reply))
        return progress

    def save(self, shard: Shard, progress: Progress, passes: int) -> None:
        """Writes a finished shard's Parquet file, finished in pass number `passes`; removes its journal."""
        missing = [[*text, progress.attempts[text], reason] for text, reason in sorted(progress.reasons.items())]
        saved = {"replies": progress.replies, "rejected": dict(sorted(progress.rejected.items()))}
        saved |= {"missing": missing, "passes": passes}
        order = sorted(progress.rows)
        rows = [progress.rows[text] for text in order]
        batch = _batch(rows, [rendering for _, rendering in order])
        table = pa.Table.from_batches([batch]).replace_schema_metadata({METADATA_KEY: json.dumps(saved)})
        with whole_file(self.part(shard)) as made:
            write_table(table, made, compression="zstd")
        self.journal(shard).unlink(missing_ok=True)

    def batch(self, shards: list[Shard], first: int, end: int) -> pa.RecordBatch:
        """The rows of people first … end - 1, from the Parquet files of shards."""
        tables = [read_table(self.part(s)) for s in shards if s.first < end and first < s.end]
        person = pc.field(ENTITY_COLUMN)
        table = pa.concat_tables(tables).filter((person >= first) & (person < end))
        (batch,) = table.replace_schema_metadata(None).combine_chunks().to_batches() or [_batch([], [])]
        return batch


class Journal:
    """A file of replies; a line that a killed process left unfinished is removed."""

    def __init__(self, path: Path) -> None:
        whole = path.read_bytes().rpartition(b"\n") if path.is_file() else (b"", b"", b"")
        self._file = path.open("ab")
        self._file.truncate(len(whole[0]) + len(whole[1]))

    def add(self, text: Text, attempt: int, reply: Reply) -> None:
        """Adds a reply, which is kept even if the process is killed right after."""
        self._file.write(json.dumps([*text, attempt, reply.text, reply.failed]).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _entries(path: Path) -> Iterator[tuple[Text, int, Reply]]:
    """The complete lines of a journal."""
    if path.is_file():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    person, rendering, attempt, text, failed = json.loads(line)
                    yield (person, rendering), attempt, Reply(text, failed)


def _metadata(path: Path) -> dict[str, Any]:
    return json.loads(read_schema(path).metadata[METADATA_KEY])


def _rows(path: Path) -> Iterator[tuple[Row, int]]:
    for row in read_table(path).to_pylist():
        spans = tuple(Span(s["attribute"], s["start"], s["end"]) for s in row["spans"])
        yield Row(row["text"], spans, row[ENTITY_COLUMN]), row["exposure"]


def _batch(rows: Sequence[Row], renderings: Sequence[int]) -> pa.RecordBatch:
    """The columns of the biographies config, also without rows."""
    if not rows:
        return _batch([Row("-", (Span(NAME, 0, 1),), 0)], [0]).slice(0, 0)
    return text_batch(ENTITY_COLUMN, rows, np.array(renderings, dtype=np.int32))


def format_counts(reasons: Counter[str]) -> str:
    """Counts by reason as text, such as `11 (cut_off 8, empty 3)`, the most frequent first."""
    if not reasons:
        return "0"
    counts = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return f"{reasons.total():,} ({', '.join(f'{name} {count:,}' for name, count in counts)})"
