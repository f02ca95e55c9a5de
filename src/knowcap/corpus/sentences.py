"""The sentence templates and candidates of a user's own facts: the YAML beside a table of facts.

Its keys: `subject`, the word that later sentences begin with (It); `entity_column`, the column of entities in a wide
table, which has a column for each attribute; `entity_space`, the number of possible names (names
have no bits without it); `license` and `language`, for the data set's card (the Hub's identifiers); `attributes`, each
with `templates`, sentences such as `{entity} has its capital in {value}.`, and either `candidates`, a number or
`frequency` (the default: the entropy of the table's own values), or `determined_by`, the attribute that it follows
from (it then has no bits).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from knowcap.corpus.templates import ARTICLES, Template
from knowcap.facts import UNSPACED
from knowcap.metrics.bits_per_parameter.table_text import decode
from knowcap.recipe.yaml_reader import compose, read_bytes
from knowcap.recipe_file import parse_number


ENTITY, VALUE = "{entity}", "{value}"
FREQUENCY = "frequency"
RESERVED = ("name", "entity")  # the name's span, and the column of entities
_TOP = ("attributes", "subject", "entity_column", "entity_space", "license", "language")
_ENDS, _GOES_ON = ".!?。！？।؟۔", ",;，；、،؛ "  # of a sentence; after a value within it
_KEYS = ("templates", "candidates", "determined_by")


@dataclass(frozen=True)
class AttributeTemplates:
    """The templates of an attribute, and what its values were drawn from.

    Attributes:
        templates: its sentences, one of which is drawn at every exposure.
        candidates: the number of equally likely values; None: the frequencies in the table.
        determined_by: the attribute that it follows from, if any.
    """

    templates: tuple[Template, ...]
    candidates: int | None = None
    determined_by: str | None = None


@dataclass(frozen=True)
class Sentences:
    """The content of the YAML: every attribute by name, the subject of later sentences, and the number of names.

    `license` and `languages` are the Hub's identifiers; None and empty: not declared.
    """

    attributes: dict[str, AttributeTemplates]
    subject: str = "It"
    entity_space: int | None = None
    license: str | None = None
    languages: tuple[str, ...] = ()
    entity_column: str | None = None

    @property
    def later(self) -> str:
        """What precedes the templates of later sentences: the subject, after a space if its script has spaces."""
        return self.subject if UNSPACED.match(self.subject) else f" {self.subject}"


def read_sentences(path: str | Path) -> tuple[Sentences, list[str]]:
    """The YAML's content without the wrong entries, and all its problems with line numbers."""
    path = Path(path).expanduser()
    try:
        root = compose(decode(read_bytes(path))[0])
    except (OSError, ValueError) as error:
        return Sentences({}), [f"{path}: cannot be read as YAML: {' '.join(str(error).split())}"]
    problems: list[str] = []
    top = _mapping(root, _TOP, "expected `attributes:` with one entry an attribute", problems)
    subject = _subject(top.get("subject"), problems)
    space = None
    if "entity_space" in top:
        space = _count(top["entity_space"], "entity_space", "the number of possible names", problems)
    licences = _identifiers(top.get("license"), "license", r"[a-z0-9][a-z0-9.+-]*", "odbl", problems)
    if len(licences) > 1:
        problems.append(
            f"{_line(top['license'])}: license: got {len(licences)}, expected one; use `other` for several"
        )
    languages = _identifiers(top.get("language"), "language", r"[a-z]{2,3}", "en", problems)
    attributes: dict[str, AttributeTemplates] = {}
    entries = _mapping(top.get("attributes"), None, "attributes: expected one entry or more", problems)
    for name, node in entries.items():
        if name in RESERVED:
            problems.append(f"{_line(node)}: the attribute name {name!r} is reserved for the entity; rename it")
        else:
            attributes[name] = _attribute(name, node, problems)
    problems += _undetermined(attributes)
    column = _scalar(top["entity_column"]) if "entity_column" in top else None
    if column == "":
        what = _shown(top["entity_column"])
        problems.append(f"{_line(top['entity_column'])}: entity_column: got {what}, expected a column's name")
    read = Sentences(attributes, subject, space, licences[0] if licences else None, languages, column)
    return read, [f"{path.name} {problem}" for problem in problems]


def _attribute(name: str, node: Any, problems: list[str]) -> AttributeTemplates:
    """One attribute's entry."""
    entry = _mapping(node, _KEYS, f"{name}: expected `templates:` and optionally `candidates:`", problems)
    listed = _listed(entry.get("templates"))
    templates: list[Template] = []
    if not listed:
        problems.append(f"{_line(node)}: {name} has no templates; list sentences such as '{ENTITY} … {VALUE}.'")
    for item in listed:
        line = _scalar(item)
        broken = list(broken_rules(line))
        problems += [f"{_line(item)}: {name}: got {_shown(item)}: {'; '.join(broken)}"] if broken else []
        prefix, _, suffix = line.removeprefix(ENTITY).partition(VALUE)
        templates.append(Template(prefix, suffix))
    if len(set(templates)) < len(templates):
        problems.append(f"{_line(node)}: {name} has the same template twice; remove one")
    candidates = None
    if "candidates" in entry and _scalar(entry["candidates"]) != FREQUENCY:
        what = f"the number of equally likely values, or `{FREQUENCY}`"
        candidates = _count(entry["candidates"], f"{name}: candidates", what, problems)
    by = _scalar(entry["determined_by"]) if "determined_by" in entry else None
    if by == "":
        what = _shown(entry["determined_by"])
        problems.append(f"{_line(node)}: {name}: determined_by: got {what}, expected the name of an attribute")
        by = None
    if by is not None and "candidates" in entry:
        problems.append(
            f"{_line(node)}: {name} has both determined_by and candidates; a determined attribute has no "
            "candidates, so remove one"
        )
    return AttributeTemplates(tuple(templates), candidates, by)


def broken_rules(line: str) -> Iterator[str]:
    """The problems of a template: it must state the value once, and no word before the value may depend on it."""
    for field in (ENTITY, VALUE):
        if line.count(field) != 1:
            yield f"got {line.count(field)} {field}, expected exactly one; write it once"
    if not re.match(rf"{re.escape(ENTITY)}( |{UNSPACED.pattern})", line):
        yield f"expected it to begin with '{ENTITY} ', with a space and no possessive; reword it"
    before, _, after = line.removeprefix(ENTITY).partition(VALUE)
    if set((before + after).replace(ENTITY, "").replace(VALUE, "")) & set("{}"):
        yield f"got other braces, expected only {ENTITY} and {VALUE}; remove them"
    words = before.split()
    joined = before.endswith(" ") or UNSPACED.match(before[-1:])
    if not words or not joined or re.search(r"^\s|\s$|\s\s|[^\S \u00a0\u202f]", line):
        yield f"expected words and one space before {VALUE}, and single spaces everywhere; correct the spaces"
    if words and words[-1].lower() in ARTICLES:
        yield f"got {words[-1]!r} before {VALUE}, which depends on the value; reword it without the article"
    if not after or after[-1] not in _ENDS or after[0] not in _ENDS + _GOES_ON and not UNSPACED.match(after):
        yield f"expected '.' at the end and '.', ',', ';' or a space after {VALUE}; end it with '{VALUE}.'"


def _undetermined(attributes: dict[str, AttributeTemplates]) -> Iterator[str]:
    """Each determined_by must name an attribute that has bits of its own."""
    for name, templates in attributes.items():
        by = templates.determined_by
        if by is not None and (by == name or by not in attributes):
            others = ", ".join(other for other in attributes if other != name)
            yield f"{name}: determined_by: {by}, expected another attribute of the file: {others or 'it has no other'}"
        elif by is not None and attributes[by].determined_by is not None:
            yield f"{name}: determined_by: {by}, which is itself determined; give the attribute that it follows from"


def _mapping(node: Any, keys: tuple[str, ...] | None, expected: str, problems: list[str]) -> dict[str, Any]:
    """A YAML mapping's nodes by key; other nodes, unknown keys and keys given twice are problems."""
    pairs = node.value if getattr(node, "id", "") == "mapping" else None
    if not pairs:
        problems.append(f"{_line(node)}: {expected}")
        return {}
    found: dict[str, Any] = {}
    for key, value in pairs:
        name = key.value
        if keys is not None and name not in keys:
            close = get_close_matches(name, keys, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; expected {', '.join(keys)}"
            problems.append(f"{_line(key)}: unknown key {name!r}{hint}")
        elif name in found:
            problems.append(f"{_line(key)}: {name!r} is given twice; remove one")
        else:
            found[name] = value
    return found


def _subject(node: Any, problems: list[str]) -> str:
    if node is None:
        return "It"
    text = _scalar(node)
    if not text or " ".join(text.split()) != text or set(text) & set("{}"):
        problems.append(f"{_line(node)}: subject: got {_shown(node)}, expected words without braces, such as It")
    return text


def _identifiers(node: Any, key: str, pattern: str, example: str, problems: list[str]) -> tuple[str, ...]:
    """One identifier or a list of them."""
    nodes = [] if node is None else _listed(node) or [node]
    texts = [_scalar(item) for item in nodes]
    wrong = [text for text in texts if not re.fullmatch(pattern, text)]
    if wrong:
        problems.append(f"{_line(node)}: {key}: got {wrong[0]!r}, expected the Hub's identifier, such as {example}")
    return tuple(texts)


def _count(node: Any, key: str, what: str, problems: list[str]) -> int | None:
    number = parse_number(_scalar(node))
    if isinstance(number, int) and number >= 1:
        return number
    problems.append(f"{_line(node)}: {key}: got {_shown(node)}, expected {what}, a whole number such as 195")
    return None


def _scalar(node: Any) -> str:
    """A scalar's text; nothing for a list or a mapping, which no text here is."""
    return node.value if node.id == "scalar" else ""


def _listed(node: Any) -> list[Any]:
    """The nodes of a list; none for anything else."""
    return node.value if node is not None and node.id == "sequence" else []


def _shown(node: Any) -> str:
    """What a node is, for messages."""
    return repr(node.value) if node.id == "scalar" else f"a {'list' if node.id == 'sequence' else 'mapping'}"


def _line(node: Any) -> str:
    return f"line {node.start_mark.line + 1 if node is not None else 1}"
