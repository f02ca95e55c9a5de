"""A data set folder held to its contract: knowledge.json against the value lists and the texts beside it.

Each rule is one that, broken, would change the number of bits without a word: candidates that are not counted as the
lists have them, one fact that counts twice, an entity that counts twice, spans that are parts of names or values,
values that can be copied, entities without texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from knowcap.corpus.candidates import Candidates
from knowcap.corpus.credit import SURE_BITS
from knowcap.dataset.folder import CHUNK, has_config, read_candidates
from knowcap.dataset.statements import Statements
from knowcap.facts import NAME, CorpusError, FactError, Knowledge
from knowcap.sealed.parquet import batches, num_distinct, read_schema


CONFIGS = ("biographies", "control")
MOST_TEXTS = 1_000_000  # of a config, whose rows are checked
_SAME_BITS = 1e-6  # log2 of candidates may differ by this much through rounding
_SPLIT = 5000  # values of several parts that are compared with their lists
_checked: set[tuple[Any, ...]] = set()  # what was found to be right


def check_contract(
    folder: str | Path, knowledge: Knowledge, configs: tuple[str, str] = CONFIGS, limit: int | None = None
) -> None:
    """Checks that knowledge.json, the lists and the texts of a data set folder agree.

    Of a config with more than a million texts, the first million are read. A folder that was checked before in this
    process, and has not changed, is not read again.

    Args:
        folder: the data set folder.
        knowledge: its knowledge.json.
        configs: the texts to check, and their null control, which may be missing.
        limit: read only the texts of about that many entities.

    Raises:
        FactError: names what was found, what was expected, and an entity.
        DatasetError: the texts or lists cannot be read.
    """
    folder = Path(folder)
    files = sorted(path for config in (*configs, "candidates") for path in (folder / config).glob("*.parquet"))
    stats = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    key = (stats, configs, limit, repr(knowledge))
    if key not in _checked:
        _check(folder, knowledge, configs, limit)
        _checked.add(key)


def _check(folder: Path, knowledge: Knowledge, configs: tuple[str, str], limit: int | None) -> None:
    texts, control = configs
    lists = read_candidates(folder) if has_config(folder, "candidates") else {}
    _raise(list(list_problems(knowledge, lists)))
    people, whole = _read(folder, texts, knowledge, limit)
    problems = [*number_problems(folder, texts, people, whole), *people.name_problems()]
    if knowledge.bound:  # prose of a language model has values in other forms than the lists
        problems += [*people.answer_problems(), *value_problems(people, lists)]
    _raise(problems or list(repeated_facts(people)))
    if has_config(folder, control):
        outsiders, _ = _read(folder, control, knowledge, limit)
        _raise([*outsiders.name_problems(), *shared_entities(people, outsiders)])


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise FactError("; ".join(problems))


def _read(folder: Path, config: str, knowledge: Knowledge, limit: int | None) -> tuple[Statements, bool]:
    """What the texts of a config state, and whether all of them were read. Raises FactError for a text."""
    read, rows = Statements(knowledge), 0
    columns = [knowledge.entity_column, "text", "spans"]
    for file in sorted((folder / config).glob("*.parquet")):
        missing = [name for name in columns if name not in read_schema(file).names]
        if missing:
            raise FactError(f"{config}/{file.name} lacks the columns {', '.join(missing)}")
        for batch in batches(file, columns, batch_size=CHUNK):
            read.add(batch)
            rows += len(batch)
            if rows >= MOST_TEXTS or (limit is not None and len(read.entities) >= limit):
                return read, False
    return read, True


def list_problems(knowledge: Knowledge, lists: dict[Any, Candidates]) -> Iterator[str]:
    """Candidates that are counted otherwise than the lists have them."""
    for key, listed in lists.items():
        name = key if isinstance(key, str) else key[0]
        if name == NAME:
            declared, bits = knowledge.name_log2_candidates, math.log2(math.prod(map(len, listed.parts)))
            if declared is not None and abs(declared - bits) > _SAME_BITS:
                yield (
                    f"knowledge.json has name_log2_candidates={declared:g}, but the lists of the config candidates "
                    f"make 2^{bits:g} names; correct one of them"
                )
            continue
        attribute = next((a for a in knowledge.attributes if a.name == name), None)
        if attribute is None or attribute.determined_by is not None:
            continue
        count = math.prod(map(len, listed.parts))
        if attribute.candidates is not None and attribute.candidates != count:
            yield (
                f"{name}: knowledge.json has {attribute.candidates} candidates, but the config candidates lists "
                f"{count}{'' if isinstance(key, str) else f' for {key[1]!r}'}; correct one of them"
            )
        elif listed.of:
            yield (
                f"{name}: each value on its list goes with values of another attribute, which determines it, but "
                "knowledge.json has no determined_by for it, so that one fact would count twice; declare it"
            )


def number_problems(folder: Path, config: str, people: Statements, whole: bool) -> Iterator[str]:
    """Entities that have no texts, or that knowledge.json does not count; attributes that fewer state."""
    knowledge = people.knowledge
    column, declared = knowledge.entity_column, knowledge.num_people
    found = num_distinct(sorted((folder / config).glob("*.parquet")), column)
    if not declared - knowledge.missing_texts <= found <= declared:
        yield (
            f"{config} has texts about {found:,} entities, but knowledge.json has num_people={declared:,}; the two "
            "must be equal, since an entity without texts would count as not remembered: add the texts, or correct "
            "num_people"
        )
    if not whole or knowledge.missing_texts or found != knowledge.num_people:
        return
    for attribute in knowledge.attributes:
        stated = int((people.values(attribute.name) >= 0).sum())
        expected = knowledge.num_people if attribute.stated is None else attribute.stated
        if stated != expected:
            yield (
                f"{attribute.name}: {stated:,} entities state it, but knowledge.json counts {expected:,}; correct "
                "`stated` of the attribute"
            )


def value_problems(people: Statements, lists: dict[Any, Candidates]) -> Iterator[str]:
    """Values and names that are not on their list, and more distinct values than candidates."""
    for attribute in people.knowledge.attributes:
        if attribute.candidates is not None and not attribute.determined_by:
            distinct = len(people.spelled(attribute.name))
            if distinct > attribute.candidates:
                yield (
                    f"{attribute.name}: {distinct:,} distinct values, but knowledge.json has "
                    f"{attribute.candidates:,} candidates; correct `candidates`, or the spans"
                )
    for name, listed in lists.items():
        if not isinstance(name, str):
            continue
        values = people.spelled(name)
        values = values if len(listed.parts) == 1 else values[:: -(-len(values) // _SPLIT) or 1]
        listed_values = {text.casefold() for text in listed.parts[0]} if len(listed.parts) == 1 else set()
        wrong = [v for v in values if v.casefold() not in listed_values and not _can_split(listed, v)]
        if wrong:
            yield (
                f"{name}: {len(wrong):,} of {len(values):,} distinct values are not on the list of the config "
                f"candidates, such as {wrong[0]!r} of entity {people.first_entity(name, wrong[0])!r}; a span must be "
                "exactly the value or the whole name"
            )


def _can_split(listed: Candidates, value: str) -> bool:
    """Whether a value consists of parts on their lists, in one way or several."""
    if len(listed.parts) == 1:
        return False
    try:
        listed.split(value)
    except CorpusError as error:
        return "several ways" in str(error)
    return True


def repeated_facts(people: Statements) -> Iterator[str]:
    """Attributes that follow from another one, and are counted beside it.

    Of entities that share their value of one attribute, all share that of the other. By chance this has the
    probability 2^-(bits), where each entity after the first of its value agrees with the probability that two entities
    have the same value.
    """
    counted = [a.name for a in people.knowledge.attributes if a.log2_candidates > 0 and a.determined_by is None]
    for name in counted:
        for other in counted:
            if name == other:
                continue
            bits, entities, same = people.follows(name, other)
            if bits < SURE_BITS or (same and counted.index(name) < counted.index(other)):
                continue
            what = f"says the same as {other}" if same else f"always follows from {other}"
            yield (
                f"{name} {what} ({entities:,} entities), so that one fact would count twice; declare determined_by: "
                f"{other} in knowledge.json, or leave one of them out"
            )


def shared_entities(people: Statements, outsiders: Statements) -> Iterator[str]:
    """Entities of the null control that are in the texts too, by id or name."""
    ids = [entity for entity in outsiders.entities if entity in people.entities]
    names = [name for name in outsiders.spelled(NAME) if people.is_stated(NAME, name)]
    for what, found in (("entities", ids), ("names", names)):
        if found:
            yield (
                f"the null control has {len(found):,} {what} of the texts, such as {found[0]!r}, whom the model may "
                "have been trained on; remove them from one of the configs"
            )
