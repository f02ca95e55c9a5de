"""Whether prompts without an entity are about different ones: one fact in several wordings must count once.

Of each prompt the words that others share with it, at its beginning and end, are its template; the words between are
its subject. The template is the one that covers most: the number of prompts that share it times its number of words.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from knowcap.dataset.folder import DatasetError


_SAMPLE = 4000  # prompts of an attribute in which templates are counted
_MOST_WORDS = 8  # of a template, at either end
_Template = tuple[tuple[str, ...], tuple[str, ...]]


def check_subjects(rows: Sequence[tuple[str, str, str]]) -> None:
    """Checks that prompts with the same answer have different subjects.

    Args:
        rows: prompt, answer and attribute of each.

    Raises:
        DatasetError: they may be about one entity; the message asks for a column of entities.
    """
    by_attribute: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for prompt, answer, attribute in rows:
        by_attribute[attribute][answer].append(prompt)
    for attribute, by_answer in by_attribute.items():
        shared = {answer: prompts for answer, prompts in by_answer.items() if len(prompts) > 1}
        if not shared:
            continue
        prompts = [prompt for of_answer in by_answer.values() for prompt in of_answer]
        counts = Counter(t for prompt in prompts[:: -(-len(prompts) // _SAMPLE)] for t in _templates(prompt))
        for answer, of_answer in shared.items():
            if not _differ([_subject(prompt, counts) for prompt in of_answer]):
                raise DatasetError(
                    f"{len(of_answer)} prompts have the {attribute} {answer!r}, such as {of_answer[0]!r} and "
                    f"{of_answer[1]!r}, and it cannot be seen whether they are about different entities. Add a column "
                    "`entity`, so that prompts about one are averaged; or pass --columns entity=prompt if each is "
                    "about another one"
                )


def _templates(prompt: str) -> Iterator[_Template]:
    """The words before and after each possible subject."""
    words = prompt.split()
    for before in range(min(len(words), _MOST_WORDS + 1)):
        for after in range(min(len(words) - before, _MOST_WORDS + 1)):
            if before + after:
                yield tuple(words[:before]), tuple(words[len(words) - after :])


def _subject(prompt: str, counts: Counter[_Template]) -> tuple[_Template, frozenset[str]] | None:
    """A prompt's template and the words of its subject; None if no other prompt has its template."""
    best = max(_templates(prompt), key=lambda t: (counts[t] - 1) * (len(t[0]) + len(t[1])), default=None)
    if best is None or counts[best] < 2:
        return None
    words = prompt.split()
    subject = words[len(best[0]) : len(words) - len(best[1])]
    return best, frozenset(re.sub(r"'s$|’s$|\W+$", "", word.casefold()) for word in subject)


def _differ(subjects: Sequence[tuple[_Template, frozenset[str]] | None]) -> bool:
    """Whether all subjects are known and differ; in different templates none may have all words of another."""
    known = [subject for subject in subjects if subject is not None]
    if len(known) < len(subjects) or len(set(known)) < len(known):
        return False
    having: dict[str, list[tuple[_Template, frozenset[str]]]] = defaultdict(list)
    for subject in known:
        for word in subject[1]:
            having[word].append(subject)
    for template, words in known:
        rarest = min((having[word] for word in words), key=len, default=known)
        if any(other != template and words <= others for other, others in rarest):
            return False
    return True
