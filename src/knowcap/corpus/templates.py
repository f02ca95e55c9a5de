"""The sentence templates of bioS: one file per sentence, one template a line, such as `{subject} was born on {value}.`

`{subject}` renders as the full name in a biography's first sentence and as He or She in the later ones. The words
before `{value}` must not depend on the value or the person, or a fact would be stated outside its scored span.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from knowcap.facts import CorpusError
from knowcap.knowledge.pools import DEFAULT_LISTS, read_lists, repeated


SENTENCES = ("birth_date", "birth_city", "university", "major", "employer", "work_city")
SUBJECT, VALUE = "{subject}", "{value}"
ARTICLES = frozenset({"a", "an", "a(n)", "a/an"})
GENDERED = frozenset("he she him her his hers himself herself they them their theirs themselves themself".split())


@dataclass(frozen=True)
class Template:
    """A sentence is subject + `prefix` + value + `suffix`.

    `prefix` begins and ends with a space and has words between; `suffix` ends with `.`, and mostly is just that.
    """

    prefix: str
    suffix: str


def load_templates(
    num_templates: int | None = None, templates_dir: str | Path | None = None, lists: str = DEFAULT_LISTS
) -> dict[str, tuple[Template, ...]]:
    """The first `num_templates` templates (None: all) of each of `SENTENCES`, by sentence.

    They are the package's for the value lists `lists`, or those of `templates_dir`: a folder with `birth_date.txt` and
    so on, UTF-8, one per line. Raises a CorpusError with all problems of all files, or if there is no such folder, and
    a ValueError if `num_templates` is below 1 or above the number in the shortest file.
    """
    if templates_dir is not None:
        folder = Path(templates_dir).expanduser()
    else:
        folder = files("knowcap.corpus").joinpath("templates", lists)
    contents, problems = read_lists(folder, [f"{sentence}.txt" for sentence in SENTENCES])
    templates: dict[str, list[Template]] = {sentence: [] for sentence in SENTENCES}
    for sentence, (name, lines) in zip(SENTENCES, contents.items(), strict=True):
        problems += repeated(lines, name)
        for number, line in lines:
            try:
                templates[sentence].append(check_template(line, f"{name} line {number}"))
            except CorpusError as error:
                problems.append(str(error))
    if problems:
        raise CorpusError(f"templates in {folder}:\n" + "\n".join(problems))
    counts = {sentence: len(found) for sentence, found in templates.items()}
    if num_templates is not None and not 1 <= num_templates <= min(counts.values()):
        raise ValueError(
            f"num_templates: got {num_templates}, expected 1 to {min(counts.values())}, the fewest of any sentence "
            f"({', '.join(f'{name} {count}' for name, count in counts.items())}); choose one of these or add templates"
        )
    return {sentence: tuple(found[:num_templates]) for sentence, found in templates.items()}


def check_template(line: str, where: str) -> Template:
    """Parses a template line, or raises a CorpusError that begins with `where` and lists all rules that it breaks.

    The rules: `{subject} `, words, one space, `{value}`, a suffix that ends with `.`; no word that shows the gender
    (he, her, their, ...), no possessive of the subject, no "a" or "an" right before the value.
    """
    problems = list(_broken_rules(line))
    if problems:
        raise CorpusError(f"{where}: got {line!r}: " + "; ".join(problems))
    prefix, _, suffix = line.removeprefix(SUBJECT).partition(VALUE)
    return Template(prefix, suffix)


def _broken_rules(line: str) -> Iterator[str]:
    for field in (SUBJECT, VALUE):
        if line.count(field) != 1:
            yield f"got {line.count(field)} {field}, expected exactly one; write it once"
    if not line.startswith(SUBJECT + " "):
        yield f"expected it to begin with '{SUBJECT} ', with a space and no possessive; reword it"
    before, _, after = line.removeprefix(SUBJECT).partition(VALUE)
    if set(before + after) & set("{}"):
        yield f"got other braces, expected only {SUBJECT} and {VALUE}; remove them"
    words = before.split()
    if not words or "  " in line or not before.endswith(" "):
        yield f"expected words and one space before {VALUE}, and no two spaces in a row; correct the spaces"
    if words and words[-1].lower() in ARTICLES:
        yield f"got {words[-1]!r} before {VALUE}, which depends on the value; reword it without the article"
    if not after.endswith(".") or after[0] not in ".,; ":
        yield f"expected '.' at the end and '.', ',', ';' or a space after {VALUE}; end it with '{VALUE}.'"
    gendered = [word for word in re.findall(r"[^\W\d_]+", before + after) if word.lower() in GENDERED]
    if gendered:
        yield f"got {', '.join(map(repr, gendered))}, expected no word that shows the gender; reword it"
