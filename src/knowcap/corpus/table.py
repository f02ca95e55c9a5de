"""A user's own knowledge as a corpus: the facts of a table, rendered in the sentences of a YAML.

A text is the entity's name · (opener · tail) x its facts · end of text: an opener is a template's words before the
value (after the subject, from the second sentence on), a tail is the value with what follows it. Order and templates
are drawn for every exposure. Some entities are held out of training (`holdout_entities`): the outsiders, whose texts
are the null control. The tokenizer can spell them, since it is made of the whole table.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from knowcap.corpus.credit import attributes_of, contradictions, notes, repetitions
from knowcap.corpus.pieces import Pieces, PieceTexts
from knowcap.corpus.sentences import AttributeTemplates, Sentences, read_sentences
from knowcap.corpus.templates import Template
from knowcap.corpus.tokenizer import EOS_ID, reduce_tokenizer, train_tokenizer
from knowcap.facts import NAME, CorpusError, Knowledge, Row, Span
from knowcap.knowledge.philox import below, words
from knowcap.knowledge.tuples import Column, Tuples, held_out, num_held_out, read_tuples
from knowcap.recipe import Recipe


logger = logging.getLogger(__name__)

ENTITY_COLUMN = "entity"
_WEIGHT = 2000  # the number of repetitions of a list as a whole in the tokenizer's training texts
_LAST = 2**32  # above every 32-bit word: facts that an entity lacks come last


@dataclass(frozen=True)
class _Tables:
    """The first pieces of each attribute: openers (2, attributes, templates) for the first and later sentences; `tail`
    (attributes, templates), the tail of the first value.
    """

    opener: np.ndarray
    tail: np.ndarray


class Table:
    """The facts of `tuples`, rendered by `sentences`; person i is its i-th entity, and the last ones are outsiders."""

    def __init__(
        self, tuples: Tuples, sentences: Sentences, *, seed: int, name: str, version: str, num_outsiders: int = 0
    ) -> None:
        self.tuples, self.sentences, self.num_outsiders = tuples, sentences, num_outsiders
        self.seed, self.name, self.version = seed, name, version
        self.attributes = tuple(tuples.columns)
        self._codes = np.stack([column.codes for column in tuples.columns.values()])  # (attributes, entities)
        self._templates = [sentences.attributes[name] for name in self.attributes]
        self._tables: tuple[Pieces, _Tables] | None = None

    @property
    def num_people(self) -> int:
        """The number of entities that are trained on."""
        return len(self.tuples.entities) - self.num_outsiders

    @property
    def first_outsider(self) -> int:
        """The number of the first entity that is held out of training."""
        return self.num_people

    def knowledge(self) -> Knowledge:
        """The content of knowledge.json; names have bits only if the YAML has entity_space."""
        space = self.sentences.entity_space
        return Knowledge(
            name=self.name,
            version=self.version,
            num_people=self.num_people,
            seed=self.seed,
            entity_column=ENTITY_COLUMN,
            name_log2_candidates=None if space is None else math.log2(space),
            attributes=attributes_of(self.tuples.take(np.arange(self.num_people)), self.sentences),
        )

    def people_columns(self, first: int, end: int) -> dict[str, pa.Array]:
        """The people config's columns for entities first … end - 1: names and values, null for a missing value."""
        columns = {ENTITY_COLUMN: pa.array(self.tuples.entities[first:end], pa.string())}
        for name, column in self.tuples.columns.items():
            values = [column.values[code] if code >= 0 else None for code in column.codes[first:end].tolist()]
            columns[name] = pa.array(values, pa.string())
        return columns

    def rows(self, persons: np.ndarray, exposure: int) -> Iterator[Row]:
        """The texts of entities (n,) at one exposure, with spans."""
        order, chosen = self._forms(persons, exposure)
        for number, person in enumerate(persons.tolist()):
            text = self.tuples.entities[person]
            spans = [Span(NAME, 0, len(text))]
            for place, a in enumerate(order[number].tolist()):
                code = int(self._codes[a, person])
                if code < 0:
                    break  # facts that an entity lacks come last
                template = self._templates[a].templates[chosen[number, place]]
                value = self.tuples.columns[self.attributes[a]].values[code]
                text += self.sentences.later * (place > 0) + template.prefix
                spans.append(Span(self.attributes[a], len(text), len(text) + len(value)))
                text += value + template.suffix
            yield Row(text, tuple(spans), self.tuples.entities[person])

    def vocabulary_texts(self) -> Iterator[str]:
        """The subject, the templates, and the values of attributes with all candidates in the table, to train a
        tokenizer on.

        Of names, and of values from more candidates than the table has, only the characters: a token of several
        characters would show which values were drawn.
        """
        letters = set("".join(self.tuples.entities))
        lists = [[self.sentences.later] * len(self.attributes)]
        for name, templates in zip(self.attributes, self._templates, strict=True):
            lists.append([template.prefix.rstrip() + template.suffix for template in templates.templates])
            column = self.tuples.columns[name]
            if _is_complete(templates, column):
                leads = dict.fromkeys(lead for lead, _ in _around(templates))
                lists.append([lead + value for lead in leads for value in column.values])
            else:
                letters |= set("".join(column.values))
        yield from sorted(letters | {" "})
        for values in lists:
            for value in values:
                for _ in range(max(1, round(_WEIGHT / len(values)))):
                    yield value

    def own_tokenizer(self, vocab_size: int) -> tuple[Tokenizer, int]:
        """A compact BPE of `vocabulary_texts`, with unused tokens too, as the used ones would show the names' parts.

        Raises:
            CorpusError: `vocab_size` is below `minimum_vocab_size`.
        """
        backend = train_tokenizer(self.vocabulary_texts(), vocab_size)
        return reduce_tokenizer(backend, set(backend.get_vocab().values()) - {EOS_ID})

    def piece_texts(self) -> PieceTexts:
        """The pieces of all possible texts."""
        later = self.sentences.later
        groups: dict[str, list[str]] = {"name": list(self.tuples.entities), "first": [], "later": [], "tail": []}
        for name, templates in zip(self.attributes, self._templates, strict=True):
            openers = [template.prefix.removesuffix(" ") for template in templates.templates]
            groups["first"] += openers
            groups["later"] += [later + opener for opener in openers]
            values = self.tuples.columns[name].values
            groups["tail"] += [lead + value + suffix for lead, suffix in _around(templates) for value in values]
        junctions = [("name", "first"), ("first", "tail"), ("tail", "later"), ("later", "tail")]
        return PieceTexts(groups, junctions, frozenset({"name"}))

    def compose(self, pieces: Pieces, persons: np.ndarray, exposure: int | np.ndarray) -> np.ndarray:
        """The pieces of the texts of entities (n,) at one exposure: (n, 2 + 2 x attributes) int32, end of text
        included; empty where an entity lacks an attribute.
        """
        tables = self._piece_tables(pieces)
        order, chosen = self._forms(persons, exposure)
        out = np.empty((len(persons), 2 + 2 * len(self.attributes)), dtype=np.int32)
        out[:, 0] = pieces.groups["name"].start + persons
        for place in range(len(self.attributes)):
            a, t = order[:, place], chosen[:, place]
            codes = self._codes[a, persons]
            out[:, 1 + 2 * place] = np.where(codes >= 0, tables.opener[min(place, 1), a, t], pieces.empty)
            out[:, 2 + 2 * place] = np.where(codes >= 0, tables.tail[a, t] + codes, pieces.empty)
        out[:, -1] = pieces.eos
        return out

    def longest(self, pieces: Pieces) -> int:
        """No text has more tokens than this, its end of text included; it counts every sentence as a later one."""
        tables = self._piece_tables(pieces)
        name = pieces.groups["name"]
        total = pieces.lengths[name.start : name.stop].astype(np.int64)
        for a, templates in enumerate(self._templates):
            values = np.arange(len(self.tuples.columns[self.attributes[a]].values))
            several = range(len(templates.templates))
            openers = [int(pieces.lengths[tables.opener[:, a, t]].max()) for t in several]
            lengths = [openers[t] + pieces.lengths[tables.tail[a, t] + values] for t in several]
            most = np.append(np.max(lengths, axis=0), 0)  # the last is for entities without a value
            total += most[self._codes[a]]
        return int(total.max()) + 1

    def _forms(self, persons: np.ndarray, exposure: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The attribute at each place and its template, both (n, attributes): uniform, by seed, entity and exposure.

        Facts that an entity lacks come last.
        """
        keys = self._words("table/order", persons, exposure)
        keys[self._codes[:, persons] < 0] = _LAST
        order = np.argsort(keys, axis=0, kind="stable").T
        draws = self._words("table/templates", persons, exposure)
        counts = np.array([len(templates.templates) for templates in self._templates], dtype=np.uint64)
        chosen = below(draws, counts[:, None]).astype(np.intp).T
        return order, np.take_along_axis(chosen, order, axis=1)

    def _words(self, stream: str, persons: np.ndarray, exposure: int | np.ndarray) -> np.ndarray:
        """(attributes, n) 32-bit words."""
        blocks = range(-(-len(self.attributes) // 4))
        drawn = [words(self.seed, stream, persons, substream=exposure, block=block) for block in blocks]
        return np.concatenate(drawn)[: len(self.attributes)]

    def _piece_tables(self, pieces: Pieces) -> _Tables:
        if self._tables is None or self._tables[0] is not pieces:
            shape = len(self._templates), max(len(templates.templates) for templates in self._templates)
            opener, tail = np.zeros((2, *shape), dtype=np.int32), np.zeros(shape, dtype=np.int32)
            openers, tails = 0, pieces.groups["tail"].start
            for a, templates in enumerate(self._templates):
                around, size = _around(templates), len(self.tuples.columns[self.attributes[a]].values)
                for t, template in enumerate(templates.templates):
                    opener[:, a, t] = pieces.groups["first"].start + openers, pieces.groups["later"].start + openers
                    tail[a, t] = tails + size * around.index(_around_value(template))
                    openers += 1
                tails += size * len(around)
            self._tables = (pieces, _Tables(opener, tail))
        return self._tables[1]


def table_of(recipe: Recipe) -> Table:
    """The corpus of the recipe's facts_file and facts_templates, some entities held out of training.

    Raises:
        CorpusError: with all problems of both; warnings are logged once.
    """
    if recipe.facts_file is None or recipe.facts_templates is None:
        raise CorpusError(
            *(
                f"{key} is missing; corpus: table needs facts_file, a CSV or Parquet of entity, attribute, value, and "
                "facts_templates, a YAML with sentences"
                for key in ("facts_file", "facts_templates")
                if getattr(recipe, key) is None
            )
        )
    facts, templates = Path(recipe.facts_file).expanduser(), Path(recipe.facts_templates).expanduser()
    missing = [
        f"{key}: {path} is not a file; check the path"
        for key, path in (("facts_file", facts), ("facts_templates", templates))
        if not path.is_file()
    ]
    if missing:
        raise CorpusError(*missing)
    version = hashlib.sha256(facts.read_bytes() + b"\0" + templates.read_bytes()).hexdigest()[:12]
    tuples, sentences = _load(facts, templates, version)
    check_vocabulary_is_known(tuples, sentences, recipe)
    sentences = limit_templates(sentences, recipe.num_templates, templates)
    count = num_held_out(len(tuples.entities), recipe.holdout_entities)
    order = np.argsort(held_out(tuples.entities, count), kind="stable")
    return Table(
        tuples.take(order), sentences, seed=recipe.seed, name=facts.stem, version=version, num_outsiders=count
    )


def check_vocabulary_is_known(tuples: Tuples, sentences: Sentences, recipe: Recipe) -> None:
    """Raises CorpusError if another tokenizer, cut to its tokens in use, would show which values were drawn."""
    partly = [name for name, column in tuples.columns.items() if not _is_complete(sentences.attributes[name], column)]
    partly = ["entity_space"] * (sentences.entity_space is not None) + partly
    if recipe.tokenizer_name is not None and partly:
        raise CorpusError(
            f"tokenizer_name={recipe.tokenizer_name!r} with {', '.join(partly)} from more candidates than the table "
            "has: the vocabulary, cut to the tokens in use, would show which were drawn; leave tokenizer_name out"
        )


def limit_templates(sentences: Sentences, num_templates: int | None, file: Path) -> Sentences:
    """The first `num_templates` of every attribute; None: all. Raises CorpusError if an attribute has fewer."""
    fewest = min(len(templates.templates) for templates in sentences.attributes.values())
    if num_templates is None:
        return sentences
    if num_templates > fewest:
        raise CorpusError(f"num_templates={num_templates}, but an attribute of {file} has {fewest}; lower it")
    kept = {n: replace(s, templates=s.templates[:num_templates]) for n, s in sentences.attributes.items()}
    return replace(sentences, attributes=kept)


@lru_cache(maxsize=2)
def _load(facts: Path, templates: Path, version: str) -> tuple[Tuples, Sentences]:
    """Both files, checked; a new `version` of the files is read again."""
    sentences, problems = read_sentences(templates)
    tuples, more = read_tuples(facts, sentences.attributes, sentences.entity_column)
    problems = [*problems, *more] or [*contradictions(tuples, sentences), *repetitions(tuples, sentences)]
    if problems:
        raise CorpusError(*problems)
    for note in notes(tuples, sentences):
        logger.warning("%s: %s", facts.name, note)
    return tuples, sentences


def _is_complete(templates: AttributeTemplates, column: Column) -> bool:
    """Whether the table has all candidates of an attribute."""
    return templates.candidates is None or templates.candidates == len(column.values)


def _around(templates: AttributeTemplates) -> list[tuple[str, str]]:
    return list(dict.fromkeys(map(_around_value, templates.templates)))


def _around_value(template: Template) -> tuple[str, str]:
    """The space before the value, if its script has one, and what follows it."""
    return " " * template.prefix.endswith(" "), template.suffix
