"""A table of facts in bits, by the project's own count: the one that training and measuring on it would use."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from knowcap.laws.plan.answer import TOKENS_PER_FACT, Content, PlanError, Step


if TYPE_CHECKING:
    from knowcap.corpus.sentences import Sentences
    from knowcap.facts import Attribute
    from knowcap.knowledge.tuples import Tuples

_SUMMARY = ("attribute", "entities", "distinct_values")
_MOST_TOLD = 4  # notes on a table that are shown one by one


def table_content(path: Path, templates: str | Path | None, entity_space: float | None) -> Content:
    """What a file of facts amounts to: a CSV or Parquet of entity, attribute, value; a CSV of attribute, entities,
    distinct_values; or a data set folder of knowcap.

    Raises:
        PlanError: with everything that is wrong with it.
    """
    if path.is_dir() or path.name == "knowledge.json":
        return _dataset(path / "knowledge.json" if path.is_dir() else path, templates, entity_space)
    if not path.is_file():
        raise PlanError(f"facts: {path} is no file; mend the path")
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
    tuples, more = read_tuples(path, sentences.attributes)
    problems += more or list(contradictions(tuples, sentences))
    if problems:
        raise PlanError("\n".join(problems))
    space, count = sentences.entity_space, len(tuples.entities)
    names = None if space is None else math.log2(space)
    knowledge = Knowledge(path.stem, "", count, 0, "entity", names, attributes_of(tuples, sentences))
    steps = [_attribute_step(a, count, tuples) for a in knowledge.attributes]
    steps.append(_names_step(space, count))
    steps.append(Step("bits to store", knowledge.total_bits, "bits", f"{count:,} entities of {path.name}"))
    facts = sum(column.stated for column in tuples.columns.values())
    told = list(notes(tuples, sentences))
    if len(told) > _MOST_TOLD:
        told[_MOST_TOLD:] = [f"{len(told) - _MOST_TOLD} more notes on this table; `knowcap data` tells all"]
    if knowledge.total_bits <= 0:
        raise PlanError(f"{path}: there is nothing to know, all facts together count 0 bits; check its values")
    return Content(knowledge.total_bits, facts * TOKENS_PER_FACT, tuple(steps), tuple(told))


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
    """What the YAML declares, or, without one, every attribute of the table counted by frequency."""
    from knowcap.corpus.sentences import AttributeTemplates, Sentences, read_sentences

    if space is not None and not (math.isfinite(space) and space >= 1 and space == int(space)):
        raise PlanError(f"entity_space={space:g}, expected a whole number of names, 1 or more; mend it")
    if templates is not None:
        if space is not None:
            raise PlanError("entity_space is given beside facts_templates; write it into the YAML")
        return read_sentences(templates)
    names = _attribute_names(path)
    return Sentences(
        {name: AttributeTemplates(()) for name in names}, entity_space=None if space is None else int(space)
    ), []


def _attribute_names(path: Path) -> list[str]:
    """The attributes that a table has, in their order; empty where it cannot be read (read_tuples tells why)."""
    if path.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            column = pq.read_table(path, columns=["attribute"]).column("attribute").to_pylist()
        except (OSError, pa.ArrowException, KeyError):
            return []
    else:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                column = [
                    {(key or "").strip(): cell for key, cell in row.items()}.get("attribute")
                    for row in csv.DictReader(file)
                ]
        except (OSError, UnicodeDecodeError, csv.Error):
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
            problems.append(f"{path.name} line {number}: {row['attribute']!r} is there twice; remove one")
        try:
            counts[row["attribute"]] = (int(row["entities"]), int(row["distinct_values"]))
        except ValueError:
            problems.append(f"{path.name} line {number}: got {row}, expected whole numbers; mend them")
    problems += [
        f"{path.name}: {name}: {entities} entities and {distinct} distinct values, expected 1 or more of both"
        for name, (entities, distinct) in counts.items()
        if min(entities, distinct) < 1
    ]
    most = max((entities for entities, _ in counts.values()), default=0)
    if entity_space is not None and entity_space < most:
        problems.append(f"entity_space={entity_space:g}, but {most:,} entities; expected as many names at least")
    if problems:
        raise PlanError("\n".join(problems))
    steps = [
        Step(name, n * math.log2(distinct), "bits", f"{n:,} facts x log2 {distinct:,}, as if drawn evenly")
        for name, (n, distinct) in counts.items()
    ]
    steps.append(_names_step(entity_space, most))
    bits = math.fsum(step.value or 0.0 for step in steps)
    if bits <= 0:
        raise PlanError(f"{path}: there is nothing to know, all facts together count 0 bits; check its numbers")
    steps.append(Step("bits to store", bits, "bits", f"{path.name}"))
    facts = sum(n for n, _ in counts.values())
    return Content(bits, facts * TOKENS_PER_FACT, tuple(steps))


def _dataset(path: Path, templates: str | Path | None, entity_space: float | None) -> Content:
    """A data set of knowcap: knowledge.json has the bits."""
    from knowcap.facts import FactError, Knowledge

    if templates is not None or entity_space is not None:
        raise PlanError("a data set has settled facts_templates and entity_space; leave them out")
    try:
        knowledge = Knowledge.load(path)
    except FactError as error:
        raise PlanError(str(error)) from error
    steps = (
        Step("bits an entity", knowledge.bits_per_person, "bits", f"{path}"),
        Step("bits to store", knowledge.total_bits, "bits", f"{knowledge.num_people:,} entities"),
    )
    facts = knowledge.num_people * len(knowledge.attributes)
    return Content(knowledge.total_bits, facts * TOKENS_PER_FACT, steps)
