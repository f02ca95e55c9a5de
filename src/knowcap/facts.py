"""The contract of every corpus: texts with exact spans of facts, and the number of candidates of each attribute.

A row is `text · spans [(attribute, start, end)] · entity`, offsets in code points, end exclusive. `Knowledge`
(knowledge.json) has `log2_candidates` of each attribute. A model that gives the value's tokens a summed negative log
likelihood of `nll` nats has been shown to hold `log2_candidates - nll / ln 2` bits of that fact (Part 3.3, Lemma F.1),
provided that the fact is predicted from what came before it and never from itself. `scored_facts` selects the
spans for which that holds.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

from knowcap.files import FileError, read_json
from knowcap.sealed.digests import FILES
from knowcap.sealed.results import CONTENT_DIGEST, check_content, check_keys, with_digest


NAME = "name"


# Thai, Lao, Tibetan, Burmese, Khmer, Japanese, Chinese: scripts without spaces between words, and their punctuation.
UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uff65\U00020000-\U0003ffff]"
)
# Characters that end a line, move the cursor or turn the direction of writing; and halves of characters.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
MOST_ENTITIES, MOST_BITS = 10**15, 1e9  # beyond what any data set has; sums stay finite
# The expressions that a `first_chunk` may be: others, of other writers, can take for ever.
FIRST_CHUNK = re.compile(r"\\d\+\(\?: \\d\+\)\{\d{1,4}\}|[\w. ]{1,200}")
LONGEST_NAME = 1000  # characters, of a data set, a column or an attribute
MIN_CONTROL = 100  # with fewer people outside the sample, the null control is made of shuffled values


class CorpusError(ValueError):
    """People, value lists, templates or a tokenizer that cannot be used; `problems` holds one message each."""

    def __init__(self, *problems: str) -> None:
        self.problems = list(problems)
        super().__init__(*problems)

    def __str__(self) -> str:
        return "; ".join(self.problems)


class FactError(ValueError):
    """A row or a knowledge.json violates the contract; the message says what was found and what was expected."""


class Span(NamedTuple):
    """Where an attribute's value is in a text: code points, end exclusive."""

    attribute: str
    start: int
    end: int


@dataclass(frozen=True)
class Row:
    """One text about one entity, with the spans of its facts in the order of the text."""

    text: str
    spans: tuple[Span, ...]
    entity: int | str


@dataclass(frozen=True)
class Attribute:
    """An attribute and its candidates. `log2_candidates` is in bits; a determined attribute has one candidate, 0 bits.

    `candidates` is None if the bits come from frequencies; `stated` is how many entities state it, None: all.
    """

    name: str
    candidates: int | None
    log2_candidates: float
    determined_by: str | None = None
    stated: int | None = None


@dataclass(frozen=True)
class ScoredFact:
    """A fact to score: its nll is the sum over the tokens of all its spans, which may include a determined value's."""

    attribute: str
    log2_candidates: float
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Knowledge:
    """The content of knowledge.json: the entities and attributes of a data set.

    `name_log2_candidates` is log2 N0 (bits), or None if no name space is declared (names then count nothing).
    `diversity_terms` are bioD's (Part 3.3, Def. 4.1), one mapping a set of D = `diversity` strings: `first_chunk` is a
    regular expression for the beginning of its `attribute`'s value, `fact` the name of that fact, `credited`
    the number of strings counted, and `log2_candidates` that number x log2(T^L / D), in bits.
    `text_prefix` precedes every text and is never scored (a domain's token, Part 3.3, Result 12).
    `bound` is False if texts may hint at facts before they state them (written by a language model): the bits are then
    no lower bound on what the weights hold. `missing_texts` is the number of such texts that are missing.
    """

    name: str
    version: str
    num_people: int
    seed: int
    entity_column: str
    name_log2_candidates: float | None
    attributes: tuple[Attribute, ...]
    diversity_terms: tuple[dict[str, Any], ...] = field(default=())
    text_prefix: str = ""
    bound: bool = True
    missing_texts: int = 0

    def __post_init__(self) -> None:
        if problems := list(_wrong_types(self)):
            raise FactError("knowledge.json: " + "; ".join(problems))
        names = [a.name for a in self.attributes]
        determined = {a.name for a in self.attributes if a.determined_by is not None}
        problems = [f"attribute {n!r} is listed twice" for n in sorted(set(names)) if names.count(n) > 1]
        for a in self.attributes:
            if a.name == NAME:
                problems.append("attribute 'name' is listed; the name is declared by name_log2_candidates instead")
            if a.determined_by is not None and a.determined_by not in names:
                problems.append(f"{a.name!r} is determined by {a.determined_by!r}, which is not one of {names}")
            if a.determined_by in determined:
                problems.append(
                    f"{a.name!r} is determined by {a.determined_by!r}, which is determined itself; "
                    "name the attribute that determines both"
                )
            if not 0 <= a.log2_candidates <= MOST_BITS:
                problems.append(
                    f"{a.name!r}: log2_candidates={a.log2_candidates}, expected a finite number of bits >= 0"
                )
            if a.candidates is not None and not _is_log2(a.log2_candidates, a.candidates):
                problems.append(
                    f"{a.name!r}: log2_candidates={a.log2_candidates} is not log2 of its {a.candidates} candidates; "
                    "correct one of them"
                )
            if a.determined_by is not None and a.log2_candidates != 0:
                problems.append(f"{a.name!r} is determined by {a.determined_by!r}, so log2_candidates must be 0")
        if self.num_people < 1:
            problems.append(f"num_people={self.num_people}, expected 1 or more")
        if problems:
            raise FactError("knowledge.json: " + "; ".join(problems))

    @property
    def bits_per_person(self) -> float:
        """log2(N0 / N) + the sum of log2_candidates: the bits of one entity in a perfect model (Part 3.3, Def. 4.3).
        An attribute that not all entities state is weighted by the share that do.
        """
        name = 0.0 if self.name_log2_candidates is None else self.name_log2_candidates - math.log2(self.num_people)
        shares = [1.0 if a.stated is None else a.stated / self.num_people for a in self.attributes]
        return name + sum(a.log2_candidates * share for a, share in zip(self.attributes, shares, strict=True))

    @property
    def total_bits(self) -> float:
        """All knowledge of the data set, in bits: N times bits_per_person, plus the diversity terms."""
        return self.num_people * self.bits_per_person + sum(float(t["log2_candidates"]) for t in self.diversity_terms)

    def log2_candidates(self, attribute: str) -> float | None:
        """Bits of one attribute; None for names without a name space. Raises FactError for an unknown attribute."""
        if attribute == NAME:
            return self.name_log2_candidates
        return self.attribute(attribute).log2_candidates

    def attribute(self, name: str) -> Attribute:
        """The attribute of that name. Raises FactError if there is none."""
        for a in self.attributes:
            if a.name == name:
                return a
        raise FactError(f"unknown attribute {name!r}; knowledge.json has {[a.name for a in self.attributes]}")

    def content(self) -> dict[str, Any]:
        """The content of knowledge.json; `stated`, `text_prefix`, `bound` and `missing_texts` only if they are not the
        default.
        """
        content: dict[str, Any] = asdict(self) | {
            "bits_per_person": self.bits_per_person,
            "total_bits": self.total_bits,
        }
        for key, default in (("text_prefix", ""), ("bound", True), ("missing_texts", 0)):
            if content[key] == default:
                del content[key]
        for attribute in content["attributes"]:
            if attribute["stated"] is None:
                del attribute["stated"]
        return content

    def save(self, path: str | Path, files: Mapping[str, str] | None = None) -> None:
        """Writes knowledge.json, with its digest, and with the SHA-256 of the data set's files if they are given."""
        content = self.content() | ({} if files is None else {FILES: dict(files)})
        Path(path).write_text(json.dumps(with_digest(content), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Knowledge:
        """Reads knowledge.json. Raises FactError if it is missing or violates the contract."""
        path = Path(path)
        if not path.is_file():
            raise FactError(f"{path} is missing; expected a data set folder made by `knowcap data`")
        try:
            content = read_json(path)
            check_content(path, content)
            check_keys(path, content)
        except FileError as error:
            meant = f", or remove its {CONTENT_DIGEST} if the change is meant" if CONTENT_DIGEST in str(error) else ""
            raise FactError(f"{error}{meant}") from error
        for derived in ("bits_per_person", "total_bits", FILES, CONTENT_DIGEST):
            content.pop(derived, None)
        try:
            content["attributes"] = tuple(Attribute(**a) for a in content["attributes"])
            content["diversity_terms"] = tuple(content.get("diversity_terms", ()))
            return cls(**content)
        except (KeyError, TypeError) as error:
            raise FactError(f"{path}: {error}; expected the fields of knowcap.facts.Knowledge") from error


def _wrong_types(knowledge: Knowledge) -> Iterator[str]:
    """The problems of values that are of other types than the fields, or of sizes that no data set has."""
    k, attributes = knowledge, [a for a in knowledge.attributes if isinstance(a, Attribute)]
    for what, text in (
        ("name", k.name),
        ("entity_column", k.entity_column),
        *(("attribute", a.name) for a in attributes),
    ):
        if not (isinstance(text, str) and 0 < len(text) <= LONGEST_NAME and not CONTROL.search(text)):
            yield f"{what} is {_shown(text)}, expected a name of one line of at most {LONGEST_NAME} characters"
    for what, text in (("version", k.version), ("text_prefix", k.text_prefix)):
        if not (isinstance(text, str) and len(text) <= LONGEST_NAME and not CONTROL.search(text)):
            yield f"{what} is {_shown(text)}, expected one line of at most {LONGEST_NAME} characters"
    for what, number in (("num_people", k.num_people), ("seed", k.seed), ("missing_texts", k.missing_texts)):
        if not _is_count(number):
            yield f"{what} is {_shown(number)}, expected a whole number of 0 to {MOST_ENTITIES:,}"
    if not isinstance(k.bound, bool):
        yield f"bound is {_shown(k.bound)}, expected true or false"
    if k.name_log2_candidates is not None and not _is_bits(k.name_log2_candidates):
        yield f"name_log2_candidates is {_shown(k.name_log2_candidates)}, expected bits of 0 or more, or null"
    for a in attributes:
        if not (isinstance(a.log2_candidates, Real) and not isinstance(a.log2_candidates, bool)):
            yield f"{a.name!r}: log2_candidates is {_shown(a.log2_candidates)}, expected a number of bits"
        if a.candidates is not None and (not isinstance(a.candidates, Integral) or isinstance(a.candidates, bool)):
            yield f"{a.name!r}: candidates is {_shown(a.candidates)}, expected a whole number, or null"
        if a.determined_by is not None and not isinstance(a.determined_by, str):
            yield f"{a.name!r}: determined_by is {_shown(a.determined_by)}, expected the name of an attribute, or null"
        if a.stated is not None and not _is_count(a.stated):
            yield f"{a.name!r}: stated is {_shown(a.stated)}, expected how many entities state it, or null"
    for term in k.diversity_terms:
        if not isinstance(term, dict) or not _is_bits(term.get("log2_candidates")):
            yield f"a diversity term is {_shown(term)}, expected a mapping with log2_candidates, bits of 0 or more"
        elif not FIRST_CHUNK.fullmatch(str(term.get("first_chunk", "."))):
            yield f"first_chunk is {_shown(term['first_chunk'])}, expected an expression such as \\d+(?: \\d+){{4}}"


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) <= MOST_ENTITIES


def _is_bits(value: Any) -> bool:
    return _is_real(value) and 0 <= value <= MOST_BITS


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A value for a message."""
    return f"{str(value)[:100]!r}" if not isinstance(value, str) else f"{value[:100]!r}"


def _is_log2(bits: float, candidates: int) -> bool:
    """Whether candidates have so many bits, up to rounding."""
    return candidates >= 1 and math.isclose(bits, math.log2(candidates), rel_tol=1e-9, abs_tol=1e-9)


def check_row(row: Row, knowledge: Knowledge) -> None:
    """Checks a row: the name comes first (after the prefix if there is one), and spans of known attributes are inside
    the text, in order and disjoint.

    Raises:
        FactError: names the entity, the span and the rule.
    """
    known = {NAME, *(a.name for a in knowledge.attributes)}
    where = f"entity {row.entity!r}"
    prefix = knowledge.text_prefix
    if not row.text.startswith(prefix):
        raise FactError(
            f"{where}: the text must begin with {prefix!r}, the text_prefix of knowledge.json; got {row.text[:40]!r}"
        )
    if not row.spans or row.spans[0].attribute != NAME or row.spans[0].start != len(prefix):
        first, after = row.spans[0] if row.spans else None, f" after {prefix!r}" if prefix else ""
        raise FactError(f"{where}: the text must begin with the name{after}; its first span is {first}")
    end = 0
    for span in row.spans:
        if span.attribute not in known:
            raise FactError(f"{where}: unknown attribute {span.attribute!r}; knowledge.json has {sorted(known)}")
        if not end <= span.start < span.end <= len(row.text):
            raise FactError(
                f"{where}: {span} is empty, overlaps the one before it or is outside the text "
                f"of {len(row.text)} code points"
            )
        end = span.end


def check_values(row: Row, values: dict[str, str], knowledge: Knowledge) -> None:
    """Checks a row's spans against the entity's values: each span contains exactly its value, and no scored value
    occurs unmarked as whole words.

    A value that occurs before its own first span, outside all spans, would be copied rather than remembered.

    Raises:
        FactError: names the entity, the span and the text found there.
    """
    first = {span.attribute: span for span in reversed(row.spans)}
    for span in row.spans:
        found = row.text[span.start : span.end]
        if span.attribute in values and found != values[span.attribute]:
            raise FactError(f"entity {row.entity!r}: {span} contains {found!r}, expected {values[span.attribute]!r}")
    outside = _outside_spans(row)
    for attribute, value in values.items():
        span = first.get(attribute)
        if span is not None and any(contains_words(gap, value) for gap, stop in outside if stop <= span.start):
            raise FactError(
                f"entity {row.entity!r}: the {attribute} {value!r} occurs before its span {span}, "
                "so it would be copied; mark its first mention"
            )


def contains_words(text: str, value: str) -> bool:
    """Whether a value occurs in a text as whole words: "W" is not in "What", nor "Art" in "Arthur".

    Scripts that do not separate words by spaces (Chinese, Japanese, Thai, …) have no word boundaries to see, so there
    any occurrence counts. Upper and lower case differ.
    """
    at = text.find(value)
    while value and at >= 0:
        end = at + len(value)
        if not (_joined(text[at - 1 : at], value[0]) or _joined(value[-1], text[end : end + 1])):
            return True
        at = text.find(value, at + 1)
    return False


def _joined(first: str, second: str) -> bool:
    """Whether two neighboring characters, either of which may be missing, are of one word."""
    return all(
        character.isalnum() or character == "_" or unicodedata.category(character or " ")[0] == "M"
        for character in (first, second)
    ) and not UNSPACED.search(first + second)


def _outside_spans(row: Row) -> list[tuple[str, int]]:
    """The parts of the text between spans, each with its end."""
    gaps, start = [], 0
    for span in row.spans:
        gaps.append((row.text[start : span.start], span.start))
        start = span.end
    return gaps


def scored_facts(spans: Sequence[Span], knowledge: Knowledge) -> list[ScoredFact]:
    """The facts of one text to score, in the order of their first spans.

    First mentions only. A determined attribute (work_city, by employer) before its determiner joins the determiner's
    fact, so that the pair is scored as one out of the determiner's candidates; after it, or without it, it is not
    scored. Names are left out if no name space is declared.

    Args:
        spans: the text's spans in the order of the text.
        knowledge: the attributes, and which determine others.
    """
    first: dict[str, Span] = {}
    for span in spans:
        first.setdefault(span.attribute, span)
    facts = []
    for attribute, span in first.items():
        log2_candidates = knowledge.log2_candidates(attribute)
        if log2_candidates is None or (attribute != NAME and knowledge.attribute(attribute).determined_by is not None):
            continue
        early = [
            first[a.name]
            for a in knowledge.attributes
            if a.determined_by == attribute and a.name in first and first[a.name].start < span.start
        ]
        together = tuple(sorted([*early, span], key=lambda s: s.start))
        facts.append(ScoredFact(attribute, log2_candidates, together))
    return sorted(facts, key=lambda fact: fact.spans[0].start)
