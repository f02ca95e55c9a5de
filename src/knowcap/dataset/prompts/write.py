"""A data set folder of a table's prompts."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from knowcap.dataset.folder import DatasetError, write_rows
from knowcap.dataset.prompts.facts import Problems, Prompt, prompts_of
from knowcap.dataset.prompts.priors import Prior, prior_of, with_one_size
from knowcap.dataset.prompts.reading import PromptOptions
from knowcap.facts import Knowledge, Row


ENTITY_COLUMN = "entity"

logger = logging.getLogger(__name__)

TextProblems = Callable[[Sequence[Row], Knowledge], Mapping[int, str]]


def write_prompts(
    rows: Iterable[Mapping[str, Any]],
    folder: Path,
    name: str = "prompts",
    options: PromptOptions | None = None,
    text_problems: TextProblems | None = None,
) -> Path:
    """Makes a data set folder of a table; rows that cannot be measured are left out, and logged with their number.

    Entities are in the order of a digest of their ids, so that the order of rows has no effect, and the first
    entities are a sample of all.

    Args:
        rows: with the columns that `knowcap.dataset.prompts` names.
        folder: the folder to make.
        name: of the data set.
        options: `strict` and `keep_copied`.
        text_problems: what is wrong with texts for a model or its tokenizer, by index.

    Raises:
        DatasetError: no row can be measured, or not even half of them; any problem with `strict`; an entity with two
            answers; prompts that may be about one entity.
    """
    options, rows, problems = options or PromptOptions(), list(rows), Problems()
    prompts, copied = prompts_of(rows, options, problems)
    prompts = _with_partners(with_one_size(prompts, problems), problems)
    priors = _priors(prompts)
    if text_problems is not None and prompts:
        knowledge = _knowledge(name, prompts, priors, copied)
        found = text_problems([row.text() for row in prompts], knowledge)
        for number, what in found.items():
            problems.add("the text cannot be scored", prompts[number].where, what)
        prompts = [row for number, row in enumerate(prompts) if number not in found]
        prompts = _with_partners(prompts, problems)
        priors = _priors(prompts) if found else priors
    _report(problems, len(rows), options.strict)
    prompts.sort(key=lambda row: (_digest(row.entity), row.attribute, row.prompt))
    numbers: dict[tuple[str, str], int] = defaultdict(int)
    texts = []
    for row in prompts:
        texts.append((row.text(), numbers[row.entity, row.attribute]))
        numbers[row.entity, row.attribute] += 1
    lists = [candidate for prior in priors for candidate in prior.lists]
    return write_rows(folder, _knowledge(name, prompts, priors, copied), texts, lists)


def _digest(entity: str) -> bytes:
    return hashlib.sha256(f"prompts\0{entity}".encode()).digest()  # another order than that of held-out entities


def _priors(prompts: Sequence[Prompt]) -> list[Prior]:
    """The priors of all attributes, by name."""
    by_attribute: dict[str, list[Prompt]] = defaultdict(list)
    for row in prompts:
        by_attribute[row.attribute].append(row)
    return [prior_of(name, by_attribute[name]) for name in sorted(by_attribute)]


def _with_partners(prompts: Sequence[Prompt], problems: Problems) -> list[Prompt]:
    """The prompts without attributes of a single entity, whose value no other entity can take in the null control."""
    entities: dict[str, set[str]] = defaultdict(set)
    for row in prompts:
        entities[row.attribute].add(row.entity)
    alone = [row for row in prompts if len(entities[row.attribute]) == 1 and not row.listed]
    for row in alone:
        what = f"{row.attribute} of {row.entity[:80]!r}"
        problems.add("the only entity with its attribute, so there is no null control of it", row.where, what)
    return [row for row in prompts if len(entities[row.attribute]) > 1 or row.listed]


def _report(problems: Problems, total: int, strict: bool) -> None:
    """Logs the rows that are left out. Raises DatasetError if there are too many of them, or with `strict` any."""
    if not problems:
        return
    lines = list(problems.lines())
    if strict or 2 * len(problems) > total:
        fix = "Correct them" if strict else "More than half of the rows cannot be measured; correct them"
        if any("stands in the prompt" in line for line in lines):
            fix += ", or keep copied answers with --keep_copied"
        raise DatasetError(f"{'; '.join(lines)}. {fix}{', or leave out --strict' * strict}")
    for line in lines:
        logger.warning("left out %s", line)
    logger.warning("%d of %d rows are left out; --strict stops instead", len(problems), total)


def _knowledge(name: str, prompts: Sequence[Prompt], priors: Sequence[Prior], copied: bool) -> Knowledge:
    """knowledge.json; with copied answers the bits are no bound."""
    entities = {row.entity for row in prompts}
    stated: dict[str, set[str]] = defaultdict(set)
    for row in prompts:
        stated[row.attribute].add(row.entity)
    content = sorted((row.entity, row.attribute, row.prompt, row.answer, row.count, row.listed) for row in prompts)
    return Knowledge(
        name=name,
        version=hashlib.sha256(repr(content).encode()).hexdigest()[:12],
        num_people=len(entities),
        seed=0,
        entity_column=ENTITY_COLUMN,
        name_log2_candidates=None,
        attributes=tuple(
            replace(prior.attribute, stated=None if len(stated[a]) == len(entities) else len(stated[a]))
            for prior in priors
            if (a := prior.attribute.name)
        ),
        bound=not copied,
    )
