"""The knowledge to be stored, in bits: a number, people of bioS, or a table of facts."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from knowcap.files import KNOWLEDGE_FILE
from knowcap.laws.law import LawError
from knowcap.laws.plan.answer import Step
from knowcap.laws.plan.setting import LIMITS, positive
from knowcap.laws.published import BIOS_FACTS, BIOS_NAMES, BIOS_TOKENS, BIOS_VALUES
from knowcap.laws.quantity import figure
from knowcap.metrics.bits_per_parameter.table_text import decode, header_of, plain_name


if TYPE_CHECKING:
    from knowcap.corpus.sentences import Sentences
    from knowcap.facts import Attribute
    from knowcap.knowledge.tuples import Tuples


_SUMMARY = ("attribute", "entities", "distinct_values")
_MOST_NOTES = 4  # notes on a table that are shown one by one
TOKENS_PER_FACT = BIOS_TOKENS / BIOS_FACTS


@dataclass(frozen=True)
class Content:
    """Knowledge to be stored.

    Attributes:
        bits: what a perfect model holds of it.
        tokens: of a text that states all of it once; None if only bits are given.
        steps: how the bits come about.
        notes: which facts may be overcounted.
    """

    bits: float
    tokens: float | None
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()


def content_of(
    bits: float | None = None,
    num_people: float | None = None,
    facts: str | Path | None = None,
    facts_templates: str | Path | None = None,
    entity_space: float | None = None,
) -> Content:
    """The knowledge that one of `bits`, `num_people`, `facts` describes.

    Raises:
        LawError: none or several of them are given, a number is out of range, or the table has problems.
    """
    given = [name for name, v in (("bits", bits), ("num_people", num_people), ("facts", facts)) if v is not None]
    if len(given) != 1:
        raise LawError(f"got {' and '.join(given) or 'nothing'} to store; give one of bits, num_people, facts")
    if facts is None and (facts_templates is not None or entity_space is not None):
        raise LawError("facts_templates and entity_space have no effect without facts; give facts, or leave them out")
    if entity_space is not None and entity_space > LIMITS["entity_space"][1]:
        positive("entity_space", entity_space)
    if bits is not None:
        return Content(positive("bits", bits), None, (Step("bits to store", bits, "bits", "as given"),))
    if num_people is not None:
        return people(num_people)
    return table_content(Path(facts or "").expanduser(), facts_templates, entity_space)


def bits_per_person(num_people: float) -> float:
    """log2(N0 / N) + log2 S0: the bits of one of N people of bioS (Part 3.3, Def. 4.3), in bits."""
    return math.log2(BIOS_NAMES / num_people) + math.log2(BIOS_VALUES)


def people(num_people: float) -> Content:
    """N people of bioS. Raises LawError for more people than names, and for parts of people."""
    positive("num_people", num_people)
    each = bits_per_person(num_people)
    steps = (
        Step("bits a person", each, "bits", "log2(N0/N) + log2 S0 (47.59): Part 3.3, Def. 4.3"),
        Step("bits to store", num_people * each, "bits", f"x {figure(num_people)} people"),
    )
    return Content(num_people * each, num_people * BIOS_TOKENS, steps)


def people_for(bits: float) -> float:
    """How many people of bioS have this many bits: N (log2(N0/N) + log2 S0) = bits, solved by halving.

    Beyond N0 people no names are left, so each person counts log2 S0 bits for the values alone.
    """
    low, high = 0.0, float(BIOS_NAMES)
    if bits >= high * bits_per_person(high):
        return bits / bits_per_person(high)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * bits_per_person(middle) < bits else (low, middle)
    return high


def people_notes(bits: float) -> list[str]:
    """Notes where bits are those of fewer than one person of bioS, or of more people than it has names."""
    found = people_for(bits)
    if found < 1:
        return [f"{figure(bits)} bits are fewer than one person of bioS has ({bits_per_person(1):.4g})"]
    if found > BIOS_NAMES:
        return [
            f"{figure(found)} people are more than the {figure(BIOS_NAMES)} names of bioS: their names count nothing"
        ]
    return []


def table_content(path: Path, templates: str | Path | None, entity_space: float | None) -> Content:
    """The content of a file of facts: a CSV or Parquet of entity, attribute, value; a CSV of attribute, entities,
    distinct_values; or a data set folder of knowcap.

    Raises:
        LawError: with everything that is wrong with it.
    """
    if path.is_dir() or path.name == KNOWLEDGE_FILE:
        return _dataset(path / KNOWLEDGE_FILE if path.is_dir() else path, templates, entity_space)
    if not path.is_file():
        raise LawError(f"facts: {path} does not exist; correct the path")
    rows = _summary_rows(path)
    if rows is not None:
        return _summary(path, rows, templates, entity_space)
    return _tuples(path, templates, entity_space)


def _tuples(path: Path, templates: str | Path | None, entity_space: float | None) -> Content:
    """The bits that training and measuring on the table would count (knowledge/credit.py)."""
    from knowcap.corpus.credit import attributes_of, contradictions, notes
    from knowcap.facts import Knowledge
    from knowcap.knowledge.tuples import read_tuples

    sentences, problems = _sentences(path, templates, entity_space)
    tuples, more = read_tuples(path, sentences.attributes, sentences.entity_column)
    problems += more or list(contradictions(tuples, sentences))
    if problems:
        raise LawError(problems)
    space, count = sentences.entity_space, len(tuples.entities)
    names = None if space is None else math.log2(space)
    knowledge = Knowledge(path.stem, "", count, 0, "entity", names, attributes_of(tuples, sentences))
    steps = [_attribute_step(a, count, tuples) for a in knowledge.attributes]
    steps.append(_names_step(space, count))
    steps.append(Step("bits to store", knowledge.total_bits, "bits", f"{count:,} entities of {path.name}"))
    facts = sum(column.stated for column in tuples.columns.values())
    remarks = list(notes(tuples, sentences))
    if len(remarks) > _MOST_NOTES:
        remarks[_MOST_NOTES:] = [f"{len(remarks) - _MOST_NOTES} more notes on this table; `knowcap data` prints all"]
    if knowledge.total_bits <= 0:
        raise LawError(f"{path}: all facts together count 0 bits; check its values")
    return Content(knowledge.total_bits, facts * TOKENS_PER_FACT, tuple(steps), tuple(remarks))


def _attribute_step(attribute: Attribute, entities: int, tuples: Tuples) -> Step:
    stated = entities if attribute.stated is None else attribute.stated
    distinct = len(tuples.columns[attribute.name].values)
    if attribute.determined_by is not None:
        why = f"follows from {attribute.determined_by}"
    else:
        drawn = "by frequency" if attribute.candidates is None else f"of {attribute.candidates:,} candidates"
        why = f"{stated:,} facts x {attribute.log2_candidates:.4g} bits, {distinct:,} distinct values, {drawn}"
    return Step(attribute.name, stated * attribute.log2_candidates, "bits", why)


def _names_step(space: float | None, entities: int) -> Step:
    if space is None:
        return Step("names", 0.0, "bits", "no entity_space is declared, so names count nothing")
    return Step(
        "names", entities * math.log2(space / entities), "bits", f"{entities:,} x log2({space:,.0f}/{entities:,})"
    )


def _sentences(path: Path, templates: str | Path | None, space: float | None) -> tuple[Sentences, list[str]]:
    """The YAML's declarations, or, without one, every attribute of the table counted by frequency."""
    from knowcap.corpus.sentences import AttributeTemplates, Sentences, read_sentences

    if space is not None and not (math.isfinite(space) and space >= 1 and space == int(space)):
        raise LawError(f"entity_space={space:g}, expected a whole number of names, 1 or more; correct it")
    if templates is not None:
        if space is not None:
            raise LawError("entity_space is given beside facts_templates; write it into the YAML")
        return read_sentences(templates)
    names = _attribute_names(path)
    return Sentences(
        {name: AttributeTemplates(()) for name in names}, entity_space=None if space is None else int(space)
    ), []


def _attribute_names(path: Path) -> list[str]:
    """The attributes that a table has, in their order; empty where it cannot be read (read_tuples reports why)."""
    if path.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            column = pq.read_table(path, columns=["attribute"]).column("attribute").to_pylist()
        except (OSError, pa.ArrowException, KeyError):
            return []
    else:
        try:
            text, _ = decode(path.read_bytes())
            delimiter, header = header_of(text, ("entity", "attribute", "value"))
            place = [plain_name(name) for name in header].index("attribute")
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))[1:]
            column = [row[place] for row in rows if len(row) > place]
        except (OSError, ValueError, csv.Error):
            return []
    return [name for name in dict.fromkeys(str(cell or "").strip() for cell in column) if name]


def _summary_rows(path: Path) -> list[dict[str, str]] | None:
    """The rows of a CSV of attribute, entities, distinct_values; None for any other file."""
    if path.suffix.lower() == ".parquet":
        return None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or ()]
            if sorted(header) != sorted(_SUMMARY):
                return None
            return [{(key or "").strip(): str(cell or "").strip() for key, cell in row.items()} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error):
        return None


def _summary(
    path: Path, rows: Sequence[dict[str, str]], templates: str | Path | None, entity_space: float | None
) -> Content:
    """entities x log2(distinct values) a row, as for values drawn evenly."""
    problems = [] if rows else [f"{path.name}: no rows; add one an attribute"]
    if templates is not None:
        problems.append("facts_templates is for a table of facts, not for one of counts; leave it out")
    counts = {}
    for number, row in enumerate(rows, start=2):
        if row["attribute"] in counts:
            problems.append(f"{path.name} line {number}: {row['attribute']!r} is given twice; remove one")
        try:
            counts[row["attribute"]] = (int(row["entities"]), int(row["distinct_values"]))
        except ValueError:
            problems.append(f"{path.name} line {number}: got {row}, expected whole numbers; correct them")
    problems += [
        f"{path.name}: {name}: {entities} entities and {distinct} distinct values, expected 1 or more of both"
        for name, (entities, distinct) in counts.items()
        if min(entities, distinct) < 1
    ]
    most = max((entities for entities, _ in counts.values()), default=0)
    if entity_space is not None and entity_space < most:
        problems.append(f"entity_space={entity_space:g}, but {most:,} entities; expected as many names at least")
    if problems:
        raise LawError(problems)
    steps = [
        Step(name, n * math.log2(distinct), "bits", f"{n:,} facts x log2 {distinct:,}, as if drawn evenly")
        for name, (n, distinct) in counts.items()
    ]
    steps.append(_names_step(entity_space, most))
    bits = math.fsum(step.value or 0.0 for step in steps)
    if bits <= 0:
        raise LawError(f"{path}: all facts together count 0 bits; check its numbers")
    steps.append(Step("bits to store", bits, "bits", f"{path.name}"))
    facts = sum(n for n, _ in counts.values())
    return Content(bits, facts * TOKENS_PER_FACT, tuple(steps))


def _dataset(path: Path, templates: str | Path | None, entity_space: float | None) -> Content:
    """A data set of knowcap: knowledge.json has the bits."""
    from knowcap.facts import FactError, Knowledge

    if templates is not None or entity_space is not None:
        raise LawError("facts_templates and entity_space have no effect on a data set folder; leave them out")
    try:
        knowledge = Knowledge.load(path)
    except FactError as error:
        raise LawError(str(error)) from error
    steps = (
        Step("bits an entity", knowledge.bits_per_person, "bits", f"{path}"),
        Step("bits to store", knowledge.total_bits, "bits", f"{knowledge.num_people:,} entities"),
    )
    facts = knowledge.num_people * len(knowledge.attributes)
    return Content(knowledge.total_bits, facts * TOKENS_PER_FACT, steps)
