"""What each attribute's answers were drawn from: a number of candidates, lists, or their frequencies in the table."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from knowcap.corpus.candidates import CandidateRow
from knowcap.corpus.credit import is_uneven
from knowcap.dataset.folder import DatasetError
from knowcap.dataset.prompts.facts import Problems, Prompt
from knowcap.facts import Attribute


logger = logging.getLogger(__name__)

_FREQUENT = "-log2 of an answer's share in the table, on average"


@dataclass(frozen=True)
class Prior:
    """The attribute as knowledge.json has it, without `stated`, and its lists."""

    attribute: Attribute
    lists: tuple[CandidateRow, ...]


def with_one_size(prompts: Sequence[Prompt], problems: Problems) -> list[Prompt]:
    """The prompts with one number of candidates for each attribute.

    Where rows list their candidates, an attribute with lists of several lengths becomes several attributes. A number
    that differs from that of most rows is a problem, and so are different candidates of one fact.
    """
    sizes: dict[str, Counter[tuple[bool, int | None]]] = {}
    for row in prompts:
        sizes.setdefault(row.attribute, Counter())[bool(row.listed), row.count] += 1
    kept, lists = [], dict[tuple[str, str], tuple[str, ...]]()
    for row in prompts:
        found = sizes[row.attribute]
        usual = found.most_common(1)[0][0]
        if row.listed and all(listed for listed, _ in found):
            name = row.attribute if len(found) == 1 else f"{row.attribute} of {row.count}"
            if lists.setdefault((row.attribute, row.entity), row.listed) != row.listed:
                problems.add("other candidates than in another prompt for this fact", row.where, repr(row.prompt))
                continue
            kept.append(replace(row, attribute=name))
        elif (bool(row.listed), row.count) != usual:
            what = f"{row.count or 'frequency'}, but {usual[1] or 'frequency'} in most rows of {row.attribute}"
            problems.add("another number of candidates; use another attribute for it", row.where, what)
        else:
            kept.append(row)
    return kept


def prior_of(name: str, prompts: Sequence[Prompt]) -> Prior:
    """The prior of one attribute, given its prompts; it is logged where it is not as declared.

    Raises:
        DatasetError: there are more answers than candidates.
    """
    answers = {row.entity: row.answer for row in prompts}
    counts = Counter(answers.values())
    shares = [count / len(answers) for count in counts.values()]
    entropy = max(0.0, -math.fsum(share * math.log2(share) for share in shares))
    count, lists = prompts[0].count, {row.entity: row.listed for row in prompts if row.listed}
    if count is not None and not lists and len(counts) > count:
        raise DatasetError(
            f"{name}: {count} candidates, but the table has {len(counts)} different answers; expected at least as "
            "many candidates, or `frequency`"
        )
    if len(set(lists.values())) > 1:  # each row has its own options
        rows = [CandidateRow(name, 0, 0, text, None, entity) for entity, texts in lists.items() for text in texts]
        return Prior(Attribute(name, count, math.log2(count or 1)), tuple(rows))
    listed = [CandidateRow(name, 0, 0, text) for text in next(iter(lists.values()), ())]
    if count is None or is_uneven(entropy, count, len(answers)):
        answer, most = counts.most_common(1)[0]
        why = ""
        if count is not None:
            why = (
                f" in place of log2({count}) = {math.log2(count):.2f} bits, since answers are uneven and a model that "
                "only knows how common each is would be credited the difference"
            )
        logger.info(
            "%s: the prior is %s: %.2f bits a fact%s (%d of %d are %r)",
            name, _FREQUENT, entropy, why, most, len(answers), answer,
        )  # fmt: skip
        return Prior(Attribute(name, None, entropy), tuple(listed))
    return Prior(Attribute(name, count, math.log2(count)), tuple(listed))
